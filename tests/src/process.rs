//! Processes that outlive the call that starts them: recorded in a file, ended by id, never a stranger's.
//!
//! A process id alone is not enough, as the kernel gives it out again. So the record also holds the start time of the
//! process and the boot it belongs to, and only a process that matches all three is ever signalled. The record is on
//! disk, so what a crashed run left behind is found and ended by the next one.

use std::{
    fs,
    os::unix::process::CommandExt,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use nix::{
    sys::{
        signal::{Signal, kill},
        wait::{WaitPidFlag, WaitStatus, waitpid},
    },
    unistd::{Pid, SysconfVar, sysconf},
};
use serde::{Deserialize, Serialize};

use crate::{
    HarnessError,
    command::cannot_start,
    files::{self, make_folder},
};

/// How long a process that got SIGKILL may take to go.
const KILL_PATIENCE: Duration = Duration::from_secs(10);
/// How often a process is looked at while it ends.
const POLL: Duration = Duration::from_millis(20);

/// One process of this machine, told from any other that has its id at another time.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProcessId {
    /// The process id.
    pub pid: i32,
    /// When it started, in clock ticks since boot.
    pub started: u64,
    /// The boot in which it started.
    pub boot: String,
}

impl ProcessId {
    /// The process that has the id `pid` now, `None` if there is none.
    #[must_use]
    pub fn of(pid: i32) -> Option<Self> {
        let stat = Stat::read(pid)?;
        let boot = fs::read_to_string("/proc/sys/kernel/random/boot_id")
            .ok()?
            .trim()
            .to_owned();
        Some(Self {
            pid,
            started: stat.started,
            boot,
        })
    }

    /// Whether the process still runs. A dead one that its parent has not waited for does not run.
    #[must_use]
    pub fn is_running(&self) -> bool {
        if Self::of(self.pid).as_ref() != Some(self) {
            return false;
        }
        let is_zombie = Stat::read(self.pid).is_none_or(|stat| stat.state == 'Z');
        // Takes the zombie away if it is our own child. Its first thread may be dead and others not yet.
        !is_zombie || waitpid(Pid::from_raw(self.pid), Some(WaitPidFlag::WNOHANG)) == Ok(WaitStatus::StillAlive)
    }

    /// The processor time that the process has used so far, in user and in kernel mode; `None` if it has ended.
    #[must_use]
    pub fn processor_time(&self) -> Option<Duration> {
        if Self::of(self.pid).as_ref() != Some(self) {
            return None;
        }
        let per_second = u64::try_from(sysconf(SysconfVar::CLK_TCK).ok()??).ok()?;
        let ticks = Stat::read(self.pid)?.processor_ticks;
        Some(Duration::from_millis(ticks * 1000 / per_second))
    }

    /// Sends `signal` if the process still runs.
    pub fn signal(&self, signal: Signal) {
        if self.is_running() {
            // It may end between the two calls; then there is nothing left to do.
            let _ = kill(Pid::from_raw(self.pid), signal);
        }
    }
}

/// What `/proc/PID/stat` says of a process.
pub(crate) struct Stat {
    /// The state letter, `Z` for one that is dead but not waited for.
    pub state: char,
    /// The process id of the parent.
    pub parent: i32,
    /// The processor time used, in clock ticks.
    pub processor_ticks: u64,
    /// The start time in clock ticks since boot.
    pub started: u64,
}

impl Stat {
    /// Reads the state of the process `pid`, `None` if there is none.
    pub fn read(pid: i32) -> Option<Self> {
        let line = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
        // The second field, the name, stands in parentheses and may hold anything; the third follows the last one.
        let fields: Vec<&str> = line.rsplit_once(')')?.1.split_whitespace().collect();
        let ticks = |place: usize| fields.get(place)?.parse::<u64>().ok();
        Some(Self {
            state: fields.first()?.chars().next()?,
            parent: fields.get(1)?.parse().ok()?,
            processor_ticks: ticks(11)? + ticks(12)?,
            started: ticks(19)?,
        })
    }
}

/// The ids of all processes of the machine.
pub(crate) fn all_process_ids() -> Vec<i32> {
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    entries
        .filter_map(|entry| entry.file_name().to_str()?.parse().ok())
        .collect()
}

/// The processes of the pod with this uid, without the one that holds its network.
pub(crate) fn of_pod(uid: &str) -> Vec<ProcessId> {
    let read = |pid: i32, file: &str| fs::read_to_string(format!("/proc/{pid}/{file}")).unwrap_or_default();
    all_process_ids()
        .into_iter()
        .filter(|pid| read(*pid, "cgroup").contains(uid) && read(*pid, "comm").trim() != "pause")
        .filter_map(ProcessId::of)
        .collect()
}

