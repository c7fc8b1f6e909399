//! The live table: what clients get, beside the replicas that follow.

use std::time::Duration;

use mcp_load::{Counts, Progress};

use crate::narrator::Paint;

/// One line for so many seconds.
const SECONDS_PER_LINE: f64 = 2.0;
/// The load tester's seconds are a little longer or shorter than one.
const TOLERANCE: f64 = 0.5;

/// The names of the columns of [`Row::line`].
pub(crate) const HEADER: &str = "  time   offered  answered   shed  failed       p95    target   pods";

/// What happened in some seconds of load.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Row {
    /// Seconds since the load began.
    pub(crate) time: f64,
    /// Requests per second that are sent now.
    pub(crate) offered: f64,
    /// Requests per second that were answered.
    pub(crate) answered: f64,
    /// Requests that were turned away because of overload.
    pub(crate) shed: u64,
    /// Requests that failed.
    pub(crate) failed: u64,
    /// The highest p95 of any second; `None` when nothing was answered.
    pub(crate) p95: Option<Duration>,
}

impl Row {
    /// The line of the table, with the target and the pods that are ready and wanted then.
    pub(crate) fn line(&self, target: Duration, (ready, wanted): (u32, u32), paint: Paint) -> String {
        let p95 = self
            .p95
            .map_or_else(|| format!("{:>10}", "-"), |p95| format!("{:>7} ms", p95.as_millis()));
        let p95 = match self.p95 {
            Some(latency) if latency > target => paint.bad(&p95),
            Some(_) => paint.good(&p95),
            None => p95,
        };
        let unless_zero = |count: u64, width: usize, colour: fn(Paint, &str) -> String| {
            let cell = format!("{count:>width$}");
            if count == 0 { cell } else { colour(paint, &cell) }
        };
        format!(
            "{:>4.0} s  {:>6.0}/s  {:>6.0}/s  {}  {}{p95}  {:>5} ms   {} {ready}/{wanted}",
            self.time,
            self.offered,
            self.answered,
            unless_zero(self.shed, 5, Paint::warning),
            unless_zero(self.failed, 6, Paint::bad),
            target.as_millis(),
            dots(ready, wanted),
        )
    }
}

/// A full dot for each pod that is ready, an empty one for each that is wanted besides.
fn dots(ready: u32, wanted: u32) -> String {
    let of = |dot: &str, count: u32| dot.repeat(usize::try_from(count).unwrap_or(0));
    format!("{}{}", of("●", ready), of("○", wanted.saturating_sub(ready)))
}

/// Makes rows out of the load tester's progress, which comes every second.
#[derive(Debug, Default)]
pub(crate) struct Rows {
    since: f64,
    before: Counts,
    worst_p95_ms: Option<f64>,
}

impl Rows {
    /// Takes what is new; returns a row when it is time for one.
    pub(crate) fn add(&mut self, progress: &Progress) -> Option<Row> {
        let p95_ms = progress.latency.as_ref().and_then(|latency| latency.p95_ms);
        self.worst_p95_ms = self.worst_p95_ms.into_iter().chain(p95_ms).reduce(f64::max);
        let seconds = progress.elapsed_seconds - self.since;
        if seconds < SECONDS_PER_LINE - TOLERANCE {
            return None;
        }
        let answered = progress.total.completed - self.before.completed;
        let row = Row {
            time: progress.elapsed_seconds,
            offered: progress.target_rate,
            answered: f64::from(u32::try_from(answered).unwrap_or(u32::MAX)) / seconds,
            shed: progress.total.shed - self.before.shed,
            failed: progress.total.failed - self.before.failed,
            p95: self
                .worst_p95_ms
                .take()
                .map(|milliseconds| Duration::from_secs_f64(milliseconds / 1000.0)),
        };
        (self.since, self.before) = (progress.elapsed_seconds, progress.total);
        Some(row)
    }
}

#[cfg(test)]
mod tests {
    use mcp_load::LatencySummary;

    use super::*;

    const PLAIN: Paint = Paint { colours: false };

    fn row() -> Row {
        let p95 = Some(Duration::from_micros(61_900));
        Row {
            time: 84.2,
            offered: 199.6,
            answered: 201.2,
            shed: 0,
            failed: 0,
            p95,
        }
    }

    fn progress(elapsed_seconds: f64, completed: u64, shed: u64, p95_ms: Option<f64>) -> Progress {
        let total = Counts {
            completed,
            shed,
            ..Counts::default()
        };
        let latency = LatencySummary {
            count: completed,
            mean_ms: None,
            p50_ms: None,
            p90_ms: None,
            p95_ms,
            p99_ms: None,
            p999_ms: None,
            max_ms: None,
        };
        Progress {
            elapsed_seconds,
            target_rate: 20.0,
            total,
            latency: Some(latency),
            ..Progress::default()
        }
    }

    /// Each figure stands under its name, whatever its size: else the table reads wrong.
    #[test]
    fn columns_end_where_their_names_end() {
        let target = Duration::from_millis(100);
        let wide = Row {
            shed: 12_345,
            failed: 123_456,
            p95: Some(Duration::from_secs(999)),
            ..row()
        };
        let empty = Row { p95: None, ..row() };
        let ends: Vec<usize> = ["offered", "answered", "shed", "failed", "p95", "target"]
            .map(|name| HEADER.find(name).unwrap() + name.len())
            .to_vec();
        for row in [row(), wide, empty] {
            let line = row.line(target, (2, 3), PLAIN);
            for end in &ends {
                let (cell, rest) = line.split_at(*end);
                assert!(
                    !cell.ends_with(' ') && rest.starts_with(' '),
                    "column {end} of {line:?}"
                );
            }
        }
        assert_eq!(
            row().line(target, (2, 3), PLAIN),
            "  84 s     200/s     201/s      0       0     61 ms    100 ms   ●●○ 2/3"
        );
    }

    #[test]
    fn colours_say_whether_the_target_is_met() {
        let paint = Paint { colours: true };
        let cases = [("met", 100, "\x1b[32m"), ("missed", 50, "\x1b[1;31m")];
        for (name, target, colour) in cases {
            let line = row().line(Duration::from_millis(target), (1, 1), paint);
            assert!(line.contains(&format!("{colour}     61 ms")), "{name}: {line:?}");
        }
    }

    /// A second that is not shown by itself still counts: a spike in it would otherwise be hidden.
    #[test]
    fn a_row_covers_every_second_since_the_last_one() {
        let mut rows = Rows::default();
        assert_eq!(rows.add(&progress(1.0, 20, 3, Some(250.0))), None);
        let row = rows.add(&progress(2.0, 40, 3, Some(50.0))).unwrap();
        assert_eq!(
            (row.answered, row.shed, row.p95),
            (20.0, 3, Some(Duration::from_millis(250)))
        );
        assert_eq!(rows.add(&progress(3.0, 41, 3, None)), None);
        let row = rows.add(&progress(4.0, 50, 3, None)).unwrap();
        assert_eq!((row.answered, row.shed, row.p95), (5.0, 0, None), "only what is new");
    }
}
