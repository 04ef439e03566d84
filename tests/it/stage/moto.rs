//! moto's server (PyPI): the behaviour of AWS, such as archived objects. Accepts any secret and any checksum.

use tempfile::TempDir;

use super::server::{Running, free_port};

pub struct Moto {
    port: u16,
    _server: Running,
    _folder: TempDir,
}

impl Moto {
    pub fn start() -> Self {
        let (folder, port) = (TempDir::new().unwrap(), free_port());
        let arguments = ["-H", "127.0.0.1", "-p", &port.to_string()];
        let server = Running::start("moto_server", folder.path(), &arguments).listens_on(port);
        Self { port, _server: server, _folder: folder }
    }

    pub fn endpoint(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }
}
