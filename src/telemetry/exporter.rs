//! Sends batches of spans to the collector, again where that may help, and says what became of them.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::Duration;

use bytes::Bytes;
use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use opentelemetry_proto::transform::common::tonic::ResourceAttributesWithSchema;
use opentelemetry_proto::transform::trace::tonic::group_spans_by_resource_and_scope;
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::error::{OTelSdkError, OTelSdkResult};
use opentelemetry_sdk::trace::{SpanData, SpanExporter};
use prost::Message;
use tokio::runtime::{self, Runtime};
use tokio::time::Instant;

use crate::config::Traces;
use crate::metrics::Lost;

use super::collector::{Collector, Failure};
use super::tracer::Ledger;

/// Pause before an export is tried again, doubled each time.
const PAUSE: Duration = Duration::from_millis(500);

/// Lives on the batch processor's thread, with a runtime of its own.
pub struct Exporter {
    runtime: Runtime,
    collector: Collector,
    /// For one export, repetitions included.
    timeout: Duration,
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

impl Exporter {
    pub fn new(settings: &Traces, resource: &Resource, ledger: Arc<Ledger>) -> std::io::Result<Self> {
        let runtime = runtime::Builder::new_current_thread().enable_all().max_blocking_threads(1).build()?;
        let (collector, timeout) = (Collector::new(settings)?, settings.timeout);
        let resource = resource.into();
        Ok(Exporter { runtime, collector, timeout, resource, ledger, failing: AtomicBool::new(false) })
    }

    /// How many of the spans the collector refused.
    async fn deliver(&self, body: Bytes) -> Result<u64, Failure> {
        let deadline = Instant::now() + self.timeout;
        let mut pause = PAUSE;
        loop {
            let silence = || Failure::unreachable(format!("no answer within {:?}", self.timeout));
            let sent = tokio::time::timeout_at(deadline, self.collector.take(body.clone())).await;
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
                    let (collector, text) = (&self.collector, &failure.text);
                    tracing::warn!(
                        "traces cannot be exported to {collector}: {text}; they are dropped until it takes them"
                    );
                }
                Err(OTelSdkError::InternalFailure(failure.text))
            }
        }
    }
}
