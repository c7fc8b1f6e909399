//! An MCP server whose one tool, `wait`, takes a fixed time: something to measure load testers against.
//!
//! `cargo run --release -p mcp-load --example fixed_delay_server -- 127.0.0.1:18080 20` listens there and waits 20 ms.

use std::error::Error;
use std::time::Duration;

use axum::Router;
use axum::body::Bytes;
use axum::http::header;
use axum::response::{IntoResponse, Response};
use axum::serve::ListenerExt;
use serde::Deserialize;
use tokio::net::TcpListener;

#[derive(Deserialize)]
struct Message {
    id: u64,
    method: String,
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn Error>> {
    let mut arguments = std::env::args().skip(1);
    let usage = "usage: fixed_delay_server ADDRESS:PORT MILLISECONDS";
    let address = arguments.next().ok_or(usage)?;
    let delay = Duration::from_millis(arguments.next().ok_or(usage)?.parse()?);
    let listener = TcpListener::bind(&address).await?.tap_io(|stream| {
        // Without it, answers can wait for the client's delayed acknowledgement. The error is of a closed connection.
        let _ = stream.set_nodelay(true);
    });
    let router = Router::new().fallback(move |body: Bytes| answer(body, delay));
    axum::serve(listener, router).await?;
    Ok(())
}

async fn answer(body: Bytes, delay: Duration) -> Response {
    let Ok(message) = serde_json::from_slice::<Message>(&body) else {
        return axum::http::StatusCode::BAD_REQUEST.into_response();
    };
    let result = if message.method == "tools/list" {
        r#"{"tools":[{"name":"wait","inputSchema":{"type":"object"}}]}"#
    } else {
        if !delay.is_zero() {
            tokio::time::sleep(delay).await;
        }
        r#"{"resultType":"complete","content":[{"type":"text","text":"done"}]}"#
    };
    let text = format!(r#"{{"jsonrpc":"2.0","id":{},"result":{result}}}"#, message.id);
    ([(header::CONTENT_TYPE, "application/json")], text).into_response()
}
