//! Which zygotes and workers there should be: a value that turns events into actions, without processes and clocks.
//!
//! A generation is one import of the site. At most one serves and one is incoming; older ones only drain.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::control::ImportError;
use crate::exit::{Code, Failure};
use crate::metrics::Restart;

use super::orders::{Action, Event, Generation, Now, Policy, Slot, Why};
use super::stop::{Step, Stop};

/// First pause before a worker or zygote that failed is started again; it doubles with each failure in a row.
const BACKOFF: Duration = Duration::from_millis(100);
const BACKOFF_MAX: Duration = Duration::from_secs(10);
/// A worker that served this long was not broken from the start.
const STABLE: Duration = Duration::from_secs(10);
/// Failures in a row, with no worker left that serves, after which it is a crash loop and someone has to look.
const CRASH_LOOP: u32 = 8;
/// An import that takes longer than this gives way to the next reload.
const HANGS: Duration = Duration::from_secs(10);
/// Deaths before readiness after which an incoming generation is given up.
const STILLBORN: u32 = 3;

#[derive(Debug, PartialEq)]
enum Zygote {
    Starting,
    Ready,
    Stopping,
    Gone,
}

#[derive(Debug)]
struct Worker {
    generation: Generation,
    ready_at: Option<Now>,
    /// It takes connections.
    accepts: bool,
    /// Draining; killed at that time.
    kill_at: Option<Now>,
}

#[derive(Debug)]
pub struct Fleet {
    policy: Policy,
    zygotes: BTreeMap<Generation, Zygote>,
    workers: BTreeMap<Slot, Worker>,
    last: Generation,
    serving: Option<Generation>,
    /// The last generation that was said to serve.
    announced: Option<Generation>,
    incoming: Option<Generation>,
    incoming_since: Now,
    reload_wanted: bool,
    /// Importing leaves what a fork would break: workers import for themselves from now on.
    unforkable: bool,
    failures: u32,
    stillborn: u32,
    retry_at: Option<Now>,
    reason: String,
    stop: Option<Stop>,
    over: bool,
}

impl Fleet {
    pub fn new(policy: Policy) -> Self {
        Fleet {
            policy,
            zygotes: BTreeMap::new(),
            workers: BTreeMap::new(),
            last: 0,
            serving: None,
            announced: None,
            incoming: None,
            incoming_since: Now::ZERO,
            reload_wanted: false,
            unforkable: false,
            failures: 0,
            stillborn: 0,
            retry_at: None,
            reason: String::new(),
            stop: None,
            over: false,
        }
    }

    /// When [`Event::Tick`] is due.
    pub fn deadline(&self) -> Option<Now> {
        let step = self.stop.as_ref().and_then(Stop::deadline);
        self.workers.values().filter_map(|w| w.kill_at).chain(self.retry_at).chain(step).min()
    }

    pub fn is_stopping(&self) -> bool {
        self.stop.is_some()
    }

    #[cfg(test)]
    pub fn serving(&self) -> Option<Generation> {
        self.serving
    }

    pub fn on(&mut self, now: Now, event: Event) -> Vec<Action> {
        let mut actions = Vec::new();
        match event {
            Event::Start => self.begin_generation(now, &mut actions),
            Event::ZygoteReady(generation) => {
                if self.zygotes.get(&generation) == Some(&Zygote::Starting) {
                    self.zygotes.insert(generation, Zygote::Ready);
                }
            }
            Event::Unforkable(generation, reasons) => self.fall_back(now, generation, &reasons, &mut actions),
            Event::ImportFailed(generation, error) => self.import_failed(now, generation, error, &mut actions),
            Event::ZygoteExited(generation, how) => self.zygote_exited(now, generation, how, &mut actions),
            Event::WorkerReady(slot) => {
                if let Some(worker) = self.workers.get_mut(&slot) {
                    worker.ready_at = Some(now);
                    worker.accepts = true;
                }
            }
            Event::WorkerTerminated(slot) => {
                if self.stop.is_none() {
                    self.drain(now, |at, _| at == slot, Some(Restart::Terminated), &mut actions);
                }
            }
            Event::WorkerDraining(slot) => {
                if let Some(worker) = self.workers.get_mut(&slot) {
                    worker.accepts = false;
                }
            }
            Event::WorkerExited(slot, how) => self.worker_exited(now, slot, how, &mut actions),
            Event::Reload => self.reload(now, &mut actions),
            Event::Stop => {
                self.stop.get_or_insert_with(|| Stop::begin(now, &self.policy));
            }
            Event::Quiet => self.stop.iter_mut().for_each(Stop::quiet),
            Event::Tick => {}
        }
        if !self.over {
            self.settle(now, &mut actions);
        }
        actions
    }

