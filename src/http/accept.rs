//! Takes connections from the shared listening sockets and serves each on a task of its own.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use ipnet::IpNet;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::{mpsc, watch};

use crate::control::Bound;
use crate::metrics::{Scoreboard, Slot};

use super::connection::Connection;
use super::guard::{Guard, Timeouts};
use super::listener::{Accepted, Listener};
use super::service::{self, Shared};

/// How many connections past the limit are told so; more wait in the kernel's queue.
const SURPLUS: i64 = 64;
/// How long to wait after the kernel refused to give a connection: it has no descriptors or memory to give.
const EXHAUSTED: Duration = Duration::from_millis(100);
/// How many connections more than another a worker may have ...
const LEAD: i64 = 1;
/// ... before it waits so long with the next one for the other to take it: as long as a thread of the other takes to be woken.
const COURTESY: Duration = Duration::from_millis(1);
/// What hyper may buffer of a request beyond its head.
const READ_BUFFER: usize = 64 * 1024;

/// What every connection is served with.
#[derive(Clone)]
pub struct Serving {
    pub shared: &'static Shared,
    pub timeouts: Timeouts,
    pub max_header: usize,
    pub max_connections: usize,
    pub trusted: Arc<[IpNet]>,
    /// All workers, of which this is one.
    pub board: Scoreboard,
    /// Each connection holds a clone until it ends.
    pub alive: mpsc::Sender<()>,
}

impl Serving {
    /// Lets workers with fewer connections go first: connections stay with whom they came to, and the kernel wakes all.
    async fn give_way(&self) {
        let slot = self.shared.slot;
        let fewest = self.board.fewest_connections_beside(slot);
        if fewest.is_some_and(|fewest| slot.connections.load(Relaxed) > fewest + LEAD) {
            tokio::time::sleep(COURTESY).await;
        }
    }
}

/// Accepts from `listener` until `drain`; with `backlog`, also what waits at that moment.
pub async fn run(
    listener: Listener,
    serving: Serving,
    mut drain: watch::Receiver<bool>,
    backlog: watch::Receiver<bool>,
) {
    let slot = serving.shared.slot;
    let room = |slot: &Slot| slot.connections.load(Relaxed) < serving.max_connections as i64 + SURPLUS;
    loop {
        while !room(slot) && !*drain.borrow() {
            tokio::time::sleep(EXHAUSTED).await;
        }
        tokio::select! {
            biased;
            () = drained(&mut drain) => break,
            accepted = listener.accept_after(|()| serving.give_way()) => take(accepted, &serving).await,
        }
    }
    // With several copies of the socket, the last one that is closed is the last that was looked at.
    while *backlog.borrow() && room(slot) {
        match listener.accept_now() {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
            accepted => take(accepted, &serving).await,
        }
    }
}

async fn drained(drain: &mut watch::Receiver<bool>) {
    let _ = drain.wait_for(|drain| *drain).await.is_ok();
}

async fn take(accepted: io::Result<Accepted>, serving: &Serving) {
    match accepted {
        Ok(Accepted::Tcp(stream, peer, local)) => start(stream, Some(peer), local, serving),
        Ok(Accepted::Unix(stream, local)) => start(stream, None, local, serving),
        Err(error) if matches!(error.kind(), io::ErrorKind::ConnectionAborted | io::ErrorKind::ConnectionReset) => {}
        Err(error) => {
            tracing::warn!("cannot accept connections: {error}; is the limit of open files too low (ulimit -n)?");
            tokio::time::sleep(EXHAUSTED).await;
        }
    }
}

fn start<S>(stream: S, peer: Option<SocketAddr>, local: Bound, serving: &Serving)
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let shared = serving.shared;
    let slot = shared.slot;
    slot.connections_accepted.fetch_add(1, Relaxed);
    let surplus = slot.connections.fetch_add(1, Relaxed) >= serving.max_connections as i64;
    let trusted = service::is_trusted(&serving.trusted, peer.map(|peer| peer.ip()));
    let connection = Arc::new(Connection::new(peer, &local, trusted, surplus));
    let guard = Guard::new(stream, connection.clone(), serving.timeouts, serving.max_header, shared.drain.clone());
    let max_header = serving.max_header;
    let alive = serving.alive.clone();
    tokio::spawn(async move {
        let serve = service_fn(move |request| service::serve(shared, connection.clone(), request));
        let mut http = http1::Builder::new();
        // A client may end its side after its request (RFC 9112 section 9.6 closes in halves).
        http.half_close(true).max_buf_size(max_header + READ_BUFFER);
        let _ = http.serve_connection(TokioIo::new(guard), serve).await;
        slot.connections.fetch_sub(1, Relaxed);
        drop(alive);
    });
}
