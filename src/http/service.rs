//! From a parsed request to a response: checks, body, queue, answer.

use std::convert::Infallible;
use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Instant;

use http::header::{self, HeaderName, HeaderValue};
use http::{Request, Response, StatusCode, Version};
use hyper::body::{Body as _, Incoming};
use tokio::sync::{Notify, oneshot, watch};

use crate::metrics::{Reject, Slot};

use super::access_log::AccessLog;
use super::account::Account;
use super::body::Body;
use super::connection::Connection;
use super::head::Rejection;
use super::job::{Job, Reply, RequestBody};
use super::queue::Queue;
use super::reply::{Answer, Completions, Content};
use super::spool::{OnDemand, OnDemandLimit, SpoolError, Spooled, spool};
use super::target::Target;

pub const X_REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
/// A request id longer than this is not taken over from a proxy.
const MAX_REQUEST_ID: usize = 128;

/// What all connections of a worker share.
pub struct Shared {
    pub site: String,
    pub slot: &'static Slot,
    pub queue: Queue,
    pub completions: Arc<Completions>,
    pub access_log: Option<AccessLog>,
    /// `ATRIO_MAX_BODY`, in bytes.
    pub max_body: u64,
    /// Bodies that the site asks for itself (`Expect: 100-continue`); past the limit they are read like all others.
    pub on_demand: OnDemandLimit,
    pub max_on_demand: usize,
    pub drain: watch::Receiver<bool>,
    /// Wakes the task that calls [`Queue::tick`].
    pub busy: Notify,
}

/// Answers one request. Never fails: what goes wrong is an answer too.
pub async fn serve(
    shared: Arc<Shared>,
    connection: Arc<Connection>,
    request: Request<Incoming>,
) -> Result<Response<Body>, Infallible> {
    let id = request_id(&connection, request.headers().get(X_REQUEST_ID));
    let mut account = Account::open(shared.clone(), connection.clone(), &request, id);
    let http10 = request.version() == Version::HTTP_10;
    let outcome = match connection.next_request() {
        Some(rejection) => Err(Refusal::from(rejection)),
        None if connection.surplus => Err(Refusal::unavailable(Reject::Connections, "too many connections")),
        None => ask(&shared, connection, request, account.id.clone(), account.started).await,
    };
    let (mut head, content, close) = match outcome {
        Ok(answer) => {
            account.queued = answer.queued;
            // Without a length, only the end of the connection tells an HTTP/1.0 client that a stream is over.
            let ends_by_close = http10
                && matches!(answer.content, Content::Stream(_))
                && !answer.head.headers.contains_key(header::CONTENT_LENGTH);
            (answer.head, answer.content, answer.close || ends_by_close)
        }
        Err(refusal) => refusal.answer(&shared),
    };
    account.status = head.status.as_u16();
    if close || *shared.drain.borrow() {
        head.headers.insert(header::CONNECTION, HeaderValue::from_static("close"));
        if http10 {
            // hyper would promise an HTTP/1.0 client to keep the connection, unless the answer is HTTP/1.0 itself.
            head.version = Version::HTTP_10;
        }
    }
    if !head.headers.contains_key(X_REQUEST_ID)
        && let Ok(id) = HeaderValue::from_str(&account.id)
    {
        head.headers.insert(X_REQUEST_ID, id);
    }
    Ok(Response::from_parts(head, Body::new(content, account)))
}

async fn ask(
    shared: &Arc<Shared>,
    connection: Arc<Connection>,
    request: Request<Incoming>,
    id: Arc<str>,
    mut arrived: Instant,
) -> Result<Answer, Refusal> {
    let (parts, incoming) = request.into_parts();
    let target = Target::new(&parts.uri)?;
    if incoming.size_hint().lower() > shared.max_body {
        return Err(SpoolError::TooLarge.into());
    }
    let (sender, receiver) = oneshot::channel();
    let expects = parts.headers.get(header::EXPECT).is_some_and(|v| v.as_bytes().eq_ignore_ascii_case(b"100-continue"));
    let place = if expects && !incoming.is_end_stream() { shared.on_demand.take(shared.max_on_demand) } else { None };
    if let Some(place) = place {
        let reply = Reply::new(sender, shared.completions.clone(), arrived);
        let (body, whole) = OnDemand::new(incoming, shared.max_body, place);
        enqueue(shared, Job { parts, target, body: RequestBody::OnDemand(body), connection, id, reply })?;
        let answer = receiver.await.map_err(|_| Refusal::lost())?.map_err(Refusal::from);
        // What comes next on the connection could be the body that was not asked for, or a request.
        return answer.map(|answer| Answer { close: answer.close || !whole.load(Relaxed), ..answer });
    }
    let body = if incoming.is_end_stream() {
        Spooled::Memory(bytes::Bytes::new())
    } else {
        let body = spool(incoming, shared.max_body).await.map_err(|error| match (connection.refusal(), error) {
            (Some(rejection), SpoolError::Client(_)) => Refusal::of_body(rejection),
            (_, error) => Refusal::from(error),
        })?;
        // The wait for the body was the client's doing: the queue's clock starts here.
        arrived = Instant::now();
        body
    };
    shared.slot.request_body_bytes.fetch_add(body.len(), Relaxed);
    let reply = Reply::new(sender, shared.completions.clone(), arrived);
    enqueue(shared, Job { parts, target, body: RequestBody::Whole(body), connection, id, reply })?;
    receiver.await.map_err(|_| Refusal::lost())?.map_err(Refusal::from)
}

fn enqueue(shared: &Shared, job: Job) -> Result<(), Refusal> {
    shared.queue.push(Box::new(job)).map_err(|_| Refusal::from(Reject::QueueFull))?;
    shared.busy.notify_one();
    Ok(())
}

/// The proxy's request id when it may be believed, else a new one.
fn request_id(connection: &Connection, given: Option<&HeaderValue>) -> Arc<str> {
    let given = given.filter(|_| connection.trusted).and_then(|id| id.to_str().ok());
    let plain = |id: &str| id.bytes().all(|b| b.is_ascii_graphic() && b != b'"' && b != b'\\');
    match given.filter(|id| !id.is_empty() && id.len() <= MAX_REQUEST_ID && plain(id)) {
        Some(id) => id.into(),
        None => {
            let mut text = [0; 32];
            let mut bits = fastrand::u128(..);
            for digit in &mut text {
                *digit = b"0123456789abcdef"[(bits & 15) as usize];
                bits >>= 4;
            }
            String::from_utf8_lossy(&text).into()
        }
    }
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
            headers.insert(header::RETRY_AFTER, shared.queue.retry_after().into());
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