/// Ends `processes`: SIGTERM, after `patience` SIGKILL; comes back when all are gone.
///
/// # Errors
/// When one is still there ten seconds after SIGKILL.
pub fn end(processes: &[ProcessId], patience: Duration) -> Result<(), HarnessError> {
    if !patience.is_zero() {
        for process in processes {
            process.signal(Signal::SIGTERM);
        }
        if all_gone_within(processes, patience) {
            return Ok(());
        }
    }
    for process in processes {
        process.signal(Signal::SIGKILL);
    }
    if all_gone_within(processes, KILL_PATIENCE) {
        return Ok(());
    }
    let left: Vec<i32> = processes
        .iter()
        .filter(|process| process.is_running())
        .map(|process| process.pid)
        .collect();
    Err(HarnessError::Unusable(format!(
        "processes {left:?} do not end, not even by SIGKILL"
    )))
}

fn all_gone_within(processes: &[ProcessId], patience: Duration) -> bool {
    let deadline = Instant::now() + patience;
    while processes.iter().any(ProcessId::is_running) {
        if Instant::now() >= deadline {
            return false;
        }
        thread::sleep(POLL);
    }
    true
}

/// A named process in the record.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Recorded {
    /// The name it was started under.
    pub name: String,
    /// The process.
    #[serde(flatten)]
    pub id: ProcessId,
}

/// The processes of one cluster: `processes.json` and `log/NAME.log` in its folder.
#[derive(Clone, Debug)]
pub struct Processes {
    folder: PathBuf,
}

impl Processes {
    /// The processes recorded in `folder`, which may be that of a run that crashed.
    #[must_use]
    pub fn in_folder(folder: &Path) -> Self {
        Self {
            folder: folder.to_path_buf(),
        }
    }

    /// Starts `command` as `name`, with its output in its log and in a process group of its own, so that Ctrl-C ends
    /// the test but not the cluster.
    ///
    /// # Errors
    /// When it cannot be started or recorded.
    pub fn start(&self, name: &str, mut command: Command) -> Result<ProcessId, HarnessError> {
        let log = self.log(name);
        make_folder(&self.folder.join("log"))?;
        let output = fs::File::create(&log).map_err(HarnessError::io("create", &log))?;
        let errors = output.try_clone().map_err(HarnessError::io("open", &log))?;
        command
            .stdin(Stdio::null())
            .stdout(output)
            .stderr(errors)
            .process_group(0);
        let child = command.spawn().map_err(|error| cannot_start(&command, error))?;
        let id = i32::try_from(child.id())
            .ok()
            .and_then(ProcessId::of)
            .ok_or_else(|| self.ended(name, "ended at once".into()))?;
        let mut recorded = self.recorded();
        recorded.retain(|other| other.name != name);
        recorded.push(Recorded {
            name: name.to_owned(),
            id: id.clone(),
        });
        self.record(&recorded)?;
        Ok(id)
    }

    /// What is recorded, running or not, in the order of starting.
    #[must_use]
    pub fn recorded(&self) -> Vec<Recorded> {
        let content = fs::read(self.file()).unwrap_or_default();
        serde_json::from_slice(&content).unwrap_or_default()
    }

    /// The first recorded process that does not run any more, as an error with the end of its log.
    ///
    /// # Errors
    /// When a recorded process has ended.
    pub fn all_running(&self) -> Result<(), HarnessError> {
        match self.recorded().iter().find(|process| !process.id.is_running()) {
            Some(process) => Err(self.ended(&process.name, "has ended".into())),
            None => Ok(()),
        }
    }

    /// Ends those recorded processes that `which` picks by name, and forgets them.
    ///
    /// # Errors
    /// When one does not end.
    pub fn stop(&self, patience: Duration, which: impl Fn(&str) -> bool) -> Result<(), HarnessError> {
        let (going, staying): (Vec<_>, Vec<_>) = self.recorded().into_iter().partition(|process| which(&process.name));
        if going.is_empty() {
            return Ok(());
        }
        let ids: Vec<ProcessId> = going.into_iter().map(|process| process.id).collect();
        end(&ids, patience)?;
        self.record(&staying)
    }

    /// The log of the process `name`.
    #[must_use]
    pub fn log(&self, name: &str) -> PathBuf {
        self.folder.join("log").join(format!("{name}.log"))
    }

    /// An error about the process `name`, with the end of its log.
    #[must_use]
    pub fn ended(&self, name: &str, problem: String) -> HarnessError {
        let log = self.log(name);
        let tail = files::tail(&log, 20);
        HarnessError::Component {
            component: name.to_owned(),
            problem,
            log,
            tail,
        }
    }

    fn record(&self, processes: &[Recorded]) -> Result<(), HarnessError> {
        let content = serde_json::to_vec_pretty(processes).unwrap_or_default();
        files::write_whole(&self.file(), content)
    }

    fn file(&self) -> PathBuf {
        self.folder.join("processes.json")
    }
}
