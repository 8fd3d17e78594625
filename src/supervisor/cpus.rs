//! The CPUs that this process may use, for `ATRIO_WORKERS=auto`: those that it may run on, and the quota of its cgroup, version 1 or 2.
//!
//! The standard library reads the same, but rounds a quota of 1.5 down, and does not tell why.

use std::fmt;
use std::fs::read_to_string;
use std::path::{Path, PathBuf};

/// The files of the kernel that tell of a process's cgroups; elsewhere in tests.
const PROC: &str = "/proc/self";

/// What is granted.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Cpus {
    /// CPUs that this process may run on.
    usable: usize,
    /// CPU time for each second, if it is limited.
    quota: Option<f64>,
}

impl Cpus {
    /// What is granted to this process now.
    pub fn granted() -> Self {
        let usable = nix::sched::sched_getaffinity(nix::unistd::Pid::from_raw(0))
            .map_or(1, |set| (0..nix::sched::CpuSet::count()).filter(|&cpu| set.is_set(cpu).unwrap_or(false)).count());
        Cpus { usable: usable.max(1), quota: quota(Path::new(PROC), Path::new("/")) }
    }

    /// One worker for each CPU, and for a part of one.
    pub fn workers(self) -> usize {
        let quota = self.quota.map_or(self.usable, |quota| quota.ceil() as usize);
        quota.clamp(1, self.usable)
    }
}

impl fmt::Display for Cpus {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        let of = |count| if count == 1 { "1 CPU".into() } else { format!("{count} CPUs") };
        match self.quota {
            Some(quota) => {
                let quota = format!("{quota:.2}");
                let quota = quota.trim_end_matches('0').trim_end_matches('.');
                write!(f, "the cgroup grants {quota} of {}", of(self.usable))
            }
            None => write!(f, "{} and no quota of the cgroup", of(self.usable)),
        }
    }
}

/// The least of the quotas of the process's cgroup and those above it, as far as they can be seen. `root` stands before the
/// paths of mounts.
fn quota(proc: &Path, root: &Path) -> Option<f64> {
    let groups = read_to_string(proc.join("cgroup")).ok()?;
    let mounts = read_to_string(proc.join("mountinfo")).ok()?;
    let groups = groups.lines().filter_map(|line| {
        let [hierarchy, controllers, path] = line.splitn(3, ':').collect::<Vec<_>>().try_into().ok()?;
        let version_2 = hierarchy == "0" && controllers.is_empty();
        (version_2 || controllers.split(',').any(|name| name == "cpu")).then_some((version_2, path))
    });
    let quotas = groups.filter_map(|(version_2, path)| {
        let (mount, folder) = folder(&mounts, version_2, path)?;
        let folders = folder.ancestors().take_while(|above| above.starts_with(&mount));
        let found = folders.filter_map(|folder| {
            let folder = root.join(folder.strip_prefix("/").ok()?);
            if version_2 { quota_2(&folder) } else { quota_1(&folder) }
        });
        found.min_by(f64::total_cmp)
    });
    quotas.min_by(f64::total_cmp)
}

/// Where the hierarchy is mounted, and the folder of the group `path` in it.
fn folder(mounts: &str, version_2: bool, path: &str) -> Option<(PathBuf, PathBuf)> {
    mounts.lines().find_map(|line| {
        let (place, source) = line.split_once(" - ")?;
        let [_, _, _, top, mount] = place.splitn(6, ' ').take(5).collect::<Vec<_>>().try_into().ok()?;
        let [kind, _, options] = source.splitn(3, ' ').collect::<Vec<_>>().try_into().ok()?;
        let fits =
            if version_2 { kind == "cgroup2" } else { kind == "cgroup" && options.split(',').any(|o| o == "cpu") };
        if !fits {
            return None;
        }
        // In a container the mount may begin at its own group, while the path is the host's.
        let below = Path::new(path).strip_prefix(top).ok().filter(|below| !below.starts_with(".."));
        Some((mount.into(), Path::new(mount).join(below.unwrap_or(Path::new("")))))
    })
}

/// `150000 100000`, or `max 100000`.
fn quota_2(folder: &Path) -> Option<f64> {
    let text = read_to_string(folder.join("cpu.max")).ok()?;
    let (quota, period) = text.trim().split_once(' ')?;
    share(quota, period)
}

fn quota_1(folder: &Path) -> Option<f64> {
    let read = |name| read_to_string(folder.join(name)).ok();
    share(&read("cpu.cfs_quota_us")?, &read("cpu.cfs_period_us")?)
}

