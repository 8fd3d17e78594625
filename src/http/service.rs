//! From a parsed request to a response: checks, body, queue, answer.

use std::convert::Infallible;
use std::net::IpAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Instant;

use http::header::{self, HeaderValue};
use http::{Request, Response, StatusCode, Version};
use hyper::body::{Body as _, Incoming};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, oneshot, watch};

use crate::metrics::{Reject, Slot};
use crate::telemetry::tracer::Tracer;

use super::access_log::AccessLog;
use super::account::Account;
use super::body::Body;
use super::chunks::Chunks;
use super::connection::Connection;
use super::engine::Engine;
use super::head::Rejection;
use super::job::{Job, Reply, RequestBody};
use super::on_demand::OnDemand;
use super::reply::{Answer, Content, Outcome};
use super::request_id::{RequestId, X_REQUEST_ID};
use super::spool::{SpoolError, receive};
use super::target::Target;
use super::trace::Place;

/// What all connections of a worker share.
pub struct Shared {
    pub site: String,
    pub slot: &'static Slot,
    pub engine: &'static Engine,
    pub access_log: Option<AccessLog>,
    /// `None`: there are no traces.
    pub tracer: Option<Tracer>,
    /// `ATRIO_MAX_BODY`, in bytes.
    pub max_body: u64,
    /// App threads that may wait for what a client sends. Without a place, a body is read before an app thread has it.
    pub places: Arc<Semaphore>,
    pub drain: watch::Receiver<bool>,
}

/// Answers one request. Never fails: what goes wrong is an answer too.
///
/// All that can be done at once is done before the future is made: it is moved several times, and is small so.
pub fn serve(
    shared: &'static Shared,
    connection: Arc<Connection>,
    request: Request<Incoming>,
) -> impl Future<Output = Result<Response<Body>, Infallible>> {
    let account = Account::open(shared, connection.clone(), &request);
    let asking = match connection.next_request() {
        Some(rejection) => Err(Refusal::from(rejection)),
        None if connection.surplus => Err(Refusal::unavailable(Reject::Connections, "too many connections")),
        None => ask(shared, connection, request, &account),
    };
    async move {
        let outcome = match asking {
            Ok(asking) => asking.answer().await,
            Err(refusal) => Err(refusal),
        };
        Ok(respond(account, outcome))
    }
}

fn respond(mut account: Account, outcome: Result<Answer, Refusal>) -> Response<Body> {
    let http10 = account.version == Version::HTTP_10;
    let (mut head, content, close) = match outcome {
        Ok(answer) => {
            account.queued = answer.queued;
            // Without a length, only the end of the connection tells an HTTP/1.0 client that a stream is over.
            let ends_by_close = http10
                && matches!(answer.content, Content::Stream(_))
                && !answer.head.headers.contains_key(header::CONTENT_LENGTH);
            (answer.head, answer.content, answer.close || ends_by_close)
        }
        Err(refusal) => refusal.answer(account.shared),
    };
    account.status = head.status.as_u16();
    account.answered = (!content.is_small() || account.is_sampled()).then(Instant::now);
    if close || has_begun(&account.shared.drain) {
        head.headers.insert(header::CONNECTION, HeaderValue::from_static("close"));
        if http10 {
            // hyper would promise an HTTP/1.0 client to keep the connection, unless the answer is HTTP/1.0 itself.
            head.version = Version::HTTP_10;
        }
    }
    head.headers.entry(X_REQUEST_ID).or_insert_with(|| account.id.as_header().clone());
    Response::from_parts(head, Body::new(content, account))
}

/// Whether a drain has begun. It begins once: to ask whether it has changed takes no lock.
pub fn has_begun(drain: &watch::Receiver<bool>) -> bool {
    drain.has_changed().unwrap_or(true)
}

/// A request without its body.
struct Asked {
    parts: http::request::Parts,
    target: Target,
    connection: Arc<Connection>,
    id: RequestId,
    place: Option<Place>,
}

/// The answer to come. What most requests do not need is boxed: the future of each of them is moved several times.
enum Asking {
    Queued(oneshot::Receiver<Outcome>),
    WithBody(Pin<Box<dyn Future<Output = Result<Answer, Refusal>> + Send>>),
}

impl Asking {
    async fn answer(self) -> Result<Answer, Refusal> {
        match self {
            Asking::Queued(receiver) => answer(receiver).await,
            Asking::WithBody(asking) => asking.await,
        }
    }
}

/// Puts a request on its way.
fn ask(
    shared: &'static Shared,
    connection: Arc<Connection>,
    request: Request<Incoming>,
    account: &Account,
) -> Result<Asking, Refusal> {
    let (id, place, arrived) = (account.id.clone(), account.place.clone(), account.started);
    let (parts, incoming) = request.into_parts();
    let target = Target::new(&parts.uri)?;
    if incoming.size_hint().lower() > shared.max_body {
        return Err(SpoolError::TooLarge.into());
    }
    let asked = Asked { parts, target, connection, id, place };
    if incoming.is_end_stream() {
        let nothing = RequestBody::Memory(Chunks::default());
        return asked.enqueue(shared, nothing, arrived).map(Asking::Queued);
    }
    let expect = asked.parts.headers.get(header::EXPECT);
    let expects = expect.is_some_and(|value| value.as_bytes().eq_ignore_ascii_case(b"100-continue"));
    let place = if expects { shared.places.clone().try_acquire_owned().ok() } else { None };
    Ok(Asking::WithBody(match place {
        Some(place) => Box::pin(async move { asked.on_demand(shared, incoming, place, arrived).await }),
        None => Box::pin(async move { asked.received(shared, incoming, arrived).await }),
    }))
}

