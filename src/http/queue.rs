//! The bounded queue of requests, and the app threads that wait for one.
//!
//! One interpreter runs one thread at a time, so waking a second app thread while the first gets through its requests
//! quickly only makes them fight for the GIL. While requests are quick, one thread takes them in a row, and [`Lead`]s; once they are
//! not, each request gets a thread, and [`Queue::tick`] brings help when a request has waited longer than a quick one takes.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use crate::metrics::{Reject, Slot};

use super::job::Job;
use super::lead::{Lead, Leader, Watch};
use super::pace::{Pace, QUICK};
use super::sleeper::Sleeper;

/// How often expiry is looked after while requests are slow: every push calls a thread then.
const PATIENT_TICK: Duration = Duration::from_millis(20);
/// How long more requests than the limit may wait while requests are quick.
const BURST: Duration = Duration::from_secs(1);
/// So many requests in the queue call a thread at once.
const CROWD: usize = 64;

#[derive(Default)]
struct State {
    jobs: VecDeque<Box<Job>>,
    /// App threads asleep, the last to fall asleep last: it is the first to be called, for its memory is still in the caches.
    idle: Vec<Arc<Sleeper>>,
    /// App threads called, or relieved of driving, that have not come for a job yet; they may still wait for the GIL.
    waking: usize,
    /// App threads that run a job.
    busy: usize,
    closed: bool,
    lead: Lead,
    /// The app thread that leads, or is about to.
    leading: Option<Arc<Sleeper>>,
    /// The I/O thread, once it has something to watch.
    watcher: Option<Arc<Sleeper>>,
}

/// Why an app thread does not sleep, or no longer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wake {
    /// Somebody asked for this thread.
    Called,
    /// The same, to lead.
    Lead,
    /// There was work already.
    Work,
    /// There is no more work, for good.
    Closed,
}

/// What an app thread says when it comes for a request.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Report {
    /// It was called, or relieved of driving.
    pub called: bool,
    /// It has run a request; true: that was slow, because it waited for something.
    pub ran: Option<bool>,
    /// It leads, as far as it knows.
    pub leads: bool,
    /// It has run requests for long enough, and wants to drive.
    pub enough: bool,
}

/// What [`Queue::take`] answers.
pub struct Taken {
    pub job: Option<Box<Job>>,
    /// Whether the thread leads still.
    pub leads: bool,
}

