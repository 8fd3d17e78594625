use std::sync::atomic::AtomicUsize;

use tokio::sync::oneshot;

use crate::control::Bound;
use crate::http::connection::Connection;
use crate::http::job::{Reply, RequestBody, head};
use crate::http::reply::{Completions, Outcome};
use crate::http::spool::Spooled;
use crate::http::target::Target;
use crate::metrics::Scoreboard;

use super::*;

const PATIENT: Duration = Duration::from_secs(60);

fn slot() -> &'static Slot {
    Scoreboard::create(1).unwrap().1.slot(0)
}

fn job(completions: &Arc<Completions>) -> (Box<Job>, oneshot::Receiver<Outcome>) {
    let (parts, ()) = http::Request::new(()).into_parts();
    let (sender, receiver) = oneshot::channel();
    let job = Job {
        target: Target::new(&parts.uri).unwrap(),
        parts,
        body: RequestBody::Whole(Spooled::Memory(bytes::Bytes::new())),
        connection: Arc::new(Connection::new(None, &Bound::Unix("".into()), false, false)),
        id: "id".into(),
        reply: Reply::new(sender, completions.clone(), Instant::now()),
    };
    (Box::new(job), receiver)
}

fn answer(job: Job) {
    job.reply.whole(head(http::StatusCode::OK, http::HeaderMap::new()), bytes::Bytes::new());
}

/// What an app thread does, without Python.
fn serve(queue: &Queue, completions: &Completions, run: impl Fn(&mut Job) -> bool) {
    let sleeper = Sleeper::new();
    let mut woken = false;
    loop {
        if let Some(mut job) = queue.take(std::mem::take(&mut woken)) {
            job.reply.deferred = queue.may_defer();
            let slow = run(&mut job);
            answer(*job);
            queue.ran(slow);
            continue;
        }
        completions.flush();
        match queue.wait(&sleeper) {
            Wake::Woken => woken = true,
            Wake::Work => {}
            Wake::Closed => return,
        }
    }
}

#[test]
fn every_request_is_answered_once_whatever_the_order_of_events() {
    const REQUESTS: usize = 30_000;
    let queue = Queue::new(REQUESTS, slot());
    let completions: Arc<Completions> = Arc::default();
    let answered = AtomicUsize::new(0);
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                let random = std::cell::RefCell::new(fastrand::Rng::new());
                serve(&queue, &completions, |_| match random.borrow_mut().u32(..1000) {
                    0 => {
                        std::thread::sleep(QUICK);
                        true
                    }
                    1..50 => {
                        std::thread::yield_now();
                        false
                    }
                    _ => false,
                });
            });
        }
        let mut waiting = Vec::new();
        let mut random = fastrand::Rng::new();
        let mut pushed = 0;
        while answered.load(Relaxed) < REQUESTS {
            for _ in 0..random.usize(..100).min(REQUESTS - pushed) {
                let (job, receiver) = job(&completions);
                queue.push(job).unwrap_or_else(|_| panic!("refused below the limit"));
                waiting.push(receiver);
                pushed += 1;
            }
            queue.call_threads();
            if random.bool() {
                queue.tick(PATIENT);
            }
            completions.deliver();
            waiting.retain_mut(|receiver| match receiver.try_recv() {
                Ok(outcome) => {
                    assert!(outcome.is_ok());
                    answered.fetch_add(1, Relaxed);
                    false
                }
                Err(oneshot::error::TryRecvError::Empty) => true,
                Err(oneshot::error::TryRecvError::Closed) => panic!("a request was lost"),
            });
        }
        queue.close();
    });
    let state = queue.lock();
    assert_eq!((state.jobs.len(), state.busy, state.waking, state.idle.len()), (0, 0, 0, 0));
}

#[test]
fn what_has_waited_too_long_is_refused() {
    let queue = Queue::new(10, slot());
    let completions = Arc::default();
    let (job, mut receiver) = job(&completions);
    assert!(queue.push(job).is_ok());
    assert!(queue.tick(PATIENT).is_some());
    assert!(receiver.try_recv().is_err());
    queue.tick(Duration::ZERO);
    completions.deliver();
    assert!(matches!(receiver.try_recv(), Ok(Err(Reject::QueueTimeout))));
    assert_eq!(queue.tick(PATIENT), None);
}

#[test]
fn slow_requests_make_the_limit_strict() {
    let queue = Queue::new(1, slot());
    let completions = Arc::default();
    // One to be slow, so that the pace is known.
    assert!(queue.push(job(&completions).0).is_ok());
    assert!(queue.take(false).is_some());
    queue.ran(true);
    assert!(queue.push(job(&completions).0).is_ok());
    assert!(queue.push(job(&completions).0).is_err());
}
