//! An instance as lines of text.

use std::cmp::Ordering;

use crate::exit::one_line;
use crate::metrics::report::{Doing, Error, Kind, Report, Request, Site, State, Thread, Worker};
use crate::metrics::units::{bytes, seconds};

/// Seconds from which a request is conspicuous.
const LONG: f64 = 10.0;

/// By what requests are sorted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Order {
    /// The oldest first.
    #[default]
    Time,
    Worker,
    Path,
}

impl Order {
    pub fn next(self) -> Self {
        match self {
            Order::Time => Order::Worker,
            Order::Worker => Order::Path,
            Order::Path => Order::Time,
        }
    }

    pub fn name(self) -> &'static str {
        match self {
            Order::Time => "time",
            Order::Worker => "worker",
            Order::Path => "path",
        }
    }
}

/// How a line is to be seen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Look {
    Title,
    Heading,
    Plain,
    Conspicuous,
    Failure,
}

pub struct Line {
    pub text: String,
    pub look: Look,
}

/// An instance now; `before`: as it was some time ago, for what is told as a rate.
pub fn lines(now: &Report, before: Option<&Report>, order: Order) -> Vec<Line> {
    let mut all = Lines(Vec::new());
    let state = match (now.ready, now.stopping) {
        (true, _) => "ready",
        (false, true) => "draining",
        (false, false) => "not ready",
    };
    let live = if now.live { "" } else { ", Python is stuck" };
    all.add(
        if now.ready && now.live { Look::Title } else { Look::Conspicuous },
        format!("Atrio {}: {state}{live}, up {}, {}", now.version, seconds(now.uptime_seconds), moment(&now.time)),
    );
    for site in &now.sites {
        let before = before.and_then(|before| {
            let elapsed = now.uptime_seconds - before.uptime_seconds;
            let site = before.sites.iter().find(|other| other.name == site.name)?;
            (elapsed > 0.0 && before.pid == now.pid).then_some((site, elapsed))
        });
        all.site(site, before, order);
    }
    all.0
}

/// The time of day of an RFC 3339 moment.
fn moment(time: &str) -> String {
    format!("{} UTC", time.get(11..19).unwrap_or(time))
}

struct Lines(Vec<Line>);

impl Lines {
    fn add(&mut self, look: Look, text: impl Into<String>) {
        self.0.push(Line { look, text: text.into() });
    }

    fn site(&mut self, site: &Site, before: Option<(&Site, f64)>, order: Order) {
        let incoming = site.incoming_generation.map_or(String::new(), |next| format!(" ({next} comes)"));
        let rate = before.map(|(before, elapsed)| per_second(before.requests, site.requests, elapsed));
        self.add(Look::Plain, "");
        self.add(
            if site.queue_length > 0 || site.threads_busy >= site.threads { Look::Conspicuous } else { Look::Plain },
            format!(
                "{}: generation {}{incoming}, {} of {} threads busy, queue {}, connections {}",
                one_line(&site.name),
                site.generation,
                site.threads_busy,
                site.threads,
                site.queue_length,
                site.connections
            ),
        );
        let rate = rate.map_or(String::new(), |rate| format!(", {rate}/s"));
        self.add(
            Look::Plain,
            format!(
                "requests {}{rate}, exceptions {}, crashes {}, reloads {}, failed {}",
                site.requests, site.exceptions, site.crashes, site.reloads, site.reloads_failed
            ),
        );
        self.requests(site, order);
        self.workers(site, before);
        self.errors(&site.errors);
    }

    fn requests(&mut self, site: &Site, order: Order) {
        let mut running: Vec<(&Worker, &Thread)> = site.running().collect();
        running.sort_by(|a, b| compare(order, a, b));
        self.add(Look::Plain, "");
        self.add(Look::Heading, format!("{:>12}  {:>6}  {:<13}  {}", "running for", "worker", "thread", "request"));
        for (worker, thread) in running {
            let age = thread.seconds.unwrap_or(0.0);
            let sends = if thread.state == Doing::Sends { " (sends)" } else { "" };
            let request = thread.request.as_ref().map_or("…".into(), named);
            let look = if age >= LONG { Look::Conspicuous } else { Look::Plain };
            let name = one_line(&thread.name);
            self.add(look, format!("{:>12}  {:>6}  {name:<13}  {request}{sends}", seconds(age), worker.worker));
        }
    }

