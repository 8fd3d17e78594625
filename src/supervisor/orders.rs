//! What the fleet is told, and what it orders.

use std::time::Duration;

use crate::control::ImportError;
use crate::exit::Failure;
use crate::metrics::Restart;

/// Time since the supervisor began.
pub type Now = Duration;
pub type Generation = u64;
/// A slot of the scoreboard.
pub type Slot = usize;
/// Why another worker takes the place of one that has to drain; `None`: none does.
pub type Why = Option<Restart>;

/// What the fleet is told.
#[derive(Debug)]
pub enum Event {
    Start,
    ZygoteReady(Generation),
    /// Preloading is not possible for these reasons.
    Unforkable(Generation, Vec<String>),
    ImportFailed(Generation, ImportError),
    /// With how it ended, in words.
    ZygoteExited(Generation, String),
    WorkerReady(Slot),
    /// Somebody asked this worker to leave.
    WorkerTerminated(Slot),
    /// It accepts no more connections.
    WorkerDraining(Slot),
    WorkerExited(Slot, String),
    Reload,
    Stop,
    /// New connections are refused, and none is being made any more.
    Quiet,
    /// Time has passed; see [`Fleet::deadline`].
    Tick,
}

/// What is to be done.
#[derive(Debug, PartialEq)]
pub enum Action {
    StartZygote {
        generation: Generation,
        preload: bool,
    },
    StopZygote(Generation),
    Fork {
        generation: Generation,
        slot: Slot,
    },
    Drain {
        slot: Slot,
        why: Why,
    },
    Kill(Slot),
    /// The kernel refuses new connections from now on, while workers still take those that it has made; then [`Event::Quiet`].
    Refuse,
    /// The supervisor's copies of the listening sockets.
    CloseSockets,
    /// All workers of this generation accept connections, and no others do: it serves now.
    Serving(Generation),
    /// The reload came to nothing; the last generation serves on.
    ReloadFailed(String),
    /// A line for the log.
    Warn(String),
    /// A worker died that nobody had asked to end.
    Crashed(Slot),
    Exit(Result<(), Failure>),
}

#[derive(Clone, Copy, Debug)]
pub struct Policy {
    pub workers: usize,
    pub slots: usize,
    pub preload: bool,
    pub drain_delay: Duration,
    pub drain_timeout: Duration,
}
