//! A request's place in a distributed trace (W3C Trace Context), and the spans that tell of it (OpenTelemetry's semantic conventions for HTTP).
//!
//! Spans are made when all is over, from the times that were noted on the way: what is not sampled costs two random numbers.

use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use http::{HeaderMap, HeaderName, HeaderValue, Version, header};
use opentelemetry::trace::{SpanContext, SpanId, SpanKind, Status, TraceFlags, TraceId, TraceState};
use opentelemetry::{KeyValue, Value};
use opentelemetry_sdk::trace::SpanData;

use crate::metrics::scoreboard::METHODS;
use crate::telemetry::tracer::Tracer;

use super::account::{Account, CLIENT_CLOSED_REQUEST};
use super::request_id::write_hex;

const TRACEPARENT: HeaderName = HeaderName::from_static("traceparent");
pub const TRACESTATE: HeaderName = HeaderName::from_static("tracestate");
const SAMPLED: u8 = 1;
/// The trace's id is random in its lower half (Trace Context, level 2).
const RANDOM: u8 = 2;

/// Where a request stands in a trace.
#[derive(Clone)]
pub struct Place {
    pub trace: TraceId,
    /// The span of the site's work, the parent of what the site records itself.
    application: SpanId,
    flags: u8,
    /// The client has a span of its own.
    pub has_parent: bool,
    sampled: Option<Arc<Sampled>>,
}

/// What only the spans of a request want to know.
struct Sampled {
    parent: SpanId,
    server: SpanId,
    state: TraceState,
    host: Option<HeaderValue>,
    /// The same moment on two clocks.
    arrived: (Instant, SystemTime),
}

impl Place {
    /// Continues the trace of the client, or begins one.
    pub fn new(tracer: &Tracer, headers: &HeaderMap, arrived: Instant) -> Self {
        let parent = if tracer.propagates { parent(headers) } else { None };
        let trace = parent.map_or_else(|| fastrand::u128(1..), |parent| parent.trace);
        let is_sampled = tracer.samples(trace, parent.map(|parent| parent.flags & SAMPLED != 0));
        let sampled = is_sampled.then(|| {
            // The list may stand in several fields; one that is not valid counts as none.
            let states: Vec<&str> = headers.get_all(TRACESTATE).iter().filter_map(|v| v.to_str().ok()).collect();
            let state = parent.and_then(|_| states.join(",").parse().ok()).unwrap_or(TraceState::NONE);
            Arc::new(Sampled {
                parent: parent.map_or(SpanId::INVALID, |parent| parent.span.into()),
                server: span_id(),
                state,
                host: headers.get(header::HOST).cloned(),
                arrived: (arrived, SystemTime::now()),
            })
        });
        Place {
            trace: trace.into(),
            application: span_id(),
            flags: u8::from(is_sampled) | parent.map_or(RANDOM, |parent| parent.flags & RANDOM),
            has_parent: parent.is_some(),
            sampled,
        }
    }

    /// The trace's id as a number.
    pub fn number(&self) -> u128 {
        u128::from_be_bytes(self.trace.to_bytes())
    }

    pub fn is_sampled(&self) -> bool {
        self.sampled.is_some()
    }

    /// The `traceparent` of what the site does.
    pub fn traceparent(&self) -> [u8; 55] {
        let mut text = *b"00-00000000000000000000000000000000-0000000000000000-00";
        write_hex(&self.trace.to_bytes(), &mut text[3..35]);
        write_hex(&self.application.to_bytes(), &mut text[36..52]);
        write_hex(&[self.flags], &mut text[53..]);
        text
    }

    /// Records that a request waited for an app thread, and what that did; `failed`: an exception escaped the site.
    pub fn record_application(&self, tracer: &Tracer, enqueued: Instant, began: Instant, ended: Instant, failed: bool) {
        let Some(sampled) = &self.sampled else { return };
        let status = if failed { Status::error("an exception escaped the site") } else { Status::Unset };
        let application = self.child(tracer, sampled, "application", began, ended);
        tracer.record(self.child(tracer, sampled, "queue", enqueued, began));
        tracer.record(SpanData {
            span_context: self.context(sampled, self.application),
            status,
            attributes: failed.then(|| KeyValue::new("error.type", "500")).into_iter().collect(),
            ..application
        });
    }

