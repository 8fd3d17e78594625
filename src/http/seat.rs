//! An app thread's place at the engine: where its requests come from, and what it does between them.

use std::sync::Arc;
use std::time::Instant;

use super::engine::Engine;
use super::job::Job;
use super::pace::QUICK;
use super::queue::{Report, Taken, Wake};
use super::sleeper::Sleeper;

pub struct Seat {
    engine: &'static Engine,
    sleeper: Arc<Sleeper>,
    report: Report,
    /// When the present batch of requests began.
    began: Option<Instant>,
}

impl Seat {
    /// For this thread.
    pub fn new(engine: &'static Engine) -> Self {
        Seat { engine, sleeper: Sleeper::new(), report: Report::default(), began: None }
    }

    /// The next request. The thread runs it, and then says [`Seat::ran`]. `None`: it should [`Seat::wait`].
    pub fn take(&mut self) -> Option<Box<Job>> {
        let Taken { job, leads } = self.engine.queue.take(std::mem::take(&mut self.report));
        self.report.leads = leads;
        let mut job = job?;
        job.reply.deferred = !leads && self.engine.queue.may_defer();
        Some(job)
    }

    /// The request that was taken has been answered; `slow`: it waited for something, for longer than [`QUICK`].
    pub fn ran(&mut self, started: Instant, ended: Instant, slow: bool) {
        self.report.ran = Some(slow);
        let began = *self.began.get_or_insert(started);
        self.report.enough = ended.duration_since(began) >= QUICK || self.engine.completions.is_heavy();
    }

    /// Whether this thread leads, as far as it knows.
    pub fn leads(&self) -> bool {
        self.report.leads
    }

    /// Sleeps, or drives the runtime, until there may be a request. Called without the GIL. False: there are no more, for good.
    pub fn wait(&mut self) -> bool {
        self.began = None;
        if self.report.leads {
            self.engine.drive();
            self.report.called = true;
            if self.engine.queue.is_closed() {
                self.engine.step_aside();
                self.report.leads = false;
            }
            return true;
        }
        self.engine.completions.flush();
        let queue = &self.engine.queue;
        let wake = queue.lie_down(&self.sleeper).unwrap_or_else(|| {
            self.sleeper.sleep();
            queue.rise(&self.sleeper)
        });
        match wake {
            Wake::Called => self.report.called = true,
            Wake::Lead => {
                self.report.called = true;
                self.report.leads = true;
            }
            Wake::Work => {}
            Wake::Closed => return false,
        }
        true
    }
}