    /// Moves towards what should be.
    fn settle(&mut self, now: Now, actions: &mut Vec<Action>) {
        for (slot, worker) in &mut self.workers {
            if worker.kill_at.is_some_and(|at| at <= now) {
                worker.kill_at = Some(now + BACKOFF_MAX);
                actions.push(Action::Warn("a worker did not leave in time: it is killed".into()));
                actions.push(Action::Kill(*slot));
            }
        }
        if let Some(stop) = &mut self.stop {
            let (step, accepts) = (stop.step(now, &self.policy, self.zygotes.is_empty()), stop.is_delayed());
            match step {
                Some(Step::Refuse) => {
                    actions.push(Action::Refuse);
                    for generation in self.zygotes.keys().copied().collect::<Vec<_>>() {
                        self.stop_zygote(generation, actions);
                    }
                }
                Some(Step::Drain) => {
                    actions.push(Action::CloseSockets);
                    self.drain(now, |_, _| true, None, actions);
                }
                None => {}
            }
            if !accepts {
                return self.leave(actions);
            }
        }
        if self.retry_at.is_some_and(|at| at <= now) {
            self.retry_at = None;
        }
        self.promote(now, actions);
        self.announce(actions);
        if self.reload_wanted && self.incoming.is_none() && self.stop.is_none() {
            self.reload_wanted = false;
            self.begin_generation(now, actions);
        }
        self.restore_zygote(now, actions);
        self.fill(actions);
    }

    /// Nothing is started any more.
    fn leave(&mut self, actions: &mut Vec<Action>) {
        if self.workers.is_empty() && self.zygotes.is_empty() {
            self.exit(Ok(()), actions);
        }
    }

    /// A reload waits for one that is under way, but not for one that hangs.
    fn reload(&mut self, now: Now, actions: &mut Vec<Action>) {
        self.reload_wanted = true;
        if let (Some(incoming), Some(_)) = (self.incoming, self.serving)
            && now.saturating_sub(self.incoming_since) >= HANGS
        {
            let message = format!("its import has not ended in {} s; another reload takes its place", HANGS.as_secs());
            self.give_up(now, incoming, Failure::new(Code::Software, message), actions);
        }
    }

    fn begin_generation(&mut self, now: Now, actions: &mut Vec<Action>) {
        self.incoming_since = now;
        self.last += 1;
        self.stillborn = 0;
        self.incoming = Some(self.last);
        self.start_zygote(self.last, actions);
    }

    fn start_zygote(&mut self, generation: Generation, actions: &mut Vec<Action>) {
        self.zygotes.insert(generation, Zygote::Starting);
        actions.push(Action::StartZygote { generation, preload: self.policy.preload && !self.unforkable });
    }

    fn stop_zygote(&mut self, generation: Generation, actions: &mut Vec<Action>) {
        if let Some(zygote) = self.zygotes.get_mut(&generation)
            && *zygote != Zygote::Stopping
        {
            if *zygote == Zygote::Gone {
                self.zygotes.remove(&generation);
            } else {
                *zygote = Zygote::Stopping;
                actions.push(Action::StopZygote(generation));
            }
        }
    }

    /// A serving generation whose zygote died cannot replace its workers: the next one takes over.
    fn restore_zygote(&mut self, now: Now, actions: &mut Vec<Action>) {
        let lost = self.serving.is_some_and(|g| self.zygotes.get(&g) == Some(&Zygote::Gone));
        if lost && self.incoming.is_none() && self.retry_at.is_none() && self.stop.is_none() {
            self.begin_generation(now, actions);
        }
    }

    /// Starts the workers that are missing.
    fn fill(&mut self, actions: &mut Vec<Action>) {
        if self.retry_at.is_some() {
            return;
        }
        for generation in [self.incoming, self.serving].into_iter().flatten() {
            if self.zygotes.get(&generation) != Some(&Zygote::Ready) {
                continue;
            }
            let present = self.workers.values().filter(|w| w.generation == generation && w.kill_at.is_none()).count();
            for _ in present..self.policy.workers {
                let Some(slot) = (0..self.policy.slots).find(|slot| !self.workers.contains_key(slot)) else { return };
                self.workers.insert(slot, Worker { generation, ready_at: None, accepts: false, kill_at: None });
                actions.push(Action::Fork { generation, slot });
            }
        }
    }

    /// The incoming generation serves as soon as all its workers do; then the last one drains.
    fn promote(&mut self, now: Now, actions: &mut Vec<Action>) {
        let Some(incoming) = self.incoming else { return };
        let ready = |w: &&Worker| w.generation == incoming && w.ready_at.is_some();
        if self.workers.values().filter(ready).count() < self.policy.workers {
            return;
        }
        self.incoming = None;
        self.serving = Some(incoming);
        self.drain(now, |_, w| w.generation != incoming, Some(Restart::Reload), actions);
        for generation in self.zygotes.keys().copied().filter(|g| *g != incoming).collect::<Vec<_>>() {
            self.stop_zygote(generation, actions);
        }
    }

    /// Says that the serving generation serves, once no connection can reach an older one.
    fn announce(&mut self, actions: &mut Vec<Action>) {
        if let Some(serving) = self.serving
            && self.announced != Some(serving)
            && !self.workers.values().any(|worker| worker.generation != serving && worker.accepts)
        {
            self.announced = Some(serving);
            actions.push(Action::Serving(serving));
        }
    }

