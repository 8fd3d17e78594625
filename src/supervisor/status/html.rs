//! The page: made here, without scripts and without anything from elsewhere.

use maud::{DOCTYPE, Markup, PreEscaped, html};

use crate::metrics::report::{Doing, Error, Kind, Report, Request, Site, State, Thread, Worker};
use crate::metrics::units::{bytes, seconds};

const STYLE: &str = include_str!("style.css");
/// Seconds after which the browser asks again.
const REFRESH: u32 = 5;
/// Seconds from which a request is conspicuous.
const LONG: f64 = 10.0;

/// The page, and the Content-Security-Policy that it needs. `refreshes`: it asks for itself again from time to time.
pub fn page(report: &Report, refreshes: bool) -> (String, String) {
    let nonce = format!("{:032x}", fastrand::u128(..));
    let policy = format!(
        "default-src 'none'; style-src 'nonce-{nonce}'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    );
    let page = html! {
        (DOCTYPE)
        html lang="en" {
            head {
                meta charset="utf-8";
                meta name="viewport" content="width=device-width, initial-scale=1";
                meta name="color-scheme" content="light dark";
                @if refreshes { meta http-equiv="refresh" content=(REFRESH); }
                title { (title(report)) }
                style nonce=(nonce) { (PreEscaped(STYLE)) }
            }
            body {
                header {
                    h1 { "Atrio" }
                    @for (word, class) in conditions(report) { span.badge.(class) { (word) } }
                    span.aside {
                        time datetime=(report.time) { (clock(&report.time)) " UTC" } " · "
                        @if refreshes {
                            "anew every " (REFRESH) " s · " a href="?refresh=off" { "stop" }
                        } @else {
                            a href="?" { "keep up to date" }
                        }
                    }
                }
                main { @for one in &report.sites { (site(one)) } }
                footer {
                    "Atrio " (report.version) ", Python " (report.python) ", " (report.arch)
                    " · supervisor " (report.pid) ", up " (seconds(report.uptime_seconds)) ", " (bytes(report.memory_bytes))
                    " · " a href="/status.json" { "status.json" } " · " a href="/metrics" { "metrics" }
                }
            }
        }
    };
    (page.into_string(), policy)
}

fn title(report: &Report) -> String {
    let sites: Vec<&str> = report.sites.iter().map(|site| site.name.as_str()).collect();
    format!("{} · Atrio", sites.join(", "))
}

fn conditions(report: &Report) -> Vec<(&'static str, &'static str)> {
    let ready = match (report.ready, report.stopping) {
        (true, _) => ("ready", "good"),
        (false, true) => ("draining", "warm"),
        (false, false) => ("not ready", "bad"),
    };
    let stuck = (!report.live).then_some(("Python is stuck", "bad"));
    std::iter::once(ready).chain(stuck).collect()
}

/// The time of day of an RFC 3339 moment.
fn clock(time: &str) -> &str {
    time.get(11..19).unwrap_or(time)
}

fn site(site: &Site) -> Markup {
    let mut running: Vec<(&Worker, &Thread)> = site.running().collect();
    running.sort_by(|(_, a), (_, b)| b.seconds.unwrap_or(0.0).total_cmp(&a.seconds.unwrap_or(0.0)));
    html! {
        section {
            h2 { (site.name) }
            dl.figures {
                (figure("generation", &html! {
                    (site.generation)
                    @if let Some(incoming) = site.incoming_generation { small { " " (incoming) " comes" } }
                }, site.generation == 0))
                (figure("threads busy", &html! { (site.threads_busy) small { " of " (site.threads) } },
                    site.threads_busy >= site.threads))
                (figure("queue", &html! { (site.queue_length) }, site.queue_length > 0))
                (figure("connections", &html! { (site.connections) }, false))
                (figure("requests", &html! { (site.requests) }, false))
                (figure("exceptions", &html! { (site.exceptions) }, false))
                (figure("crashes", &html! { (site.crashes) }, false))
                (figure("reloads", &html! {
                    (site.reloads)
                    @if site.reloads_failed > 0 { small { " " (site.reloads_failed) " failed" } }
                }, false))
            }
            h3 { "Requests that run" }
            @if running.is_empty() {
                p.none { "None." }
            } @else {
                ul.requests { @for (worker, thread) in running { (request(worker, thread)) } }
            }
            h3 { "Workers" }
            @if site.workers.is_empty() { p.none { "None." } } @else { (workers(&site.workers)) }
            h3 { "Last errors" }
            @if site.errors.is_empty() {
                p.none { "None." }
            } @else {
                ul.errors { @for one in &site.errors { (error(one)) } }
            }
        }
    }
}

fn figure(name: &str, value: &Markup, is_conspicuous: bool) -> Markup {
    html! { div.warm[is_conspicuous] { dt { (name) } dd { (value) } } }
}

fn request(worker: &Worker, thread: &Thread) -> Markup {
    let age = thread.seconds.unwrap_or(0.0);
    html! {
        li.warm[age >= LONG] {
            span.age { (seconds(age)) }
            @match &thread.request {
                Some(request) => (named(request)),
                None => span.what { "a request that begins now" },
            }
            span.where {
                "worker " (worker.worker) " · " (thread.name)
                @if thread.state == Doing::Sends { " · sends" }
                @if let Some(request) = &thread.request { " · " span.id { (request.request_id) } }
            }
        }
    }
}

fn named(request: &Request) -> Markup {
    html! { span.what { b { (request.method) } " " (request.path) } }
}

fn workers(workers: &[Worker]) -> Markup {
    let cell = |name: &str, value: Markup| html! { td data-name=(name) { (value) } };
    html! {
        table {
            thead {
                tr {
                    @for name in ["worker", "process", "generation", "up", "memory", "CPU", "connections", "queue", "requests"] {
                        th { (name) }
                    }
                    th.threads { "app threads" }
                }
            }
            tbody {
                @for worker in workers {
                    tr {
                        (cell("worker", html! { span { (worker.worker) " " (state(worker.state)) } }))
                        (cell("process", html! { (worker.pid) }))
                        (cell("generation", html! { (worker.generation) }))
                        (cell("up", html! { (seconds(worker.uptime_seconds)) }))
                        (cell("memory", html! { (worker.memory_bytes.map_or("—".into(), bytes)) }))
                        (cell("CPU", html! { (worker.cpu_seconds.map_or("—".into(), seconds)) }))
                        (cell("connections", html! { (worker.connections) }))
                        (cell("queue", html! { (worker.queue_length) }))
                        (cell("requests", html! { (worker.requests) }))
                        td.threads data-name="app threads" { @for one in &worker.threads { (thread(one)) } }
                    }
                }
            }
        }
    }
}

fn state(state: State) -> Markup {
    let (word, class) = match state {
        State::Starting => ("starting", "new"),
        State::Ready => ("ready", "good"),
        State::Draining => ("draining", "warm"),
    };
    html! { span.badge.(class) { (word) } }
}

/// A square for each, with a word for those who cannot see it.
fn thread(thread: &Thread) -> Markup {
    let (class, word) = match thread.state {
        Doing::Idle => ("idle", "is idle"),
        Doing::Sends => ("sends", "sends"),
        Doing::Runs if thread.seconds.is_some_and(|age| age >= LONG) => ("long", "runs for long"),
        Doing::Runs => ("runs", "runs"),
    };
    let told = format!("{} {word}", thread.name);
    html! { span.thread.(class) role="img" aria-label=(told) title=(told) {} }
}

fn error(error: &Error) -> Markup {
    let kind = match error.kind {
        Kind::Exception => "exception",
        Kind::Crash => "crash",
        Kind::Reload => "reload failed",
    };
    html! {
        li {
            time datetime=(error.time) { (error.time.get(..10).unwrap_or_default()) " " (clock(&error.time)) }
            span.badge.bad { (kind) }
            span.what { (error.message) }
            span.where {
                @if let Some(worker) = error.worker { "worker " (worker) }
                @for request in &error.requests {
                    span.request { " · " (named(request)) " " span.id { (request.request_id) } }
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report(path: &str) -> Report {
        let request = Request { method: "GET".into(), path: path.into(), request_id: path.into() };
        let thread = Thread {
            name: "atrio-app-1".into(),
            state: Doing::Runs,
            seconds: Some(75.0),
            request: Some(request.clone()),
        };
        let worker = Worker {
            worker: 0,
            pid: 7,
            generation: 1,
            state: State::Ready,
            uptime_seconds: 80.0,
            progress_seconds: 0.5,
            memory_bytes: None,
            cpu_seconds: None,
            connections: 1,
            queue_length: 0,
            requests: 3,
            threads: vec![thread],
        };
        let error = Error {
            time: "2026-11-25T22:30:00.123Z".into(),
            kind: Kind::Exception,
            message: path.into(),
            worker: Some(0),
            requests: vec![request],
        };
        let site = Site {
            name: path.into(),
            generation: 1,
            incoming_generation: None,
            reloads: 0,
            reloads_failed: 0,
            crashes: 0,
            connections: 1,
            queue_length: 0,
            threads: 1,
            threads_busy: 1,
            requests: 3,
            exceptions: 1,
            workers: vec![worker],
            errors: vec![error],
        };
        Report {
            version: "0.1.0".into(),
            python: "3.13.5".into(),
            arch: "x86_64".into(),
            time: "2026-11-25T22:30:01.000Z".into(),
            pid: 1,
            uptime_seconds: 90.0,
            memory_bytes: 5 << 20,
            live: true,
            ready: true,
            stopping: false,
            sites: vec![site],
        }
    }

    #[test]
    fn nothing_that_others_say_is_markup() {
        let (page, _) = page(&report("/<script>alert(\"1\")</script>&amp;"), true);
        assert!(!page.contains("<script"));
        assert_eq!(page.matches("&lt;script&gt;alert(&quot;1&quot;)&lt;/script&gt;&amp;amp;").count(), 7);
    }

    #[test]
    fn the_page_refreshes_if_it_may_and_its_policy_lets_only_its_style_pass() {
        let (page_1, policy) = page(&report("/"), true);
        let nonce = policy.split("'nonce-").nth(1).unwrap().split('\'').next().unwrap();
        assert!(nonce.len() == 32 && page_1.contains(&format!("<style nonce=\"{nonce}\">")));
        assert!(page_1.contains("http-equiv=\"refresh\"") && page_1.contains("1 min 15 s"));
        assert!(!page(&report("/"), false).0.contains("http-equiv"));
    }
}
