//! Control groups with a real limit of memory.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::process::id;
use std::sync::atomic::{AtomicU32, Ordering};

use mcp_server::cgroup;

static NEXT: AtomicU32 = AtomicU32::new(0);

/// A control group of its own; removed when dropped, which its processes must have been before.
pub struct MemoryGroup {
    folder: PathBuf,
    /// File with the count of processes that the kernel has killed.
    kills: &'static str,
}

impl MemoryGroup {
    /// A group that may use `limit` bytes; the reason if this machine does not let the test make one.
    pub fn with_limit(limit: u64) -> io::Result<Self> {
        let groups = cgroup::folders("memory");
        let innermost = groups.first().ok_or(io::ErrorKind::NotFound)?;
        let outermost = groups.last().unwrap_or(innermost);
        let (parent, maximum, kills) = if innermost.join("memory.limit_in_bytes").exists() {
            (innermost, "memory.limit_in_bytes", "memory.oom_control")
        } else {
            // In version 2, a group that has processes, as the test's own, has no groups with limits in it.
            let _ = fs::write(outermost.join("cgroup.subtree_control"), "+memory");
            (outermost, "memory.max", "memory.events")
        };
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let folder = parent.join(format!("mcp-server-test-{}-{number}", id()));
        fs::create_dir(&folder)?;
        let group = Self { folder, kills };
        // A file that is created here instead of being there is no limit.
        fs::OpenOptions::new().write(true).open(group.folder.join(maximum))?;
        fs::write(group.folder.join(maximum), limit.to_string())?;
        Ok(group)
    }

    /// The file that takes processes in.
    pub fn processes(&self) -> PathBuf {
        self.folder.join("cgroup.procs")
    }

    /// How many processes the kernel has killed for want of memory.
    pub fn kills(&self) -> u64 {
        let text = fs::read_to_string(self.folder.join(self.kills)).unwrap();
        let count = text.lines().find_map(|line| line.strip_prefix("oom_kill "));
        count.map_or(0, |count| count.trim().parse().unwrap())
    }

    /// Where it is.
    pub fn folder(&self) -> &Path {
        &self.folder
    }
}

impl Drop for MemoryGroup {
    fn drop(&mut self) {
        let _ = fs::remove_dir(&self.folder);
    }
}
