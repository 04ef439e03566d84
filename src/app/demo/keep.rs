//! `--keep`: what the demo made, moved to where it can be started and tried out again.
//!
//! Nothing is written there before the tour has ended. As root the server belongs to another user, who must be able to
//! reach the directory; that is checked before anything else, not found out at the end.

use std::fs::Permissions;
use std::io;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::app::demo::Guide;
use crate::app::demo::stage::{Stage, encoded};
use crate::app::init::CONFIGURATION;
use crate::host::{ChildSpec, durable, run_to_end};
use crate::model::failure::{Failure, FailureKind};
use crate::model::verb::Verb;
use crate::postgres::find_tool;

/// Folder of the kept server: its data, its socket, its log.
const SERVER: &str = "server";
/// The file that says how to go on.
const HOW_TO: &str = "HOW-TO.txt";
/// What the socket is called; the scratch server has no port but the usual one.
const SOCKET: &str = ".s.PGSQL.5432";
const COPY_TIME: Duration = Duration::from_secs(300);

/// A directory that may be filled.
pub(super) struct Keeper {
    directory: PathBuf,
}

impl Keeper {
    /// Checks that `directory` is absent or empty, and that a server can run in it.
    pub(super) fn new(directory: &Path) -> Result<Self, Failure> {
        let failed = |error: io::Error| cannot(directory, FailureKind::Failed, &error.to_string());
        let directory = std::path::absolute(directory).map_err(failed)?;
        match std::fs::read_dir(&directory).map(Iterator::count) {
            Ok(entries) if entries > 0 => {
                return Err(cannot(&directory, FailureKind::RefusedForSafety, "it is not empty")
                    .hint("Name an empty directory, or one that is not there yet."));
            }
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(failed(error)),
            _ => {}
        }
        if !durable::fits_a_socket(&directory.join(SERVER), SOCKET) {
            return Err(cannot(&directory, FailureKind::Usage, "its path is too long for a server's socket"));
        }
        if rustix::process::geteuid().is_root() {
            require_open_path(&directory)?;
        }
        Ok(Self { directory })
    }

    /// Stops the server and moves everything here.
    pub(super) async fn keep(self, mut stage: Stage, guide: &Guide) -> Result<(), Failure> {
        guide.events.step(format!("keeping the stage in {}", self.directory.display()));
        let how_to = self.how_to(&stage)?;
        self.point_server_here(&stage).await?;
        let text = how_to.clone();
        let directory = self.directory.clone();
        let kept = guide.blocking("keep the stage", move || {
            stage.server.stop();
            self.copy(&stage, &text)
        });
        kept.await?.map_err(|failure| {
            failure.hint(format!("{} holds a part of it and can be removed.", directory.display()))
        })?;
        guide.events.note(how_to);
        Ok(())
    }

    /// Settings that the server needs when nobody gives them on its command line.
    async fn point_server_here(&self, stage: &Stage) -> Result<(), Failure> {
        let session = stage.app.connection(Verb::Dump, Some("postgres"))?.connect().await?;
        let socket = self.server().display().to_string().replace('\'', "''");
        session.batch("ALTER SYSTEM SET listen_addresses = ''").await?;
        Ok(session.batch(&format!("ALTER SYSTEM SET unix_socket_directories = '{socket}'")).await?)
    }

    fn copy(&self, stage: &Stage, how_to: &str) -> Result<(), Failure> {
        let failed = |error: durable::FileError| Failure::new(FailureKind::Failed, "keep the stage").because(error);
        if !self.directory.is_dir() {
            durable::private_directory(&self.directory).map_err(failed)?;
        }
        copy_tree(&stage.site.path().join("."), &self.directory)?;
        copy_tree(stage.server.directory(), &self.server())?;
        let configuration = self.directory.join(CONFIGURATION);
        let text = durable::read_bounded(&configuration, 1 << 20).map_err(failed)?;
        let text = String::from_utf8_lossy(&text)
            .replace(&encoded(stage.server.directory()), &encoded(&self.server()))
            .replace(&encoded(stage.site.path()), &encoded(&self.directory));
        durable::replace(&configuration, text.as_bytes()).map_err(failed)?;
        durable::write_new(&self.directory.join(HOW_TO), how_to.as_bytes()).map_err(failed)?;
        self.let_server_in(stage)
    }

    /// Whoever the server runs as must pass through; the keys are readable by their owner alone all the same.
    fn let_server_in(&self, stage: &Stage) -> Result<(), Failure> {
        if stage.server.run_as().is_none() {
            return Ok(());
        }
        std::fs::set_permissions(&self.directory, Permissions::from_mode(0o711))
            .map_err(|error| cannot(&self.directory, FailureKind::Failed, &error.to_string()))
    }

    fn server(&self) -> PathBuf {
        self.directory.join(SERVER)
    }

    fn how_to(&self, stage: &Stage) -> Result<String, Failure> {
        let pg_ctl = find_tool(None, "pg_ctl")?;
        let run_as = stage
            .server
            .run_as()
            .map(|(user, group)| format!("setpriv --reuid={user} --regid={group} --clear-groups "));
        let (directory, server, pg_ctl) = (self.directory.display(), self.server(), pg_ctl.display());
        let (run_as, server) = (run_as.unwrap_or_default(), server.display());
        Ok(format!(
            "Kept in {directory}. Start its PostgreSQL with\n  \
             {run_as}{pg_ctl} -D '{server}/data' -l '{server}/log' -w start\n\
             and try, in {directory}:\n  \
             dbagent backup list\n  \
             dbagent job run full\n  \
             dbagent restore --database consulting_tool --to-database another_copy\n  \
             dbagent restore --table users\n  \
             psql -h '{server}' -U postgres consulting_tool\n\
             Stop it and remove everything with\n  \
             {run_as}{pg_ctl} -D '{server}/data' -m fast stop\n  \
             rm -r '{directory}'\n"
        ))
    }
}

/// All of `from`, owners and modes too; across file systems, which a rename cannot.
fn copy_tree(from: &Path, to: &Path) -> Result<(), Failure> {
    let words = ["-a".as_ref(), "--".as_ref(), from.as_os_str(), to.as_os_str()];
    Ok(run_to_end(&ChildSpec::new("cp", words), COPY_TIME).map(drop)?)
}

/// Every directory above must let everybody pass.
fn require_open_path(directory: &Path) -> Result<(), Failure> {
    let closed = |above: &&Path| above.metadata().is_ok_and(|facts| facts.permissions().mode() & 0o001 == 0);
    let Some(closed) = directory.ancestors().skip(1).find(closed) else { return Ok(()) };
    let reason = format!("{} is closed to the user that PostgreSQL runs as", closed.display());
    Err(cannot(directory, FailureKind::Usage, &reason)
        .hint("PostgreSQL refuses to run as root. Name a directory that others can reach, such as one in /var/tmp."))
}

fn cannot(directory: &Path, kind: FailureKind, reason: &str) -> Failure {
    Failure::new(kind, format!("keep the demo in {}: {reason}", directory.display()))
}