    /// Records a request that is over, and how long its answer was on its way.
    pub fn record_request(&self, tracer: &Tracer, account: &Account, ended: Instant) {
        let Some(sampled) = &self.sampled else { return };
        if let Some(answered) = account.answered {
            tracer.record(self.child(tracer, sampled, "response", answered, ended));
        }
        let method = account.method.as_str();
        let known = METHODS[1..].contains(&method);
        let status = match account.status {
            CLIENT_CLOSED_REQUEST => Status::error("the client left before there was an answer"),
            500.. => Status::error(""),
            _ => Status::Unset,
        };
        tracer.record(SpanData {
            span_context: self.context(sampled, sampled.server),
            parent_span_id: sampled.parent,
            parent_span_is_remote: self.has_parent,
            span_kind: SpanKind::Server,
            name: if known { method.to_owned().into() } else { "HTTP".into() },
            attributes: attributes(sampled, account, known),
            status,
            ..self.child(tracer, sampled, "", account.started, ended)
        });
    }

    fn context(&self, sampled: &Sampled, span: SpanId) -> SpanContext {
        SpanContext::new(self.trace, span, TraceFlags::new(self.flags), false, sampled.state.clone())
    }

    fn child(
        &self,
        tracer: &Tracer,
        sampled: &Sampled,
        name: &'static str,
        began: Instant,
        ended: Instant,
    ) -> SpanData {
        SpanData {
            span_context: self.context(sampled, span_id()),
            parent_span_id: sampled.server,
            parent_span_is_remote: false,
            span_kind: SpanKind::Internal,
            name: name.into(),
            start_time: sampled.time(began),
            end_time: sampled.time(ended),
            attributes: Vec::new(),
            dropped_attributes_count: 0,
            events: Default::default(),
            links: Default::default(),
            status: Status::Unset,
            instrumentation_scope: tracer.scope.clone(),
        }
    }
}

impl Sampled {
    fn time(&self, at: Instant) -> SystemTime {
        let (arrived, wall) = self.arrived;
        wall + at.checked_duration_since(arrived).unwrap_or(Duration::ZERO)
    }
}

fn span_id() -> SpanId {
    fastrand::u64(1..).into()
}

/// The stable attributes of a server span that a server knows; `http.route` is the site's affair.
fn attributes(sampled: &Sampled, account: &Account, is_known: bool) -> Vec<KeyValue> {
    let text = |value: &HeaderValue| String::from_utf8_lossy(value.as_bytes()).into_owned();
    let mut all = Vec::with_capacity(16);
    let mut add = |key: &'static str, value: Value| all.push(KeyValue::new(key, value));
    let method = account.method.as_str().to_owned();
    if is_known {
        add("http.request.method", method.into());
    } else {
        add("http.request.method", "_OTHER".into());
        add("http.request.method_original", method.into());
    }
    add("url.scheme", "http".into());
    add("url.path", account.uri.path().to_owned().into());
    if let Some(query) = account.uri.query() {
        add("url.query", query.to_owned().into());
    }
    if account.status == CLIENT_CLOSED_REQUEST {
        add("error.type", "client_disconnected".into());
    } else {
        add("http.response.status_code", i64::from(account.status).into());
        if account.status >= 500 {
            add("error.type", account.status.to_string().into());
        }
    }
    let host = sampled.host.as_ref().and_then(|host| host.to_str().ok()?.parse::<http::uri::Authority>().ok());
    if let Some(host) = account.uri.authority().or(host.as_ref()) {
        add("server.address", host.host().to_owned().into());
        add("server.port", i64::from(host.port_u16().unwrap_or(80)).into());
    }
    if let Some(peer) = account.connection.peer {
        let address = account.connection.remote.address.clone();
        add("client.address", address.clone().into());
        add("network.peer.address", address.into());
        add("network.peer.port", i64::from(peer.port()).into());
    }
    let version = if account.version == Version::HTTP_10 { "1.0" } else { "1.1" };
    add("network.protocol.version", version.into());
    if let Some(agent) = &account.user_agent {
        add("user_agent.original", text(agent).into());
    }
    add("atrio.request_id", account.id.as_str().to_owned().into());
    all
}

