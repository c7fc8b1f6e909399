//! The memory of the container: how much there is, how much is used, and what to give up before the kernel kills.
//!
//! At [`WARN`] of the limit the cache in the process is cut to half, again and again, down to nothing; it grows back
//! by steps only when use is below [`CALM`], so that it does not swing. From [`FULL`] on, and until it is below [`ROOM`]
//! again, nobody new is let in who stays: no session, no subscription. Those who come between two looks are counted, for
//! a burst of them fills a small container in less time.
//!
//! What counts is what the kernel cannot get back by itself: the control group's use without the pages of files, which it
//! drops before it kills.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use prometheus_client::registry::Registry;
use tokio::time::{MissedTickBehavior, interval};

use crate::cache::Cache;
use crate::cgroup;
use crate::metrics::at_scrape;

/// Part of the limit at which caches shrink.
pub const WARN: f64 = 0.8;
/// Part of the limit at which no more is kept for clients: what is left is for calls.
pub const FULL: f64 = 0.9;
/// Part of the limit below which more is kept again.
pub const ROOM: f64 = 0.85;
/// Part of the limit below which caches may grow again.
pub const CALM: f64 = 0.7;
/// Time between two looks: a busy server fills the last fifth of a small container within a second.
const LOOK: Duration = Duration::from_millis(200);
/// What was changed gets this long to show, unless use goes on growing.
const SETTLE: Duration = Duration::from_secs(1);
/// Below this many bytes a cache that must shrink is emptied.
const LEAST: u64 = 1024 * 1024;

/// Memory of the container.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Usage {
    /// Most bytes it may use.
    pub limit: u64,
    /// Bytes it uses, without pages of files, which can be dropped.
    pub used: u64,
}

impl Usage {
    /// Part of the limit that is used.
    #[must_use]
    #[expect(clippy::cast_precision_loss, reason = "sizes are far below 2^52")]
    pub fn ratio(self) -> f64 {
        self.used as f64 / self.limit as f64
    }

    /// Bytes that may still be used until `part` of the limit is.
    #[expect(
        clippy::cast_precision_loss,
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "sizes are positive and far below 2^52"
    )]
    fn until(self, part: f64) -> u64 {
        ((self.limit as f64 * part) as u64).saturating_sub(self.used)
    }
}

/// Memory of this container; `None` where no limit is set.
#[must_use]
pub fn usage() -> Option<Usage> {
    tightest(&cgroup::folders("memory"))
}

/// Most bytes this container may use; `None` where no limit is set.
#[must_use]
pub fn limit() -> Option<u64> {
    usage().map(|usage| usage.limit)
}

/// Of groups within each other, the one that allows least.
fn tightest(groups: &[PathBuf]) -> Option<Usage> {
    let usages = groups.iter().filter_map(|group| usage_of(group));
    usages.min_by_key(|usage| usage.limit)
}

/// Reads version 2 of control groups, else version 1; `None` without a limit.
fn usage_of(group: &Path) -> Option<Usage> {
    let number = |name: &str| fs::read_to_string(group.join(name)).ok()?.trim().parse::<u64>().ok();
    let (limit, used, prefix) = match number("memory.max") {
        Some(limit) => (limit, number("memory.current")?, ""),
        None => (
            number("memory.limit_in_bytes")?,
            number("memory.usage_in_bytes")?,
            "total_",
        ),
    };
    // Version 1 says "no limit" by a number larger than any memory.
    if limit == 0 || limit >= 1 << 60 {
        return None;
    }
    let stat = fs::read_to_string(group.join("memory.stat")).unwrap_or_default();
    let files = stat.lines().filter_map(|line| {
        let (name, bytes) = line.strip_prefix(prefix)?.split_once(' ')?;
        matches!(name, "active_file" | "inactive_file").then(|| bytes.trim().parse::<u64>().ok())?
    });
    Some(Usage {
        limit,
        used: used.saturating_sub(files.sum()),
    })
}

/// Keeps the cache, and what is kept for clients, within what memory allows.
#[derive(Debug, Clone, Default)]
pub struct Guard {
    pressure: Arc<AtomicU64>,
    room: Arc<Room>,
}

/// What there is room for until the next look.
#[derive(Debug)]
struct Room {
    is_full: AtomicBool,
    /// Bytes that there was room for at the last look; all there are where there is no limit.
    bytes: AtomicU64,
    /// Bytes of what was let in since then.
    taken: AtomicU64,
}

impl Default for Room {
    fn default() -> Self {
        Self {
            is_full: AtomicBool::new(false),
            bytes: AtomicU64::new(u64::MAX),
            taken: AtomicU64::new(0),
        }
    }
}

