//! Real servers as child processes: found, started on free loopback ports, killed when dropped.
//!
//! They are installed by `deploy/test-servers`; a test whose server is missing fails and says so.

use std::fs::File;
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// Where `deploy/test-servers` puts what is no package.
fn tools() -> PathBuf {
    let tools = std::env::var_os("DBAGENT_TEST_TOOLS").map_or_else(|| "target/test-tools".into(), PathBuf::from);
    Path::new(env!("CARGO_MANIFEST_DIR")).join(tools)
}

/// The program `name`, of the test tools or of the PATH.
pub fn program(name: &str) -> PathBuf {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let places = std::iter::once(tools().join("venv/bin")).chain(std::env::split_paths(&path));
    let found = places.map(|place| place.join(name)).find(|program| program.is_file());
    assert!(found.is_some(), "{name} is not installed: run deploy/test-servers");
    found.unwrap()
}

pub fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

/// A server that ends with this value.
pub struct Running {
    name: String,
    log: PathBuf,
    child: Child,
}

impl Running {
    /// Starts `name`; what it says goes to a file in `folder`.
    pub fn start(name: &str, folder: &Path, arguments: &[&str]) -> Self {
        let log = folder.join(format!("{name}.said"));
        let said = File::create(&log).unwrap();
        let child = Command::new(program(name))
            .args(arguments)
            .current_dir(folder)
            .stdin(Stdio::null())
            .stdout(said.try_clone().unwrap())
            .stderr(said)
            .spawn()
            .unwrap();
        Self { name: name.into(), log, child }
    }

    /// Waits until it takes connections on `port`.
    pub fn listens_on(mut self, port: u16) -> Self {
        let deadline = Instant::now() + Duration::from_secs(60);
        while TcpStream::connect(("127.0.0.1", port)).is_err() {
            let ended = self.child.try_wait().unwrap();
            let said = || std::fs::read_to_string(&self.log).unwrap_or_default();
            assert!(ended.is_none() && Instant::now() < deadline, "{} did not start: {ended:?}\n{}", self.name, said());
            std::thread::sleep(Duration::from_millis(50));
        }
        self
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Runs a program to its end, which must be a good one.
pub fn run(name: &str, folder: &Path, arguments: &[&str]) {
    let output = Command::new(program(name)).args(arguments).current_dir(folder).output().unwrap();
    assert!(output.status.success(), "{name} {arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
}
