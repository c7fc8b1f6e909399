//! How a value is written to the shared tier.
//!
//! A header of nine bytes (the format's number with a bit for compression, then the place in the journal where the
//! value was read) and the value as JSON, compressed by zstd if it is longer than [`COMPRESS_FROM`] and gets at least a
//! tenth shorter. JSON is parsed into the type that is expected: what somebody else has put there can be wrong, but not
//! dangerous. Values in a format of another number are not there.

use serde::Serialize;
use serde::de::DeserializeOwned;

use super::journal::Position;

/// Number of the format; to be raised with every change to this module or to a cached type.
const FORMAT: u8 = 1;
const COMPRESSED: u8 = 0x80;
const HEADER: usize = 1 + size_of::<Position>();
/// Shortest JSON that is worth compressing, in bytes.
const COMPRESS_FROM: usize = 1_024;
/// Fast, and within a few percent of the better ones for text.
const LEVEL: i32 = 1;
/// Longest JSON that is unpacked, in bytes: somewhat more than a page of the longest messages.
const JSON_MAX: usize = 8 * 1024 * 1024;

/// Writes a value; `None` if it is too large to be cached.
pub(super) fn encode<Kind: Serialize>(value: &Kind, position: Position) -> Option<Vec<u8>> {
    let mut bytes = Vec::with_capacity(HEADER + 512);
    bytes.push(FORMAT);
    bytes.extend(position.to_be_bytes());
    serde_json::to_writer(&mut bytes, value).ok()?;
    let json = bytes.get(HEADER..)?;
    if json.len() > JSON_MAX {
        return None;
    }
    if json.len() > COMPRESS_FROM
        && let Ok(packed) = zstd::bulk::compress(json, LEVEL)
        && packed.len() * 10 <= json.len() * 9
    {
        bytes.truncate(HEADER);
        bytes[0] |= COMPRESSED;
        bytes.extend(packed);
    }
    Some(bytes)
}

/// Reads a value and its place; `None` for anything that [`encode`] has not written.
pub(super) fn decode<Kind: DeserializeOwned>(bytes: &[u8]) -> Option<(Kind, Position)> {
    let (format, rest) = bytes.split_first()?;
    let (position, body) = rest.split_first_chunk()?;
    let position = Position::from_be_bytes(*position);
    let value = match *format {
        FORMAT => serde_json::from_slice(body).ok()?,
        format if format == FORMAT | COMPRESSED => {
            let json = zstd::bulk::decompress(body, JSON_MAX).ok()?;
            serde_json::from_slice(&json).ok()?
        }
        _ => return None,
    };
    Some((value, position))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Compression costs time at every read: it must pay, and short values must be left alone.
    #[test]
    fn compresses_only_what_gets_shorter() {
        for (name, text, packed) in [
            ("short", "a".repeat(500), false),
            ("long", "a message like many others; ".repeat(100), true),
        ] {
            let bytes = encode(&text, 77).unwrap();
            assert_eq!(bytes[0] == FORMAT | COMPRESSED, packed, "{name}");
            assert_eq!(decode::<String>(&bytes), Some((text.clone(), 77)), "{name}");
            assert!(!packed || bytes.len() * 5 < text.len(), "{name}: {} bytes", bytes.len());
        }
    }

    /// Redis may hold anything: another version's values, damaged ones, an attacker's. None may be believed or hurt.
    #[test]
    fn what_is_not_ours_is_not_there() {
        let good = encode(&"text".to_owned(), 1).unwrap();
        let mut other_format = good.clone();
        other_format[0] += 1;
        let bomb = zstd::bulk::compress(&vec![b' '; JSON_MAX + 1], 19).unwrap();
        let mut bomb_in_format = good[..HEADER].to_vec();
        bomb_in_format[0] |= COMPRESSED;
        bomb_in_format.extend(bomb);
        for (name, bytes) in [
            ("empty", &[][..]),
            ("cut off", &good[..good.len() - 1]),
            ("header only", &good[..HEADER]),
            ("another format", &other_format),
            ("unpacks to too much", &bomb_in_format),
        ] {
            assert_eq!(decode::<String>(bytes), None, "{name}");
        }
        assert_eq!(decode::<u32>(&good), None, "another type");
    }

    proptest! {
        #[test]
        fn no_bytes_make_it_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200), format in 0u8..3) {
            let mut bytes = bytes;
            if let Some(first) = bytes.first_mut() {
                *first = if format == 0 { FORMAT } else { FORMAT | COMPRESSED };
            }
            let _ = decode::<serde_json::Value>(&bytes);
        }
    }
}
