//! Reading an event stream as it comes.

use std::time::Duration;

use reqwest::Response;
use serde_json::Value;
use tokio::time::timeout;

/// Longest wait for an event that should come soon.
const SOON: Duration = Duration::from_secs(20);

/// An open event stream.
pub struct Events {
    response: Response,
    read: String,
}

/// One event.
#[derive(Debug, Clone, PartialEq)]
pub struct Event {
    /// From where the stream can go on after it.
    pub id: Option<String>,
    /// The message; `Null` in an event without one.
    pub message: Value,
}

impl Events {
    /// The events of an answer.
    pub fn of(response: Response) -> Self {
        assert_eq!(response.status(), 200);
        assert_eq!(response.headers()["content-type"], "text/event-stream");
        Self {
            response,
            read: String::new(),
        }
    }

    /// The next event; `None` at the end of the stream.
    pub async fn next(&mut self) -> Option<Event> {
        timeout(SOON, self.read_on()).await.expect("an event comes soon")
    }

    /// The next message; fails at the end of the stream.
    pub async fn message(&mut self) -> Value {
        loop {
            let event = self.next().await.expect("a message before the end");
            if event.message != Value::Null {
                return event.message;
            }
        }
    }

    async fn read_on(&mut self) -> Option<Event> {
        loop {
            if let Some(end) = self.read.find("\n\n") {
                let event = parse(&self.read[..end]);
                self.read.drain(..end + 2);
                if let Some(event) = event {
                    return Some(event);
                }
                continue;
            }
            let chunk = self.response.chunk().await.ok().flatten()?;
            self.read.push_str(std::str::from_utf8(&chunk).unwrap());
        }
    }
}

/// An event; `None` for a comment.
fn parse(text: &str) -> Option<Event> {
    let field = |name: &str| text.lines().find_map(|line| line.strip_prefix(name)).map(str::trim);
    let data = field("data:")?;
    Some(Event {
        id: field("id:").map(str::to_owned),
        message: if data.is_empty() {
            Value::Null
        } else {
            serde_json::from_str(data).unwrap()
        },
    })
}
