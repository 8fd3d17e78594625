//! The scoreboard: a slot of atomics in shared memory for every worker, and what each of its app threads does.

use std::io;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicI64, AtomicU32, AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use zerocopy::FromZeros;

use crate::os;

use super::activity::{Activity, Failures, monotonic_nanos};
use super::exemplar::{Exemplar, Last};
use super::histogram::{Histogram, REQUEST_BOUNDS};
use super::reasons::{Lost, Reject};

/// How many combinations of method, status and protocol version a slot can tell apart. Real sites show
/// a dozen or two; what goes past the limit is counted under method and status `_OTHER`.
pub const SERIES: usize = 128;

/// The methods that are told apart; all others count as `_OTHER`.
pub const METHODS: [&str; 10] =
    ["_OTHER", "GET", "HEAD", "POST", "PUT", "DELETE", "CONNECT", "OPTIONS", "TRACE", "PATCH"];

/// What a slot's worker does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum State {
    Free,
    Starting,
    Ready,
    Draining,
}

/// The requests of one method, status and protocol version.
#[repr(C)]
#[derive(FromZeros)]
pub struct Series {
    /// 0: not used yet. Written once, by the thread that drives the slot's runtime.
    key: AtomicU32,
    _padding: AtomicU32,
    pub duration: Histogram,
    exemplar: Last,
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
    /// When it started, in nanoseconds of the monotonic clock.
    started: AtomicU64,
    /// When its main thread last had the GIL; the same clock.
    heartbeat: AtomicU64,

    pub connections: AtomicI64,
    pub queue_length: AtomicI64,
    pub threads: AtomicI64,
    pub threads_busy: AtomicI64,

    /// What has begun and is neither in `series` nor lost is under way: the count in `series` alone ends a request, so that no
    /// moment of a worker's death leaves one uncounted or counts it twice.
    begun: AtomicU64,
    lost: AtomicU64,
    pub connections_accepted: AtomicU64,
    pub request_body_bytes: AtomicU64,
    pub response_body_bytes: AtomicU64,
    pub exceptions: AtomicU64,
    rejected: [AtomicU64; Reject::NAMES.len()],
    pub spans_exported: AtomicU64,
    spans_lost: [AtomicU64; Lost::NAMES.len()],
    pub queue_wait: Histogram,
    pub gil_wait: Histogram,
    pub app: Histogram,
    pub write: Histogram,
    pub failures: Failures,
    series: [Series; SERIES],
}

impl Slot {
    /// A request's head has been read.
    pub fn begin_request(&self) {
        self.begun.fetch_add(1, Relaxed);
    }

    /// Requests that have begun and not ended.
    pub fn active_requests(&self) -> u64 {
        let begun = self.begun.load(Relaxed);
        begun.saturating_sub(self.ended_requests() + self.lost())
    }

    /// Requests that are over.
    pub fn ended_requests(&self) -> u64 {
        self.requests().map(|(_, durations)| durations.count()).sum()
    }

    /// Requests that were under way when their worker died.
    pub fn lost(&self) -> u64 {
        self.lost.load(Relaxed)
    }

    /// Counts a request that is over. Only the thread that drives the slot's runtime calls this.
    /// `trace`: the one that is recorded of it.
    pub fn count_request(&self, labels: Labels, duration: Duration, trace: Option<u128>) {
        let series = self.series(labels);
        series.duration.observe(&REQUEST_BOUNDS, duration);
        if let Some(trace) = trace {
            series.exemplar.set(trace, duration);
        }
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

    /// The last request of each series whose trace is recorded.
    pub fn exemplars(&self) -> impl Iterator<Item = (Labels, Exemplar)> {
        self.series.iter().filter_map(|s| Some((Labels::from_key(s.key.load(Relaxed))?, s.exemplar.get()?)))
    }

    pub fn count_reject(&self, reason: Reject) {
        self.rejected[reason as usize].fetch_add(1, Relaxed);
    }

    pub fn rejected(&self, reason: usize) -> u64 {
        self.rejected[reason].load(Relaxed)
    }

    pub fn count_lost(&self, why: Lost, spans: u64) {
        self.spans_lost[why as usize].fetch_add(spans, Relaxed);
    }

    pub fn spans_lost(&self, why: usize) -> u64 {
        self.spans_lost[why].load(Relaxed)
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
        self.started.store(monotonic_nanos(), Relaxed);
        self.beat();
        self.set_state(State::Starting);
    }

    /// What a dead worker left in its gauges is forgotten, and its requests are lost; its counters stay.
    fn vacate(&self) {
        self.set_state(State::Free);
        self.lost.fetch_add(self.active_requests(), Relaxed);
        self.pid.store(0, Relaxed);
        for gauge in [&self.connections, &self.queue_length, &self.threads, &self.threads_busy] {
            gauge.store(0, Relaxed);
        }
    }

    /// Says that Python makes progress.
    pub fn beat(&self) {
        self.heartbeat.store(monotonic_nanos(), Relaxed);
    }

    /// How long ago its worker started.
    pub fn age(&self) -> Duration {
        since(&self.started)
    }
}

fn since(moment: &AtomicU64) -> Duration {
    Duration::from_nanos(monotonic_nanos().saturating_sub(moment.load(Relaxed)))
}

/// All slots, as mapped into this process.
#[derive(Clone, Copy)]
pub struct Scoreboard {
    slots: &'static [Slot],
    /// Those of the first slot's app threads, of the second's …
    activities: &'static [Activity],
    /// App threads of a worker.
    threads: usize,
}

impl Scoreboard {
    /// New shared memory for `slots` workers of `threads` app threads, and its mapping here.
    pub fn create(slots: usize, threads: usize) -> io::Result<(OwnedFd, Self)> {
        let size = activities_at(slots) + size_of::<Activity>() * slots * threads;
        let fd = os::shared_memory("atrio-scoreboard", size)?;
        let board = Self::open(std::os::fd::AsFd::as_fd(&fd), slots, threads)?;
        Ok((fd, board))
    }