impl Guard {
    /// Registers `mcp_memory_limit_bytes`, `mcp_memory_used_bytes` and `mcp_memory_pressure_total`.
    pub fn register(&self, registry: &mut Registry) {
        #[expect(clippy::cast_precision_loss, reason = "sizes are far below 2^52")]
        let figure = |read: fn(Usage) -> u64| move || usage().map(|usage| read(usage) as f64);
        at_scrape::gauge(
            registry,
            "mcp_memory_limit_bytes",
            "Most memory of the container",
            figure(|usage| usage.limit),
        );
        at_scrape::gauge(
            registry,
            "mcp_memory_used_bytes",
            "Memory of the container in use, without pages of files, which can be dropped",
            figure(|usage| usage.used),
        );
        let pressure = Arc::clone(&self.pressure);
        at_scrape::counter(
            registry,
            "mcp_memory_pressure",
            "Times the cache was cut because memory was short",
            #[expect(clippy::cast_precision_loss, reason = "a small count")]
            move || Some(pressure.load(Ordering::Relaxed) as f64),
        );
    }

    /// Whether there is room for so many bytes that stay; they count as used from here on. Always where there is no
    /// limit, and before [`Self::watch`].
    #[must_use]
    pub fn admits(&self, bytes: usize) -> bool {
        let room = &self.room;
        let bytes = u64::try_from(bytes).unwrap_or(u64::MAX);
        if room.is_full.load(Ordering::Relaxed) {
            return false;
        }
        let most = room.bytes.load(Ordering::Relaxed);
        let fits = |taken: u64| taken.checked_add(bytes).filter(|taken| *taken <= most);
        let admits = room
            .taken
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, fits)
            .is_ok();
        if !admits {
            self.set_full(true);
        }
        admits
    }

    /// Finds out for how much there is room until the next look.
    fn look_for_room(&self, usage: Usage) {
        let room = &self.room;
        // What was let in a moment ago may still be on its way to show in what is used.
        let unseen = room.taken.swap(0, Ordering::Relaxed);
        let left = usage.until(FULL).saturating_sub(unseen);
        room.bytes.store(left, Ordering::Relaxed);
        let was_full = room.is_full.load(Ordering::Relaxed);
        self.set_full(usage.ratio() >= if was_full { ROOM } else { FULL });
    }

    fn set_full(&self, is_full: bool) {
        match (self.room.is_full.swap(is_full, Ordering::Relaxed), is_full) {
            (false, true) => tracing::warn!("memory is nearly full: new sessions and subscriptions are refused"),
            (true, false) => tracing::info!("there is memory for sessions and subscriptions again"),
            _ => {}
        }
    }

    /// Watches until dropped; ends at once where there is no limit.
    pub async fn watch(self, cache: Cache) {
        if usage().is_none() {
            return;
        }
        let mut was_short = false;
        let mut last: Option<Change> = None;
        let mut looks = interval(LOOK);
        looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            looks.tick().await;
            // It cannot be read when there are no more file descriptors, and can again when some are free.
            let Some(usage) = usage() else { continue };
            self.look_for_room(usage);
            let allowed = allowed(usage, cache.capacity(), cache.bytes());
            let has_settled = |wanted: &Allowed| last.as_ref().is_none_or(|last| last.has_settled(*wanted, usage));
            match allowed.filter(has_settled) {
                Some(Allowed::Less(bytes)) => {
                    if !was_short {
                        tracing::warn!(
                            used = usage.used,
                            limit = usage.limit,
                            "memory is short: the cache shrinks"
                        );
                    }
                    was_short = true;
                    self.pressure.fetch_add(1, Ordering::Relaxed);
                    cache.allow(bytes);
                    last = Some(Change::now(usage));
                }
                Some(Allowed::More(bytes)) if was_short => {
                    cache.allow(bytes);
                    last = Some(Change::now(usage));
                    if cache.capacity() < bytes {
                        tracing::info!("memory is sufficient again: the cache has its full size");
                        cache.allow(u64::MAX);
                        was_short = false;
                    }
                }
                Some(Allowed::More(_)) | None => {}
            }
        }
    }
}

/// The last change of what the cache may have.
struct Change {
    at: Instant,
    /// Bytes that were used then.
    used: u64,
}

impl Change {
    fn now(usage: Usage) -> Self {
        Self {
            at: Instant::now(),
            used: usage.used,
        }
    }

