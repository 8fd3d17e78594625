//! The bounded queue between the I/O thread and the app threads.
//!
//! One interpreter runs one thread at a time, so waking a second app thread while the first gets through its requests
//! quickly only makes them fight for the GIL. [`Pace`] knows whether the site's requests are quick. While they are, one thread
//! takes them in a row; [`Queue::tick`] brings help when a request has waited longer than a quick one takes.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering::Acquire, Ordering::Relaxed, Ordering::Release};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::{self, Thread};
use std::time::{Duration, Instant};

use crate::metrics::{Reject, Slot};

use super::job::Job;

/// What a quick request takes at most; also how often help is looked for while requests are under way.
pub const QUICK: Duration = Duration::from_millis(1);
/// The same while requests are slow: every push wakes a thread then, and only expiry is left to look after.
const PATIENT_TICK: Duration = Duration::from_millis(20);
/// How long more requests than the limit may wait while requests are quick.
const BURST: Duration = Duration::from_secs(1);
/// So many requests in the queue call a thread at once.
const CROWD: usize = 64;
/// How many quick requests in a row it takes after a slow one to be taken for quick again.
const PATIENCE: u32 = 32;

#[derive(Default)]
struct State {
    jobs: VecDeque<Box<Job>>,
    /// Threads asleep, the last to fall asleep last: it is the first to be woken, for its memory is still in the caches.
    idle: Vec<Arc<Sleeper>>,
    /// Threads woken that have not come back for a job yet; they may still wait for the GIL.
    waking: usize,
    /// Threads that run a job.
    busy: usize,
    closed: bool,
}

/// Whether the site's requests have been quick lately.
#[derive(Default)]
struct Pace(AtomicU32);

impl Pace {
    fn note(&self, slow: bool) {
        if slow {
            self.0.store(PATIENCE, Relaxed);
        } else if self.0.load(Relaxed) > 0 {
            self.0.fetch_update(Relaxed, Relaxed, |score| score.checked_sub(1)).ok();
        }
    }

    fn is_quick(&self) -> bool {
        self.0.load(Relaxed) == 0
    }
}

/// Why [`Queue::wait`] returned.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wake {
    /// Somebody asked for this thread.
    Woken,
    /// There was work already.
    Work,
    /// There is no more work, for good.
    Closed,
}

/// A thread that waits for work.
pub struct Sleeper {
    thread: Thread,
    woken: AtomicBool,
}

impl Sleeper {
    /// This thread.
    pub fn new() -> Arc<Self> {
        Arc::new(Sleeper { thread: thread::current(), woken: AtomicBool::new(false) })
    }

    fn sleep(&self) {
        while !self.woken.swap(false, Acquire) {
            thread::park();
        }
    }

    fn wake(&self) {
        self.woken.store(true, Release);
        self.thread.unpark();
    }
}

pub struct Queue {
    state: Mutex<State>,
    limit: usize,
    pace: Pace,
    /// Requests are queued or run.
    active: AtomicBool,
    /// Requests were pushed since threads were called last.
    pushed: AtomicBool,
    slot: &'static Slot,
}

