//! The process's own CPU time, memory and start time, from `/proc`.

use std::fs;
use std::path::Path;

use nix::unistd::{SysconfVar, sysconf};
use prometheus_client::registry::Registry;

use super::at_scrape;

const OWN_STAT: &str = "/proc/self/stat";

/// Registers `process_cpu_seconds_total`, `process_resident_memory_bytes` and `process_start_time_seconds`.
pub fn register(registry: &mut Registry) {
    at_scrape::counter(
        registry,
        "process_cpu_seconds",
        "User and system CPU time used",
        cpu_seconds,
    );
    at_scrape::gauge(
        registry,
        "process_resident_memory_bytes",
        "Resident memory",
        resident_bytes,
    );
    at_scrape::gauge(
        registry,
        "process_start_time_seconds",
        "Start of the process, seconds since 1970",
        start_time,
    );
}

fn cpu_seconds() -> Option<f64> {
    let stat = Stat::read(Path::new(OWN_STAT))?;
    Some((stat.field(14)? + stat.field(15)?) / ticks_per_second()?)
}

/// Resident memory in bytes.
#[must_use]
pub fn resident_bytes() -> Option<f64> {
    let pages: f64 = fs::read_to_string("/proc/self/statm")
        .ok()?
        .split(' ')
        .nth(1)?
        .parse()
        .ok()?;
    Some(pages * system_value(SysconfVar::PAGE_SIZE)?)
}

fn start_time() -> Option<f64> {
    let since_boot = Stat::read(Path::new(OWN_STAT))?.field(22)? / ticks_per_second()?;
    let boot: f64 = fs::read_to_string("/proc/stat")
        .ok()?
        .lines()
        .find_map(|line| line.strip_prefix("btime "))?
        .parse()
        .ok()?;
    Some(boot + since_boot)
}

/// What a file `stat` in `/proc` says of a process or a thread, see proc(5).
pub(crate) struct Stat(String);

impl Stat {
    pub(crate) fn read(path: &Path) -> Option<Self> {
        fs::read_to_string(path).ok().map(Self)
    }

    /// The second field: the name of the program or of the thread, cut off after 15 bytes.
    pub(crate) fn command(&self) -> Option<&str> {
        let (begin, _) = self.0.rsplit_once(") ")?;
        Some(begin.split_once('(')?.1)
    }

    /// Field by its number in proc(5), from 3 on. The second field is the command in parentheses and may itself hold
    /// spaces and parentheses, so counting starts after the last one.
    pub(crate) fn field(&self, number: usize) -> Option<f64> {
        let (_, rest) = self.0.rsplit_once(") ")?;
        rest.split(' ').nth(number.checked_sub(3)?)?.parse().ok()
    }
}

/// Ticks per second, in which the kernel counts CPU time.
pub(crate) fn ticks_per_second() -> Option<f64> {
    system_value(SysconfVar::CLK_TCK)
}

fn system_value(variable: SysconfVar) -> Option<f64> {
    let value = sysconf(variable).ok()??;
    u32::try_from(value).ok().map(f64::from)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::{Instant, SystemTime, UNIX_EPOCH};

    /// The scaler regresses CPU per request on these figures: they must be this process's, in the right unit.
    #[test]
    fn figures_are_those_of_this_process() {
        let before = cpu_seconds().unwrap();
        let started = Instant::now();
        while started.elapsed().as_millis() < 300 {
            std::hint::spin_loop();
        }
        let used = cpu_seconds().unwrap() - before;
        assert!((0.05..30.0).contains(&used), "{used} s of CPU for 0.3 s of spinning");
        assert!((1e6..1e11).contains(&resident_bytes().unwrap()));
        let age = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs_f64() - start_time().unwrap();
        assert!((-2.0..3600.0).contains(&age), "the test process started {age} s ago");
    }

    /// A process name with spaces and parentheses must not shift the fields.
    #[test]
    fn fields_are_counted_after_the_command() {
        let stat = Stat("7 (a) b (c)) S 1 2 3".to_owned());
        assert_eq!(stat.field(4), Some(1.0));
        assert_eq!(stat.field(6), Some(3.0));
        assert_eq!(stat.field(2), None);
        assert_eq!(stat.command(), Some("a) b (c)"));
    }
}
