//! Keeps the schedule.

use std::thread;
use std::time::{Duration, Instant};

use tokio_util::sync::CancellationToken;

/// The longest sleep in one piece: how late a cancellation is noticed at most.
const LONGEST_SLEEP: Duration = Duration::from_millis(50);

/// Calls `arrive` with each due time when it has come, then waits for `end`. Never waits for anything else.
///
/// Blocks its thread: the timer of an async runtime works in whole milliseconds, a sleeping thread wakes within
/// about a tenth of one. What is overdue is made up for at once, so a stalled tester sends late but not less.
pub(crate) fn keep_pace(
    schedule: impl Iterator<Item = Duration>,
    end: Duration,
    start: Instant,
    stop: &CancellationToken,
    mut arrive: impl FnMut(Duration),
) {
    for due in schedule {
        if !sleep_until(due, start, stop) {
            return;
        }
        arrive(due);
    }
    sleep_until(end, start, stop);
}

/// Says whether the time has come; `false` means that the run was stopped.
fn sleep_until(due: Duration, start: Instant, stop: &CancellationToken) -> bool {
    while !stop.is_cancelled() {
        let wait = due.saturating_sub(start.elapsed());
        if wait.is_zero() {
            return true;
        }
        thread::sleep(wait.min(LONGEST_SLEEP));
    }
    false
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_is_sent_before_it_is_due_and_nothing_is_left_out() {
        let due_times: Vec<Duration> = (0..200).map(|number| Duration::from_micros(number * 500)).collect();
        let start = Instant::now();
        let mut seen = Vec::new();
        let end = Duration::from_millis(120);
        keep_pace(
            due_times.iter().copied(),
            end,
            start,
            &CancellationToken::new(),
            |due| {
                assert!(start.elapsed() >= due);
                seen.push(due);
            },
        );
        assert_eq!(seen, due_times);
        assert!(start.elapsed() >= end, "a pause at the end of a plan is kept");
    }

    #[test]
    fn a_stop_ends_even_a_long_wait() {
        let stop = CancellationToken::new();
        stop.cancel();
        let hour = Duration::from_hours(1);
        keep_pace([hour].into_iter(), hour, Instant::now(), &stop, |_| {
            panic!("nothing was due")
        });
    }
}