    /// Maps what another process created.
    pub fn open(fd: BorrowedFd, slots: usize, threads: usize) -> io::Result<Self> {
        let activities = os::map_shared(fd, activities_at(slots), slots * threads)?;
        Ok(Scoreboard { slots: os::map_shared(fd, 0, slots)?, activities, threads })
    }

    pub fn slot(self, index: usize) -> &'static Slot {
        &self.slots[index]
    }

    /// What the app threads of a slot do.
    pub fn activities(self, index: usize) -> &'static [Activity] {
        &self.activities[index * self.threads..][..self.threads]
    }

    /// How long ago the Python of a slot's worker last made progress: its main thread had the GIL, or an app thread that began with a request.
    pub fn since_progress(self, index: usize) -> Duration {
        let begun = self.activities(index).iter().map(Activity::since_begin);
        begun.fold(since(&self.slot(index).heartbeat), Duration::min)
    }

    /// The worker of a slot is dead.
    pub fn vacate(self, index: usize) {
        self.activities(index).iter().for_each(Activity::end);
        self.slot(index).vacate();
    }

    /// The fewest connections that a worker has which accepts some, other than `own`.
    pub fn fewest_connections_beside(self, own: &Slot) -> Option<i64> {
        let others = self.slots.iter().filter(|slot| !std::ptr::eq(*slot, own) && slot.is(State::Ready));
        others.map(|slot| slot.connections.load(Relaxed)).min()
    }

    pub fn slots(self) -> &'static [Slot] {
        self.slots
    }
}

/// Where in the shared memory the slots have ended, and pages of any size begin.
fn activities_at(slots: usize) -> usize {
    (size_of::<Slot>() * slots).next_multiple_of(64 * 1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slot_counts_across_its_workers() {
        let (_fd, board) = Scoreboard::create(2, 1).unwrap();
        let slot = board.slot(1);
        slot.occupy(7, 1, 8);
        slot.begin_request();
        slot.count_request(Labels::new("GET", 200, false), Duration::from_millis(3), None);
        slot.vacate();
        slot.occupy(8, 2, 8);
        slot.begin_request();
        slot.count_request(Labels::new("GET", 200, false), Duration::from_secs(20), None);
        assert_eq!((slot.active_requests(), slot.lost()), (0, 0));
        let all: Vec<_> = slot.requests().collect();
        assert_eq!(all.len(), 1);
        assert_eq!(all[0].0, Labels::new("GET", 200, false));
        assert_eq!((all[0].1.counts()[0], all[0].1.counts()[14]), (1, 1));
        assert!((all[0].1.sum_seconds() - 20.003).abs() < 1e-9);
    }

    #[test]
    fn what_a_dead_worker_had_not_ended_is_lost() {
        let (_fd, board) = Scoreboard::create(1, 1).unwrap();
        let slot = board.slot(0);
        for _ in 0..3 {
            slot.begin_request();
        }
        slot.count_request(Labels::new("GET", 200, false), Duration::ZERO, None);
        assert_eq!((slot.active_requests(), slot.lost()), (2, 0));
        // The supervisor vacates the slot, and the next worker occupies it.
        slot.vacate();
        slot.occupy(8, 2, 8);
        assert_eq!((slot.active_requests(), slot.lost()), (0, 2));
        slot.begin_request();
        assert_eq!((slot.active_requests(), slot.lost()), (1, 2));
    }

    #[test]
    fn the_number_of_series_is_bounded() {
        let (_fd, board) = Scoreboard::create(1, 1).unwrap();
        for status in 100..999 {
            board.slot(0).count_request(Labels::new("BREW", status, true), Duration::ZERO, None);
        }
        let total: u64 = board.slot(0).requests().map(|(_, h)| h.counts().iter().sum::<u64>()).sum();
        assert_eq!(board.slot(0).requests().count(), SERIES);
        assert_eq!(total, 899);
    }
}
