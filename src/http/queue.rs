//! The bounded queue between the I/O thread and the app threads.
//!
//! One interpreter runs one thread at a time, so waking a second app thread while the first gets through its requests
//! quickly only makes them fight for the GIL. [`Pace`] knows whether the site's requests are quick. While they are, one thread
//! takes them in a row; [`Queue::tick`] brings help when a request has waited longer than a quick one takes.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering::Relaxed};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use crate::metrics::{Reject, Slot};

use super::job::Job;

/// What a quick request takes at most; also how often help is looked for while requests are under way.
const QUICK: Duration = Duration::from_millis(1);
/// The same while requests are slow: every push wakes a thread then, and only expiry is left to look after.
const PATIENT_TICK: Duration = Duration::from_millis(20);
/// How many quick requests in a row it takes after a slow one to be taken for quick again.
const PATIENCE: u32 = 32;

#[derive(Default)]
struct State {
    jobs: VecDeque<Job>,
    /// Threads asleep.
    idle: usize,
    /// Threads woken that have not come back for a job yet; they may still wait for the GIL.
    waking: usize,
    /// Wake-ups given that no thread has used yet.
    wakeups: usize,
    /// Threads that run a job.
    busy: usize,
    closed: bool,
}

/// Whether the site's requests have been quick lately.
#[derive(Default)]
struct Pace(AtomicU32);

impl Pace {
    fn note(&self, took: Duration) {
        if took >= QUICK {
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

pub struct Queue {
    state: Mutex<State>,
    ready: Condvar,
    limit: usize,
    pace: Pace,
    /// Requests are queued or run.
    active: AtomicBool,
    slot: &'static Slot,
}

impl Queue {
    /// A queue for `limit` requests; its length is kept in `slot`.
    pub fn new(limit: usize, slot: &'static Slot) -> Self {
        Queue {
            state: Mutex::default(),
            ready: Condvar::new(),
            limit,
            pace: Pace::default(),
            active: AtomicBool::new(false),
            slot,
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Adds a request, or gives it back when `limit` requests wait already.
    pub fn push(&self, job: Job) -> Result<(), Box<Job>> {
        let mut state = self.lock();
        // A thread that is free takes its request at once: only what exceeds the free threads waits.
        let free = state.idle + state.waking;
        if state.closed || state.jobs.len() >= self.limit + free {
            return Err(Box::new(job));
        }
        state.jobs.push_back(job);
        self.slot.queue_length.store(state.jobs.len() as i64, Relaxed);
        self.active.store(true, Relaxed);
        let alone = state.busy == 0 && state.waking == 0;
        let help = !self.pace.is_quick() && state.waking < state.jobs.len();
        self.wake(state, alone || help);
        Ok(())
    }

    fn wake(&self, mut state: MutexGuard<'_, State>, wanted: bool) {
        if wanted && state.idle > 0 {
            state.idle -= 1;
            state.waking += 1;
            state.wakeups += 1;
            drop(state);
            self.ready.notify_one();
        }
    }

    /// The next request, if one waits; `woken`: the caller comes from [`Queue::wait`]. It runs the request, and then says
    /// [`Queue::ran`].
    pub fn take(&self, woken: bool) -> Option<Job> {
        let mut state = self.lock();
        state.waking -= usize::from(woken);
        let job = state.jobs.pop_front()?;
        state.busy += 1;
        self.note(&state);
        let help = !self.pace.is_quick() && state.waking < state.jobs.len();
        self.wake(state, help);
        Some(job)
    }

    /// A request that was taken has been answered, after `took`.
    pub fn ran(&self, took: Duration) {
        self.pace.note(took);
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
    pub fn wait(&self) -> Wake {
        let mut state = self.lock();
        if state.jobs.is_empty() && !state.closed {
            state.idle += 1;
            while state.wakeups == 0 && !state.closed {
                state = self.ready.wait(state).unwrap_or_else(PoisonError::into_inner);
            }
            if state.wakeups > 0 {
                state.wakeups -= 1;
                return Wake::Woken;
            }
            state.idle -= 1;
        }
        if state.closed && state.jobs.is_empty() { Wake::Closed } else { Wake::Work }
    }

    /// Brings help when the first request in the queue has waited too long for quick ones, and refuses what has waited
    /// longer than `patience`. Says when to come again; `None`: there is no work.
    pub fn tick(&self, patience: Duration) -> Option<Duration> {
        if !self.active.load(Relaxed) {
            return None;
        }
        let mut state = self.lock();
        let age = |job: &Job| job.reply.enqueued().elapsed();
        while state.jobs.front().is_some_and(|job| age(job) >= patience) {
            if let Some(job) = state.jobs.pop_front() {
                job.reply.refuse(Reject::QueueTimeout);
            }
        }
        self.note(&state);
        let late = state.waking == 0 && state.jobs.front().is_some_and(|job| age(job) >= QUICK);
        self.wake(state, late);
        Some(if self.pace.is_quick() { QUICK } else { PATIENT_TICK })
    }

    /// Whether answers may share a wake-up of the I/O thread: requests are quick and more of them wait.
    pub fn may_defer(&self) -> bool {
        self.pace.is_quick() && self.slot.queue_length.load(Relaxed) > 0
    }

    /// Takes no more; threads leave when what is there has been taken.
    pub fn close(&self) {
        self.lock().closed = true;
        self.ready.notify_all();
    }

    /// How long the queue would take to be free again, for `Retry-After`: whole seconds, one at least.
    pub fn retry_after(&self) -> u64 {
        self.lock().jobs.front().map_or(1, |job| Instant::now().duration_since(job.reply.enqueued()).as_secs().max(1))
    }
}
