//! Notices when mounted files change.
//!
//! Kubernetes replaces a mounted Secret by renaming links, which file notifications miss or report in pieces; reading
//! small files again every other second is simpler, and right on every file system.

use std::path::PathBuf;
use std::time::Duration;

use tokio::time::sleep;

/// Time between two looks.
const LOOK: Duration = Duration::from_secs(2);

/// Calls `changed` whenever the content of one of `paths` is not what it was. Runs until it is dropped.
pub async fn files(paths: &[PathBuf], changed: impl Fn() + Send) {
    let mut seen = contents(paths).await;
    loop {
        sleep(LOOK).await;
        let now = contents(paths).await;
        if now != seen {
            seen = now;
            changed();
        }
    }
}

/// `None` stands for a file that cannot be read.
async fn contents(paths: &[PathBuf]) -> Vec<Option<Vec<u8>>> {
    let mut contents = Vec::with_capacity(paths.len());
    for path in paths {
        contents.push(tokio::fs::read(path).await.ok());
    }
    contents
}
