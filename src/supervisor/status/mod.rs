//! `/status`: what workers and app threads do now, for people and for programs.

mod html;

pub use html::page;

use std::sync::atomic::Ordering::Relaxed;

use crate::metrics::activity::thread_name;
use crate::metrics::process::{Process, cpu_seconds};
use crate::metrics::report::{Error, Kind, Report, Request, Site, State, Thread, Worker};
use crate::metrics::{self, Activity, Restart, Scoreboard, Slot};

use super::view::{Check, ERRORS, View};

/// The whole of it.
pub async fn report(view: &View) -> Report {
    let ok = |checks: Vec<Check>| checks.iter().all(|check| check.ok);
    Report {
        version: env!("CARGO_PKG_VERSION").into(),
        python: env!("ATRIO_PYTHON").into(),
        arch: std::env::consts::ARCH.into(),
        time: time(jiff::Timestamp::now()),
        pid: std::process::id(),
        uptime_seconds: view.began.elapsed().as_secs_f64(),
        memory_bytes: Process::this().resident_memory_bytes,
        live: ok(view.live()),
        ready: ok(view.ready()),
        stopping: view.stopping.load(Relaxed),
        sites: vec![site(view).await],
    }
}

/// As all times of `/status` are written.
pub fn time(at: jiff::Timestamp) -> String {
    format!("{at:.3}")
}

/// The requests that the app threads of a slot run.
pub fn running(board: Scoreboard, slot: usize) -> Vec<Request> {
    board.activities(slot).iter().filter_map(|activity| activity.doing().1.map(|(request, _)| request)).collect()
}

async fn site(view: &View) -> Site {
    let memory = view.memory.of_workers().await;
    let slots = view.board.slots();
    let sum = |read: fn(&Slot) -> i64| slots.iter().map(read).sum();
    let incoming = view.incoming.load(Relaxed);
    Site {
        name: view.site.clone(),
        generation: view.generation.load(Relaxed),
        incoming_generation: (incoming > 0).then_some(incoming),
        reloads: view.reloads.load(Relaxed),
        reloads_failed: view.reloads_failed.load(Relaxed),
        crashes: view.restarts(Restart::Crashed),
        connections: sum(|slot| slot.connections.load(Relaxed)),
        queue_length: sum(|slot| slot.queue_length.load(Relaxed)),
        threads: sum(|slot| slot.threads.load(Relaxed)),
        threads_busy: sum(|slot| slot.threads_busy.load(Relaxed)),
        requests: slots.iter().map(Slot::ended_requests).sum(),
        exceptions: slots.iter().map(|slot| slot.exceptions.load(Relaxed)).sum(),
        workers: (0..slots.len()).filter_map(|index| worker(view.board, index, &memory)).collect(),
        errors: errors(view),
    }
}

/// `None`: the slot has none.
fn worker(board: Scoreboard, index: usize, memory: &[(usize, u64)]) -> Option<Worker> {
    let slot = board.slot(index);
    let states = [
        (metrics::State::Starting, State::Starting),
        (metrics::State::Ready, State::Ready),
        (metrics::State::Draining, State::Draining),
    ];
    let state = states.into_iter().find(|(state, _)| slot.is(*state))?.1;
    let pid = slot.pid.load(Relaxed);
    Some(Worker {
        worker: index,
        pid,
        generation: slot.generation.load(Relaxed),
        state,
        uptime_seconds: slot.age().as_secs_f64(),
        progress_seconds: board.since_progress(index).as_secs_f64(),
        memory_bytes: memory.iter().find(|(slot, _)| *slot == index).map(|(_, bytes)| *bytes),
        cpu_seconds: cpu_seconds(pid),
        connections: slot.connections.load(Relaxed),
        queue_length: slot.queue_length.load(Relaxed),
        requests: slot.ended_requests(),
        threads: board.activities(index).iter().enumerate().map(thread).collect(),
    })
}

fn thread((index, activity): (usize, &Activity)) -> Thread {
    let (state, told) = activity.doing();
    let (request, age) = told.unzip();
    Thread { name: thread_name(index), state, seconds: age.map(|age| age.as_secs_f64()), request }
}

/// What the site let escape, and what the supervisor remembers.
fn errors(view: &View) -> Vec<Error> {
    let mut errors = view.errors();
    for (worker, slot) in view.board.slots().iter().enumerate() {
        errors.extend(slot.failures.all().map(|(at, request, message)| {
            let at = jiff::Timestamp::from_microsecond(at as i64).unwrap_or_default();
            let (time, requests) = (time(at), vec![request]);
            (at, Error { time, kind: Kind::Exception, message, worker: Some(worker), requests })
        }));
    }
    errors.sort_by_key(|(at, _)| std::cmp::Reverse(*at));
    errors.into_iter().take(ERRORS).map(|(_, error)| error).collect()
}