/// Version 1 writes -1 where there is no limit, version 2 `max`.
fn share(quota: &str, period: &str) -> Option<f64> {
    let (quota, period): (f64, f64) = (quota.trim().parse().ok()?, period.trim().parse().ok()?);
    (quota > 0.0 && period > 0.0).then_some(quota / period)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What a process sees: its cgroup, its mounts, and the files of the groups.
    fn seen(cgroup: &str, mounts: &str, files: &[(&str, &str)]) -> Option<f64> {
        let root = tempfile::tempdir().unwrap();
        let write = |path: &str, text: &str| {
            let path = root.path().join(path);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, text).unwrap();
        };
        write("proc/cgroup", cgroup);
        write("proc/mountinfo", mounts);
        for (path, text) in files {
            write(path, text);
        }
        quota(&root.path().join("proc"), root.path())
    }

    const V2: &str = "22 1 0:21 / /proc rw - proc proc rw
30 23 0:26 / /sys/fs/cgroup rw,nosuid shared:9 - cgroup2 cgroup2 rw,nsdelegate\n";
    const V1: &str = "31 30 0:27 / /sys/fs/cgroup/cpu,cpuacct rw shared:10 - cgroup cgroup rw,cpu,cpuacct
32 30 0:28 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw\n";

    #[test]
    fn version_2_counts_with_the_groups_above() {
        let group = "0::/system.slice/atrio.service\n";
        let at = |own, above| {
            let slice = "sys/fs/cgroup/system.slice";
            let own_file = format!("{slice}/atrio.service/cpu.max");
            seen(group, V2, &[(&own_file, own), (&format!("{slice}/cpu.max"), above)])
        };
        assert_eq!(at("150000 100000\n", "max 100000\n"), Some(1.5));
        assert_eq!(at("150000 100000\n", "50000 100000\n"), Some(0.5));
        assert_eq!(at("max 100000\n", "max 100000\n"), None);
        assert_eq!(seen("0::/\n", V2, &[("sys/fs/cgroup/cpu.max", "20000 10000")]), Some(2.0));
    }

    #[test]
    fn version_1_counts_too() {
        let groups = "9:name=systemd:/\n4:memory:/x\n3:cpu,cpuacct:/docker/abc\n0::/\n";
        let at = |quota| {
            let folder = "sys/fs/cgroup/cpu,cpuacct/docker/abc";
            let files = [format!("{folder}/cpu.cfs_quota_us"), format!("{folder}/cpu.cfs_period_us")];
            seen(groups, V1, &[(&files[0], quota), (&files[1], "100000\n")])
        };
        assert_eq!(at("250000\n"), Some(2.5));
        assert_eq!(at("-1\n"), None);
    }

    #[test]
    fn a_container_sees_its_own_group_at_the_mount() {
        let mounts = "40 39 0:27 /docker/abc /sys/fs/cgroup/cpu,cpuacct ro - cgroup cgroup rw,cpu,cpuacct\n";
        let files = [
            ("sys/fs/cgroup/cpu,cpuacct/cpu.cfs_quota_us", "50000"),
            ("sys/fs/cgroup/cpu,cpuacct/cpu.cfs_period_us", "100000"),
        ];
        assert_eq!(seen("3:cpu,cpuacct:/docker/abc\n", mounts, &files), Some(0.5));
        // With a namespace of its own.
        assert_eq!(seen("3:cpu,cpuacct:/\n", mounts, &files), Some(0.5));
    }

    #[test]
    fn what_cannot_be_read_is_no_limit() {
        assert_eq!(seen("0::/\n", V2, &[]), None);
        assert_eq!(seen("0::/\n", "", &[]), None);
        assert_eq!(seen("nonsense\n", "nonsense\n", &[]), None);
        assert_eq!(quota(Path::new("/nonexistent"), Path::new("/")), None);
    }

    #[test]
    fn a_part_of_a_cpu_is_worth_a_worker() {
        let workers = |usable, quota| Cpus { usable, quota }.workers();
        assert_eq!(workers(4, Some(1.5)), 2);
        assert_eq!(workers(4, Some(0.1)), 1);
        assert_eq!(workers(4, Some(2.0)), 2);
        assert_eq!(workers(2, Some(8.0)), 2);
        assert_eq!(workers(3, None), 3);
    }

    #[test]
    fn the_reason_is_told() {
        let told = |usable, quota| Cpus { usable, quota }.to_string();
        assert_eq!(told(2, Some(1.5)), "the cgroup grants 1.5 of 2 CPUs");
        assert_eq!(told(4, Some(2.0)), "the cgroup grants 2 of 4 CPUs");
        assert_eq!(told(1, None), "1 CPU and no quota of the cgroup");
    }
}
