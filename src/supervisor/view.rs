//! What the admin listener shows of the supervisor's state.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};

use crate::metrics::process::Process;
use crate::metrics::render::{self, Facts, Format};
use crate::metrics::{Restart, Scoreboard, State};

use super::memory::Memory;

/// A site's Python has to show progress within this many seconds to be alive.
const PROGRESS: std::time::Duration = std::time::Duration::from_secs(10);

/// Written by the supervisor's loop, read by its admin listener.
pub struct View {
    pub site: String,
    pub board: Scoreboard,
    pub generation: AtomicU64,
    pub reloads: AtomicU64,
    pub reloads_failed: AtomicU64,
    restarts: [AtomicU64; Restart::NAMES.len()],
    memory: Memory,
    pub stopping: AtomicBool,
}

/// One line of a probe.
pub struct Check {
    pub name: &'static str,
    pub ok: bool,
}

impl View {
    pub fn new(site: String, board: Scoreboard) -> Self {
        View {
            site,
            memory: Memory::new(board),
            board,
            generation: AtomicU64::new(0),
            reloads: AtomicU64::new(0),
            reloads_failed: AtomicU64::new(0),
            restarts: Default::default(),
            stopping: AtomicBool::new(false),
        }
    }

    pub fn count_restart(&self, why: Restart) {
        self.restarts[why as usize].fetch_add(1, Relaxed);
    }

    /// The supervisor answers, and the Python of every worker makes progress.
    pub fn live(&self) -> Vec<Check> {
        let stuck = |slot: &crate::metrics::Slot| slot.is(State::Ready) && slot.since_beat() > PROGRESS;
        vec![
            Check { name: "supervisor", ok: true },
            Check { name: "python", ok: !self.board.slots().iter().any(stuck) },
        ]
    }

    /// The site can take a request, and no drain is under way.
    pub fn ready(&self) -> Vec<Check> {
        vec![
            Check { name: "site", ok: self.board.slots().iter().any(|slot| slot.is(State::Ready)) },
            Check { name: "not-draining", ok: !self.stopping.load(Relaxed) },
        ]
    }

    /// The site has been imported.
    pub fn started(&self) -> Vec<Check> {
        vec![Check { name: "site", ok: self.generation.load(Relaxed) > 0 }]
    }

    /// `/metrics`.
    pub async fn metrics(&self, format: Format) -> Vec<u8> {
        let facts = Facts {
            site: &self.site,
            generation: self.generation.load(Relaxed),
            reloads: self.reloads.load(Relaxed),
            reloads_failed: self.reloads_failed.load(Relaxed),
            restarts: std::array::from_fn(|why| self.restarts[why].load(Relaxed)),
            memory: self.memory.of_workers().await,
            process: Process::this(),
            python: env!("ATRIO_PYTHON"),
        };
        render::metrics(self.board.slots(), &facts, format)
    }
}
