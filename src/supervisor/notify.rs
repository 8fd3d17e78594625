//! What the service manager is told (sd_notify(3)). Without `NOTIFY_SOCKET` nothing happens, and nobody is woken for it.

use std::io;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::time::Duration;

use sd_notify::NotifyState;
use tokio::time::Instant;

use crate::exit::{Failure, one_line};

use super::sockets::Listener;

const SOCKET: &str = "NOTIFY_SOCKET";
/// How long a service manager may be too busy to hear what matters.
const BUSY: Duration = Duration::from_secs(1);
/// How long a start or reload may take from now on, each time that this is said.
const EXTENSION: Duration = Duration::from_secs(30);
/// How often it is said while the site is imported. What is quicker asks for nothing.
const PULSE: Duration = Duration::from_secs(5);
/// An import that takes longer than this is left to the service manager's own patience.
const IMPORT: Duration = Duration::from_secs(10 * 60);
/// Between two states of no consequence, as the number of workers.
const PAUSE: Duration = Duration::from_secs(2);
/// How soon a site that was not alive is looked at again.
const RETRY: Duration = Duration::from_secs(1);

pub struct Manager {
    /// Somebody listens.
    present: bool,
    /// Between two signs of life: half of what the watchdog waits for.
    ping: Option<Duration>,
    next_ping: Instant,
    alive: bool,
    /// A start or reload is under way: when to ask for patience, and until when.
    import: Option<(Instant, Instant)>,
    said: String,
    /// When the next state may be told.
    pause: Instant,
    /// There is one that waits for that.
    held: bool,
}

impl Manager {
    pub fn new() -> Self {
        let now = Instant::now();
        let present = std::env::var_os(SOCKET).is_some_and(|path| !path.is_empty());
        let watchdog = sd_notify::watchdog_enabled().filter(|watchdog| present && !watchdog.is_zero());
        Manager {
            present,
            ping: watchdog.map(|watchdog| watchdog / 2),
            next_ping: now,
            alive: true,
            import: present.then_some((now + PULSE, now + IMPORT)),
            said: String::new(),
            pause: now,
            held: false,
        }
    }

    /// Its watchdog wakes the supervisor now and then, so that states which tell of no event are kept current, too.
    pub fn has_watchdog(&self) -> bool {
        self.ping.is_some()
    }

    /// The site serves. The addresses come along, for whoever asked for port 0. A service manager that started another process, as a
    /// script that runs Atrio without `exec`, learns that this one is to be signalled.
    pub fn ready(&mut self, listeners: &[Listener], admin: &[Listener], status: String) {
        let all = |listeners: &[Listener]| listeners.iter().map(|l| l.bound.to_string()).collect::<Vec<_>>().join(",");
        let listen = format!("X_ATRIO_LISTEN={}", all(listeners));
        let admin = format!("X_ATRIO_ADMIN_LISTEN={}", all(admin));
        let pid = std::process::id();
        let main = std::env::var("SYSTEMD_EXEC_PID").is_ok_and(|started| started != pid.to_string());
        let mut states = vec![NotifyState::Custom(&listen), NotifyState::Custom(&admin)];
        states.extend(main.then_some(NotifyState::MainPid(pid)));
        states.push(NotifyState::Ready);
        self.import = None;
        self.tell(&states, status);
    }

    /// The site's packages are being installed, and the start or reload waits for that.
    pub fn installing(&mut self, status: String) {
        if self.present {
            self.note(one_line(&status));
            hint(&[NotifyState::Status(&self.said), NotifyState::ExtendTimeoutUsec(EXTENSION.as_micros() as u32)]);
        }
    }

    /// A reload begins; [`Manager::ready`] or [`Manager::still_ready`] ends it.
    pub fn reloading(&mut self, status: String) {
        let now = Instant::now();
        self.import = self.present.then_some((now + PULSE, now + IMPORT));
        let mut states = vec![NotifyState::Reloading];
        states.extend(NotifyState::monotonic_usec_now());
        self.tell(&states, status);
    }

