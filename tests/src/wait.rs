//! Waiting for a condition.

use std::{
    fmt::Display,
    time::{Duration, Instant},
};

use crate::HarnessError;

/// How long to wait between two looks.
const PAUSE: Duration = Duration::from_millis(200);

/// Calls `attempt` until it returns `Ok`, and returns that. What `attempt` returns as `Err` is the state it saw; the
/// last one stands in the error when `deadline` has passed, so that a person reads how far it got.
///
/// # Errors
/// When `attempt` has not returned `Ok` within `deadline`; one that hangs is cut off there.
pub async fn eventually<T, E: Display>(
    deadline: Duration,
    what: &str,
    mut attempt: impl AsyncFnMut() -> Result<T, E>,
) -> Result<T, HarnessError> {
    let start = Instant::now();
    let mut last = String::from("nothing: the first look has not ended");
    loop {
        let left = deadline.saturating_sub(start.elapsed());
        match tokio::time::timeout(left, attempt()).await {
            Ok(Ok(value)) => return Ok(value),
            Ok(Err(seen)) => last = seen.to_string(),
            Err(_) => {}
        }
        if start.elapsed() >= deadline {
            return Err(HarnessError::Timeout {
                what: what.to_owned(),
                waited: start.elapsed(),
                last,
            });
        }
        tokio::time::sleep(PAUSE.min(deadline.saturating_sub(start.elapsed()))).await;
    }
}
