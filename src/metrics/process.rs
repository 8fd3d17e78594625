//! What processes use of the machine, from `/proc`.

use std::fs;
use std::sync::OnceLock;

use nix::sys::resource::{Resource, getrlimit};
use nix::unistd::{SysconfVar, sysconf};

/// This process, by the names that Prometheus' client libraries use. What cannot be read is 0.
#[derive(Clone, Copy, Debug, Default)]
pub struct Process {
    pub cpu_seconds: f64,
    pub start_time_seconds: f64,
    pub virtual_memory_bytes: u64,
    pub resident_memory_bytes: u64,
    pub threads: u64,
    pub open_fds: u64,
    pub max_fds: u64,
}

impl Process {
    pub fn this() -> Self {
        let stat = Stat(fs::read_to_string("/proc/self/stat").unwrap_or_default());
        Process {
            cpu_seconds: stat.cpu_seconds(),
            start_time_seconds: boot_time() as f64 + stat.field(22) as f64 / ticks(),
            virtual_memory_bytes: stat.field(23),
            resident_memory_bytes: stat.field(24) * system(SysconfVar::PAGE_SIZE),
            threads: stat.field(20),
            open_fds: fs::read_dir("/proc/self/fd").map_or(0, |files| files.count() as u64),
            max_fds: getrlimit(Resource::RLIMIT_NOFILE).map_or(0, |(soft, _)| soft),
        }
    }
}

/// `/proc/PID/stat`.
struct Stat(String);

impl Stat {
    /// The name in front may have any character in it (proc(5)); the state is field 3.
    fn field(&self, number: usize) -> u64 {
        let mut fields = self.0.rsplit_once(')').map_or("", |(_, rest)| rest).split_whitespace();
        fields.nth(number - 3).and_then(|text| text.parse().ok()).unwrap_or(0)
    }

    fn cpu_seconds(&self) -> f64 {
        (self.field(14) + self.field(15)) as f64 / ticks()
    }
}

fn system(name: SysconfVar) -> u64 {
    sysconf(name).ok().flatten().unwrap_or(0) as u64
}

fn ticks() -> f64 {
    system(SysconfVar::CLK_TCK).max(1) as f64
}

/// Processor time of a process. `None`: it is gone.
pub fn cpu_seconds(pid: i64) -> Option<f64> {
    fs::read_to_string(format!("/proc/{pid}/stat")).ok().map(|stat| Stat(stat).cpu_seconds())
}

/// Seconds since the epoch; asked once, for the kernel makes `/proc/stat` from the counters of all interrupts.
fn boot_time() -> u64 {
    static BOOT: OnceLock<u64> = OnceLock::new();
    *BOOT.get_or_init(|| {
        let stat = fs::read_to_string("/proc/stat").unwrap_or_default();
        stat.lines().find_map(|line| line.strip_prefix("btime ")?.parse().ok()).unwrap_or(0)
    })
}

/// The proportional set size of a process: what it shares with others counts by parts. `None`: it is gone, or its user is another one and
/// this one may not look.
pub fn proportional_memory(pid: i64) -> Option<u64> {
    let rollup = fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).ok()?;
    let kilobytes = rollup.lines().find_map(|line| line.strip_prefix("Pss:")?.split_whitespace().next()?.parse().ok());
    kilobytes.map(|kilobytes: u64| kilobytes * 1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_knows_itself() {
        let process = Process::this();
        assert!(process.threads >= 1 && process.open_fds >= 3 && process.max_fds >= process.open_fds);
        assert!(process.virtual_memory_bytes > process.resident_memory_bytes && process.resident_memory_bytes > 0);
        let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_secs_f64();
        assert!((0.0..3600.0).contains(&(now - process.start_time_seconds)), "{process:?}");
        assert!(proportional_memory(std::process::id().into()).unwrap() > 0);
        assert_eq!((proportional_memory(-1), cpu_seconds(-1)), (None, None));
        assert!(cpu_seconds(std::process::id().into()).unwrap() >= process.cpu_seconds);
    }
}
