//! What the service manager is told (sd_notify(3)). Without `NOTIFY_SOCKET` nothing happens.

use std::time::Duration;

use sd_notify::NotifyState;

use super::sockets::Listener;

/// How long an installation may be silent; the zygote speaks every few seconds.
const PATIENCE: Duration = Duration::from_secs(60);

/// The site serves. The addresses come along, for whoever asked for port 0.
pub fn ready(listeners: &[Listener], admin: &[Listener], status: &str) {
    let all = |listeners: &[Listener]| listeners.iter().map(|l| l.bound.to_string()).collect::<Vec<_>>().join(",");
    let listen = format!("X_ATRIO_LISTEN={}", all(listeners));
    let admin = format!("X_ATRIO_ADMIN_LISTEN={}", all(admin));
    send(&[NotifyState::Custom(&listen), NotifyState::Custom(&admin), NotifyState::Status(status), NotifyState::Ready]);
}

/// The start or reload goes on, and may take as long as [`PATIENCE`] until this is said again.
pub fn installing(status: &str) {
    send(&[NotifyState::Status(status), NotifyState::ExtendTimeoutUsec(PATIENCE.as_micros() as u32)]);
}

/// A reload begins; [`ready`] or [`still_ready`] ends it.
pub fn reloading() {
    match NotifyState::monotonic_usec_now() {
        Ok(now) => send(&[NotifyState::Reloading, now]),
        Err(_) => send(&[NotifyState::Reloading]),
    }
}

/// The reload came to nothing, and the site serves as before.
pub fn still_ready(status: &str) {
    send(&[NotifyState::Status(status), NotifyState::Ready]);
}

pub fn stopping() {
    send(&[NotifyState::Stopping, NotifyState::Status("draining")]);
}

fn send(state: &[NotifyState]) {
    if let Err(error) = sd_notify::notify(state) {
        tracing::warn!("the service manager cannot be told: {error}");
    }
}
