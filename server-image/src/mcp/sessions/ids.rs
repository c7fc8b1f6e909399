//! Ids that say where they come from: of streams, of their events, and of the server's own requests to a client.

use std::str::FromStr;

use uuid::Uuid;

/// Length of a replica's id, which has hexadecimal digits only.
const REPLICA_LENGTH: usize = 12;

/// A new id for a replica.
pub(super) fn new_replica() -> String {
    Uuid::new_v4().simple().to_string()[..REPLICA_LENGTH].to_owned()
}

/// A stream: its replica, and its number there.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct StreamId {
    pub(super) replica: String,
    pub(super) number: u64,
}

/// A place within a stream: 0 is its beginning, then messages count from 1. Or, for a request of the server to its
/// client, the number that the request has at its replica.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Place {
    pub(super) stream: StreamId,
    pub(super) number: u64,
}

/// The text is none of this server's ids.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct NotOurs;

impl std::fmt::Display for StreamId {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(formatter, "{}.{}", self.replica, self.number)
    }
}

impl std::fmt::Display for Place {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(formatter, "{}.{}", self.stream, self.number)
    }
}

impl FromStr for StreamId {
    type Err = NotOurs;

    fn from_str(text: &str) -> Result<Self, NotOurs> {
        let (replica, number) = text.split_once('.').ok_or(NotOurs)?;
        if replica.len() != REPLICA_LENGTH || !replica.bytes().all(|byte| byte.is_ascii_hexdigit()) {
            return Err(NotOurs);
        }
        Ok(Self {
            replica: replica.to_owned(),
            number: number.parse().map_err(|_| NotOurs)?,
        })
    }
}

impl FromStr for Place {
    type Err = NotOurs;

    fn from_str(text: &str) -> Result<Self, NotOurs> {
        let (stream, number) = text.rsplit_once('.').ok_or(NotOurs)?;
        Ok(Self {
            stream: stream.parse()?,
            number: number.parse().map_err(|_| NotOurs)?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_are_read_back_and_others_refused() {
        let place: Place = "0a1b2c3d4e5f.7.3".parse().unwrap();
        assert_eq!(
            (place.stream.number, place.number, place.to_string().as_str()),
            (7, 3, "0a1b2c3d4e5f.7.3")
        );
        for text in [
            "",
            "7",
            "a.b.c",
            "0a1b2c3d4e5f.1",
            "0a1b2c3d4e5f.1.x",
            "0a1b2c3d4e5f.1.-1",
            "0a1b.1.1",
            "x.1.1",
        ] {
            assert_eq!(text.parse::<Place>(), Err(NotOurs), "{text}");
        }
    }
}
