//! What the binary shows and writes.

use std::fs::File;
use std::io::{self, BufWriter, IsTerminal, Write};
use std::time::Duration;

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use mcp_load::{Progress, Report};
use tokio::sync::watch;
use tokio::task::JoinHandle;

use crate::arguments::Live;

/// Shows progress until the run ends: lines for programs on standard output, or a bar on standard error when that is
/// a terminal.
pub(crate) fn follow(mut progress: watch::Receiver<Progress>, live: Option<Live>) -> JoinHandle<()> {
    tokio::spawn(async move {
        let bar = match live {
            None if io::stderr().is_terminal() => bar(),
            _ => ProgressBar::with_draw_target(None, ProgressDrawTarget::hidden()),
        };
        while progress.changed().await.is_ok() {
            let now = progress.borrow_and_update().clone();
            show(&bar, &now);
            // A reader that has gone away (a closed pipe) ends the lines, not the run.
            if live.is_some() && write_line(&now).is_err() {
                return;
            }
        }
        bar.finish_and_clear();
    })
}

/// Writes the report; `-` is standard output.
pub(crate) fn write_json(report: &Report, file: &str) -> Result<(), String> {
    let write = || -> io::Result<()> {
        let mut writer: Box<dyn Write> = match file {
            "-" => Box::new(io::stdout().lock()),
            path => Box::new(BufWriter::new(File::create(path)?)),
        };
        serde_json::to_writer_pretty(&mut writer, report)?;
        writeln!(writer)?;
        writer.flush()
    };
    write().map_err(|error| format!("cannot write the report to {file}: {error}"))
}

fn write_line(progress: &Progress) -> io::Result<()> {
    let mut stdout = io::stdout().lock();
    serde_json::to_writer(&mut stdout, progress)?;
    writeln!(stdout)?;
    stdout.flush()
}

fn bar() -> ProgressBar {
    let bar = ProgressBar::new(0);
    // A template that cannot be parsed leaves the default style, which shows the same bar without our words.
    if let Ok(style) = ProgressStyle::with_template("{wide_bar} {msg}") {
        bar.set_style(style);
    }
    bar
}

fn show(bar: &ProgressBar, progress: &Progress) {
    let whole_milliseconds =
        |seconds: f64| u64::try_from(Duration::from_secs_f64(seconds.max(0.0)).as_millis()).unwrap_or(u64::MAX);
    bar.set_length(whole_milliseconds(progress.planned_seconds));
    bar.set_position(whole_milliseconds(
        progress.elapsed_seconds.min(progress.planned_seconds),
    ));
    let p95 = progress.latency.as_ref().and_then(|latency| latency.p95_ms);
    bar.set_message(format!(
        "{:.0} s | {}/s offered, p95 {}, {} in flight | {} shed, {} failed, {} unsent",
        progress.elapsed_seconds,
        progress.last_second.offered,
        p95.map_or_else(|| "-".to_owned(), |p95| format!("{p95:.1} ms")),
        progress.in_flight,
        progress.total.shed,
        progress.total.failed,
        progress.total.unsent,
    ));
}
