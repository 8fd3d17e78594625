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

/// The status that is recorded when the client has left before the answer (nginx's convention; never sent).
const CLIENT_CLOSED_REQUEST: u16 = 499;

/// Records its request when it is dropped: when the last byte of the response is with the kernel, or the connection is gone. Of a
/// [small](super::reply::SMALL) response that moment is when hyper has it.
pub struct Account {
    pub shared: &'static Shared,
    pub connection: Arc<Connection>,
    /// When the request's head had arrived.
    pub started: Instant,
    method: Method,
    uri: Uri,
    pub version: Version,
    referer: Option<HeaderValue>,
    user_agent: Option<HeaderValue>,
    pub id: RequestId,
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
        let logged = |name| shared.access_log.as_ref().and_then(|_| request.headers().get(name).cloned());
        Account {
            started: Instant::now(),
            method: request.method().clone(),
            uri: request.uri().clone(),
            version: request.version(),
            referer: logged(header::REFERER),
            user_agent: logged(header::USER_AGENT),
            id,
            status: CLIENT_CLOSED_REQUEST,
            queued: Duration::ZERO,
            answered: None,
            sent: 0,
            shared,
            connection,
        }
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
        slot.count_request(labels, duration);
        if let Some(log) = self.shared.access_log.as_ref().filter(|log| log.wants(duration)) {
            log.log(&Entry {
                site: &self.shared.site,
                peer: self.connection.peer.map(|peer| peer.ip().to_canonical()),
                method: &self.method,
                target: self.uri.path_and_query().map_or("*", |target| target.as_str()),
                version: self.version,
                status: self.status,
                bytes: self.sent,
                duration,
                queued: self.queued,
                id: self.id.as_str(),
                referer: self.referer.as_ref(),
                user_agent: self.user_agent.as_ref(),
            });
        }
    }
}
