//! The scoreboard: a slot of atomics in shared memory for every worker.

use std::io;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicI64, AtomicU32, AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use zerocopy::FromZeros;

use crate::os;

/// Upper bounds, in seconds, of `http_server_request_duration_seconds` (OpenTelemetry's HTTP semantic conventions).
pub const REQUEST_BOUNDS: [f64; 14] = [0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0];
/// Upper bounds, in seconds, of what happens inside a worker: queue wait, application.
pub const INNER_BOUNDS: [f64; 14] =
    [0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.5, 1.0, 5.0, 10.0];

/// How many combinations of method, status and protocol version a slot can tell apart. Real sites show
/// a dozen or two; what goes past the limit is counted under method and status `_OTHER`.
pub const SERIES: usize = 128;

/// The methods that are told apart; all others count as `_OTHER`.
pub const METHODS: [&str; 10] =
    ["_OTHER", "GET", "HEAD", "POST", "PUT", "DELETE", "CONNECT", "OPTIONS", "TRACE", "PATCH"];

/// Why a request was answered without reaching the site.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(usize)]
pub enum Reject {
    BadRequest,
    HeaderTimeout,
    HeaderTooLarge,
    BodyTimeout,
    BodyTooLarge,
    QueueFull,
    QueueTimeout,
    /// The request's body could not be kept in a temporary file.
    Spool,
    /// Past `ATRIO_MAX_CONNECTIONS`.
    Connections,
}

impl Reject {
    pub const NAMES: [&str; 9] = [
        "bad_request",
        "header_timeout",
        "header_too_large",
        "body_timeout",
        "body_too_large",
        "queue_full",
        "queue_timeout",
        "spool",
        "connections",
    ];
}

/// What a slot's worker does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum State {
    Free,
    Starting,
    Ready,
    Draining,
}

/// A histogram with one writer or many: bucket counts are not cumulative here.
#[repr(C)]
#[derive(FromZeros)]
pub struct Histogram {
    buckets: [AtomicU64; 15],
    sum_nanos: AtomicU64,
}

impl Histogram {
    pub fn observe(&self, bounds: &[f64; 14], value: Duration) {
        let seconds = value.as_secs_f64();
        let bucket = bounds.iter().position(|bound| seconds <= *bound).unwrap_or(bounds.len());
        self.buckets[bucket].fetch_add(1, Relaxed);
        self.sum_nanos.fetch_add(value.as_nanos() as u64, Relaxed);
    }

    /// The count of each bucket, the last for what is above every bound.
    pub fn counts(&self) -> [u64; 15] {
        std::array::from_fn(|i| self.buckets[i].load(Relaxed))
    }

    pub fn sum_seconds(&self) -> f64 {
        self.sum_nanos.load(Relaxed) as f64 / 1e9
    }
}

/// The requests of one method, status and protocol version.
#[repr(C)]
#[derive(FromZeros)]
pub struct Series {
    /// 0: not used yet. Written once, by the slot's I/O thread.
    key: AtomicU32,
    _padding: AtomicU32,
    pub duration: Histogram,
}

/// The labels of a [`Series`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Labels {
    method: u8,
    /// 0 stands for `_OTHER`.
    status: u16,
    http10: bool,
}

impl Labels {
    pub fn new(method: &str, status: u16, http10: bool) -> Self {
        let method = METHODS.iter().position(|known| *known == method).unwrap_or(0) as u8;
        Labels { method, status, http10 }
    }

    const OTHER: Labels = Labels { method: 0, status: 0, http10: false };

    fn key(self) -> u32 {
        1 << 31 | u32::from(self.method) << 17 | u32::from(self.http10) << 16 | u32::from(self.status)
    }

    fn from_key(key: u32) -> Option<Self> {
        (key != 0).then_some(Labels { method: (key >> 17 & 0xf) as u8, status: key as u16, http10: key >> 16 & 1 == 1 })
    }

    pub fn method(self) -> &'static str {
        METHODS[usize::from(self.method)]
    }

    pub fn status(self) -> String {
        if self.status == 0 { "_OTHER".into() } else { self.status.to_string() }
    }

    pub fn version(self) -> &'static str {
        if self.http10 { "1.0" } else { "1.1" }
    }
}

/// A worker's part of the scoreboard. Gauges are the present worker's; all else adds up for ever.
#[repr(C)]
#[derive(FromZeros)]
pub struct Slot {
    pub state: AtomicU32,
    _padding: AtomicU32,
    pub pid: AtomicI64,
    pub generation: AtomicU64,
    /// When its Python last made progress, in milliseconds of the monotonic clock.
    pub heartbeat: AtomicU64,

    pub connections: AtomicI64,
    pub active_requests: AtomicI64,
    pub queue_length: AtomicI64,
    pub threads: AtomicI64,
    pub threads_busy: AtomicI64,

    pub connections_accepted: AtomicU64,
    pub request_body_bytes: AtomicU64,
    pub response_body_bytes: AtomicU64,
    pub exceptions: AtomicU64,
    rejected: [AtomicU64; Reject::NAMES.len()],
    pub queue_wait: Histogram,
    pub app: Histogram,
    series: [Series; SERIES],
}

