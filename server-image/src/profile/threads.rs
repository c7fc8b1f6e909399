//! CPU time by thread, from `/proc`.

use std::collections::HashMap;
use std::fs;
use std::path::Path;

use serde::Serialize;

use crate::metrics::process::{Stat, ticks_per_second};

const TASKS: &str = "/proc/self/task";

/// Threads of one name, such as the runtime's workers, and what they did meanwhile.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct ThreadGroup {
    /// Name, as the kernel cuts it off after 15 bytes.
    pub name: String,
    /// How many there were at the end.
    pub count: usize,
    /// CPU time in the program, in seconds; counted by the kernel in steps of 10 ms or so.
    pub user_seconds: f64,
    /// CPU time in the kernel for the program, in seconds.
    pub system_seconds: f64,
    /// Time that they could have run and had no core, in seconds: much of it means that cores are short.
    pub waiting_seconds: f64,
}

impl ThreadGroup {
    /// CPU time, in seconds.
    #[must_use]
    pub fn cpu_seconds(&self) -> f64 {
        self.user_seconds + self.system_seconds
    }
}

/// What one thread has used so far.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Thread {
    name: String,
    user_seconds: f64,
    system_seconds: f64,
    waiting_seconds: f64,
}

/// All threads by their ids.
pub(super) fn read() -> std::io::Result<HashMap<String, Thread>> {
    let folders = fs::read_dir(TASKS)?;
    let threads = folders.filter_map(|folder| {
        let folder = folder.ok()?;
        // One that has ended meanwhile is not there any more.
        let thread = thread(&folder.path())?;
        Some((folder.file_name().to_string_lossy().into_owned(), thread))
    });
    Ok(threads.collect())
}

fn thread(folder: &Path) -> Option<Thread> {
    let stat = Stat::read(&folder.join("stat"))?;
    let ticks = ticks_per_second()?;
    Some(Thread {
        name: stat.command()?.to_owned(),
        user_seconds: stat.field(14)? / ticks,
        system_seconds: stat.field(15)? / ticks,
        // Some kernels do not count it.
        waiting_seconds: waiting_seconds(&folder.join("schedstat")).unwrap_or_default(),
    })
}

/// The second of three numbers, in nanoseconds.
fn waiting_seconds(path: &Path) -> Option<f64> {
    let text = fs::read_to_string(path).ok()?;
    let nanoseconds: f64 = text.split_whitespace().nth(1)?.parse().ok()?;
    Some(nanoseconds / 1e9)
}

/// What threads of each name used between two looks, the busiest first.
pub(super) fn between(before: &HashMap<String, Thread>, after: &HashMap<String, Thread>) -> Vec<ThreadGroup> {
    let mut groups: HashMap<&str, ThreadGroup> = HashMap::new();
    for (id, now) in after {
        // A new thread, also one that got the id of another that ended, began at nothing.
        let then = before.get(id).filter(|then| then.user_seconds <= now.user_seconds);
        let since = |read: fn(&Thread) -> f64| (read(now) - then.map_or(0.0, read)).max(0.0);
        let group = groups.entry(&now.name).or_insert_with(|| ThreadGroup {
            name: now.name.clone(),
            count: 0,
            user_seconds: 0.0,
            system_seconds: 0.0,
            waiting_seconds: 0.0,
        });
        group.count += 1;
        group.user_seconds += since(|thread| thread.user_seconds);
        group.system_seconds += since(|thread| thread.system_seconds);
        group.waiting_seconds += since(|thread| thread.waiting_seconds);
    }
    let mut groups: Vec<ThreadGroup> = groups.into_values().collect();
    groups.sort_by(|one, other| {
        other
            .cpu_seconds()
            .total_cmp(&one.cpu_seconds())
            .then(one.name.cmp(&other.name))
    });
    groups
}

#[cfg(test)]
mod tests {
    use super::*;

    fn thread(name: &str, user_seconds: f64) -> Thread {
        Thread {
            name: name.to_owned(),
            user_seconds,
            system_seconds: user_seconds / 2.0,
            waiting_seconds: 1.0,
        }
    }

    /// Whoever reads a profile looks at the first line: it must be the busiest, and of this time only.
    #[test]
    fn groups_hold_what_was_used_between_two_looks() {
        let look = |threads: &[(&str, Thread)]| {
            let threads = threads.iter().map(|(id, thread)| ((*id).to_owned(), thread.clone()));
            threads.collect::<HashMap<_, _>>()
        };
        let before = look(&[
            ("1", thread("main", 10.0)),
            ("2", thread("worker", 100.0)),
            ("4", thread("ended", 7.0)),
        ]);
        let after = look(&[
            ("1", thread("main", 10.0)),
            ("2", thread("worker", 104.0)),
            ("3", thread("worker", 2.0)),
        ]);
        let found: Vec<_> = between(&before, &after)
            .into_iter()
            .map(|group| (group.name, group.count, group.user_seconds, group.system_seconds))
            .collect();
        assert_eq!(
            found,
            [("worker".to_owned(), 2, 6.0, 3.0), ("main".to_owned(), 1, 0.0, 0.0)]
        );
    }

    /// The figures must be this process's, in seconds.
    #[test]
    fn a_busy_thread_is_the_first() {
        let (tell, spun) = std::sync::mpsc::channel();
        let spinning = std::thread::Builder::new().name("spinning".to_owned()).spawn(move || {
            let began = std::time::Instant::now();
            while began.elapsed().as_millis() < 500 {
                std::hint::spin_loop();
            }
            tell.send(()).unwrap();
            // Until the test has looked.
            std::thread::park();
        });
        let before = HashMap::new();
        spun.recv().unwrap();
        let groups = between(&before, &read().unwrap());
        let group = groups.iter().find(|group| group.name == "spinning").unwrap();
        assert!((0.05..2.0).contains(&group.cpu_seconds()), "{group:?}");
        spinning.unwrap().thread().unpark();
    }
}
