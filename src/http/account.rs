//! What is known of a request when it is over: counted and written down once, however it ends.

use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::{Duration, Instant};

use http::{HeaderValue, Method, Uri, Version, header};

use crate::metrics::histogram::INNER_BOUNDS;
use crate::metrics::scoreboard::Labels;

use super::access_log::Entry;
use super::connection::Connection;
use super::request_id::RequestId;
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
    pub fn open<B>(
        shared: &'static Shared,
        connection: Arc<Connection>,
        request: &http::Request<B>,
        id: RequestId,
    ) -> Self {
        shared.slot.begin_request();
        let started = Instant::now();
        let place = shared.tracer.as_ref().map(|tracer| Place::new(tracer, request.headers(), started));
        let is_told = shared.access_log.is_some() || place.as_ref().is_some_and(Place::is_sampled);
        let told = |name| if is_told { request.headers().get(name).cloned() } else { None };
        Account {
            started,
            method: request.method().clone(),
            uri: request.uri().clone(),
            version: request.version(),
            referer: told(header::REFERER),
            user_agent: told(header::USER_AGENT),
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
        self.place.as_ref().filter(|place| place.is_sampled()).map(|place| u128::from_be_bytes(place.trace.to_bytes()))
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
                site: &self.shared.site,
                peer: self.connection.peer.map(|_| self.connection.remote.address.as_str()),
                method: &self.method,
                target: self.uri.path_and_query().map_or("*", |target| target.as_str()),
                version: self.version,
                status: self.status,
                bytes: self.sent,
                duration,
                queued: self.queued,
                id: self.id.as_str(),
                trace: self.place.as_ref().map(|place| place.trace),
                referer: self.referer.as_ref(),
                user_agent: self.user_agent.as_ref(),
            });
        }
    }
}
