//! Whether services near this host answer: an address over HTTP, a port, a Redis.
//!
//! One question each, one connection each, never again: the caller sets the time. A password goes over the connection and
//! into no message.

use std::io;
use std::sync::Arc;

use hyper::{Request, Uri};
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use rustls::crypto::aws_lc_rs::default_provider;
use rustls::{ClientConfig, RootCertStore};
use secrecy::{ExposeSecret as _, SecretString};
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::TcpStream;

/// Longest line that a Redis may answer, in bytes.
const REDIS_LINE: u64 = 4096;

/// The status that a GET of `address` is answered with. Redirections are answers too; certificates are checked against
/// this machine's authorities.
pub async fn http_status(address: &str) -> io::Result<u16> {
    let address: Uri = address.parse().map_err(io::Error::other)?;
    let request = Request::get(address).header("user-agent", "dbagent").body(String::new());
    let answer = web_client()?.request(request.map_err(io::Error::other)?).await.map_err(with_cause)?;
    Ok(answer.status().as_u16())
}

/// A client for HTTP and HTTPS that trusts this machine's authorities.
pub(super) fn web_client() -> io::Result<Client<HttpsConnector<HttpConnector>, String>> {
    let tls =
        HttpsConnectorBuilder::new().with_tls_config(trusting_this_machine()?).https_or_http().enable_http1().build();
    Ok(Client::builder(TokioExecutor::new()).build(tls))
}

/// The client's own words say only that it could not connect; why is in its cause.
pub(super) fn with_cause(error: hyper_util::client::legacy::Error) -> io::Error {
    let mut cause: &dyn std::error::Error = &error;
    while let Some(deeper) = cause.source() {
        cause = deeper;
    }
    io::Error::other(cause.to_string())
}

fn trusting_this_machine() -> io::Result<ClientConfig> {
    let mut roots = RootCertStore::empty();
    roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
    let builder =
        ClientConfig::builder_with_provider(Arc::new(default_provider())).with_safe_default_protocol_versions();
    Ok(builder.map_err(io::Error::other)?.with_root_certificates(roots).with_no_client_auth())
}

/// Whether `address` (`host:port`) takes a connection.
pub async fn tcp_connects(address: &str) -> io::Result<()> {
    TcpStream::connect(address).await.map(drop)
}

/// Asks the Redis at `address` (`host:port`) with PING, after AUTH where there is a password (Redis manual, "RESP").
pub async fn redis_ping(address: &str, password: Option<&SecretString>) -> io::Result<()> {
    let mut redis = BufReader::new(TcpStream::connect(address).await?);
    if let Some(password) = password {
        let password = password.expose_secret();
        let login = format!("*2\r\n$4\r\nAUTH\r\n${}\r\n{password}\r\n", password.len());
        ask(&mut redis, login.as_bytes(), "+OK", "AUTH").await?;
    }
    ask(&mut redis, b"*1\r\n$4\r\nPING\r\n", "+PONG", "PING").await
}

async fn ask(redis: &mut BufReader<TcpStream>, request: &[u8], wanted: &str, what: &str) -> io::Result<()> {
    redis.get_mut().write_all(request).await?;
    let mut line = Vec::new();
    redis.take(REDIS_LINE).read_until(b'\n', &mut line).await?;
    let line = String::from_utf8_lossy(&line);
    match line.trim_end() {
        answer if answer == wanted => Ok(()),
        "" => Err(io::Error::other(format!("{what}: the connection was closed"))),
        answer => Err(io::Error::other(format!("{what} was answered with {answer}"))),
    }
}
