//! A request on its way to an app thread, and the means to answer it.

use std::collections::VecDeque;
use std::fs::File;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::HeaderMap;
use http::request::Parts;
use http::response;
use tokio::sync::oneshot;

use crate::metrics::{Activity, Reject};

use super::chunks::Chunks;
use super::connection::Connection;
use super::engine::Engine;
use super::file::Part;
use super::on_demand::OnDemand;
use super::reply::{Answer, Content, Outcome};
use super::request_id::RequestId;
use super::stream::{self, Sender};
use super::target::Target;
use super::trace::Place;
use super::upload::Upload;

/// The body of a request, as the site will read it.
pub enum RequestBody {
    /// Whole.
    Memory(Chunks),
    /// Whole, from the file's start; its length in bytes.
    File(File, u64),
    /// Still on its way.
    Upload(Upload),
    /// Not asked for yet.
    OnDemand(OnDemand),
}

impl RequestBody {
    /// In bytes, if that is known yet.
    pub fn len(&self) -> Option<u64> {
        match self {
            RequestBody::Memory(chunks) => Some(chunks.len() as u64),
            RequestBody::File(_, len) => Some(*len),
            RequestBody::Upload(upload) => Some(upload.len()),
            RequestBody::OnDemand(_) => None,
        }
    }
}

/// A request that waits for, or has, an app thread.
pub struct Job {
    pub parts: Parts,
    pub target: Target,
    pub body: RequestBody,
    pub connection: Arc<Connection>,
    /// `X-Request-ID`: the trusted proxy's, or made here.
    pub id: RequestId,
    /// `None`: there are no traces.
    pub place: Option<Place>,
    pub reply: Reply,
}

/// The right, and the duty, to answer one request. Dropped unused, it makes the service answer 500.
pub struct Reply {
    sender: oneshot::Sender<Outcome>,
    engine: &'static Engine,
    enqueued: Instant,
    queued: Duration,
    /// That of the app thread which has the request.
    activity: Option<&'static Activity>,
    /// Whether a whole answer may be delivered later, together with others.
    pub deferred: bool,
}

impl Reply {
    /// `arrived`: when the queue's clock starts.
    pub fn new(sender: oneshot::Sender<Outcome>, engine: &'static Engine, arrived: Instant) -> Self {
        Reply { sender, engine, enqueued: arrived, queued: Duration::ZERO, activity: None, deferred: false }
    }

    /// Notes that an app thread has taken the request; how long that took.
    pub fn taken(&mut self, now: Instant, by: &'static Activity) -> Duration {
        self.activity = Some(by);
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
        self.give(head, if body.is_empty() { Content::Empty } else { Content::Whole(body) });
    }

    /// Answers with blocks that are all there already.
    pub fn blocks(self, head: response::Parts, blocks: VecDeque<Bytes>) {
        self.give(head, Content::Blocks(blocks));
    }

    /// Answers with a part of a file.
    pub fn file(self, head: response::Parts, part: Part) {
        self.give(head, Content::File(part));
    }

    /// Answers with a head, and a body to come. From now on somebody else drives: what the site yields is sent while it makes more.
    pub fn stream(mut self, head: response::Parts) -> Sender {
        let (sender, receiver) = stream::channel();
        self.engine.step_aside();
        if let Some(activity) = self.activity {
            activity.send();
        }
        self.deferred = false;
        self.give(head, Content::Stream(receiver));
        sender
    }

    /// Says that no app thread will run the request.
    pub fn refuse(self, reason: Reject) {
        self.engine.completions.give(self.sender, Err(reason), false);
    }

    fn give(self, head: response::Parts, content: Content) {
        let answer = Answer { head, content, close: false, queued: self.queued };
        self.engine.completions.give(self.sender, Ok(answer), self.deferred);
    }
}

/// An empty head with a status, to be filled.
pub fn head(status: http::StatusCode, headers: HeaderMap) -> response::Parts {
    let (mut parts, ()) = http::Response::new(()).into_parts();
    parts.status = status;
    parts.headers = headers;
    parts
}