    fn workers(&mut self, site: &Site, before: Option<(&Site, f64)>) {
        self.add(Look::Plain, "");
        self.add(
            Look::Heading,
            format!(
                "{:>6}  {:>8}  {:<8}  {:>3}  {:>11}  {:>10}  {:>6}  {:>5}  {:>5}  {:>5}  {:>8}",
                "worker", "process", "state", "gen", "up", "memory", "CPU", "conn", "queue", "busy", "req/s"
            ),
        );
        for worker in &site.workers {
            let before = before.and_then(|(site, elapsed)| {
                let same = site.workers.iter().find(|other| (other.worker, other.pid) == (worker.worker, worker.pid));
                Some((same?, elapsed))
            });
            let cpu = before.and_then(|(before, elapsed)| {
                Some(format!("{:.0} %", (worker.cpu_seconds? - before.cpu_seconds?).max(0.0) / elapsed * 100.0))
            });
            let rate = before.map(|(before, elapsed)| per_second(before.requests, worker.requests, elapsed));
            let (state, look) = match worker.state {
                State::Starting => ("starting", Look::Plain),
                State::Ready => ("ready", Look::Plain),
                State::Draining => ("draining", Look::Conspicuous),
            };
            let busy = worker.threads.iter().filter(|thread| thread.state != Doing::Idle).count();
            self.add(
                look,
                format!(
                    "{:>6}  {:>8}  {state:<8}  {:>3}  {:>11}  {:>10}  {:>6}  {:>5}  {:>5}  {:>5}  {:>8}",
                    worker.worker,
                    worker.pid,
                    worker.generation,
                    seconds(worker.uptime_seconds),
                    worker.memory_bytes.map_or("-".into(), bytes),
                    cpu.unwrap_or("-".into()),
                    worker.connections,
                    worker.queue_length,
                    format!("{busy}/{}", worker.threads.len()),
                    rate.unwrap_or("-".into()),
                ),
            );
        }
    }

    fn errors(&mut self, errors: &[Error]) {
        if errors.is_empty() {
            return;
        }
        self.add(Look::Plain, "");
        self.add(Look::Heading, format!("{:>12}  {:<9}  {}", "last errors", "kind", "what"));
        for error in errors {
            let kind = match error.kind {
                Kind::Exception => "exception",
                Kind::Crash => "crash",
                Kind::Reload => "reload",
            };
            let of = if error.requests.is_empty() { "" } else { "; " };
            let requests: Vec<String> = error.requests.iter().map(named).collect();
            let what = format!("{}{of}{}", one_line(&error.message), requests.join(", "));
            self.add(Look::Failure, format!("{:>12}  {kind:<9}  {what}", moment(&error.time)));
        }
    }
}

fn named(request: &Request) -> String {
    one_line(&format!("{} {}", request.method, request.path))
}

fn per_second(before: u64, now: u64, elapsed: f64) -> String {
    format!("{:.0}", now.saturating_sub(before) as f64 / elapsed)
}

fn compare(order: Order, a: &(&Worker, &Thread), b: &(&Worker, &Thread)) -> Ordering {
    let age = |(_, thread): &(&Worker, &Thread)| thread.seconds.unwrap_or(0.0);
    let path = |(_, thread): &(&Worker, &Thread)| thread.request.as_ref().map(|request| request.path.clone());
    let first = match order {
        Order::Time => Ordering::Equal,
        Order::Worker => a.0.worker.cmp(&b.0.worker),
        Order::Path => path(a).cmp(&path(b)),
    };
    first.then(age(b).total_cmp(&age(a)))
}