/// What a client says of its own span.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Parent {
    trace: u128,
    span: u64,
    flags: u8,
}

/// Trace Context section 3.2; two fields of that name are as good as none.
fn parent(headers: &HeaderMap) -> Option<Parent> {
    // Of so few fields, a look at each takes less than the name's hash.
    let mut fields = headers.iter().filter(|(name, _)| **name == TRACEPARENT);
    let text = fields.next()?.1.to_str().ok()?;
    if fields.next().is_some() { None } else { parse(text) }
}

fn parse(text: &str) -> Option<Parent> {
    let (known, rest) = text.split_at_checked(55)?;
    let mut parts = known.split('-');
    let mut number = |digits: usize| {
        let part = parts.next().filter(|part| part.len() == digits)?;
        let is_hex = part.bytes().all(|byte| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte));
        if is_hex { u128::from_str_radix(part, 16).ok() } else { None }
    };
    let (version, trace, span, flags) = (number(2)?, number(32)?, number(16)?, number(2)?);
    // Versions to come may have more behind another dash.
    let fits = if version == 0 { rest.is_empty() } else { rest.is_empty() || rest.starts_with('-') };
    let is_valid = fits && version != 0xff && trace != 0 && span != 0;
    is_valid.then_some(Parent { trace, span: span as u64, flags: flags as u8 })
}

#[cfg(test)]
mod tests {
    use super::*;

    const TRACE: &str = "0af7651916cd43dd8448eb211c80319c";
    const SPAN: &str = "b7ad6b7169203331";

    #[test]
    fn a_parent_is_read_as_the_specification_has_it() {
        let expected = Parent { trace: 0x0af7651916cd43dd8448eb211c80319c, span: 0xb7ad6b7169203331, flags: 1 };
        assert_eq!(parse(&format!("00-{TRACE}-{SPAN}-01")), Some(expected));
        assert_eq!(parse(&format!("00-{TRACE}-{SPAN}-00")), Some(Parent { flags: 0, ..expected }));
        assert_eq!(parse(&format!("cc-{TRACE}-{SPAN}-01")), Some(expected));
        assert_eq!(parse(&format!("cc-{TRACE}-{SPAN}-01-what-comes")), Some(expected));
        for wrong in [
            String::new(),
            format!("ff-{TRACE}-{SPAN}-01"),
            format!("00-{TRACE}-{SPAN}-01-more"),
            format!("cc-{TRACE}-{SPAN}-01more"),
            format!("00-{}-{SPAN}-01", "0".repeat(32)),
            format!("00-{TRACE}-{}-01", "0".repeat(16)),
            format!("00-{}-{SPAN}-01", TRACE.to_uppercase()),
            format!("00-{TRACE}-{SPAN}-1"),
            format!("00-{TRACE}-{SPAN}-0x"),
            format!("00-{TRACE}{SPAN}--01"),
            format!("00-+{}-{SPAN}-01", &TRACE[1..]),
        ] {
            assert_eq!(parse(&wrong), None, "{wrong}");
        }
    }

    #[test]
    fn what_the_site_gets_is_read_as_its_parent() {
        let place = Place {
            trace: TraceId::from_hex(TRACE).unwrap(),
            application: SpanId::from_hex(SPAN).unwrap(),
            flags: SAMPLED | RANDOM,
            has_parent: false,
            sampled: None,
        };
        assert_eq!(place.traceparent().as_slice(), format!("00-{TRACE}-{SPAN}-03").as_bytes());
    }

    #[test]
    fn two_parents_are_none() {
        let mut headers = HeaderMap::new();
        let value = HeaderValue::try_from(format!("00-{TRACE}-{SPAN}-01")).unwrap();
        headers.append(TRACEPARENT, value.clone());
        assert!(parent(&headers).is_some());
        headers.append(TRACEPARENT, value);
        assert!(parent(&headers).is_none());
    }
}