    /// Whether the next change, as it is `wanted`, can be judged.
    fn has_settled(&self, wanted: Allowed, usage: Usage) -> bool {
        let grows_on = matches!(wanted, Allowed::Less(_)) && usage.used > self.used;
        grows_on || self.at.elapsed() >= SETTLE
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Allowed {
    /// Memory is short.
    Less(u64),
    /// There is room again.
    More(u64),
}

/// What a cache of `capacity` bytes that holds `held` may have from now on; `None` for no change.
fn allowed(usage: Usage, capacity: u64, held: u64) -> Option<Allowed> {
    let ratio = usage.ratio();
    if ratio >= WARN {
        let half = held.min(capacity) / 2;
        return Some(Allowed::Less(if half < LEAST { 0 } else { half }));
    }
    // A quarter more at a time: it fills before the next step is judged.
    (ratio < CALM).then(|| Allowed::More((capacity + capacity / 4).max(4 * LEAST)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn group(files: &[(&str, &str)]) -> tempfile::TempDir {
        let folder = tempfile::tempdir().unwrap();
        for (name, content) in files {
            let path = folder.path().join(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, content).unwrap();
        }
        folder
    }

    /// A limit that is misread means a killed server, or a cache that is never used.
    #[test]
    fn reads_both_versions_of_control_groups() {
        let two = [
            ("memory.max", "1000\n"),
            ("memory.current", "900\n"),
            ("memory.stat", "anon 500\ninactive_file 300\nactive_file 100\n"),
        ];
        let one = [
            ("memory.limit_in_bytes", "2000\n"),
            ("memory.usage_in_bytes", "1500\n"),
            (
                "memory.stat",
                "inactive_file 1\ntotal_inactive_file 500\ntotal_active_file 100\n",
            ),
        ];
        let some = |limit, used| Some(Usage { limit, used });
        for (name, files, expected) in [
            ("version 2", &two[..], some(1_000, 500)),
            ("version 1", &one[..], some(2_000, 900)),
            (
                "version 2 without a limit",
                &[("memory.max", "max\n"), ("memory.current", "9\n")][..],
                None,
            ),
            (
                "version 1 without a limit",
                &[
                    ("memory.limit_in_bytes", "9223372036854771712\n"),
                    ("memory.usage_in_bytes", "9\n"),
                ][..],
                None,
            ),
            ("no control groups", &[][..], None),
        ] {
            assert_eq!(usage_of(group(files).path()), expected, "{name}");
        }
    }

    /// A pod may be limited, and not its container: what is reached first counts.
    #[test]
    fn the_tightest_limit_counts() {
        let limits = ["max", "700", "900"];
        let groups = limits.map(|limit| group(&[("memory.max", limit), ("memory.current", "600")]));
        let folders: Vec<PathBuf> = groups.iter().map(|group| group.path().to_path_buf()).collect();
        assert_eq!(tightest(&folders).map(|usage| usage.limit), Some(700));
    }

    /// Whoever is let in at one look and refused at the next one tries again and again.
    #[test]
    fn nobody_is_let_in_before_there_is_room() {
        let guard = Guard::default();
        for (used, admits) in [
            (80, true),
            (90, false),
            (86, false),
            (84, true),
            (89, true),
            (95, false),
        ] {
            guard.look_for_room(Usage { limit: 100, used });
            assert_eq!(guard.admits(0), admits, "at {used} %");
        }
    }

    /// Many may come between two looks: those for whom there is no room must not be let in before the next one shows it.
    #[test]
    fn no_more_are_let_in_than_there_is_room_for() {
        let guard = Guard::default();
        assert!(guard.admits(usize::MAX / 2), "nothing is limited yet");
        guard.look_for_room(Usage { limit: 1_000, used: 0 });
        assert!(!guard.admits(1), "what was let in before has not shown yet");
        for (name, used, bytes, admits) in [
            ("room for 100", 800, 60, true),
            ("60 of the last 100 may not have shown", 800, 41, false),
            ("refused ones take nothing", 800, 100, true),
            ("they all show", 840, 1, false),
            ("and nobody came since", 840, 60, true),
        ] {
            guard.look_for_room(Usage { limit: 1_000, used });
            assert_eq!(guard.admits(bytes), admits, "{name}");
        }
        assert!(!guard.admits(1), "no room is left");
    }

    /// The cache must be gone before the kernel kills, must not swing, and must come back.
    #[test]
    fn shrinks_when_short_and_grows_back_slowly() {
        let mib = 1024 * 1024;
        let at = |used| Usage { limit: 1_000, used };
        for (name, used, capacity, held, expected) in [
            ("plenty", 100, 100 * mib, mib, Some(Allowed::More(125 * mib))),
            ("between: no change", 750, 100 * mib, mib, None),
            ("short", 800, 100 * mib, 60 * mib, Some(Allowed::Less(30 * mib))),
            ("short and almost empty", 900, 100 * mib, mib, Some(Allowed::Less(0))),
            ("back from nothing", 100, 0, 0, Some(Allowed::More(4 * mib))),
        ] {
            assert_eq!(allowed(at(used), capacity, held), expected, "{name}");
        }
    }
}