impl Queue {
    /// A queue for `limit` requests; its length is kept in `slot`.
    pub fn new(limit: usize, slot: &'static Slot) -> Self {
        Queue {
            state: Mutex::default(),
            limit,
            pace: Pace::default(),
            active: AtomicBool::new(false),
            pushed: AtomicBool::new(false),
            slot,
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Adds a request, or gives it back when `limit` requests wait already.
    pub fn push(&self, job: Box<Job>) -> Result<(), Box<Job>> {
        let mut state = self.lock();
        // A thread that is free takes its request at once: only what exceeds the free threads waits.
        let free = state.idle.len() + state.waking;
        let full = state.jobs.len() >= self.limit + free;
        // A burst that quick requests will have worked off in a moment is not refused; see `tick`.
        if state.closed || full && !self.pace.is_quick() {
            return Err(job);
        }
        state.jobs.push_back(job);
        self.slot.queue_length.store(state.jobs.len() as i64, Relaxed);
        self.active.store(true, Relaxed);
        if state.jobs.len().is_multiple_of(CROWD) {
            self.call(state);
        } else {
            self.pushed.store(true, Relaxed);
        }
        Ok(())
    }

    /// Calls threads for what has been pushed. The I/O thread says this when it has nothing else to do: woken at each push, a
    /// thread would take the processor from it request by request.
    pub fn call_threads(&self) {
        if self.pushed.swap(false, Relaxed) {
            self.call(self.lock());
        }
    }

    fn call(&self, mut state: MutexGuard<'_, State>) {
        let wanted = if self.pace.is_quick() { usize::from(state.busy == 0) } else { state.jobs.len() };
        let mut sleepers = Vec::new();
        while state.waking < wanted
            && let Some(sleeper) = state.idle.pop()
        {
            state.waking += 1;
            sleepers.push(sleeper);
        }
        drop(state);
        for sleeper in sleepers {
            sleeper.wake();
        }
    }

    /// The next request, if one waits; `woken`: the caller comes from [`Queue::wait`]. It runs the request, and then says
    /// [`Queue::ran`].
    pub fn take(&self, woken: bool) -> Option<Box<Job>> {
        let mut state = self.lock();
        state.waking -= usize::from(woken);
        let job = state.jobs.pop_front()?;
        state.busy += 1;
        self.note(&state);
        if !self.pace.is_quick() {
            self.call(state);
        }
        Some(job)
    }

    /// A request that was taken has been answered; `slow`: it took longer than [`QUICK`], because it waited for something.
    pub fn ran(&self, slow: bool) {
        self.pace.note(slow);
        let mut state = self.lock();
        state.busy -= 1;
        self.note(&state);
    }

    fn note(&self, state: &State) {
        self.slot.queue_length.store(state.jobs.len() as i64, Relaxed);
        self.slot.threads_busy.store(state.busy as i64, Relaxed);
        self.active.store(state.busy > 0 || !state.jobs.is_empty(), Relaxed);
    }

    /// Sleeps until there may be something to take. Called without the GIL.
    pub fn wait(&self, sleeper: &Arc<Sleeper>) -> Wake {
        let mut state = self.lock();
        if !state.jobs.is_empty() {
            return Wake::Work;
        }
        if state.closed {
            return Wake::Closed;
        }
        state.idle.push(sleeper.clone());
        drop(state);
        sleeper.sleep();
        Wake::Woken
    }

    /// Brings help when the first request in the queue has waited too long for quick ones, and refuses what has waited
    /// longer than `patience`. Says when to come again; `None`: there is no work.
    pub fn tick(&self, patience: Duration) -> Option<Duration> {
        if !self.active.load(Relaxed) {
            return None;
        }
        let mut state = self.lock();
        let now = Instant::now();
        let age = |job: &Job| now.saturating_duration_since(job.reply.enqueued());
        while state.jobs.front().is_some_and(|job| age(job) >= patience) {
            if let Some(job) = state.jobs.pop_front() {
                job.reply.refuse(Reject::QueueTimeout);
            }
        }
        // Past the limit, a request is only tolerated for as long as a burst may take.
        while state.jobs.get(self.limit).is_some_and(|job| age(job) >= BURST) {
            if let Some(job) = state.jobs.remove(self.limit) {
                job.reply.refuse(Reject::QueueFull);
            }
        }
        self.note(&state);
        let late = state.waking == 0 && state.jobs.front().is_some_and(|job| age(job) >= QUICK);
        if late && let Some(sleeper) = state.idle.pop() {
            state.waking += 1;
            drop(state);
            sleeper.wake();
        }
        Some(if self.pace.is_quick() { QUICK } else { PATIENT_TICK })
    }

    /// Whether answers may share a wake-up of the I/O thread: requests are quick and more of them wait.
    pub fn may_defer(&self) -> bool {
        self.pace.is_quick() && self.slot.queue_length.load(Relaxed) > 0
    }

    /// Takes no more; threads leave when what is there has been taken.
    pub fn close(&self) {
        let mut state = self.lock();
        state.closed = true;
        state.waking += state.idle.len();
        for sleeper in state.idle.drain(..) {
            sleeper.wake();
        }
    }

    /// How long the queue would take to be free again, for `Retry-After`: whole seconds, one at least.
    pub fn retry_after(&self) -> u64 {
        self.lock().jobs.front().map_or(1, |job| Instant::now().duration_since(job.reply.enqueued()).as_secs().max(1))
    }
}

#[cfg(test)]
#[path = "queue_tests.rs"]
mod tests;
