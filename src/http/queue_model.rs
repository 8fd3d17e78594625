//! All orders of steps that a few threads and requests have, and all that may happen within a step.
//!
//! A state is reached by the choices that lead there, told from others by a summary of it, and left by every choice that it has. From each
//! state the end has to be reachable: then nothing that threads do makes them wait for each other for ever. And where a request never comes
//! back from the site, the other threads have to get to where one of them drives, and no request waits for want of a thread.

use std::collections::hash_map::Entry;
use std::collections::{HashMap, HashSet};

use super::*;

/// Choices, made once and to be made again; past the last one the first alternative is taken.
#[derive(Clone, Default)]
struct Tape {
    /// Each with the number of its alternatives.
    made: Vec<(usize, usize)>,
    at: usize,
}

impl Tape {
    /// The next one in order, of the same beginning as far as there are alternatives; false: there are none.
    fn advance(&mut self) -> bool {
        self.at = 0;
        while let Some((made, alternatives)) = self.made.pop() {
            if made + 1 < alternatives {
                self.made.push((made + 1, alternatives));
                return true;
            }
        }
        false
    }
}

impl Choice for Tape {
    fn below(&mut self, count: usize) -> usize {
        if self.at == self.made.len() {
            self.made.push((0, count));
        }
        self.at += 1;
        self.made[self.at - 1].0
    }

    fn rarely(&mut self, _often: usize) -> bool {
        self.below(2) == 1
    }
}

/// What there is to explore.
#[derive(Clone, Copy, Debug)]
struct Scope {
    threads: usize,
    requests: usize,
    /// Quick requests until the site is taken for quick, at first.
    pace: u32,
    /// The queue is closed at some time.
    closes: bool,
}

/// A state, and how it is left.
#[derive(Default)]
struct Found {
    /// Who takes a step, and what state it leads to.
    next: Vec<(usize, String)>,
    over: bool,
    /// The app threads that run a request.
    running: Vec<usize>,
    /// The thread that drives.
    driver: Option<usize>,
    /// No request waits.
    empty: bool,
}

impl Walk<Tape> {
    /// All that what comes next depends on.
    fn summary(&self) -> String {
        let called = |sleeper: &Arc<Sleeper>| {
            let called = sleeper.is_called();
            if called {
                sleeper.call();
            }
            called
        };
        let number = |sleeper: &Arc<Sleeper>| self.apps.iter().position(|(_, other)| Arc::ptr_eq(sleeper, other));
        let apps: Vec<_> = self.apps.iter().map(|(app, sleeper)| (app, called(sleeper))).collect();
        let state = self.queue.lock();
        let idle: Vec<_> = state.idle.iter().map(number).collect();
        let leading = state.leading.as_ref().map(number);
        let (jobs, waking, busy, closed) = (state.jobs.len(), state.waking, state.busy, state.closed);
        let flags = (self.queue.pushed.load(Relaxed), self.queue.relieved.load(Relaxed), state.watcher.is_some());
        let (lead, pace, io) = (state.lead.summary(), &self.queue.pace, (self.io.0, called(&self.io.1)));
        format!(
            "{apps:?} {io:?} {jobs} {idle:?} {waking} {busy} {closed} {lead:?} {leading:?} {flags:?} {pace:?} {}",
            self.left
        )
    }

    fn found(&self, scope: Scope) -> Found {
        let running = |(number, (app, _)): (usize, &(App, _))| matches!(app, App::Running(_)).then_some(number);
        let running: Vec<_> = self.apps.iter().enumerate().filter_map(running).collect();
        let all = self.left == 0 && self.pushed == self.taken && running.is_empty();
        let left = self.apps.iter().all(|(app, _)| *app == App::Left) && self.io.0 == Io::Driving;
        let app = self.apps.iter().position(|(app, _)| *app == App::Driving);
        let driver = app.or((self.io.0 == Io::Driving).then_some(self.apps.len()));
        let empty = self.queue.lock().jobs.is_empty();
        Found { next: Vec::new(), over: all && (left || !scope.closes), running, driver, empty }
    }

