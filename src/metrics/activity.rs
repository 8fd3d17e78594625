//! What each app thread does now, and what went wrong last: in shared memory, so that it is known of a process that hangs or has died.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use zerocopy::FromZeros;

use super::report;
use super::seqlock::{Seqlock, Text};

/// How many exceptions of the site a slot remembers.
const KEPT: usize = 20;

/// Nanoseconds of CLOCK_MONOTONIC, which all processes of the machine share.
pub fn monotonic_nanos() -> u64 {
    nix::time::clock_gettime(nix::time::ClockId::CLOCK_MONOTONIC)
        .map_or(0, |now| now.tv_sec() as u64 * 1_000_000_000 + now.tv_nsec() as u64)
}

/// Tells the moments of this process to others, without a look at the clock for each.
#[derive(Clone, Copy)]
pub struct Clock {
    instant: Instant,
    nanos: u64,
}

impl Clock {
    pub fn new() -> Self {
        Clock { instant: Instant::now(), nanos: monotonic_nanos() }
    }

    fn nanos(self, at: Instant) -> u64 {
        self.nanos + at.saturating_duration_since(self.instant).as_nanos() as u64
    }
}

/// What `ps -L`, the site and `/status` call an app thread.
pub fn thread_name(index: usize) -> String {
    format!("atrio-app-{}", index + 1)
}

/// Which request: 16 bytes of its method, some 100 of its path, 64 of its id.
#[repr(C)]
#[derive(FromZeros)]
struct Request {
    method: Text<2>,
    path: Text<13>,
    id: Text<8>,
}

impl Request {
    fn get(&self) -> report::Request {
        report::Request { method: self.method.get(), path: self.path.get(), request_id: self.id.get() }
    }

    fn copy(&self, from: &Self) {
        self.method.copy(&from.method);
        self.path.copy(&from.path);
        self.id.copy(&from.id);
    }
}

const IDLE: u64 = 0;
const RUNS: u64 = 1;
const SENDS: u64 = 2;

/// An app thread's. It alone writes, but for the end, which the supervisor writes for a thread that died.
#[repr(C, align(64))]
#[derive(FromZeros)]
pub struct Activity {
    state: AtomicU64,
    lock: Seqlock,
    /// When the thread began with its last request; it had the GIL then.
    since: AtomicU64,
    request: Request,
}

impl Activity {
    /// The thread begins to run a request.
    pub fn begin(&self, clock: Clock, at: Instant, method: &[u8], path: &[u8], id: &[u8]) {
        self.lock.write(|| {
            self.since.store(clock.nanos(at), Relaxed);
            self.request.method.set(method);
            self.request.path.set(path);
            self.request.id.set(id);
            self.state.store(RUNS, Relaxed);
        });
    }

    /// The site yields its answer bit by bit from now on.
    pub fn send(&self) {
        self.state.store(SENDS, Relaxed);
    }

    /// The thread is done with its request.
    pub fn end(&self) {
        self.state.store(IDLE, Relaxed);
    }

    /// How long ago the thread began with its last request; for ever, if it had none.
    pub fn since_begin(&self) -> Duration {
        match self.since.load(Relaxed) {
            0 => Duration::MAX,
            since => Duration::from_nanos(monotonic_nanos().saturating_sub(since)),
        }
    }

    /// What the thread does. Of a request that begins at this very moment neither name nor age are told.
    pub fn doing(&self) -> (report::Doing, Option<(report::Request, Duration)>) {
        let doing = |state| match state {
            IDLE => report::Doing::Idle,
            SENDS => report::Doing::Sends,
            _ => report::Doing::Runs,
        };
        let look = || (self.state.load(Relaxed), self.request.get(), self.since_begin());
        match self.lock.read(look) {
            Some((IDLE, ..)) => (report::Doing::Idle, None),
            Some((state, request, age)) => (doing(state), Some((request, age))),
            None => (doing(self.state.load(Relaxed)), None),
        }
    }
}

#[repr(C)]
#[derive(FromZeros)]
struct Failure {
    lock: Seqlock,
    /// Microseconds since the epoch.
    at: AtomicU64,
    request: Request,
    message: Text<40>,
}

/// The last exceptions that the site let escape. Who has the GIL writes.
#[repr(C)]
#[derive(FromZeros)]
pub struct Failures {
    count: AtomicU64,
    ring: [Failure; KEPT],
}

impl Failures {
    /// Notes what escaped from the request that a thread runs; the first 320 bytes of it.
    pub fn note(&self, activity: &Activity, message: &str) {
        let number = self.count.load(Relaxed);
        let failure = &self.ring[number as usize % KEPT];
        failure.lock.write(|| {
            let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
            failure.at.store(now.as_micros() as u64, Relaxed);
            failure.request.copy(&activity.request);
            failure.message.set(message.as_bytes());
        });
        self.count.store(number + 1, Relaxed);
    }

    /// The last ones in no order: when, in microseconds since the epoch, which request, what.
    pub fn all(&self) -> impl Iterator<Item = (u64, report::Request, String)> {
        let used = (self.count.load(Relaxed) as usize).min(KEPT);
        let look = |failure: &Failure| (failure.at.load(Relaxed), failure.request.get(), failure.message.get());
        self.ring[..used].iter().filter_map(move |failure| failure.lock.read(|| look(failure)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn running(path: &str) -> Activity {
        let activity = Activity::new_zeroed();
        let clock = Clock::new();
        activity.begin(clock, Instant::now(), b"GET", path.as_bytes(), b"1f");
        activity
    }

    #[test]
    fn an_activity_is_told_while_it_lasts() {
        let activity = Activity::new_zeroed();
        assert_eq!((activity.doing(), activity.since_begin()), ((report::Doing::Idle, None), Duration::MAX));
        let activity = running("/long");
        let (doing, told) = activity.doing();
        let (request, age) = told.unwrap();
        assert_eq!((doing, request.method.as_str(), request.path.as_str()), (report::Doing::Runs, "GET", "/long"));
        assert!(age < Duration::from_secs(60) && request.request_id == "1f");
        activity.send();
        assert_eq!(activity.doing().0, report::Doing::Sends);
        activity.end();
        assert_eq!(activity.doing(), (report::Doing::Idle, None));
    }

    #[test]
    fn the_last_failures_are_kept() {
        let failures = Failures::new_zeroed();
        assert_eq!(failures.all().count(), 0);
        for number in 0..KEPT + 5 {
            failures.note(&running(&format!("/{number}")), "ValueError: no");
        }
        let mut paths: Vec<u32> = failures.all().map(|(_, request, _)| request.path[1..].parse().unwrap()).collect();
        paths.sort_unstable();
        assert_eq!(paths, (5..KEPT as u32 + 5).collect::<Vec<_>>());
        assert!(failures.all().all(|(at, _, message)| at > 0 && message == "ValueError: no"));
    }
}
