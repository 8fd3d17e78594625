//! The supervisor: owns sockets, children, metrics and readiness. Never loads Python, never dies because of a site.

mod admin;
mod children;
mod condition;
mod cpus;
mod fleet;
mod identity;
mod memory;
mod notify;
mod orders;
mod sites;
mod sockets;
mod status;
mod stop;
mod view;

pub use children::ZYGOTE;

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::{Duration, Instant};

use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::mpsc;

use crate::config::{Preload, Settings};
use crate::control::{FromWorker, FromZygote, Launch, Site};
use crate::exit::{Code, Failure};
use crate::metrics::report::{Kind, Request};
use crate::metrics::{Restart, Scoreboard, SiteMetrics};
use crate::os;

use children::{Children, Report, SharedMemory};
use condition::{Condition, Phase};
use cpus::Cpus;
use fleet::Fleet;
use identity::Identity;
use notify::Manager;
use orders::{Action, Event, Generation, Policy};
use sockets::Listener;
use view::View;

/// Slots of the scoreboard for each worker: one serves, one of the next generation starts, the others drain.
const SLOTS: usize = 4;
/// What a worker's farewell may take beyond its drain, and the supervisor's own.
const FAREWELL: Duration = Duration::from_secs(15);
/// How often to look whether connections are still being made.
const LOOK: Duration = Duration::from_millis(20);
/// A pause that is never waited out.
const FOREVER: Duration = Duration::from_secs(365 * 24 * 3600);

/// Serves until a signal ends it.
pub fn run(settings: Settings, explicit_listen: bool) -> Result<(), Failure> {
    os::name_thread("atrio");
    let site = sites::find(&settings)?;
    let mut activated = sockets::activated();
    let listeners = sockets::of_site(&settings, explicit_listen, &mut activated)?;
    let admin = bind_admin(&settings, &mut activated)?;
    let identity = identity::resolve(&settings)?;
    if let Some(identity) = &identity {
        identity.own_cache(&settings, &site);
    }
    os::become_subreaper().map_err(|error| Failure::os("cannot become the parent of orphaned workers", error))?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| Failure::os("cannot start the runtime", error))?;
    runtime.block_on(async { Supervisor::new(settings, site, listeners, admin, identity)?.run().await })
}

/// Somebody who did not ask for an admin listener can do without when its port is taken.
fn bind_admin(
    settings: &Settings,
    activated: &mut Vec<(String, std::os::fd::OwnedFd)>,
) -> Result<Vec<Listener>, Failure> {
    let bound = sockets::bind("ATRIO_ADMIN_LISTEN", &settings.admin_listen, activated);
    match bound {
        Err(failure) if settings.admin_listen_is_default && failure.code == Code::Unavailable => {
            tracing::warn!("{failure}; no probes and metrics are served");
            Ok(Vec::new())
        }
        bound => bound,
    }
}

struct Supervisor {
    settings: Settings,
    site: Site,
    workers: usize,
    slots: usize,
    listeners: Vec<Listener>,
    /// The ports that refuse new connections, until none is being made any more.
    refusing: Option<Vec<u16>>,
    admin: Vec<Listener>,
    fleet: Fleet,
    children: Children,
    reports: mpsc::UnboundedReceiver<Report>,
    view: Arc<View>,
    /// How the last worker ended, and what it ran then.
    dead: Option<(String, Vec<Request>)>,
    manager: Manager,
    condition: Condition,
    began: Instant,
}

impl Supervisor {
    fn new(
        settings: Settings,
        site: Site,
        listeners: Vec<Listener>,
        admin: Vec<Listener>,
        identity: Option<Identity>,
    ) -> Result<Self, Failure> {
        let workers = settings.workers.unwrap_or_else(|| {
            let granted = Cpus::granted();
            let (count, s) = (granted.workers(), if granted.workers() == 1 { "" } else { "s" });
            tracing::info!("{count} worker{s}: {granted}; ATRIO_WORKERS sets another number");
            count
        });
        let slots = workers * SLOTS;
        let no_memory = |error| Failure::os("cannot share memory", error);
        let (scoreboard, board) = Scoreboard::create(slots, settings.threads).map_err(no_memory)?;
        let (site_metrics, metrics) = SiteMetrics::create(slots).map_err(no_memory)?;
        let memory = SharedMemory { scoreboard, site_metrics };
        let (sender, reports) = mpsc::unbounded_channel();
        let policy = Policy {
            workers,
            slots,
            preload: settings.preload != Preload::Off,
            drain_delay: settings.drain_delay,
            drain_timeout: settings.drain_timeout,
        };
        Ok(Supervisor {
            view: Arc::new(View::new(site.name.clone(), board, metrics)),
            fleet: Fleet::new(policy),
            children: Children::new(memory, sender, identity),
            dead: None,
            manager: Manager::new(),
            condition: Condition {
                site: site.name.clone(),
                addresses: listeners.iter().map(|listener| listener.bound.to_string()).collect::<Vec<_>>().join(", "),
                workers,
                threads: settings.threads,
                ..Condition::default()
            },
            began: Instant::now(),
            settings,
            site,
            workers,
            slots,
            listeners,
            refusing: None,
            admin,
            reports,
        })
    }

