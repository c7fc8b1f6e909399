//! What the database says without being asked: `NOTIFY` of other connections.

use futures::StreamExt;
use futures::stream::poll_fn;
use tokio::sync::broadcast::{Receiver, Sender, channel};
use tokio::task::JoinHandle;
use tokio_postgres::{AsyncMessage, Client, Config, Error, NoTls};

/// Messages that wait for a slow receiver; one that falls further behind is told so.
const WAITING_MAX: usize = 1_024;

/// Something heard on any connection of the pool.
#[derive(Debug, Clone)]
pub enum Heard {
    /// A `NOTIFY` on a channel that some connection listens to.
    Notification {
        /// Name of the channel.
        channel: String,
        /// What was said.
        payload: String,
    },
    /// A connection has ended.
    Closed,
}

/// Opens the pool's connections, and passes on what is heard on them.
#[derive(Debug, Clone)]
pub(super) struct Ears(Sender<Heard>);

impl Ears {
    pub(super) fn new() -> Self {
        Self(channel(WAITING_MAX).0)
    }

    pub(super) fn heard(&self) -> Receiver<Heard> {
        self.0.subscribe()
    }

    fn pass_on(&self, heard: Heard) {
        // Without a receiver nobody wants to know.
        let _ = self.0.send(heard);
    }
}

impl Ears {
    /// Opens a connection; `held` is dropped when its socket is closed.
    pub(super) async fn connect(
        &self,
        config: &Config,
        held: impl Send + 'static,
    ) -> Result<(Client, JoinHandle<()>), Error> {
        let ears = self.clone();
        let (client, mut connection) = config.connect(NoTls).await?;
        let mut messages = poll_fn(move |context| connection.poll_message(context));
        let driving = tokio::spawn(async move {
            while let Some(message) = messages.next().await {
                match message {
                    Ok(AsyncMessage::Notification(said)) => ears.pass_on(Heard::Notification {
                        channel: said.channel().to_owned(),
                        payload: said.payload().to_owned(),
                    }),
                    Ok(AsyncMessage::Notice(notice)) => tracing::debug!(%notice, "Postgres"),
                    Ok(_) => {}
                    Err(error) => {
                        tracing::debug!(%error, "a database connection broke");
                        break;
                    }
                }
            }
            drop((messages, held));
            ears.pass_on(Heard::Closed);
        });
        Ok((client, driving))
    }
}