    /// One step of whoever is chosen, who also may be the task that looks after the queue, and who closes it.
    fn any_step(&mut self, scope: Scope) {
        let threads = self.apps.len() + 1;
        let actor = self.choice.below(threads + 1 + usize::from(scope.closes));
        if actor < threads {
            self.step(actor);
        } else if actor == threads {
            self.queue.tick(PATIENT);
        } else if !self.queue.is_closed() {
            // What comes later is refused.
            self.left = 0;
            self.queue.close();
        }
    }
}

/// Every state.
fn explore(scope: Scope) -> HashMap<String, Found> {
    let (engine, slot) = (Engine::new(1, slot()).unwrap(), slot());
    let mut found: HashMap<String, Found> = HashMap::new();
    let mut paths = vec![Vec::new()];
    while let Some(path) = paths.pop() {
        let mut tape = Tape { made: path, at: 0 };
        let way = tape.made.len();
        // The state at the end of the path, and then one step from it, by every choice that there is.
        loop {
            let mut walk = Walk::new(engine, slot, scope.threads, scope.requests, tape);
            walk.queue.pace.set(scope.pace);
            while walk.choice.at < way {
                walk.any_step(scope);
            }
            let before = walk.summary();
            found.entry(before.clone()).or_insert_with(|| walk.found(scope));
            walk.any_step(scope);
            walk.check();
            let after = walk.summary();
            let made = walk.choice.made.clone();
            found.get_mut(&before).unwrap().next.push((made[way].0, after.clone()));
            if let Entry::Vacant(new) = found.entry(after) {
                new.insert(walk.found(scope));
                paths.push(made.clone());
            }
            tape = Tape { made, at: 0 };
            if !tape.advance() || tape.made.len() <= way {
                break;
            }
        }
    }
    found
}

/// A state of those that are to be looked at, from which none of the good ones is reached, by steps of others than `without`.
fn standstill(
    states: &HashMap<String, Found>,
    without: Option<usize>,
    looked_at: impl Fn(&Found) -> bool,
    good: impl Fn(&Found) -> bool,
) -> Option<&str> {
    let mut before: HashMap<&str, Vec<&str>> = HashMap::new();
    for (state, found) in states {
        for (_, next) in found.next.iter().filter(|(actor, _)| Some(*actor) != without) {
            before.entry(next).or_default().push(state);
        }
    }
    let mut fresh: Vec<&str> = states.iter().filter(|(_, found)| good(found)).map(|(state, _)| &**state).collect();
    let mut reaches: HashSet<&str> = fresh.iter().copied().collect();
    while let Some(state) = fresh.pop() {
        fresh.extend(before.get(state).into_iter().flatten().filter(|earlier| reaches.insert(earlier)));
    }
    states.iter().find(|(state, found)| looked_at(found) && !reaches.contains(&***state)).map(|(state, _)| &**state)
}

#[test]
fn no_order_of_steps_leads_to_a_standstill() {
    let mut states = 0;
    for (threads, requests) in [(1, 3), (2, 2)] {
        for pace in [0, 1, 32] {
            for closes in [false, true] {
                let scope = Scope { threads, requests, pace, closes };
                let found = explore(scope);
                states += found.len();
                assert_eq!(standstill(&found, None, |_| true, |found| found.over), None, "{scope:?}");
                for stuck in 0..threads {
                    let runs = |found: &Found| found.running.contains(&stuck);
                    let driven = |found: &Found| runs(found) && found.driver.is_some_and(|driver| driver != stuck);
                    assert_eq!(standstill(&found, Some(stuck), runs, driven), None, "{scope:?}: nobody drives");
                    let empty = |found: &Found| runs(found) && found.empty;
                    // At the end, what waits still is from clients that have left.
                    if threads > 1 && !closes {
                        assert_eq!(standstill(&found, Some(stuck), runs, empty), None, "{scope:?}: a request waits");
                    }
                }
            }
        }
    }
    assert!(states > 10_000, "only {states} states: some are taken for the same");
}
