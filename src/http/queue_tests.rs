//! The queue's calls in the orders that threads could make them in: each is one step under the lock, so a walk on one thread meets what
//! several threads would. Long walks take random orders; [`model`] takes all that a few threads and requests have.

use tokio::sync::oneshot;

use crate::control::Bound;
use crate::http::chunks::Chunks;
use crate::http::connection::Connection;
use crate::http::engine::Engine;
use crate::http::job::{Reply, RequestBody, head};
use crate::http::reply::Outcome;
use crate::http::request_id::RequestId;
use crate::http::target::Target;
use crate::metrics::Scoreboard;

use super::*;

#[path = "queue_model.rs"]
mod model;

const PATIENT: Duration = Duration::from_secs(60);

pub fn slot() -> &'static Slot {
    Scoreboard::create(1, 1).unwrap().1.slot(0)
}

/// A request, and where its answer comes.
pub fn job(engine: &'static Engine) -> (Box<Job>, oneshot::Receiver<Outcome>) {
    arrived(engine, Instant::now())
}

fn arrived(engine: &'static Engine, at: Instant) -> (Box<Job>, oneshot::Receiver<Outcome>) {
    let (parts, ()) = http::Request::new(()).into_parts();
    let (sender, receiver) = oneshot::channel();
    let job = Job {
        target: Target::new(&parts.uri).unwrap(),
        parts,
        body: RequestBody::Memory(Chunks::default()),
        connection: Arc::new(Connection::new(None, &Bound::Unix("".into()), false, false)),
        id: RequestId::new(1),
        place: None,
        reply: Reply::new(sender, engine, at),
    };
    (Box::new(job), receiver)
}

pub fn answer(job: Job) {
    job.reply.whole(head(http::StatusCode::OK, http::HeaderMap::new()), bytes::Bytes::new());
}

/// What happens where several things could.
trait Choice {
    /// A number below `count`.
    fn below(&mut self, count: usize) -> usize;
    /// What happens once in `often` times.
    fn rarely(&mut self, often: usize) -> bool;
}

impl Choice for fastrand::Rng {
    fn below(&mut self, count: usize) -> usize {
        self.usize(..count)
    }

    fn rarely(&mut self, often: usize) -> bool {
        self.usize(..often) == 0
    }
}

/// What a simulated app thread is at.
#[derive(Clone, Copy, Debug, PartialEq)]
enum App {
    Taking(Report),
    Running(Report),
    Driving,
    /// Relieved, and still in the runtime.
    Leaving,
    Asleep,
    Left,
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Io {
    Driving,
    Watching,
    Asleep,
}

/// A worker without a runtime: its threads take their steps when they are told to.
struct Walk<C> {
    queue: Queue,
    engine: &'static Engine,
    apps: Vec<(App, Arc<Sleeper>)>,
    io: (Io, Arc<Sleeper>),
    choice: C,
    /// Requests that may still come.
    left: usize,
    pushed: usize,
    taken: usize,
}

impl<C: Choice> Walk<C> {
    fn new(engine: &'static Engine, slot: &'static Slot, threads: usize, requests: usize, choice: C) -> Self {
        let report = Report::default();
        Walk {
            queue: Queue::new(1000, slot),
            engine,
            apps: (0..threads).map(|_| (App::Taking(report), Sleeper::new())).collect(),
            io: (Io::Driving, Sleeper::new()),
            choice,
            left: requests,
            pushed: 0,
            taken: 0,
        }
    }

    /// A turn of the runtime; true: the thread that drives is relieved.
    fn turn(&mut self) -> bool {
        let new = self.choice.below(self.left.min(2) + 1);
        self.left -= new;
        for _ in 0..new {
            // Whoever looks after the queue finds that it is late.
            let at = Instant::now().checked_sub(QUICK).unwrap_or_else(Instant::now);
            if self.queue.push(arrived(self.engine, at).0).is_ok() {
                self.pushed += 1;
            }
        }
        self.queue.rest() || self.queue.is_closed()
    }

    /// Whether the runtime is free: the engine's lock on it.
    fn is_free(&self) -> bool {
        !self.apps.iter().any(|(app, _)| matches!(app, App::Driving | App::Leaving))
    }

    /// One step of one thread; false: nothing has come of it.
    fn step(&mut self, thread: usize) -> bool {
        if thread == self.apps.len() {
            return self.step_io();
        }
        let before = self.left;
        let (app, sleeper) = self.apps[thread].clone();
        let next = match app {
            App::Taking(report) => {
                let Taken { job, leads } = self.queue.take(report);
                let report = Report { leads, ..Report::default() };
                match job {
                    Some(_) => {
                        self.taken += 1;
                        App::Running(report)
                    }
                    None if leads => App::Driving,
                    None => match self.queue.lie_down(&sleeper) {
                        None => App::Asleep,
                        Some(Wake::Closed) => App::Left,
                        Some(_) => App::Taking(report),
                    },
                }
            }
            App::Running(report) => {
                let (asides, slow, enough) =
                    (self.choice.rarely(20), self.choice.rarely(20), self.choice.below(2) == 0);
                if asides {
                    self.queue.resign();
                }
                App::Taking(Report { ran: Some(slow), enough, ..report })
            }
            App::Driving => {
                if !self.turn() {
                    return self.left < before;
                }
                App::Leaving
            }
            App::Leaving => {
                assert!(self.queue.is_relieved(), "somebody else has heard it");
                let closed = self.queue.is_closed();
                if closed {
                    self.queue.resign();
                }
                App::Taking(Report { called: true, leads: !closed, ..Report::default() })
            }
            App::Asleep if sleeper.is_called() => {
                let leads = self.queue.rise(&sleeper) == Wake::Lead;
                App::Taking(Report { called: true, leads, ..Report::default() })
            }
            App::Asleep | App::Left => return false,
        };
        self.apps[thread].0 = next;
        true
    }