    fn drain(&mut self, now: Now, which: impl Fn(Slot, &Worker) -> bool, why: Why, actions: &mut Vec<Action>) {
        for (slot, worker) in &mut self.workers {
            if worker.kill_at.is_none() && which(*slot, worker) {
                worker.kill_at = Some(now + self.policy.drain_timeout);
                actions.push(Action::Drain { slot: *slot, why });
            }
        }
    }

    fn fall_back(&mut self, now: Now, generation: Generation, reasons: &[String], actions: &mut Vec<Action>) {
        actions.push(Action::Warn(format!(
            "importing the site left {}: each worker imports it for itself (ATRIO_PRELOAD=off says so from the start)",
            reasons.join(" and ")
        )));
        self.unforkable = true;
        self.stop_zygote(generation, actions);
        if self.incoming == Some(generation) {
            self.begin_generation(now, actions);
        }
    }

    fn import_failed(&mut self, now: Now, generation: Generation, error: ImportError, actions: &mut Vec<Action>) {
        if self.incoming == Some(generation) {
            self.give_up(now, generation, Failure::new(error.code, error.advice), actions);
        }
    }

    /// The incoming generation came to nothing.
    fn give_up(&mut self, now: Now, generation: Generation, failure: Failure, actions: &mut Vec<Action>) {
        self.incoming = None;
        if self.serving.is_some_and(|g| self.zygotes.get(&g) == Some(&Zygote::Gone)) {
            // There will be another try, for the serving generation cannot replace its workers.
            self.back_off(now, failure.message.clone());
        }
        for (slot, worker) in &mut self.workers {
            if worker.generation == generation && worker.kill_at.is_none() {
                worker.kill_at = Some(now + BACKOFF_MAX);
                actions.push(Action::Kill(*slot));
            }
        }
        self.stop_zygote(generation, actions);
        if self.serving.is_some() {
            actions.push(Action::ReloadFailed(failure.message));
        } else if self.stop.is_none() {
            self.exit(Err(failure), actions);
        }
    }

    fn zygote_exited(&mut self, now: Now, generation: Generation, how: String, actions: &mut Vec<Action>) {
        let Some(state) = self.zygotes.remove(&generation) else { return };
        match state {
            Zygote::Stopping | Zygote::Gone => {}
            _ if self.stop.is_some() => {}
            Zygote::Starting | Zygote::Ready if self.incoming == Some(generation) => {
                let message = format!("importing the site ended the process: it {how}; is a native library at fault?");
                self.give_up(now, generation, Failure::new(Code::Software, message), actions);
            }
            Zygote::Starting | Zygote::Ready => {
                actions.push(Action::Warn(format!("the zygote {how}; the site is imported anew")));
                self.zygotes.insert(generation, Zygote::Gone);
                self.back_off(now, how);
            }
        }
    }

    fn worker_exited(&mut self, now: Now, slot: Slot, how: String, actions: &mut Vec<Action>) {
        let Some(worker) = self.workers.remove(&slot) else { return };
        if worker.kill_at.is_some() {
            return;
        }
        if self.stop.is_some() {
            actions.push(Action::Crashed(slot));
            return;
        }
        actions.push(Action::Crashed(slot));
        let lived = worker.ready_at.map(|at| now.saturating_sub(at));
        if lived.is_some_and(|lived| lived >= STABLE) {
            self.failures = 0;
        }
        if self.incoming == Some(worker.generation) && lived.is_none() {
            self.stillborn += 1;
            if self.stillborn >= STILLBORN {
                let message = format!("workers die before they are ready: {how}");
                return self.give_up(now, worker.generation, Failure::new(Code::Software, message), actions);
            }
        }
        self.back_off(now, how);
        let serves = |w: &Worker| w.ready_at.is_some() && w.kill_at.is_none();
        if self.failures >= CRASH_LOOP && !self.workers.values().any(serves) {
            let message = format!(
                "workers died {} times in a row, none lived {} s: the last one {}",
                self.failures,
                STABLE.as_secs(),
                self.reason
            );
            self.exit(Err(Failure::new(Code::Software, message)), actions);
        } else {
            let pause = self.retry_at.map_or(0, |at| at.saturating_sub(now).as_millis());
            actions.push(Action::Warn(format!("a worker {}; another one starts in {pause} ms", self.reason)));
        }
    }

    fn back_off(&mut self, now: Now, how: String) {
        let pause = BACKOFF.saturating_mul(1 << self.failures.min(10)).min(BACKOFF_MAX);
        self.failures += 1;
        self.reason = how;
        self.retry_at = Some(now + pause);
    }

    fn exit(&mut self, result: Result<(), Failure>, actions: &mut Vec<Action>) {
        self.over = true;
        actions.push(Action::Exit(result));
    }
}

#[cfg(test)]
#[path = "fleet_tests.rs"]
mod tests;
