//! Compression of long JSON answers.

use http::Response;
use http::header::CONTENT_TYPE;
use hyper::body::Body;
use tower_http::CompressionLevel;
use tower_http::compression::CompressionLayer;
use tower_http::compression::predicate::Predicate;

/// Shorter answers fit into one packet anyway, in bytes (the Varlet server's 1024).
const SHORTEST: u64 = 1024;

/// Compresses answers with gzip or zstd where the client asks for it and it pays, unless it `is_off`.
pub(crate) fn compression(is_off: bool) -> CompressionLayer<LongJson> {
    // The fastest level: the processor is what is scarce here, and JSON shrinks to a fifth at any.
    let layer = CompressionLayer::new().quality(CompressionLevel::Fastest);
    layer.compress_when(LongJson { is_off })
}

/// JSON of known length. An event stream must reach its client event by event, and has no length.
#[derive(Debug, Clone, Copy)]
pub(crate) struct LongJson {
    is_off: bool,
}

impl Predicate for LongJson {
    fn should_compress<B: Body>(&self, response: &Response<B>) -> bool {
        if self.is_off {
            return false;
        }
        let json = response
            .headers()
            .get(CONTENT_TYPE)
            .is_some_and(|value| value.as_bytes().starts_with(b"application/json"));
        json && response
            .body()
            .size_hint()
            .exact()
            .is_some_and(|length| length >= SHORTEST)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use axum::body::Body as AxumBody;

    /// A compressed event stream is delivered when the compressor's buffer is full: far too late.
    #[test]
    fn only_long_json_is_compressed() {
        for (name, content_type, body, expected) in [
            ("long", "application/json", AxumBody::from(vec![b' '; 1024]), true),
            (
                "long, with parameters",
                "application/json; charset=utf-8",
                AxumBody::from(vec![b' '; 5000]),
                true,
            ),
            ("short", "application/json", AxumBody::from(vec![b' '; 1023]), false),
            ("events", "text/event-stream", AxumBody::from(vec![b' '; 5000]), false),
            (
                "a stream of JSON",
                "application/json",
                AxumBody::from_stream(futures::stream::pending::<Result<Vec<u8>, std::io::Error>>()),
                false,
            ),
        ] {
            let response = Response::builder()
                .header(CONTENT_TYPE, content_type)
                .body(body)
                .unwrap();
            assert_eq!(
                LongJson { is_off: false }.should_compress(&response),
                expected,
                "{name}"
            );
            assert!(!LongJson { is_off: true }.should_compress(&response), "{name}");
        }
    }
}
