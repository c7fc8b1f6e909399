//! Tests of the signals, on the JSON that Prometheus really answers with.

mod answers;
mod rates;
mod server;
mod source;