pub struct Queue {
    state: Mutex<State>,
    limit: usize,
    pace: Pace,
    /// Requests are queued or run, and an app thread does not lead: somebody has to call [`Queue::tick`].
    active: AtomicBool,
    /// There are requests that no thread was called for.
    pushed: AtomicBool,
    /// The leader has something else to do than to drive.
    relieved: AtomicBool,
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
            relieved: AtomicBool::new(false),
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
        self.note(&state);
        if !self.pace.is_quick() && state.jobs.len().is_multiple_of(CROWD) {
            self.call(state);
        } else {
            self.pushed.store(true, Relaxed);
        }
        Ok(())
    }

    /// The leader says this when it has nothing else to do, and wakes itself if the answer is true: it should stop driving.
    /// Called at each push, a thread would take the processor from it request by request.
    pub fn rest(&self) -> bool {
        if !self.pushed.swap(false, Relaxed) {
            return false;
        }
        let mut state = self.lock();
        let idle = state.waking == 0 && state.busy == 0 && !state.closed;
        let mut watcher = None;
        match state.lead.leader() {
            Leader::App if state.closed => return false,
            Leader::App => {
                if state.lead.leave() {
                    watcher = state.watcher.clone();
                }
            }
            Leader::Io if idle && self.pace.is_quick() && !state.jobs.is_empty() => {
                let Some(successor) = state.idle.pop() else { return false };
                state.leading = Some(successor);
                state.lead.give();
            }
            Leader::Io => {
                self.call(state);
                return false;
            }
        }
        state.waking += 1;
        self.note(&state);
        self.relieved.store(true, Relaxed);
        drop(state);
        if let Some(watcher) = watcher {
            watcher.call();
        }
        true
    }

    /// Whether the leader should stop driving; asked once.
    pub fn is_relieved(&self) -> bool {
        self.relieved.swap(false, Relaxed)
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
            sleeper.call();
        }
    }

    /// The next request, if one waits, and the thread has not had `enough`. While an app thread leads, only it gets any.
    pub fn take(&self, report: Report) -> Taken {
        if let Some(slow) = report.ran {
            self.pace.note(slow);
        }
        let mut state = self.lock();
        state.waking -= usize::from(report.called);
        state.busy -= usize::from(report.ran.is_some());
        // If it has lost the lead, no other app thread has it: that takes app threads none of which is busy or waking.
        let leads = report.leads && state.lead.leader() == Leader::App;
        if leads && report.enough && !state.jobs.is_empty() {
            self.pushed.store(true, Relaxed);
        }
        let others_turn = if leads { report.enough } else { state.lead.leader() == Leader::App };
        let job = if others_turn { None } else { state.jobs.pop_front() };
        state.busy += usize::from(job.is_some());
        if leads && job.is_none() {
            state.lead.drive();
        }
        if leads && job.is_some() {
            state.lead.step();
        }
        self.note(&state);
        if job.is_some() && !leads && !self.pace.is_quick() {
            self.call(state);
        }
        Taken { job, leads }
    }

    fn note(&self, state: &State) {
        self.slot.queue_length.store(state.jobs.len() as i64, Relaxed);
        self.slot.threads_busy.store(state.busy as i64, Relaxed);
        let active = state.busy > 0 || !state.jobs.is_empty();
        self.active.store(active && state.lead.leader() == Leader::Io, Relaxed);
    }

    /// Whether somebody has to call [`Queue::tick`] from time to time.
    pub fn is_active(&self) -> bool {
        self.active.load(Relaxed)
    }

    /// A thread that does not lead has nothing to do: `None`, it should sleep until called, and then [`Queue::rise`].
    pub fn lie_down(&self, sleeper: &Arc<Sleeper>) -> Option<Wake> {
        let mut state = self.lock();
        if !state.jobs.is_empty() && state.lead.leader() == Leader::Io {
            return Some(Wake::Work);
        }
        if state.closed {
            return Some(Wake::Closed);
        }
        state.idle.push(sleeper.clone());
        None
    }

    /// What a sleeping thread was called for.
    pub fn rise(&self, sleeper: &Arc<Sleeper>) -> Wake {
        let leads = self.successor().is_some_and(|leading| Arc::ptr_eq(&leading, sleeper));
        if leads { Wake::Lead } else { Wake::Called }
    }

    /// The thread that the I/O thread has given the lead to, to be called.
    pub fn successor(&self) -> Option<Arc<Sleeper>> {
        self.lock().leading.clone()
    }

    /// The I/O thread looks after the thread that leads. `watcher` is itself.
    pub fn look(&self, watcher: &Arc<Sleeper>) -> Watch {
        let mut state = self.lock();
        state.watcher.get_or_insert_with(|| watcher.clone());
        state.lead.look()
    }

    /// Whether the thread that leads waits for something, rather than computes.
    pub fn is_leader_waiting(&self) -> bool {
        self.successor().is_some_and(|leading| leading.is_waiting())
    }

    /// The I/O thread takes the lead of a thread that is stuck with a request, because it `waits` or computes for long. False: it is
    /// not any more.
    pub fn take_over(&self, waits: bool) -> bool {
        let mut state = self.lock();
        let taken = state.lead.take_over();
        if taken {
            if waits {
                self.pace.note(true);
            }
            state.leading = None;
            self.pushed.store(!state.jobs.is_empty(), Relaxed);
            self.note(&state);
        }
        taken
    }

    /// The thread that runs a request is about to wait for what the runtime does, or leaves for good: if it leads, the I/O thread has to.
    /// True if so.
    pub fn resign(&self) -> bool {
        let mut state = self.lock();
        if !state.lead.is_away() && !state.closed || state.lead.leader() == Leader::Io {
            return false;
        }
        state.lead.resign();
        state.leading = None;
        self.pushed.store(!state.jobs.is_empty(), Relaxed);
        self.note(&state);
        let watcher = state.watcher.clone();
        drop(state);
        if let Some(watcher) = watcher {
            watcher.call();
        }
        true
    }

    /// Brings help when the first request in the queue has waited too long for quick ones, and refuses what has waited
    /// longer than `patience`. Says when to come again; `None`: there is no work, or an app thread leads and gets on with it.
    pub fn tick(&self, patience: Duration) -> Option<Duration> {
        if !self.is_active() {
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
        if late
            && state.lead.leader() == Leader::Io
            && let Some(sleeper) = state.idle.pop()
        {
            state.waking += 1;
            drop(state);
            sleeper.call();
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
        state.waking += state.idle.len() + usize::from(state.lead.leader() == Leader::App);
        for sleeper in state.idle.drain(..) {
            sleeper.call();
        }
        self.relieved.store(true, Relaxed);
    }

    pub fn is_closed(&self) -> bool {
        self.lock().closed
    }

    /// How long the queue would take to be free again, for `Retry-After`: whole seconds, one at least.
    pub fn retry_after(&self) -> u64 {
        self.lock().jobs.front().map_or(1, |job| Instant::now().duration_since(job.reply.enqueued()).as_secs().max(1))
    }
}

#[cfg(test)]
#[path = "queue_tests.rs"]
pub(super) mod tests;
