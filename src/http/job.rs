//! A request on its way to an app thread, and the means to answer it.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::HeaderMap;
use http::request::Parts;
use http::response;
use tokio::sync::oneshot;

use crate::metrics::Reject;

use super::connection::Connection;
use super::reply::{Answer, Completions, Content, Outcome};
use super::spool::{OnDemand, Spooled};
use super::stream::{self, Sender};
use super::target::Target;

/// The body of a request, as the site will read it.
#[derive(Debug)]
pub enum RequestBody {
    Whole(Spooled),
    OnDemand(OnDemand),
}

/// A request that waits for, or has, an app thread.
pub struct Job {
    pub parts: Parts,
    pub target: Target,
    pub body: RequestBody,
    pub connection: Arc<Connection>,
    /// `X-Request-ID`: the trusted proxy's, or made here.
    pub id: Arc<str>,
    pub reply: Reply,
}

/// The right, and the duty, to answer one request. Dropped unused, it makes the service answer 500.
pub struct Reply {
    sender: oneshot::Sender<Outcome>,
    completions: Arc<Completions>,
    enqueued: Instant,
    queued: Duration,
    /// Whether the signal may wait for the thread's next [`Completions::signal`].
    pub deferred: bool,
}

impl Reply {
    /// `arrived`: when the queue's clock starts.
    pub fn new(sender: oneshot::Sender<Outcome>, completions: Arc<Completions>, arrived: Instant) -> Self {
        Reply { sender, completions, enqueued: arrived, queued: Duration::ZERO, deferred: false }
    }

    /// Notes that an app thread has taken the request; how long that took.
    pub fn taken(&mut self, now: Instant) -> Duration {
        self.queued = now.saturating_duration_since(self.enqueued);
        self.queued
    }

    pub fn enqueued(&self) -> Instant {
        self.enqueued
    }

    /// Nobody waits for the answer any more: the connection broke. A client that only ended its side may still read.
    pub fn is_abandoned(&self) -> bool {
        self.sender.is_closed()
    }

    /// Answers with all there is.
    pub fn whole(self, head: response::Parts, body: Bytes) {
        let deferred = self.deferred;
        let content = if body.is_empty() { Content::Empty } else { Content::Whole(body) };
        self.give(head, content, deferred);
    }

    /// Answers with blocks that are all there already.
    pub fn blocks(self, head: response::Parts, blocks: VecDeque<Bytes>) {
        let deferred = self.deferred;
        self.give(head, Content::Blocks(blocks), deferred);
    }

    /// Answers with a head, and a body to come.
    pub fn stream(self, head: response::Parts) -> Sender {
        let (sender, receiver) = stream::channel();
        self.give(head, Content::Stream(receiver), false);
        sender
    }

    /// Says that no app thread will run the request.
    pub fn refuse(self, reason: Reject) {
        self.completions.push(self.sender, Err(reason));
        self.completions.signal();
    }

    fn give(self, head: response::Parts, content: Content, deferred: bool) {
        let waiting =
            self.completions.push(self.sender, Ok(Answer { head, content, close: false, queued: self.queued }));
        if !deferred || waiting.count >= MAX_DEFERRED || waiting.bytes >= MAX_DEFERRED_BYTES {
            self.completions.signal();
        }
        if waiting.bytes >= MAX_DEFERRED_BYTES {
            // What is written while it is in the processor's caches costs half.
            std::thread::yield_now();
        }
    }
}

/// Answers that may wait for one common wake-up, and bytes of their bodies.
const MAX_DEFERRED_BYTES: usize = 256 * 1024;
const MAX_DEFERRED: usize = 64;

/// An empty head with a status, to be filled.
pub fn head(status: http::StatusCode, headers: HeaderMap) -> response::Parts {
    let (mut parts, ()) = http::Response::new(()).into_parts();
    parts.status = status;
    parts.headers = headers;
    parts
}