impl Slot {
    /// Counts a request whose response has been handed over. Only the slot's I/O thread calls this.
    pub fn count_request(&self, labels: Labels, duration: Duration) {
        self.series(labels).duration.observe(&REQUEST_BOUNDS, duration);
    }

    fn series(&self, labels: Labels) -> &Series {
        let key = labels.key();
        let start = key as usize % SERIES;
        let found = (0..SERIES).map(|i| &self.series[(start + i) % SERIES]).find(|series| {
            let present = series.key.load(Relaxed);
            if present == 0 {
                series.key.store(key, Relaxed);
            }
            present == 0 || present == key
        });
        found.unwrap_or_else(|| {
            let last = &self.series[SERIES - 1];
            last.key.store(Labels::OTHER.key(), Relaxed);
            last
        })
    }

    /// The series in use.
    pub fn requests(&self) -> impl Iterator<Item = (Labels, &Histogram)> {
        self.series.iter().filter_map(|s| Labels::from_key(s.key.load(Relaxed)).map(|labels| (labels, &s.duration)))
    }

    pub fn count_reject(&self, reason: Reject) {
        self.rejected[reason as usize].fetch_add(1, Relaxed);
    }

    pub fn rejected(&self, reason: usize) -> u64 {
        self.rejected[reason].load(Relaxed)
    }

    pub fn set_state(&self, state: State) {
        self.state.store(state as u32, Relaxed);
    }

    pub fn is(&self, state: State) -> bool {
        self.state.load(Relaxed) == state as u32
    }

    /// Gives the slot to a new worker.
    pub fn occupy(&self, pid: i32, generation: u64, threads: usize) {
        self.vacate();
        self.pid.store(pid.into(), Relaxed);
        self.generation.store(generation, Relaxed);
        self.threads.store(threads as i64, Relaxed);
        self.beat();
        self.set_state(State::Starting);
    }

    /// What a dead worker left in its gauges is forgotten; its counters stay.
    pub fn vacate(&self) {
        self.set_state(State::Free);
        self.pid.store(0, Relaxed);
        for gauge in [&self.connections, &self.active_requests, &self.queue_length, &self.threads, &self.threads_busy] {
            gauge.store(0, Relaxed);
        }
    }

    /// Says that Python makes progress.
    pub fn beat(&self) {
        self.heartbeat.store(monotonic_millis(), Relaxed);
    }

    /// How long ago Python last made progress.
    pub fn since_beat(&self) -> Duration {
        Duration::from_millis(monotonic_millis().saturating_sub(self.heartbeat.load(Relaxed)))
    }
}

/// Milliseconds of CLOCK_MONOTONIC, which all processes of the machine share.
fn monotonic_millis() -> u64 {
    nix::time::clock_gettime(nix::time::ClockId::CLOCK_MONOTONIC)
        .map_or(0, |now| now.tv_sec() as u64 * 1000 + now.tv_nsec() as u64 / 1_000_000)
}

/// All slots, as mapped into this process.
#[derive(Clone, Copy)]
pub struct Scoreboard(&'static [Slot]);

impl Scoreboard {
    /// New shared memory for `slots` workers, and its mapping here.
    pub fn create(slots: usize) -> io::Result<(OwnedFd, Self)> {
        let fd = os::shared_memory("atrio-scoreboard", size_of::<Slot>() * slots)?;
        let board = Self::open(std::os::fd::AsFd::as_fd(&fd), slots)?;
        Ok((fd, board))
    }

    /// Maps what another process created.
    pub fn open(fd: BorrowedFd, slots: usize) -> io::Result<Self> {
        os::map_shared(fd, slots).map(Scoreboard)
    }

    pub fn slot(self, index: usize) -> &'static Slot {
        &self.0[index]
    }

    /// The fewest connections that a worker has which accepts some, other than `own`.
    pub fn fewest_connections_beside(self, own: &Slot) -> Option<i64> {
        let others = self.0.iter().filter(|slot| !std::ptr::eq(*slot, own) && slot.is(State::Ready));
        others.map(|slot| slot.connections.load(Relaxed)).min()
    }

    pub fn slots(self) -> &'static [Slot] {
        self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slot_counts_across_its_workers() {
        let (_fd, board) = Scoreboard::create(2).unwrap();
        let slot = board.slot(1);
        slot.occupy(7, 1, 8);
        slot.count_request(Labels::new("GET", 200, false), Duration::from_millis(3));
        slot.vacate();
        slot.occupy(8, 2, 8);
        slot.count_request(Labels::new("GET", 200, false), Duration::from_secs(20));
        let all: Vec<_> = slot.requests().collect();
        assert_eq!(all.len(), 1);
        assert_eq!(all[0].0, Labels::new("GET", 200, false));
        assert_eq!((all[0].1.counts()[0], all[0].1.counts()[14]), (1, 1));
        assert!((all[0].1.sum_seconds() - 20.003).abs() < 1e-9);
    }

    #[test]
    fn the_number_of_series_is_bounded() {
        let (_fd, board) = Scoreboard::create(1).unwrap();
        for status in 100..999 {
            board.slot(0).count_request(Labels::new("BREW", status, true), Duration::ZERO);
        }
        let total: u64 = board.slot(0).requests().map(|(_, h)| h.counts().iter().sum::<u64>()).sum();
        assert_eq!(board.slot(0).requests().count(), SERIES);
        assert_eq!(total, 899);
    }
}