    /// The reload came to nothing, and the site serves as before.
    pub fn still_ready(&mut self, status: String) {
        self.import = None;
        self.tell(&[NotifyState::Ready], status);
    }

    /// The end has begun, and comes within `allowance`.
    pub fn stopping(&mut self, status: String, allowance: Duration) {
        self.import = None;
        let extension = format!("EXTEND_TIMEOUT_USEC={}", allowance.as_micros());
        self.tell(&[NotifyState::Stopping, NotifyState::Custom(&extension)], status);
    }

    pub fn failed(&mut self, failure: &Failure) {
        self.tell(&[], failure.message.clone());
    }

    /// Tells a state of no consequence, if it is new: soon.
    pub fn state(&mut self, status: impl FnOnce() -> String) {
        if !self.present {
            return;
        }
        let status = one_line(&status());
        self.held = status != self.said;
        if self.held && self.pause <= Instant::now() {
            self.note(status);
            hint(&[NotifyState::Status(&self.said)]);
        }
    }

    /// Until [`Manager::turn`] is due, which may be never.
    pub async fn due(&self) {
        let ping = self.ping.map(|_| self.next_ping);
        let import = self.import.map(|(at, _)| at);
        match ping.into_iter().chain(import).chain(self.held.then_some(self.pause)).min() {
            Some(at) => tokio::time::sleep_until(at).await,
            None => std::future::pending().await,
        }
    }

    /// Gives a sign of life, and asks for patience, if that is due. A supervisor that hangs does not come here.
    pub fn turn(&mut self, alive: impl FnOnce() -> bool) {
        let now = Instant::now();
        if let Some((at, until)) = self.import
            && at <= now
        {
            self.import = (now < until).then_some((now + PULSE, until));
            hint(&[NotifyState::ExtendTimeoutUsec(EXTENSION.as_micros() as u32)]);
        }
        if let Some(ping) = self.ping
            && self.next_ping <= now
        {
            let alive = alive();
            match (self.alive, alive) {
                (true, false) => tracing::error!("Python makes no progress: the service manager's watchdog is not fed"),
                (false, true) => tracing::info!("Python makes progress again, and the watchdog is fed"),
                _ => {}
            }
            self.alive = alive;
            self.next_ping = now + if alive { ping } else { ping.min(RETRY) };
            if alive {
                hint(&[NotifyState::Watchdog]);
            }
        }
    }

    /// A change, with the state that comes of it.
    fn tell(&mut self, states: &[NotifyState], status: String) {
        if !self.present {
            return;
        }
        self.note(one_line(&status));
        let mut all = vec![NotifyState::Status(&self.said)];
        all.extend_from_slice(states);
        send(&all);
    }

    fn note(&mut self, status: String) {
        self.said = status;
        self.held = false;
        self.pause = Instant::now() + PAUSE;
    }
}

/// What the service manager must not miss. One that does not read keeps the supervisor for [`BUSY`].
fn send(states: &[NotifyState]) {
    if let Err(error) = connect().and_then(|socket| {
        socket.set_write_timeout(Some(BUSY))?;
        write(&socket, states)
    }) {
        tracing::warn!("the service manager cannot be told: {error}");
    }
}

/// What it hears again or may miss: nobody waits for one that is busy.
fn hint(states: &[NotifyState]) {
    let _ = connect().and_then(|socket| {
        socket.set_nonblocking(true)?;
        write(&socket, states)
    });
}

fn connect() -> io::Result<UnixDatagram> {
    let path = std::env::var_os(SOCKET).unwrap_or_default();
    let address = match path.as_bytes().strip_prefix(b"@") {
        Some(name) => SocketAddr::from_abstract_name(name)?,
        None => SocketAddr::from_pathname(&path)?,
    };
    let socket = UnixDatagram::unbound()?;
    socket.connect_addr(&address)?;
    Ok(socket)
}

fn write(socket: &UnixDatagram, states: &[NotifyState]) -> io::Result<()> {
    let lines: String = states.iter().map(|state| format!("{state}\n")).collect();
    socket.send(lines.as_bytes()).map(|_| ())
}
