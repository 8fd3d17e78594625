//! What is known of a request when it is over: counted and written down once, however it ends.

use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::{Duration, Instant};

use http::{HeaderValue, Method, Uri, Version, header};

use crate::metrics::histogram::INNER_BOUNDS;
use crate::metrics::scoreboard::Labels;

use super::access_line::Entry;
use super::connection::Connection;
use super::request_id::{RequestId, X_REQUEST_ID};
use super::service::Shared;
use super::trace::Place;

/// The status that is recorded when the client has left before the answer (nginx's convention; never sent).
pub const CLIENT_CLOSED_REQUEST: u16 = 499;

/// Records its request when it is dropped: when the last byte of the response is with the kernel, or the connection is gone. Of a
/// [small](super::reply::SMALL) response that moment is when hyper has it.
pub struct Account {
    pub shared: &'static Shared,
    pub connection: Arc<Connection>,
    /// When the request's head had arrived.
    pub started: Instant,
    pub method: Method,
    pub uri: Uri,
    pub version: Version,
    referer: Option<HeaderValue>,
    pub user_agent: Option<HeaderValue>,
    pub id: RequestId,
    /// `None`: there are no traces.
    pub place: Option<Place>,
    pub status: u16,
    pub queued: Duration,
    /// When there was an answer, unless it is small and whole, and so leaves at once.
    pub answered: Option<Instant>,
    pub sent: u64,
}

impl Account {
    pub fn open<B>(shared: &'static Shared, connection: Arc<Connection>, request: &http::Request<B>) -> Self {
        shared.slot.begin_request();
        let started = Instant::now();
        let place = shared.tracer.as_ref().map(|tracer| Place::new(tracer, request.headers(), started));
        let given = if connection.trusted { request.headers().get(X_REQUEST_ID) } else { None };
        let id = given.and_then(RequestId::take_over).unwrap_or_else(|| {
            // A trace that begins with a request is called as the request is.
            let begun = place.as_ref().filter(|place| !place.has_parent);
            RequestId::new(begun.map_or_else(|| fastrand::u128(..), Place::number))
        });
        let is_told = shared.access_log.is_some() || place.as_ref().is_some_and(Place::is_sampled);
        let (mut referer, mut user_agent) = (None, None);
        for (name, value) in request.headers().iter().filter(|_| is_told) {
            match *name {
                header::REFERER => referer = Some(value.clone()),
                header::USER_AGENT => user_agent = Some(value.clone()),
                _ => {}
            }
        }
        Account {
            started,
            method: request.method().clone(),
            uri: request.uri().clone(),
            version: request.version(),
            referer,
            user_agent,
            id,
            place,
            status: CLIENT_CLOSED_REQUEST,
            queued: Duration::ZERO,
            answered: None,
            sent: 0,
            shared,
            connection,
        }
    }

    /// Its spans are recorded.
    pub fn is_sampled(&self) -> bool {
        self.place.as_ref().is_some_and(Place::is_sampled)
    }

    fn recorded_trace(&self) -> Option<u128> {
        self.place.as_ref().filter(|place| place.is_sampled()).map(Place::number)
    }
}

impl Drop for Account {
    fn drop(&mut self) {
        let slot = self.shared.slot;
        let now = Instant::now();
        let duration = now.duration_since(self.started);
        if self.status != CLIENT_CLOSED_REQUEST {
            slot.write.observe(&INNER_BOUNDS, self.answered.map_or(Duration::ZERO, |at| now.duration_since(at)));
        }
        slot.response_body_bytes.fetch_add(self.sent, Relaxed);
        let labels = Labels::new(self.method.as_str(), self.status, self.version == Version::HTTP_10);
        slot.count_request(labels, duration, self.recorded_trace());
        if let (Some(tracer), Some(place)) = (&self.shared.tracer, &self.place) {
            place.record_request(tracer, self, now);
        }
        if let Some(log) = self.shared.access_log.as_ref().filter(|log| log.wants(duration)) {
            log.log(&Entry {
                peer: self.connection.peer.map(|_| self.connection.remote.address.as_str()),
                method: &self.method,
                target: self.uri.path_and_query().map_or("*", |target| target.as_str()),
                version: self.version,
                status: self.status,
                bytes: self.sent,
                ended: now,
                duration,
                queued: self.queued,
                id: self.id.as_bytes(),
                trace: self.place.as_ref().map(|place| place.trace),
                referer: self.referer.as_ref(),
                user_agent: self.user_agent.as_ref(),
            });
        }
    }
}
