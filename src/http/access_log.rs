//! The access log: a line for every request, on stdout.
//!
//! Whoever ends a request only appends to memory; a thread of its own writes, so that a slow reader of the log delays nobody. What
//! the reader does not take in time is dropped, and the log says how much.

use std::io::Write;
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

pub use super::access_line::Format;
use super::access_line::{Clock, Entry, origin, write_line};

/// How long a line may wait for company.
const FLUSH_AFTER: Duration = Duration::from_millis(100);
/// At this size the writer is woken at once.
const FLUSH_AT: usize = 64 * 1024;
/// What may wait for a reader that does not keep up.
const LIMIT: usize = 4 * 1024 * 1024;

#[derive(Default)]
struct Buffer {
    lines: Vec<u8>,
    dropped: u64,
    closed: bool,
    /// The writer waits for a first line.
    sleeps: bool,
    clock: Clock,
}

#[derive(Default)]
struct Shared {
    buffer: Mutex<Buffer>,
    wake: Condvar,
}

pub struct AccessLog {
    shared: Arc<Shared>,
    format: Format,
    /// What all lines of the site have.
    origin: String,
    slow: Option<Duration>,
    sample: Option<f64>,
    writer: Mutex<Option<JoinHandle<()>>>,
}

impl AccessLog {
    /// Starts the thread that writes. Written are requests that take as long as `slow`, and the part `sample` of the others; without
    /// both, all.
    pub fn start(site: &str, format: Format, slow: Option<Duration>, sample: Option<f64>) -> std::io::Result<Self> {
        let shared = Arc::new(Shared::default());
        let theirs = shared.clone();
        let writer = std::thread::Builder::new().name("atrio-log".into()).spawn(move || write(&theirs))?;
        let origin = origin(site);
        Ok(AccessLog { shared, format, origin, slow, sample, writer: Mutex::new(Some(writer)) })
    }

    /// Whether a request that took so long is written down.
    pub fn wants(&self, duration: Duration) -> bool {
        match (self.slow, self.sample) {
            (None, None) => true,
            (Some(slow), _) if duration >= slow => true,
            (_, sample) => sample.is_some_and(|part| fastrand::f64() < part),
        }
    }

    pub fn log(&self, entry: &Entry) {
        let mut buffer = self.shared.buffer.lock().unwrap_or_else(PoisonError::into_inner);
        if buffer.lines.len() > LIMIT {
            buffer.dropped += 1;
            return;
        }
        let before = buffer.lines.len();
        let Buffer { lines, sleeps, clock, .. } = &mut *buffer;
        write_line(lines, entry, self.format, clock, &self.origin);
        let much = lines.len() >= FLUSH_AT && before < FLUSH_AT;
        let wakes = std::mem::take(sleeps) || much;
        drop(buffer);
        // It costs a system call, and the writer's thread a place on the processor.
        if wakes {
            self.shared.wake.notify_one();
        }
    }

    /// Writes what is left, and ends the thread.
    pub fn close(&self) {
        self.shared.buffer.lock().unwrap_or_else(PoisonError::into_inner).closed = true;
        self.shared.wake.notify_one();
        if let Some(writer) = self.writer.lock().unwrap_or_else(PoisonError::into_inner).take() {
            let _ = writer.join();
        }
    }
}

fn write(shared: &Shared) {
    let mut failed = false;
    let mut lines = Vec::new();
    loop {
        let buffer = shared.buffer.lock().unwrap_or_else(PoisonError::into_inner);
        let few = |b: &mut Buffer| b.lines.len() < FLUSH_AT && !b.closed;
        let waited = shared.wake.wait_timeout_while(buffer, FLUSH_AFTER, few);
        let mut buffer = waited.unwrap_or_else(PoisonError::into_inner).0;
        if buffer.lines.is_empty() && !buffer.closed {
            buffer.sleeps = true;
            drop(shared.wake.wait_while(buffer, |b| b.sleeps && !b.closed));
            continue;
        }
        // Two that take turns: neither has to grow anew each time.
        if lines.capacity() > 2 * FLUSH_AT {
            lines = Vec::new();
        }
        lines.clear();
        std::mem::swap(&mut lines, &mut buffer.lines);
        let dropped = std::mem::take(&mut buffer.dropped);
        let closed = buffer.closed;
        drop(buffer);
        let result = std::io::stdout().lock().write_all(&lines).and_then(|()| std::io::stdout().flush());
        match result {
            Err(error) if !failed => {
                failed = true;
                tracing::error!(
                    "the access log cannot be written to stdout: {error}; mend it, or set ATRIO_ACCESS_LOG=off"
                );
            }
            Ok(()) => failed = false,
            Err(_) => {}
        }
        if dropped > 0 {
            tracing::warn!(dropped, "the reader of the access log is too slow: lines were dropped");
        }
        if closed {
            return;
        }
    }
}
