//! Drives a worker: the runtime, the threads that take turns at it, and the requests between them.
//!
//! Two ways of working, and [`super::lead`] says when which: either an app thread leads, and runs in batches the requests that a turn of
//! the runtime brought; or the I/O thread leads, and calls app threads for the requests. Either way an answer reaches its connection
//! on the thread that leads.

use std::io;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::Poll;
use std::time::Duration;

use tokio::runtime::{self, Runtime};
use tokio::sync::Notify;

use crate::metrics::Slot;

use super::job::Job;
use super::lead::Watch;
use super::pace::QUICK;
use super::queue::Queue;
use super::reply::Completions;
use super::sleeper::Sleeper;

/// Threads that write large request bodies to temporary files.
const SPOOLERS: usize = 4;
/// The most tasks that run between two looks at the sockets: more than connections wait in one.
const TASKS: u32 = 1024;
/// For how many ticks without work the queue is still looked after: a sleep is cheaper than a wake-up for each request.
const IDLE_TICKS: u32 = 10;
/// How often the I/O thread looks at the app thread that leads.
const LOOK: Duration = Duration::from_millis(2);
/// For how many looks a request may compute before the I/O thread takes over.
const PATIENCE: u32 = 5;

pub struct Engine {
    runtime: Runtime,
    /// Held by the thread that drives. One that has just lost the lead may still be about to leave the runtime: what it was told,
    /// another must not hear in its place.
    driver: Mutex<()>,
    pub(super) queue: Arc<Queue>,
    pub(super) completions: Arc<Completions>,
    /// Wakes the task that looks after the queue.
    busy: Notify,
}

impl Engine {
    /// An engine whose queue holds `limit` requests; it lives as long as the process. Nothing moves until [`Engine::run`].
    pub fn new(limit: usize, slot: &'static Slot) -> io::Result<&'static Self> {
        let queue = Arc::new(Queue::new(limit, slot));
        let completions: Arc<Completions> = Arc::default();
        let (resting, answers) = (queue.clone(), completions.clone());
        let runtime = runtime::Builder::new_current_thread()
            .enable_all()
            .max_blocking_threads(SPOOLERS)
            .event_interval(TASKS)
            .on_thread_park(move || {
                if resting.rest() {
                    answers.wake();
                }
            })
            .build()?;
        Ok(Box::leak(Box::new(Engine { runtime, driver: Mutex::default(), queue, completions, busy: Notify::new() })))
    }

    /// Starts a task.
    pub fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) {
        self.runtime.spawn(task);
    }

    /// Adds a request, or gives it back when too many wait already.
    pub fn push(&self, job: Box<Job>) -> Result<(), Box<Job>> {
        self.queue.push(job)?;
        if self.queue.is_active() {
            self.busy.notify_one();
        }
        Ok(())
    }

    /// How long the queue would take to be free again, for `Retry-After`: whole seconds, one at least.
    pub fn retry_after(&self) -> u64 {
        self.queue.retry_after()
    }

    /// What the I/O thread does all its life: it leads, or watches the app thread that does.
    pub fn run(&self) -> ! {
        let me = Sleeper::new();
        loop {
            self.drive();
            if let Some(successor) = self.queue.successor() {
                self.completions.set_leading(true);
                successor.call();
                self.watch(&me);
            }
        }
    }

    /// Drives the runtime until the queue relieves this thread. At least one turn: all answers given so far are sent on.
    pub fn drive(&self) {
        let turns = std::future::poll_fn(|cx| {
            self.completions.deliver_and_watch(cx.waker());
            if self.queue.is_relieved() { Poll::Ready(()) } else { Poll::Pending }
        });
        let _driver = self.driver.lock().unwrap_or_else(PoisonError::into_inner);
        self.runtime.block_on(turns);
    }

    /// Until the I/O thread leads again.
    fn watch(&self, me: &Arc<Sleeper>) {
        let mut stuck = 0;
        loop {
            match self.queue.look(me) {
                Watch::Lead => return,
                Watch::Again => stuck = 0,
                Watch::Sleep => {
                    stuck = 0;
                    me.sleep();
                    continue;
                }
                Watch::Stuck => {
                    stuck += 1;
                    let waits = self.queue.is_leader_waiting();
                    if (waits || stuck >= PATIENCE) && self.queue.take_over(waits) {
                        self.completions.set_leading(false);
                        self.busy.notify_one();
                        return;
                    }
                }
            }
            me.doze(LOOK);
        }
    }

    /// An app thread is about to wait for what the runtime does, or leaves: somebody else has to drive it.
    pub fn step_aside(&self) {
        if self.queue.resign() {
            self.completions.set_leading(false);
            self.busy.notify_one();
        }
    }

    /// Takes no more requests; app threads leave when those that are there have been run.
    pub fn close(&self) {
        self.queue.close();
        self.completions.wake();
    }

    /// Looks after requests that wait: refuses what has waited for longer than `patience`, calls threads for what is late.
    pub async fn look_after(&self, patience: Duration) {
        let mut idle = 0;
        loop {
            let pause = self.queue.tick(patience);
            // Of a thread that deferred answers, and then came to a slow request.
            self.completions.deliver();
            idle = if pause.is_some() { 0 } else { idle + 1 };
            if idle > IDLE_TICKS {
                self.busy.notified().await;
                idle = 0;
            }
            tokio::time::sleep(pause.unwrap_or(QUICK)).await;
        }
    }
}

#[cfg(test)]
#[path = "engine_tests.rs"]
mod tests;