    fn step_io(&mut self) -> bool {
        let before = self.left;
        let (io, sleeper) = self.io.clone();
        let next = match io {
            Io::Driving if !self.is_free() => return false,
            Io::Driving => {
                self.turn();
                let relieved = self.queue.is_relieved();
                match self.queue.successor().filter(|_| relieved) {
                    Some(successor) => {
                        successor.call();
                        Io::Watching
                    }
                    None => return self.left < before,
                }
            }
            Io::Watching => match self.queue.look(&sleeper) {
                Watch::Lead => Io::Driving,
                Watch::Sleep => Io::Asleep,
                Watch::Stuck if self.choice.below(2) == 0 && self.queue.take_over(self.choice.below(2) == 0) => {
                    Io::Driving
                }
                Watch::Stuck | Watch::Again => Io::Watching,
            },
            Io::Asleep if sleeper.is_called() => Io::Watching,
            Io::Asleep => return false,
        };
        self.io.0 = next;
        true
    }

    fn check(&self) {
        let state = self.queue.lock();
        let count = |is: fn(&App) -> bool| self.apps.iter().filter(|(app, _)| is(app)).count();
        let driving = count(|app| *app == App::Driving) + usize::from(self.io.0 == Io::Driving);
        assert!(
            driving <= 1,
            "two threads drive: {:?} {:?}",
            self.apps.iter().map(|a| a.0).collect::<Vec<_>>(),
            self.io.0
        );
        let busy = count(|app| matches!(app, App::Running(_) | App::Taking(Report { ran: Some(_), .. })));
        assert_eq!(state.busy, busy, "busy");
        let waking = count(|app| matches!(app, App::Taking(Report { called: true, .. })));
        assert!(state.waking >= waking, "waking {} < {waking}", state.waking);
        if state.lead.leader() == Leader::App && !state.closed {
            assert!(busy <= 1, "{busy} threads run requests while an app thread leads");
        }
    }
}

#[test]
fn nothing_is_lost_and_one_thread_drives_whatever_the_order_of_steps() {
    let engine = Engine::new(1, slot()).unwrap();
    for seed in 0..60 {
        let threads = 1 + seed as usize % 4;
        let mut walk = Walk::new(engine, slot(), threads, usize::MAX, fastrand::Rng::with_seed(seed));
        for _ in 0..4000 {
            let thread = walk.choice.below(threads + 1);
            walk.step(thread);
            walk.check();
        }
        // Nothing new comes: what was pushed is taken, by threads that nobody but each other wakes.
        walk.left = 0;
        let mut idle = 0;
        while idle < 50 * (threads + 1) {
            let thread = walk.choice.below(threads + 1);
            let moved = walk.step(thread);
            walk.check();
            let watching = thread == threads && walk.io.0 == Io::Watching;
            idle = if moved && !watching { 0 } else { idle + 1 };
        }
        assert_eq!(walk.pushed, walk.taken, "seed {seed}");
        walk.queue.close();
        for _ in 0..1000 {
            let thread = walk.choice.below(threads + 1);
            walk.step(thread);
        }
        assert!(walk.apps.iter().all(|(app, _)| *app == App::Left), "seed {seed}: {:?}", walk.apps[0].0);
        assert_eq!(walk.io.0, Io::Driving, "seed {seed}");
        let state = walk.queue.lock();
        assert_eq!((state.busy, state.waking), (0, 0), "seed {seed}");
    }
}

#[test]
fn what_has_waited_too_long_is_refused() {
    let engine = Engine::new(10, slot()).unwrap();
    let (job, mut receiver) = job(engine);
    assert!(engine.queue.push(job).is_ok());
    assert!(engine.queue.tick(PATIENT).is_some());
    assert!(receiver.try_recv().is_err());
    engine.queue.tick(Duration::ZERO);
    engine.completions.deliver();
    assert!(matches!(receiver.try_recv(), Ok(Err(Reject::QueueTimeout))));
    assert_eq!(engine.queue.tick(PATIENT), None);
}

#[test]
fn slow_requests_make_the_limit_strict() {
    let engine = Engine::new(1, slot()).unwrap();
    let queue = &engine.queue;
    // One to be slow, so that the pace is known.
    assert!(queue.push(job(engine).0).is_ok());
    assert!(queue.take(Report::default()).job.is_some());
    queue.take(Report { ran: Some(true), ..Report::default() });
    assert!(queue.push(job(engine).0).is_ok());
    assert!(queue.push(job(engine).0).is_err());
}
