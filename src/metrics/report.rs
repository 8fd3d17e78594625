//! What `/status.json` says: the one definition for who writes it, and for `atrio top`, which reads it. The names are a contract.

use serde::{Deserialize, Serialize};

/// An instance. Times are seconds, sizes bytes; what cannot be known is null.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Report {
    pub version: String,
    pub python: String,
    pub arch: String,
    /// When this was true: RFC 3339, UTC.
    pub time: String,
    /// The supervisor's.
    pub pid: u32,
    pub uptime_seconds: f64,
    /// Resident, of the supervisor.
    pub memory_bytes: u64,
    pub live: bool,
    pub ready: bool,
    /// It finishes accepted requests, and will end.
    pub stopping: bool,
    pub sites: Vec<Site>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Site {
    pub name: String,
    /// The import that serves; 0: none does yet.
    pub generation: u64,
    /// The import that is to take its place.
    pub incoming_generation: Option<u64>,
    pub reloads: u64,
    pub reloads_failed: u64,
    /// Workers that ended unasked.
    pub crashes: u64,
    pub connections: i64,
    pub queue_length: i64,
    /// App threads.
    pub threads: i64,
    pub threads_busy: i64,
    /// That have been answered.
    pub requests: u64,
    pub exceptions: u64,
    pub workers: Vec<Worker>,
    /// The newest first.
    pub errors: Vec<Error>,
}

impl Site {
    /// The app threads that have a request.
    pub fn running(&self) -> impl Iterator<Item = (&Worker, &Thread)> {
        let threads = self.workers.iter().flat_map(|worker| worker.threads.iter().map(move |thread| (worker, thread)));
        threads.filter(|(_, thread)| thread.state != Doing::Idle)
    }
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Worker {
    /// Its number, as in `/metrics`.
    pub worker: usize,
    pub pid: i64,
    pub generation: u64,
    pub state: State,
    pub uptime_seconds: f64,
    /// Since its Python made progress.
    pub progress_seconds: f64,
    /// Its part of what it shares with others included.
    pub memory_bytes: Option<u64>,
    pub cpu_seconds: Option<f64>,
    pub connections: i64,
    pub queue_length: i64,
    /// Answered by this worker and those that had its number before.
    pub requests: u64,
    pub threads: Vec<Thread>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum State {
    Starting,
    Ready,
    Draining,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Thread {
    pub name: String,
    pub state: Doing,
    /// How long it has had its request.
    pub seconds: Option<f64>,
    pub request: Option<Request>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Doing {
    /// It waits for a request.
    Idle,
    /// The site works on a request.
    Runs,
    /// The answer has begun, and the site yields more of it.
    Sends,
}

/// Long ones end in `…`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Request {
    pub method: String,
    /// Without the query, which may have secrets in it.
    pub path: String,
    pub request_id: String,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Error {
    pub time: String,
    pub kind: Kind,
    pub message: String,
    /// The worker, if it is one's.
    pub worker: Option<usize>,
    /// What was under way; of an exception, the request that it escaped from.
    pub requests: Vec<Request>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    /// The site let it escape.
    Exception,
    /// A worker ended unasked.
    Crash,
    /// A reload failed, the last import serves on.
    Reload,
}
