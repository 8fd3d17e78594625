use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::time::Instant;

use super::super::queue::tests::{answer, job, slot};
use super::super::seat::Seat;
use super::*;

const CONNECTIONS: usize = 20;
const REQUESTS: usize = 1000;

/// What an app thread does, without Python.
fn serve(engine: &'static Engine) {
    let mut random = fastrand::Rng::new();
    let mut seat = Seat::new(engine);
    loop {
        while let Some(job) = seat.take() {
            let started = Instant::now();
            let slow = match random.u32(..2000) {
                // It waits; it computes for long; it streams.
                0 => {
                    std::thread::sleep(3 * QUICK);
                    true
                }
                1 => {
                    while started.elapsed() < 15 * QUICK {}
                    false
                }
                2..100 => {
                    engine.step_aside();
                    false
                }
                _ => false,
            };
            answer(*job);
            seat.ran(started, Instant::now(), slow);
        }
        if !seat.wait() {
            return;
        }
    }
}

#[test]
fn every_request_is_answered_while_the_lead_changes() {
    let engine = Engine::new(CONNECTIONS, slot()).unwrap();
    std::thread::spawn(move || engine.run());
    engine.spawn(async move { engine.look_after(Duration::from_secs(60)).await });
    let (done, all_done) = std::sync::mpsc::channel();
    let answered: Arc<AtomicUsize> = Arc::default();
    for _ in 0..CONNECTIONS {
        let (done, answered) = (done.clone(), answered.clone());
        engine.spawn(async move {
            for _ in 0..REQUESTS {
                let (job, receiver) = job(engine);
                engine.push(job).unwrap_or_else(|_| panic!("refused below the limit"));
                assert!(receiver.await.expect("a request was lost").is_ok());
                answered.fetch_add(1, Relaxed);
            }
            done.send(()).unwrap();
        });
    }
    std::thread::scope(|scope| {
        for _ in 0..3 {
            scope.spawn(|| serve(engine));
        }
        for _ in 0..CONNECTIONS {
            all_done.recv_timeout(Duration::from_secs(60)).expect("the engine stands still");
        }
        engine.spawn(async { engine.close() });
    });
    assert_eq!(answered.load(Relaxed), CONNECTIONS * REQUESTS);
}
