//! What the admin listener shows of the supervisor's state.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};

use crate::metrics::render::Facts;
use crate::metrics::{Scoreboard, State};

/// A site's Python has to show progress within this many seconds to be alive.
const PROGRESS: std::time::Duration = std::time::Duration::from_secs(10);

/// Written by the supervisor's loop, read by its admin listener.
pub struct View {
    pub site: String,
    pub board: Scoreboard,
    pub generation: AtomicU64,
    pub reloads: AtomicU64,
    pub reloads_failed: AtomicU64,
    pub restarts: AtomicU64,
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
            board,
            generation: AtomicU64::new(0),
            reloads: AtomicU64::new(0),
            reloads_failed: AtomicU64::new(0),
            restarts: AtomicU64::new(0),
            stopping: AtomicBool::new(false),
        }
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
    pub fn metrics(&self) -> Vec<u8> {
        let facts = Facts {
            site: &self.site,
            generation: self.generation.load(Relaxed),
            reloads: self.reloads.load(Relaxed),
            reloads_failed: self.reloads_failed.load(Relaxed),
            restarts: self.restarts.load(Relaxed),
            python: env!("ATRIO_PYTHON"),
        };
        crate::metrics::render::text(self.board.slots(), &facts)
    }
}
