//! The adaptive limit: sheds early when latency proves that the server is overloaded, and is out of the way otherwise.
//!
//! A limit on concurrency that is right for a healthy server is too high for one whose CPU is throttled or whose
//! database is slow: every admitted request then makes all others later. The limit here follows the gradient of
//! latency, as Netflix's concurrency-limits does (`Gradient2Limit`): when requests take longer than they usually do,
//! the limit is lowered by the same ratio, and grows back by a few places per window.
//!
//! Service times of different tools cannot be averaged, so each is divided by what its tool usually takes, which is
//! learned over minutes; the mean of these ratios over a window is the slowdown. Overload is proven, and the limit goes
//! below the declared concurrency, only if in one window of [`WINDOW`] with at least [`SAMPLES`] requests all of this
//! holds:
//! - the server was full: at least four fifths of the limit were in use at some moment;
//! - requests took more than [`TOLERANCE`] times as long as usual;
//! - and their mean was above [`AdaptiveSettings::latency`]: what is fast in absolute terms is no overload.
//!
//! The limit never goes below the square root of the declared concurrency, so that recovery is always noticed. It only
//! sheds: it is no measure of capacity, and the scaler does not read it.

use std::collections::HashMap;
use std::time::{Duration, Instant};

/// Length of a window; long enough for a mean, short enough to act within seconds.
pub const WINDOW: Duration = Duration::from_secs(1);
/// Fewest requests in a window that prove anything.
pub const SAMPLES: u32 = 20;
/// Slowdown that is not yet overload. `Gradient2Limit` uses 1.5; the declared concurrency is a decision of somebody
/// who knows the service, so it takes more to go below it.
pub const TOLERANCE: f64 = 2.0;
/// Weight of a new window in what a tool usually takes: the usual is that of the last two minutes or so.
const USUAL_WEIGHT: f64 = 1.0 / 120.0;
/// The limit is lowered at most to this part of itself per window.
const STEEPEST: f64 = 0.5;

/// How the limit behaves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct AdaptiveSettings {
    /// Whether the limit exists.
    pub enabled: bool,
    /// Mean service time below which nothing is shed.
    pub latency: Duration,
}

impl Default for AdaptiveSettings {
    /// On, for service times above a quarter of a second.
    fn default() -> Self {
        Self {
            enabled: true,
            latency: Duration::from_millis(250),
        }
    }
}

/// The limit of one server.
#[derive(Debug)]
pub(super) struct Adaptive {
    settings: AdaptiveSettings,
    declared: usize,
    limit: f64,
    tools: HashMap<&'static str, Tool>,
    window: Window,
}

/// What one tool takes.
#[derive(Debug, Clone, Copy, Default)]
struct Tool {
    usual_seconds: f64,
    windows: u32,
    /// Of the current window.
    seconds: f64,
    samples: u32,
}

#[derive(Debug)]
struct Window {
    began: Instant,
    samples: u32,
    seconds: f64,
    busiest: usize,
}

impl Window {
    const fn new(began: Instant) -> Self {
        Self {
            began,
            samples: 0,
            seconds: 0.0,
            busiest: 0,
        }
    }
}

impl Adaptive {
    pub(super) fn new(settings: AdaptiveSettings, declared: usize, now: Instant) -> Self {
        Self {
            settings,
            declared,
            limit: as_float(declared),
            tools: HashMap::new(),
            window: Window::new(now),
        }
    }

    /// Follows a change of the declared concurrency; the limit starts again from there.
    pub(super) fn declare(&mut self, declared: usize) {
        self.declared = declared;
        self.limit = as_float(declared);
    }

    /// Requests that may hold a slot before more are shed; the declared concurrency unless overload is proven.
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "between 1 and the declared concurrency"
    )]
    pub(super) const fn limit(&self) -> usize {
        self.limit as usize
    }

    /// Whether the limit is below the declared concurrency.
    pub(super) const fn is_active(&self) -> bool {
        self.limit() < self.declared
    }

    /// Notes that a request of `kind` held a slot for `service`, and that `busy` slots were in use when it ended.
    pub(super) fn finished(&mut self, kind: &'static str, service: Duration, busy: usize, now: Instant) {
        if !self.settings.enabled {
            return;
        }
        let seconds = service.as_secs_f64();
        let tool = self.tools.entry(kind).or_default();
        tool.seconds += seconds;
        tool.samples += 1;
        self.window.seconds += seconds;
        self.window.samples += 1;
        self.window.busiest = self.window.busiest.max(busy);
        if now.saturating_duration_since(self.window.began) >= WINDOW {
            self.judge();
            self.window = Window::new(now);
        }
    }

    fn judge(&mut self) {
        let (samples, declared) = (f64::from(self.window.samples), as_float(self.declared));
        let slowdown = self.tools.values_mut().map(Tool::end_window).sum::<f64>() / samples;
        let mean = self.window.seconds / samples;
        let full = as_float(self.window.busiest) >= 0.8 * self.limit;
        let overloaded = self.window.samples >= SAMPLES
            && full
            && slowdown > TOLERANCE
            && mean > self.settings.latency.as_secs_f64();
        self.limit = if overloaded {
            let gradient = (TOLERANCE / slowdown).clamp(STEEPEST, 1.0);
            (self.limit * gradient).max(declared.sqrt().ceil())
        } else {
            // The additive part of Gradient2Limit: room for a short queue, about the square root of the limit.
            (self.limit + self.limit.sqrt().max(1.0)).min(declared)
        };
    }
}