impl Asked {
    fn enqueue(
        self,
        shared: &Shared,
        body: RequestBody,
        arrived: Instant,
    ) -> Result<oneshot::Receiver<Outcome>, Refusal> {
        let Asked { parts, target, connection, id, place } = self;
        let (sender, receiver) = oneshot::channel();
        let reply = Reply::new(sender, shared.engine, arrived);
        let job = Box::new(Job { parts, target, body, connection, id, place, reply });
        shared.engine.push(job).map_err(|_| Refusal::from(Reject::QueueFull))?;
        Ok(receiver)
    }

    /// The body, or the first part of a large one, is read before an app thread is taken.
    async fn received(self, shared: &'static Shared, incoming: Incoming, arrived: Instant) -> Result<Answer, Refusal> {
        let connection = self.connection.clone();
        let body = receive(incoming, shared, arrived, None).await;
        let body = body.map_err(|error| match (connection.refusal(), error) {
            (Some(rejection), SpoolError::Client(_)) => Refusal::of_body(rejection),
            (_, error) => Refusal::from(error),
        })?;
        let streamed = matches!(body, RequestBody::Upload(..));
        // The wait for the body was the client's doing: the queue's clock starts here.
        let answer = answer(self.enqueue(shared, body, Instant::now())?).await?;
        match connection.refusal().filter(|_| streamed) {
            // The site came to nothing without the rest of the body.
            Some(rejection) if answer.head.status == StatusCode::INTERNAL_SERVER_ERROR => {
                Err(Refusal::of_body(rejection))
            }
            _ => Ok(answer),
        }
    }

    /// The site asks for the body itself.
    async fn on_demand(
        self,
        shared: &'static Shared,
        incoming: Incoming,
        place: OwnedSemaphorePermit,
        arrived: Instant,
    ) -> Result<Answer, Refusal> {
        let (body, whole) = OnDemand::new(incoming, shared, place);
        let answer = answer(self.enqueue(shared, RequestBody::OnDemand(body), arrived)?).await;
        // What comes next on the connection could be the body that was not asked for, or a request.
        answer.map(|answer| Answer { close: answer.close || !whole.load(Relaxed), ..answer })
    }
}

async fn answer(receiver: oneshot::Receiver<Outcome>) -> Result<Answer, Refusal> {
    receiver.await.map_err(|_| Refusal::lost())?.map_err(Refusal::from)
}

/// An answer that does not come from the site.
struct Refusal {
    status: StatusCode,
    text: String,
    reason: Option<Reject>,
    retry: bool,
    close: bool,
}

impl Refusal {
    fn unavailable(reason: Reject, text: &str) -> Self {
        let status = StatusCode::SERVICE_UNAVAILABLE;
        Refusal { status, text: text.into(), reason: Some(reason), retry: true, close: reason == Reject::Connections }
    }

    /// The app thread went away without an answer.
    fn lost() -> Self {
        let status = StatusCode::INTERNAL_SERVER_ERROR;
        Refusal { status, text: "the request was lost".into(), reason: None, retry: false, close: false }
    }

    /// The guard found the body wrong, or too slow.
    fn of_body(rejection: Rejection) -> Self {
        let refusal = Refusal::from(rejection);
        let slow = rejection.status == StatusCode::REQUEST_TIMEOUT;
        Refusal { reason: if slow { Some(Reject::BodyTimeout) } else { refusal.reason }, ..refusal }
    }

    fn answer(self, shared: &Shared) -> (http::response::Parts, Content, bool) {
        if let Some(reason) = self.reason {
            shared.slot.count_reject(reason);
        }
        let mut headers = http::HeaderMap::new();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
        if self.retry {
            headers.insert(header::RETRY_AFTER, shared.engine.retry_after().into());
        }
        let text = format!("{} {}\n", self.status, self.text);
        (super::job::head(self.status, headers), Content::Whole(text.into()), self.close)
    }
}

impl From<Rejection> for Refusal {
    fn from(rejection: Rejection) -> Self {
        let reason = match rejection.status {
            StatusCode::REQUEST_TIMEOUT => Reject::HeaderTimeout,
            StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE | StatusCode::URI_TOO_LONG => Reject::HeaderTooLarge,
            _ => Reject::BadRequest,
        };
        let text = rejection.reason.into();
        Refusal { status: rejection.status, text, reason: Some(reason), retry: false, close: true }
    }
}

impl From<Reject> for Refusal {
    fn from(reason: Reject) -> Self {
        match reason {
            Reject::QueueTimeout => Refusal::unavailable(reason, "the request waited too long for an app thread"),
            _ => Refusal::unavailable(reason, "too many requests wait already"),
        }
    }
}

impl From<SpoolError> for Refusal {
    fn from(error: SpoolError) -> Self {
        let (status, reason) = match &error {
            SpoolError::TooLarge => (StatusCode::PAYLOAD_TOO_LARGE, Reject::BodyTooLarge),
            SpoolError::Client(_) => (StatusCode::BAD_REQUEST, Reject::BadRequest),
            SpoolError::Disk(_) => {
                tracing::error!("{error}; give TMPDIR a folder with space for request bodies");
                (StatusCode::SERVICE_UNAVAILABLE, Reject::Spool)
            }
        };
        let retry = reason == Reject::Spool;
        let text = if retry { "the request body could not be kept".into() } else { error.to_string() };
        Refusal { status, text, reason: Some(reason), retry, close: true }
    }
}

/// Whether one of the trusted networks holds a peer; a unix socket's peer is local and trusted.
pub fn is_trusted(networks: &[ipnet::IpNet], peer: Option<IpAddr>) -> bool {
    peer.is_none_or(|peer| networks.iter().any(|network| network.contains(&peer.to_canonical())))
}
