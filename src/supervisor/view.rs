//! What the admin listener shows of the supervisor's state.

use std::collections::{HashSet, VecDeque};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use crate::metrics::process::Process;
use crate::metrics::render::{self, Facts, Format};
use crate::metrics::report::{self, Kind};
use crate::metrics::{Restart, Scoreboard, SiteMetrics, State};

use super::memory::Memory;
use super::status;

/// A site's Python has to show progress within this many seconds to be alive.
const PROGRESS: Duration = Duration::from_secs(10);
/// How many errors are remembered.
pub const ERRORS: usize = 20;

/// Written by the supervisor's loop, read by its admin listener.
pub struct View {
    pub site: String,
    pub board: Scoreboard,
    pub site_metrics: SiteMetrics,
    /// Metrics of the site that are not shown, as the log has said.
    not_shown: Mutex<HashSet<String>>,
    pub generation: AtomicU64,
    /// The import that is to take its place; 0: none is.
    pub incoming: AtomicU64,
    pub reloads: AtomicU64,
    pub reloads_failed: AtomicU64,
    restarts: [AtomicU64; Restart::NAMES.len()],
    pub memory: Memory,
    pub stopping: AtomicBool,
    pub began: Instant,
    /// What went wrong with workers and reloads, and when: the oldest first.
    errors: Mutex<VecDeque<(jiff::Timestamp, report::Error)>>,
}

/// One line of a probe.
pub struct Check {
    pub name: &'static str,
    pub ok: bool,
}

impl View {
    pub fn new(site: String, board: Scoreboard, site_metrics: SiteMetrics) -> Self {
        View {
            site,
            memory: Memory::new(board),
            board,
            site_metrics,
            not_shown: Mutex::default(),
            generation: AtomicU64::new(0),
            incoming: AtomicU64::new(0),
            reloads: AtomicU64::new(0),
            reloads_failed: AtomicU64::new(0),
            restarts: Default::default(),
            stopping: AtomicBool::new(false),
            began: Instant::now(),
            errors: Mutex::default(),
        }
    }

    pub fn count_restart(&self, why: Restart) {
        self.restarts[why as usize].fetch_add(1, Relaxed);
    }

    pub fn restarts(&self, why: Restart) -> u64 {
        self.restarts[why as usize].load(Relaxed)
    }

    /// Remembers what went wrong; `worker`: with whom, and what it ran.
    pub fn note(&self, kind: Kind, message: &str, worker: Option<(usize, Vec<report::Request>)>) {
        let (worker, requests) = worker.map_or((None, Vec::new()), |(worker, requests)| (Some(worker), requests));
        let now = jiff::Timestamp::now();
        let time = status::time(now);
        let mut errors = self.errors.lock().unwrap_or_else(PoisonError::into_inner);
        errors.push_back((now, report::Error { time, kind, message: message.into(), worker, requests }));
        if errors.len() > ERRORS {
            errors.pop_front();
        }
    }

    pub fn errors(&self) -> Vec<(jiff::Timestamp, report::Error)> {
        self.errors.lock().unwrap_or_else(PoisonError::into_inner).iter().cloned().collect()
    }

    /// The supervisor answers, and the Python of every worker makes progress.
    pub fn live(&self) -> Vec<Check> {
        let stuck = |slot: usize| self.board.slot(slot).is(State::Ready) && self.board.since_progress(slot) > PROGRESS;
        vec![
            Check { name: "supervisor", ok: true },
            Check { name: "python", ok: !(0..self.board.slots().len()).any(stuck) },
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
    pub async fn metrics(&self, format: Format) -> String {
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
        let (text, dropped) = render::metrics(self.board.slots(), self.site_metrics, &facts, format);
        for name in dropped {
            if self.not_shown.lock().is_ok_and(|mut known| known.insert(name.clone())) {
                tracing::warn!(
                    site = self.site,
                    "the site's metric {name} is not in /metrics: another one has its name, Atrio's or the site's; rename it"
                );
            }
        }
        text
    }
}
