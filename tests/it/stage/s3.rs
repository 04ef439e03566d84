//! An S3 server in this process: s3s-fs on a free loopback port, with signatures, checksums and real races.
//!
//! It runs on a thread of its own, so that tests may block and child processes may use it. What s3s-fs lacks is added
//! in [`Shelf`]; faults are answered in front of it, by the rules of `s3_fault`. Keys stay below 140 bytes: s3s-fs
//! names its side files after them.

use std::net::SocketAddr;
use std::sync::{Arc, mpsc};
use std::thread::JoinHandle;

use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto::Builder;
use s3s::auth::SimpleAuth;
use s3s::service::S3ServiceBuilder;
use tempfile::TempDir;
use tokio::net::TcpListener;
use tokio::sync::oneshot;
use tokio_rustls::TlsAcceptor;

use super::s3_fault::{Faults, Front, Rule, Seen};
use super::s3_shelf::Shelf;
use super::tls::Tls;

pub const ACCESS_KEY: &str = "AKIATESTONLY00000000";
pub const SECRET_KEY: &str = "test-only-secret";
pub const REGION: &str = "eu-central-1";
pub const BUCKET: &str = "backups";

/// A running server with one empty bucket, [`BUCKET`]. Dropping it stops it.
pub struct S3Server {
    scheme: &'static str,
    address: SocketAddr,
    root: TempDir,
    faults: Arc<Faults>,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl S3Server {
    pub fn start() -> Self {
        Self::start_with(None)
    }

    /// The same behind TLS, as `localhost` and 127.0.0.1.
    pub fn start_tls(tls: Tls) -> Self {
        Self::start_with(Some(tls))
    }

    fn start_with(tls: Option<Tls>) -> Self {
        let scheme = if tls.is_some() { "https" } else { "http" };
        let acceptor = tls.map(|tls| TlsAcceptor::from(Arc::new(tls.server)));
        let root = TempDir::with_prefix_in("s3-", super::quick_place()).unwrap();
        std::fs::create_dir(root.path().join(BUCKET)).unwrap();
        let faults = Arc::new(Faults::default());
        let front = Front::new(service(root.path()), Arc::clone(&faults));
        let (stop, stopped) = oneshot::channel();
        let (tell, told) = mpsc::channel();
        let thread = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(async move {
                let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
                tell.send(listener.local_addr().unwrap()).unwrap();
                tokio::select! {
                    () = serve(listener, front, acceptor) => {}
                    _ = stopped => {}
                }
            });
        });
        Self { scheme, address: told.recv().unwrap(), root, faults, stop: Some(stop), thread: Some(thread) }
    }

    pub fn endpoint(&self) -> String {
        format!("{}://{}", self.scheme, self.address)
    }

    /// What a child process needs to reach it by the SDK's chain.
    pub fn environment(&self) -> Vec<(&'static str, String)> {
        vec![
            ("AWS_ACCESS_KEY_ID", ACCESS_KEY.into()),
            ("AWS_SECRET_ACCESS_KEY", SECRET_KEY.into()),
            ("AWS_REGION", REGION.into()),
            ("AWS_EC2_METADATA_DISABLED", "true".into()),
        ]
    }

    /// The bytes stored under `key` of [`BUCKET`], read behind the server's back; nothing when there are none.
    pub fn bytes(&self, key: &str) -> Option<Vec<u8>> {
        std::fs::read(self.root.path().join(BUCKET).join(key)).ok()
    }

    /// Changes the bytes stored under `key` behind the server's back.
    pub fn tamper(&self, key: &str, bytes: &[u8]) {
        std::fs::write(self.root.path().join(BUCKET).join(key), bytes).unwrap();
    }

    /// Puts an object of any name behind the server's back.
    pub fn plant(&self, name: &str) {
        let path = self.root.path().join(BUCKET).join(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, "planted").unwrap();
    }

    /// Adds a fault; the first rule that matches a request and is not used up answers it.
    pub fn fault(&self, rule: Rule) {
        self.faults.add(rule);
    }

    /// Takes every fault away.
    pub fn heal(&self) {
        self.faults.clear();
    }

    /// How often any rule has fired.
    pub fn fired(&self) -> usize {
        self.faults.fired()
    }

    /// Every request so far, in order, faulted ones included.
    pub fn requests(&self) -> Vec<Seen> {
        self.faults.requests()
    }
}

impl Drop for S3Server {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

fn service(root: &std::path::Path) -> s3s::service::S3Service {
    let mut builder = S3ServiceBuilder::new(Shelf::new(root));
    builder.set_auth(SimpleAuth::from_single(ACCESS_KEY, SECRET_KEY));
    builder.build()
}

async fn serve(listener: TcpListener, front: Front, acceptor: Option<TlsAcceptor>) {
    loop {
        let (socket, _) = listener.accept().await.unwrap();
        let (front, acceptor) = (front.clone(), acceptor.clone());
        tokio::spawn(async move {
            // A connection that a fault or a distrustful client has cut ends with an error: that is its point.
            let builder = Builder::new(TokioExecutor::new()).http1_only();
            match acceptor {
                None => drop(builder.serve_connection(TokioIo::new(socket), front).await),
                Some(acceptor) => {
                    if let Ok(socket) = acceptor.accept(socket).await {
                        drop(builder.serve_connection(TokioIo::new(socket), front).await);
                    }
                }
            }
        });
    }
}
