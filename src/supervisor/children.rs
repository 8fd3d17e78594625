//! The processes: starts and ends them, hears what they say, learns how they ended.

use std::collections::{BTreeMap, HashMap};
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::process::{Command, Stdio};
use std::sync::Arc;

use command_fds::{CommandFdExt, FdMapping};
use nix::sys::signal::{Signal, kill, killpg};
use nix::sys::wait::WaitStatus;
use nix::unistd::Pid;
use tokio::sync::mpsc;

use crate::control::{
    AsyncChannel, CONTROL_FD, FromWorker, FromZygote, LISTENERS_FD, Launch, SCOREBOARD_FD, SITE_METRICS_FD, ToWorker,
    ToZygote,
};
use crate::os;

use super::identity::Identity;
use super::orders::{Event, Generation, Slot};
use super::sockets::Listener;

/// The command that makes this binary a zygote.
pub const ZYGOTE: &str = "zygote";
/// Variables that are for the supervisor alone.
const PRIVATE: [&str; 6] =
    ["NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID", "LISTEN_FDS", "LISTEN_PID", "LISTEN_FDNAMES"];

/// What a child said, or that its socket has ended.
pub enum Report {
    Zygote(Generation, Option<FromZygote>),
    /// With the number of the worker, for another one may have its slot by now.
    Worker(Slot, u64, Option<FromWorker>),
}

struct Zygote {
    pid: Pid,
    channel: Arc<AsyncChannel>,
}

struct Worker {
    generation: Generation,
    number: u64,
    /// Known once it has said so.
    pid: Option<Pid>,
    /// To be killed as soon as its process id is known.
    doomed: bool,
    channel: Arc<AsyncChannel>,
}

/// What every process of the site writes to.
pub struct SharedMemory {
    pub scoreboard: OwnedFd,
    pub site_metrics: OwnedFd,
}

pub struct Children {
    /// Whom they run as, if not as the supervisor.
    identity: Option<Identity>,
    memory: SharedMemory,
    reports: mpsc::UnboundedSender<Report>,
    zygotes: BTreeMap<Generation, Zygote>,
    workers: BTreeMap<Slot, Worker>,
    /// Workers asked for so far.
    asked: u64,
    /// Reaped before anybody knew who they were.
    strangers: HashMap<Pid, String>,
    /// The process group of each generation: its zygote's, its workers', and that of what the site may have left running.
    groups: BTreeMap<Generation, Pid>,
}

impl Children {
    pub fn new(memory: SharedMemory, reports: mpsc::UnboundedSender<Report>, identity: Option<Identity>) -> Self {
        Children {
            identity,
            memory,
            reports,
            zygotes: BTreeMap::new(),
            workers: BTreeMap::new(),
            asked: 0,
            strangers: HashMap::new(),
            groups: BTreeMap::new(),
        }
    }

    pub fn start_zygote(&mut self, launch: &Launch, listeners: &[Listener]) -> io::Result<()> {
        let (ours, theirs) = os::seqpacket_pair()?;
        let mut fds = vec![
            (theirs, CONTROL_FD),
            (os::duplicate(&self.memory.scoreboard)?, SCOREBOARD_FD),
            (os::duplicate(&self.memory.site_metrics)?, SITE_METRICS_FD),
        ];
        for (listener, number) in listeners.iter().zip(LISTENERS_FD..) {
            fds.push((os::duplicate(&listener.fd)?, number));
        }
        let mut command = Command::new("/proc/self/exe");
        command.arg0("atrio").arg(ZYGOTE).stdin(Stdio::null());
        // A group of its own: Ctrl-C in a terminal is for the supervisor.
        command.process_group(0);
        for name in PRIVATE {
            command.env_remove(name);
        }
        if let Some(identity) = &self.identity {
            identity.apply(&mut command);
        }
        command
            .fd_mappings(fds.into_iter().map(|(parent_fd, child_fd)| FdMapping { parent_fd, child_fd }).collect())
            .map_err(io::Error::other)?;
        // The child is reaped with all others.
        let pid = Pid::from_raw(command.spawn()?.id() as i32);
        self.groups.insert(launch.generation, pid);
        let channel = Arc::new(AsyncChannel::new(ours)?);
        channel.send(launch, &[])?;
        let (reports, reader, generation) = (self.reports.clone(), channel.clone(), launch.generation);
        tokio::spawn(async move {
            loop {
                let message = reader.receive().await.ok().flatten();
                let last = message.is_none();
                if reports.send(Report::Zygote(generation, message)).is_err() || last {
                    return;
                }
            }
        });
        self.zygotes.insert(generation, Zygote { pid, channel });
        Ok(())
    }