    async fn run(mut self) -> Result<(), Failure> {
        let mut signals = Signals::new().map_err(|error| Failure::os("cannot handle signals", error))?;
        admin::start(&self.admin, &self.view).map_err(|error| Failure::os("cannot start the admin listener", error))?;
        let mut events = VecDeque::from([Event::Start]);
        loop {
            while let Some(event) = events.pop_front() {
                if let Event::WorkerExited(slot, how) = &event {
                    self.dead = Some((how.clone(), status::running(self.view.board, *slot)));
                    self.view.board.vacate(*slot);
                    self.view.site_metrics.bury(*slot);
                }
                for action in self.fleet.on(self.began.elapsed(), event) {
                    if let Action::Exit(result) = action {
                        self.children.kill_all();
                        if let Err(failure) = &result {
                            self.manager.failed(failure);
                        }
                        return result;
                    }
                    events.extend(self.act(action));
                }
            }
            let (condition, board, busy) = (&self.condition, self.view.board, self.manager.has_watchdog());
            self.manager.state(|| condition.words(board, busy));
            let deadline =
                self.fleet.deadline().map_or(FOREVER, |at| at.saturating_sub(self.began.elapsed()).min(FOREVER));
            tokio::select! {
                Some(report) = self.reports.recv() => events.extend(self.heard(report)),
                signal = signals.next() => match signal {
                    Asked::Reap => events.extend(self.children.reap()),
                    Asked::Reload => events.extend(self.reload()),
                    Asked::Stop(code) if self.fleet.is_stopping() => {
                        self.children.kill_all();
                        tracing::warn!("a second signal: requests under way are cut");
                        os::exit_now(code);
                    }
                    Asked::Stop(_) => {
                        self.view.stopping.store(true, Relaxed);
                        self.condition.phase = Phase::Stopping;
                        let (delay, drain) = (self.settings.drain_delay, self.settings.drain_timeout);
                        let allowance = delay.saturating_add(stop::HANDSHAKES).saturating_add(drain);
                        self.manager.stopping(self.words(), allowance.saturating_add(FAREWELL));
                        tracing::info!("draining: every accepted request is finished");
                        events.push_back(Event::Stop);
                    }
                },
                () = quiet(&self.refusing) => {
                    self.refusing = None;
                    events.push_back(Event::Quiet);
                }
                () = self.manager.due() => {
                    let view = &self.view;
                    self.manager.turn(|| view.live().iter().all(|check| check.ok));
                }
                () = tokio::time::sleep(deadline) => events.push_back(Event::Tick),
            }
        }
    }

    fn heard(&mut self, report: Report) -> Option<Event> {
        match report {
            Report::Worker(slot, number, _) if !self.children.is_present(slot, number) => None,
            Report::Zygote(_, Some(FromZygote::Installing)) => {
                if self.condition.phase == Phase::Importing {
                    self.condition.phase = Phase::Installing;
                }
                self.manager.installing(self.words());
                None
            }
            Report::Zygote(generation, Some(FromZygote::Ready)) => Some(Event::ZygoteReady(generation)),
            Report::Zygote(generation, Some(FromZygote::Unforkable(why))) => Some(Event::Unforkable(generation, why)),
            Report::Zygote(generation, Some(FromZygote::ImportFailed(e))) => Some(Event::ImportFailed(generation, e)),
            Report::Zygote(_, Some(FromZygote::ForkFailed { slot, error })) => {
                self.children.forget(slot);
                Some(Event::WorkerExited(slot, format!("could not be forked: {error}")))
            }
            Report::Zygote(generation, None) => {
                // It is dead, or has said what nobody understands.
                self.children.kill_zygote(generation);
                None
            }
            Report::Worker(slot, _, Some(FromWorker::Started { pid })) => self.children.identified(slot, pid),
            Report::Worker(slot, _, Some(FromWorker::Ready)) => Some(Event::WorkerReady(slot)),
            Report::Worker(slot, _, Some(FromWorker::Draining)) => Some(Event::WorkerDraining(slot)),
            Report::Worker(slot, _, Some(FromWorker::Terminated)) => Some(Event::WorkerTerminated(slot)),
            Report::Worker(slot, _, Some(FromWorker::ImportFailed(error))) => {
                let generation = self.view.board.slot(slot).generation.load(Relaxed);
                Some(Event::ImportFailed(generation, error))
            }
            Report::Worker(slot, _, None) => self.children.silent(slot),
        }
    }