impl Tool {
    /// Learns from the window that ends; returns the sum of its samples' ratios to what was usual before.
    fn end_window(&mut self) -> f64 {
        let samples = f64::from(std::mem::take(&mut self.samples));
        let seconds = std::mem::take(&mut self.seconds);
        if samples == 0.0 {
            return 0.0;
        }
        self.windows = self.windows.saturating_add(1);
        let mean = seconds / samples;
        if self.windows == 1 {
            self.usual_seconds = mean;
        }
        let ratio = mean / self.usual_seconds.max(1e-6);
        // The first windows weigh more, so that an odd start is soon forgotten.
        let weight = (1.0 / f64::from(self.windows)).max(USUAL_WEIGHT);
        self.usual_seconds += weight * (mean - self.usual_seconds);
        samples * ratio
    }
}

#[expect(clippy::cast_precision_loss, reason = "counts of requests are far below 2^52")]
const fn as_float(value: usize) -> f64 {
    value as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Feeds `seconds` windows of `rate` requests each, all of `service`, with `busy` slots in use.
    fn run(adaptive: &mut Adaptive, now: &mut Instant, seconds: u32, rate: u32, service: Duration, busy: usize) {
        for _ in 0..seconds * rate {
            *now += Duration::from_secs(1) / rate;
            adaptive.finished("tool", service, busy, *now);
        }
    }

    /// A false alarm refuses requests that could have been served; a missed one makes all of them late.
    #[test]
    fn sheds_only_when_latency_proves_overload() {
        let (usual, slow) = (Duration::from_millis(100), Duration::from_secs(1));
        for (name, enabled, rate, service, busy, active) in [
            ("overload", true, 100, slow, 64, true),
            ("switched off", false, 100, slow, 64, false),
            ("slow, but not full", true, 100, slow, 30, false),
            ("full, but not slow", true, 100, usual, 64, false),
            ("a little slow", true, 100, Duration::from_millis(190), 64, false),
            (
                "slow only in comparison",
                true,
                100,
                Duration::from_millis(240),
                64,
                false,
            ),
            ("too few to tell", true, 10, slow, 64, false),
        ] {
            let mut now = Instant::now();
            let settings = AdaptiveSettings {
                enabled,
                ..AdaptiveSettings::default()
            };
            let mut adaptive = Adaptive::new(settings, 64, now);
            run(&mut adaptive, &mut now, 10, 100, usual, 20);
            assert!(!adaptive.is_active(), "{name}: before");
            run(&mut adaptive, &mut now, 3, rate, service, busy);
            assert_eq!(adaptive.is_active(), active, "{name}: limit {}", adaptive.limit());
        }
    }

    /// A limit that falls to nothing, or never comes back, is an outage of its own.
    #[test]
    fn has_a_floor_and_recovers() {
        let mut now = Instant::now();
        let mut adaptive = Adaptive::new(AdaptiveSettings::default(), 64, now);
        run(&mut adaptive, &mut now, 10, 100, Duration::from_millis(100), 20);
        run(&mut adaptive, &mut now, 5, 30, Duration::from_secs(20), 64);
        assert_eq!(adaptive.limit(), 8, "the square root of 64");
        run(&mut adaptive, &mut now, 20, 100, Duration::from_millis(100), 8);
        assert_eq!(adaptive.limit(), 64, "healthy again");
    }

    /// A tool that always takes long is no overload, however many of its calls there are.
    #[test]
    fn a_slow_tool_among_fast_ones_is_usual() {
        let mut now = Instant::now();
        let mut adaptive = Adaptive::new(AdaptiveSettings::default(), 10, now);
        for index in 0..1000 {
            now += Duration::from_millis(10);
            adaptive.finished("fast", Duration::from_millis(1), 10, now);
            if index > 500 {
                adaptive.finished("slow", Duration::from_secs(5), 10, now);
            }
            assert!(!adaptive.is_active());
        }
    }
}