    /// Asks a zygote for a worker.
    pub fn fork(&mut self, generation: Generation, slot: Slot) -> io::Result<()> {
        let Some(zygote) = self.zygotes.get(&generation) else {
            return Err(io::Error::other("the zygote is gone"));
        };
        let (ours, theirs) = os::seqpacket_pair()?;
        zygote.channel.send(&ToZygote::Fork { slot }, &[theirs.as_fd()])?;
        let channel = Arc::new(AsyncChannel::new(ours)?);
        self.asked += 1;
        let (reports, reader, number) = (self.reports.clone(), channel.clone(), self.asked);
        tokio::spawn(async move {
            loop {
                let message = reader.receive().await.ok().flatten();
                let last = message.is_none();
                if reports.send(Report::Worker(slot, number, message)).is_err() || last {
                    return;
                }
            }
        });
        self.workers.insert(slot, Worker { generation, number, pid: None, doomed: false, channel });
        Ok(())
    }

    pub fn drain(&self, slot: Slot, backlog: bool) {
        if let Some(worker) = self.workers.get(&slot) {
            // It may have died already: then its end is on its way here.
            let _ = worker.channel.send(&ToWorker::Drain { backlog }, &[]);
        }
    }

    pub fn kill_worker(&mut self, slot: Slot) {
        let Some(worker) = self.workers.get_mut(&slot) else { return };
        match worker.pid {
            Some(pid) => {
                let _ = kill(pid, Signal::SIGKILL);
            }
            None => worker.doomed = true,
        }
    }

    /// A zygote has nothing to finish.
    pub fn kill_zygote(&self, generation: Generation) {
        if let Some(zygote) = self.zygotes.get(&generation) {
            let _ = kill(zygote.pid, Signal::SIGKILL);
        }
    }

    /// Ends whatever is left of the sites' process groups.
    pub fn kill_all(&self) {
        for group in self.groups.values() {
            let _ = killpg(*group, Signal::SIGKILL);
        }
    }

    /// Whether the worker of this number still has the slot.
    pub fn is_present(&self, slot: Slot, number: u64) -> bool {
        self.workers.get(&slot).is_some_and(|worker| worker.number == number)
    }

    /// A worker could not be forked.
    pub fn forget(&mut self, slot: Slot) {
        self.workers.remove(&slot);
    }

    /// A worker has said who it is.
    pub fn identified(&mut self, slot: Slot, pid: i32) -> Option<Event> {
        let pid = Pid::from_raw(pid);
        let worker = self.workers.get_mut(&slot)?;
        worker.pid = Some(pid);
        let doomed = worker.doomed;
        let Some(how) = self.strangers.remove(&pid) else {
            if doomed {
                self.kill_worker(slot);
            }
            return None;
        };
        self.workers.remove(&slot);
        Some(Event::WorkerExited(slot, how))
    }

    /// A worker's socket has ended. If it never said who it was, nobody else will tell of its end.
    pub fn silent(&mut self, slot: Slot) -> Option<Event> {
        self.workers.get(&slot).is_some_and(|worker| worker.pid.is_none()).then(|| {
            self.workers.remove(&slot);
            Event::WorkerExited(slot, "ended before it had started".into())
        })
    }

    /// With the last process of a generation ends what its site has left running. Later its group's number may be somebody else's.
    fn end_generations(&mut self) {
        let (zygotes, workers) = (&self.zygotes, &self.workers);
        self.groups.retain(|generation, group| {
            let lives = zygotes.contains_key(generation) || workers.values().any(|w| w.generation == *generation);
            if !lives {
                let _ = killpg(*group, Signal::SIGKILL);
            }
            lives
        });
    }

    /// The events of all children that have ended.
    pub fn reap(&mut self) -> Vec<Event> {
        let mut events = Vec::new();
        while let Some((pid, status)) = os::reap() {
            let how = describe(status);
            if let Some(generation) = self.zygotes.iter().find(|(_, z)| z.pid == pid).map(|(g, _)| *g) {
                self.zygotes.remove(&generation);
                events.push(Event::ZygoteExited(generation, how));
            } else if let Some(slot) = self.workers.iter().find(|(_, w)| w.pid == Some(pid)).map(|(s, _)| *s) {
                self.workers.remove(&slot);
                events.push(Event::WorkerExited(slot, how));
            } else if self.workers.values().any(|worker| worker.pid.is_none()) {
                self.strangers.insert(pid, how);
            }
        }
        if self.workers.values().all(|worker| worker.pid.is_some()) {
            self.strangers.clear();
        }
        self.end_generations();
        events
    }
}

fn describe(status: WaitStatus) -> String {
    match status {
        WaitStatus::Exited(_, code) => format!("exited with code {code}"),
        WaitStatus::Signaled(_, signal, _) => format!("was killed by {signal}"),
        other => format!("ended: {other:?}"),
    }
}