    fn reload(&mut self) -> Option<Event> {
        if self.fleet.is_stopping() {
            return None;
        }
        tracing::info!(site = self.site.name, "reloading");
        self.condition.reloading = true;
        self.manager.reloading(self.words());
        Some(Event::Reload)
    }

    /// What could not be done is an event again.
    fn act(&mut self, action: Action) -> Option<Event> {
        match action {
            Action::StartZygote { generation, preload } => {
                self.view.incoming.store(generation, Relaxed);
                let launch = self.launch(generation, preload);
                if let Err(error) = self.children.start_zygote(&launch, &self.listeners) {
                    return Some(Event::ZygoteExited(generation, format!("could not be started: {error}")));
                }
            }
            Action::StopZygote(generation) => self.children.kill_zygote(generation),
            Action::Fork { generation, slot } => {
                if let Err(error) = self.children.fork(generation, slot) {
                    return Some(Event::WorkerExited(slot, format!("could not be asked for: {error}")));
                }
            }
            Action::Drain { slot, why } => {
                if let Some(why) = why {
                    self.view.count_restart(why);
                }
                self.children.drain(slot, why.is_none());
            }
            Action::Kill(slot) => self.children.kill_worker(slot),
            Action::Refuse => self.refusing = Some(self.listeners.iter_mut().filter_map(Listener::refuse).collect()),
            Action::CloseSockets => self.listeners.clear(),
            Action::Serving(generation) => self.serving(generation),
            Action::ReloadFailed(reason) => {
                self.view.reloads_failed.fetch_add(1, Relaxed);
                self.view.incoming.store(0, Relaxed);
                self.view.note(Kind::Reload, &reason, None);
                tracing::error!(site = self.site.name, "the reload failed, the last import serves on: {reason}");
                self.condition.reloading = false;
                self.condition.failed = Some(reason);
                self.manager.still_ready(self.words());
            }
            Action::Warn(line) => tracing::warn!(site = self.site.name, "{line}"),
            Action::Crashed(slot) => {
                self.view.count_restart(Restart::Crashed);
                if let Some((how, requests)) = self.dead.take() {
                    self.view.note(Kind::Crash, &how, Some((slot, requests)));
                }
            }
            Action::Exit(_) => {}
        }
        None
    }

    fn launch(&self, generation: Generation, preload: bool) -> Launch {
        Launch {
            settings: self.settings.clone(),
            site: self.site.clone(),
            generation,
            preload,
            workers: self.workers,
            slots: self.slots,
            listeners: self.listeners.iter().map(|listener| listener.bound.clone()).collect(),
        }
    }

    fn serving(&mut self, generation: Generation) {
        self.view.incoming.store(0, Relaxed);
        let generation_before = self.view.generation.swap(generation, Relaxed);
        if generation_before > 0 {
            self.view.reloads.fetch_add(1, Relaxed);
        }
        self.condition.phase = Phase::Serving;
        (self.condition.generation, self.condition.reloading, self.condition.failed) = (generation, false, None);
        let status = format!("serving {} on {}", self.site.name, self.condition.addresses);
        let (workers, threads) = (self.workers, self.settings.threads);
        tracing::info!(generation, workers, threads, ready_ms = self.began.elapsed().as_millis() as u64, "{status}");
        let words = self.words();
        self.manager.ready(&self.listeners, &self.admin, words);
    }

    /// What `systemctl status` shows.
    fn words(&self) -> String {
        self.condition.words(self.view.board, self.manager.has_watchdog())
    }
}

/// Until no connection is being made to ports that refuse new ones.
async fn quiet(ports: &Option<Vec<u16>>) {
    let Some(ports) = ports else { return std::future::pending().await };
    while sockets::handshakes(ports) {
        tokio::time::sleep(LOOK).await;
    }
}

enum Asked {
    Reap,
    Reload,
    /// With the exit code that a shell would give this signal.
    Stop(i32),
}

struct Signals {
    terminate: Signal,
    interrupt: Signal,
    hangup: Signal,
    child: Signal,
}

impl Signals {
    fn new() -> std::io::Result<Self> {
        Ok(Signals {
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
            hangup: signal(SignalKind::hangup())?,
            child: signal(SignalKind::child())?,
        })
    }

    async fn next(&mut self) -> Asked {
        tokio::select! {
            _ = self.terminate.recv() => Asked::Stop(128 + libc::SIGTERM),
            _ = self.interrupt.recv() => Asked::Stop(128 + libc::SIGINT),
            _ = self.hangup.recv() => Asked::Reload,
            _ = self.child.recv() => Asked::Reap,
        }
    }
}
