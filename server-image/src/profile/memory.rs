//! What memory is used for, from `/proc` and the cache.

use std::fs;

use serde::Serialize;

use crate::cache::Cache;
use crate::memory;

const STATUS: &str = "/proc/self/status";

/// Memory of this process, in bytes. A figure that the kernel does not tell is absent.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Memory {
    /// In memory now.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub resident_bytes: Option<u64>,
    /// Most that ever was.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub peak_resident_bytes: Option<u64>,
    /// Of it the program's own data.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub anonymous_bytes: Option<u64>,
    /// Of it files: the program itself, mostly.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub file_bytes: Option<u64>,
    /// What the cache in this process holds: the rest of the program's own data is everything else, and what the
    /// allocator keeps to use again.
    pub cache_bytes: u64,
    /// What the container may use, if it is limited.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub limit_bytes: Option<u64>,
    /// What the container uses of it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub used_bytes: Option<u64>,
}

impl Memory {
    pub(super) fn read(cache: &Cache) -> Self {
        let status = fs::read_to_string(STATUS).unwrap_or_default();
        let usage = memory::usage();
        Self {
            resident_bytes: bytes(&status, "VmRSS:"),
            peak_resident_bytes: bytes(&status, "VmHWM:"),
            anonymous_bytes: bytes(&status, "RssAnon:"),
            file_bytes: bytes(&status, "RssFile:"),
            cache_bytes: cache.bytes(),
            limit_bytes: usage.map(|usage| usage.limit),
            used_bytes: usage.map(|usage| usage.used),
        }
    }
}

/// A line of `/proc/self/status`, which is in KiB.
fn bytes(status: &str, name: &str) -> Option<u64> {
    let line = status.lines().find_map(|line| line.strip_prefix(name))?;
    let kibibytes: u64 = line.trim().strip_suffix(" kB")?.parse().ok()?;
    Some(kibibytes * 1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A figure in the wrong unit is a leak that is none.
    #[test]
    fn the_kernels_lines_are_read_in_bytes() {
        let status = "Name:\tmcp-server\nVmHWM:\t    2064 kB\nVmRSS:\t  12 kB\nThreads:\t1\n";
        assert_eq!(bytes(status, "VmRSS:"), Some(12 * 1024));
        assert_eq!(bytes(status, "RssAnon:"), None);
        assert_eq!(bytes(status, "Threads:"), None);
    }
}
