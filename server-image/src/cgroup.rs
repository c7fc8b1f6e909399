//! The control groups of this process, through which the kernel limits a container: version 2, or version 1.

use std::fs;
use std::path::{Path, PathBuf};

/// Where control groups are mounted.
const ROOT: &str = "/sys/fs/cgroup";
/// Which groups this process is in, see cgroups(7).
const MEMBERSHIP: &str = "/proc/self/cgroup";

/// Folders of this process's group for `controller`, such as `memory`, and of the groups around it as far as they can
/// be seen: the innermost first. Empty where the kernel shows none.
#[must_use]
pub fn folders(controller: &str) -> Vec<PathBuf> {
    let membership = fs::read_to_string(MEMBERSHIP).unwrap_or_default();
    folders_at(Path::new(ROOT), &membership, controller)
}

/// The same where groups are mounted at `root`. Version 1 has a tree for each controller, version 2 one for all.
fn folders_at(root: &Path, membership: &str, controller: &str) -> Vec<PathBuf> {
    let group_of = |is_wanted: &dyn Fn(&str) -> bool| {
        membership.lines().find_map(|line| {
            let (_, rest) = line.split_once(':')?;
            let (controllers, path) = rest.split_once(':')?;
            is_wanted(controllers).then_some(path)
        })
    };
    let first = group_of(&|controllers| controllers.split(',').any(|name| name == controller));
    let (mounted, path) = match first {
        Some(path) => (root.join(controller), path),
        None => (root.to_owned(), group_of(&str::is_empty).unwrap_or_default()),
    };
    // In a container the group is the root of what is mounted, whatever the kernel calls it.
    let inside = mounted.join(path.trim_start_matches('/'));
    let is_below = inside.is_dir() && !path.split('/').any(|part| part == "..");
    let innermost = if is_below { inside } else { mounted.clone() };
    innermost
        .ancestors()
        .take_while(|folder| folder.starts_with(&mounted) && folder.is_dir())
        .map(Path::to_path_buf)
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Read in the wrong place, a limit is none, and the kernel ends the server without a word.
    #[test]
    fn finds_the_group_in_a_container_and_outside_of_one() {
        let root = tempfile::tempdir().unwrap();
        for folder in ["memory/pods/one", "slice/service", "cpu"] {
            fs::create_dir_all(root.path().join(folder)).unwrap();
        }
        for (name, membership, expected) in [
            (
                "version 1",
                "4:memory:/pods/one\n1:cpu:/\n",
                &["memory/pods/one", "memory/pods", "memory"][..],
            ),
            ("version 1 in a container", "4:memory:/kubepods/pod7/a\n", &["memory"]),
            ("version 1 with two in one tree", "4:cpu,memory:/\n", &["memory"]),
            (
                "both, memory in version 1",
                "4:memory:/\n0::/slice/service\n",
                &["memory"],
            ),
            ("version 2", "0::/slice/service\n", &["slice/service", "slice", ""]),
            ("version 2 in a container", "0::/\n", &[""]),
            (
                "version 2, outside of what is visible",
                "0::/../../slice/service\n",
                &[""],
            ),
            ("nothing known", "", &[""]),
        ] {
            let expected: Vec<PathBuf> = expected.iter().map(|folder| root.path().join(folder)).collect();
            let found = folders_at(root.path(), membership, "memory");
            assert_eq!(found, expected, "{name}");
        }
        assert_eq!(
            folders_at(&root.path().join("nowhere"), "0::/\n", "memory"),
            Vec::<PathBuf>::new()
        );
    }
}
