//! What guard and service know together about one client connection.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::sync::{Mutex, OnceLock, PoisonError};

use crate::control::Bound;

use super::head::Rejection;

/// One end of a connection, in text; empty where there is none.
#[derive(Default)]
pub struct Endpoint {
    pub address: String,
    pub port: String,
}

impl From<SocketAddr> for Endpoint {
    fn from(address: SocketAddr) -> Self {
        Endpoint { address: address.ip().to_canonical().to_string(), port: address.port().to_string() }
    }
}

/// A client connection.
pub struct Connection {
    /// `None`: a unix socket.
    pub peer: Option<SocketAddr>,
    /// The address and port that the client connected to, and its own, as CGI has them (RFC 3875 section 4.1).
    pub server: Endpoint,
    pub remote: Endpoint,
    /// Whether `ATRIO_TRUSTED_PROXIES` holds the peer.
    pub trusted: bool,
    /// Past `ATRIO_MAX_CONNECTIONS`: its first request is refused.
    pub surplus: bool,
    requests: AtomicU64,
    cut: AtomicBool,
    refused: OnceLock<(u64, Rejection)>,
    /// There is one in `unflushed`.
    holds_account: AtomicBool,
    unflushed: Mutex<Unflushed>,
}

/// What ends with a response that hyper has made and the kernel has not taken yet: its account.
#[derive(Default)]
struct Unflushed {
    account: Option<Box<dyn Send>>,
    /// Nothing will be flushed any more.
    over: bool,
}

impl Connection {
    pub fn new(peer: Option<SocketAddr>, local: &Bound, trusted: bool, surplus: bool) -> Self {
        let server = match local {
            Bound::Tcp(address) => Endpoint::from(*address),
            Bound::Unix(_) => Endpoint { address: "localhost".into(), port: "80".into() },
        };
        let remote = peer.map(Endpoint::from).unwrap_or_default();
        Connection {
            peer,
            server,
            remote,
            trusted,
            surplus,
            requests: AtomicU64::new(0),
            cut: AtomicBool::new(false),
            refused: OnceLock::new(),
            holds_account: AtomicBool::new(false),
            unflushed: Mutex::default(),
        }
    }

    /// The guard found the stream wrong after the heads of `heads` whole requests.
    pub fn refuse(&self, heads: u64, rejection: Rejection) {
        let _ = self.refused.set((heads, rejection));
    }

    /// Counts a request that hyper has parsed, and says whether it only stands for a head that was refused: hyper answers
    /// pipelined requests in order, so the refusal has to go through it.
    pub fn next_request(&self) -> Option<Rejection> {
        let ordinal = self.requests.fetch_add(1, Relaxed);
        self.refused.get().filter(|(heads, _)| *heads == ordinal).map(|(_, rejection)| *rejection)
    }

    /// The site's response broke off: once what it has sent is out, the guard ends the connection without ending the message.
    pub fn cut(&self) {
        self.cut.store(true, Relaxed);
    }

    pub fn is_cut(&self) -> bool {
        self.cut.load(Relaxed)
    }

    /// Drops an account as soon as all that has been written is with the kernel, or never will be.
    pub fn keep_until_flushed(&self, account: impl Send + 'static) {
        let mut unflushed = self.unflushed.lock().unwrap_or_else(PoisonError::into_inner);
        let before: Option<Box<dyn Send>> = if unflushed.over {
            Some(Box::new(account))
        } else {
            self.holds_account.store(true, Relaxed);
            unflushed.account.replace(Box::new(account))
        };
        drop(unflushed);
        drop(before);
    }

    /// All that has been written is with the kernel; `over`: or has come to nothing, for the connection ends.
    pub fn flushed(&self, over: bool) {
        if over || self.holds_account.load(Relaxed) {
            let mut unflushed = self.unflushed.lock().unwrap_or_else(PoisonError::into_inner);
            self.holds_account.store(false, Relaxed);
            unflushed.over |= over;
            let account = unflushed.account.take();
            drop(unflushed);
            drop(account);
        }
    }

    /// Why the stream stopped being readable, if the guard stopped it.
    pub fn refusal(&self) -> Option<Rejection> {
        self.refused.get().map(|(_, rejection)| *rejection)
    }
}
