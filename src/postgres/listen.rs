//! A connection that listens on a channel (PostgreSQL manual, "NOTIFY"): for those who consume alerts, and to show that they
//! arrive.

use tokio::sync::mpsc;
use tokio_postgres::tls::{MakeTlsConnect, NoTls, TlsConnect};
use tokio_postgres::{AsyncMessage, Client, Config, Socket};

use crate::model::table::quote_identifier;
use crate::postgres::connection::Connection;
use crate::postgres::error::PostgresError;

/// What is said on a channel, from now on. Dropping it closes the connection.
#[derive(Debug)]
pub struct Listener {
    heard: mpsc::UnboundedReceiver<String>,
    _client: Client,
}

impl Connection {
    /// Listens on `channel`.
    pub async fn listen(&self, channel: &str) -> Result<Listener, PostgresError> {
        let (config, tls) = (self.config(), self.tls()?);
        let started = match tls {
            None => start(&config, NoTls).await,
            Some(tls) => start(&config, tls).await,
        };
        let failed = |error| PostgresError::from_driver(format!("listen on {channel} at {self}"), error);
        let (client, heard) = started.map_err(failed)?;
        client.batch_execute(&format!("LISTEN {}", quote_identifier(channel))).await.map_err(failed)?;
        Ok(Listener { heard, _client: client })
    }
}

impl Listener {
    /// The payload of the next notice; nothing once the connection has ended.
    pub async fn next(&mut self) -> Option<String> {
        self.heard.recv().await
    }
}

async fn start<T>(config: &Config, tls: T) -> Result<(Client, mpsc::UnboundedReceiver<String>), tokio_postgres::Error>
where
    T: MakeTlsConnect<Socket>,
    T::Stream: Send + 'static,
    T::TlsConnect: Send,
    <T::TlsConnect as TlsConnect<Socket>>::Future: Send,
{
    let (client, mut connection) = config.connect(tls).await?;
    let (tell, heard) = mpsc::unbounded_channel();
    tokio::spawn(async move {
        // Ends with the connection, or when nobody hears any more.
        while let Some(Ok(message)) = std::future::poll_fn(|context| connection.poll_message(context)).await {
            if let AsyncMessage::Notification(notice) = message
                && tell.send(notice.payload().to_owned()).is_err()
            {
                break;
            }
        }
    });
    Ok((client, heard))
}
