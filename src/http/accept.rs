//! Takes connections from the shared listening sockets and serves each on a task of its own.

use std::io;
use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use ipnet::IpNet;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream, UnixListener, UnixStream};
use tokio::sync::{mpsc, watch};

use crate::control::Bound;
use crate::metrics::Slot;

use super::connection::Connection;
use super::guard::{Guard, Timeouts};
use super::service::{self, Shared};

/// How many connections past the limit are told so; more wait in the kernel's queue.
const SURPLUS: i64 = 64;
/// How long to wait after the kernel refused to give a connection: it has no descriptors or memory to give.
const EXHAUSTED: Duration = Duration::from_millis(100);
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
    /// Each connection holds a clone until it ends.
    pub alive: mpsc::Sender<()>,
}

/// A listening socket of either family.
pub enum Listener {
    /// With its address, unless it stands for several.
    Tcp(TcpListener, Option<Bound>),
    Unix(UnixListener, Bound),
}

impl Listener {
    /// Takes over an inherited listening socket. Must be called on the runtime that will use it.
    pub fn new(fd: OwnedFd, bound: &Bound) -> io::Result<Self> {
        Ok(match bound {
            Bound::Tcp(address) => {
                let listener = std::net::TcpListener::from(fd);
                listener.set_nonblocking(true)?;
                // Connections inherit it. Nagle's algorithm would hold back the blocks of a stream.
                socket2::SockRef::from(&listener).set_tcp_nodelay(true)?;
                let bound = (!address.ip().is_unspecified()).then(|| bound.clone());
                Listener::Tcp(TcpListener::from_std(listener)?, bound)
            }
            Bound::Unix(_) => {
                let listener = std::os::unix::net::UnixListener::from(fd);
                listener.set_nonblocking(true)?;
                Listener::Unix(UnixListener::from_std(listener)?, bound.clone())
            }
        })
    }

    /// The next connection.
    pub async fn accept(&self) -> io::Result<Accepted> {
        match self {
            Listener::Tcp(listener, bound) => {
                listener.accept().await.map(|(s, peer)| Accepted::Tcp(s, peer, bound.clone()))
            }
            Listener::Unix(listener, bound) => listener.accept().await.map(|(s, _)| Accepted::Unix(s, bound.clone())),
        }
    }

    /// Accepts until `drain`; with `backlog`, also what waits at that moment.
    pub async fn run(self, serving: Serving, mut drain: watch::Receiver<bool>, backlog: watch::Receiver<bool>) {
        let slot = serving.shared.slot;
        let room = |slot: &Slot| slot.connections.load(Relaxed) < serving.max_connections as i64 + SURPLUS;
        loop {
            while !room(slot) && !*drain.borrow() {
                tokio::time::sleep(EXHAUSTED).await;
            }
            tokio::select! {
                biased;
                () = drained(&mut drain) => break,
                accepted = self.accept() => take(accepted, &serving).await,
            }
        }
        let Ok(rest) = self.rest() else { return };
        while *backlog.borrow() && room(slot) {
            match rest.accept() {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                accepted => take(accepted, &serving).await,
            }
        }
    }

    /// The socket without the runtime, which does not know of connections that came since it last looked. With several copies of the
    /// socket, the last one that is closed is the last that was looked at.
    fn rest(self) -> io::Result<Rest> {
        Ok(match self {
            Listener::Tcp(listener, bound) => Rest::Tcp(listener.into_std()?, bound),
            Listener::Unix(listener, bound) => Rest::Unix(listener.into_std()?, bound),
        })
    }
}

/// A listening socket at its end: what waits there is taken, or refused by the kernel.
enum Rest {
    Tcp(std::net::TcpListener, Option<Bound>),
    Unix(std::os::unix::net::UnixListener, Bound),
}

impl Rest {
    /// The next connection, if one waits.
    fn accept(&self) -> io::Result<Accepted> {
        match self {
            Rest::Tcp(listener, bound) => {
                let (stream, peer) = listener.accept()?;
                stream.set_nonblocking(true)?;
                Ok(Accepted::Tcp(TcpStream::from_std(stream)?, peer, bound.clone()))
            }
            Rest::Unix(listener, bound) => {
                let (stream, _) = listener.accept()?;
                stream.set_nonblocking(true)?;
                Ok(Accepted::Unix(UnixStream::from_std(stream)?, bound.clone()))
            }
        }
    }
}

/// A connection, and who made it or where.
pub enum Accepted {
    Tcp(TcpStream, SocketAddr, Option<Bound>),
    Unix(UnixStream, Bound),
}

/// A connection of either family.
pub trait Stream: AsyncRead + AsyncWrite + Unpin + Send {}
impl<S: AsyncRead + AsyncWrite + Unpin + Send> Stream for S {}

impl Accepted {
    pub fn into_stream(self) -> Box<dyn Stream> {
        match self {
            Accepted::Tcp(stream, ..) => Box::new(stream),
            Accepted::Unix(stream, _) => Box::new(stream),
        }
    }
}

async fn drained(drain: &mut watch::Receiver<bool>) {
    let _ = drain.wait_for(|drain| *drain).await.is_ok();
}

async fn take(accepted: io::Result<Accepted>, serving: &Serving) {
    match accepted {
        Ok(Accepted::Tcp(stream, peer, bound)) => {
            let Some(local) = bound.or_else(|| stream.local_addr().ok().map(Bound::Tcp)) else { return };
            start(stream, Some(peer), local, serving);
        }
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
