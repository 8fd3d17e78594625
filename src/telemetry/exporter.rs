//! Sends spans to a collector by OTLP: protobuf over HTTP.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, Request, StatusCode, header};
use http_body_util::{BodyExt, Full, Limited};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use opentelemetry_proto::tonic::collector::trace::v1::{ExportTraceServiceRequest, ExportTraceServiceResponse};
use opentelemetry_proto::transform::common::tonic::ResourceAttributesWithSchema;
use opentelemetry_proto::transform::trace::tonic::group_spans_by_resource_and_scope;
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::error::{OTelSdkError, OTelSdkResult};
use opentelemetry_sdk::trace::{SpanData, SpanExporter};
use prost::Message;
use tokio::net::TcpStream;
use tokio::runtime::{self, Runtime};
use tokio::time::Instant;

use crate::config::Traces;
use crate::metrics::Lost;

use super::tracer::Ledger;

/// Pause before an export is tried again, doubled each time.
const PAUSE: Duration = Duration::from_millis(500);
/// What is read of a collector's answer, in bytes.
const ANSWER: usize = 64 * 1024;

/// Lives on the batch processor's thread, with a runtime of its own.
pub struct Exporter {
    runtime: Runtime,
    settings: Traces,
    headers: HeaderMap,
    resource: ResourceAttributesWithSchema,
    ledger: Arc<Ledger>,
    /// The log has said so.
    failing: AtomicBool,
}

impl std::fmt::Debug for Exporter {
    fn fmt(&self, f: &mut std::fmt::Formatter) -> std::fmt::Result {
        f.write_str("Exporter")
    }
}

/// Why a collector does not have spans.
struct Failure {
    why: Lost,
    text: String,
    /// It may take them later (OTLP specification, "Failures" and "OTLP/HTTP Throttling").
    later: bool,
}

impl Failure {
    fn unreachable(text: impl ToString) -> Self {
        Failure { why: Lost::Unreachable, text: text.to_string(), later: true }
    }
}

impl Exporter {
    pub fn new(settings: &Traces, resource: &Resource, ledger: Arc<Ledger>) -> std::io::Result<Self> {
        let runtime = runtime::Builder::new_current_thread().enable_all().max_blocking_threads(1).build()?;
        let mut headers = HeaderMap::new();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/x-protobuf"));
        headers.insert(header::USER_AGENT, HeaderValue::from_static(concat!("atrio/", env!("CARGO_PKG_VERSION"))));
        let host = format!("{}:{}", settings.host, settings.port);
        headers.insert(header::HOST, HeaderValue::try_from(host).map_err(std::io::Error::other)?);
        for (name, value) in &settings.headers {
            let name = HeaderName::try_from(name.as_str()).map_err(std::io::Error::other)?;
            let mut value = HeaderValue::try_from(value.as_str()).map_err(std::io::Error::other)?;
            value.set_sensitive(true);
            headers.insert(name, value);
        }
        let (settings, resource) = (settings.clone(), resource.into());
        Ok(Exporter { runtime, settings, headers, resource, ledger, failing: AtomicBool::new(false) })
    }

    /// How many of the spans the collector refused.
    async fn deliver(&self, body: Bytes) -> Result<u64, Failure> {
        let deadline = Instant::now() + self.settings.timeout;
        let mut pause = PAUSE;
        loop {
            let silence = || Failure::unreachable(format!("no answer within {:?}", self.settings.timeout));
            let sent = tokio::time::timeout_at(deadline, self.send(body.clone())).await;
            let failure = match sent.unwrap_or_else(|_| Err(silence())) {
                Err(failure) if failure.later => failure,
                result => return result,
            };
            // Workers whose last attempt failed at the same time do not try again at the same time.
            let jittered = pause.mul_f64(0.5 + fastrand::f64());
            if Instant::now() + jittered >= deadline || self.ledger.closes_within(jittered).await {
                return Err(failure);
            }
            pause *= 2;
        }
    }

    async fn send(&self, body: Bytes) -> Result<u64, Failure> {
        let Traces { host, port, path, .. } = &self.settings;
        let name = host.trim_start_matches('[').trim_end_matches(']');
        let stream = TcpStream::connect((name, *port)).await.map_err(Failure::unreachable)?;
        let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await.map_err(Failure::unreachable)?;
        tokio::spawn(connection);
        let mut request = Request::post(path).body(Full::new(body)).map_err(Failure::unreachable)?;
        request.headers_mut().clone_from(&self.headers);
        let response = sender.send_request(request).await.map_err(Failure::unreachable)?;
        let status = response.status();
        let answer = Limited::new(response.into_body(), ANSWER).collect().await;
        if !status.is_success() {
            let later = [429, 502, 503, 504].contains(&status.as_u16());
            return Err(Failure { why: Lost::Refused, text: format!("it answers {}", described(status)), later });
        }
        Ok(answer.map_or(0, |answer| refused(answer.to_bytes())))
    }
}

fn described(status: StatusCode) -> String {
    format!("{} {}", status.as_u16(), status.canonical_reason().unwrap_or_default()).trim_end().to_owned()
}

/// What of an accepted export was not (OTLP specification, "Partial Success").
fn refused(answer: Bytes) -> u64 {
    let partial = ExportTraceServiceResponse::decode(answer).ok().and_then(|answer| answer.partial_success);
    partial.map_or(0, |partial| partial.rejected_spans.max(0) as u64)
}

impl SpanExporter for Exporter {
    async fn export(&self, batch: Vec<SpanData>) -> OTelSdkResult {
        let count = batch.len() as u64;
        self.ledger.sends(count);
        let resource_spans = group_spans_by_resource_and_scope(batch, &self.resource);
        let body = ExportTraceServiceRequest { resource_spans }.encode_to_vec();
        match self.runtime.block_on(self.deliver(body.into())) {
            Ok(refused) => {
                let refused = refused.min(count);
                self.ledger.exported(count - refused);
                self.ledger.lost(Lost::Refused, refused);
                if self.failing.swap(false, Relaxed) {
                    tracing::info!("traces are exported again");
                }
                Ok(())
            }
            Err(failure) => {
                self.ledger.lost(failure.why, count);
                if !self.failing.swap(true, Relaxed) {
                    let Traces { host, port, .. } = &self.settings;
                    tracing::warn!(
                        "traces cannot be exported to {host}:{port}: {}; they are dropped until it takes them",
                        failure.text
                    );
                }
                Err(OTelSdkError::InternalFailure(failure.text))
            }
        }
    }
}
