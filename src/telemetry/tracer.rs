//! Spans on their way from requests to the exporter: which traces are recorded, and a bounded queue that nobody waits for.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use opentelemetry::{InstrumentationScope, KeyValue};
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::resource::TelemetryResourceDetector;
use opentelemetry_sdk::trace::{BatchConfigBuilder, BatchSpanProcessor, SpanData, SpanProcessor};
use tokio::sync::watch;

use crate::config::{Sampler, Traces};
use crate::metrics::{Lost, Slot};

use super::exporter::Exporter;

/// How long a worker that leaves waits for its last spans to be taken.
const FAREWELL: Duration = Duration::from_secs(3);

/// What becomes of spans: every one is exported or lost, and counted as such once.
pub struct Ledger {
    slot: &'static Slot,
    waiting: AtomicU64,
    sending: AtomicU64,
    closing: watch::Sender<bool>,
}

impl Ledger {
    fn new(slot: &'static Slot) -> Self {
        Ledger { slot, waiting: AtomicU64::new(0), sending: AtomicU64::new(0), closing: watch::channel(false).0 }
    }

    /// So many have left the queue.
    pub fn sends(&self, count: u64) {
        self.sending.fetch_add(count, Relaxed);
        self.waiting.fetch_sub(count, Relaxed);
    }

    pub fn exported(&self, count: u64) {
        self.sending.fetch_sub(count, Relaxed);
        self.slot.spans_exported.fetch_add(count, Relaxed);
    }

    /// So many of those that were being sent.
    pub fn lost(&self, why: Lost, count: u64) {
        self.sending.fetch_sub(count, Relaxed);
        self.slot.count_lost(why, count);
    }

    /// Waits for so long, or until the worker leaves; whether it does.
    pub async fn closes_within(&self, time: Duration) -> bool {
        let mut closing = self.closing.subscribe();
        tokio::time::timeout(time, closing.wait_for(|closing| *closing)).await.is_ok()
    }
}

/// Records the spans of a worker. None exists unless traces are exported.
pub struct Tracer {
    processor: BatchSpanProcessor,
    sampler: Sampler,
    /// Whether requests continue the traces of those who send them.
    pub propagates: bool,
    queue: u64,
    ledger: Arc<Ledger>,
    pub scope: InstrumentationScope,
}

impl Tracer {
    /// Starts the thread that exports: after the fork, for it would not survive one.
    pub fn start(settings: &Traces, site: &str, slot: &'static Slot) -> std::io::Result<Self> {
        let ledger = Arc::new(Ledger::new(slot));
        let exporter = Exporter::new(settings, &resource(settings, site), ledger.clone())?;
        let batches = BatchConfigBuilder::default()
            .with_max_queue_size(settings.queue)
            .with_max_export_batch_size(settings.batch)
            .with_scheduled_delay(settings.delay);
        Ok(Tracer {
            processor: BatchSpanProcessor::new(exporter, batches.build()),
            sampler: settings.sampler,
            propagates: settings.propagates,
            queue: settings.queue as u64,
            ledger,
            scope: InstrumentationScope::builder("atrio").with_version(env!("CARGO_PKG_VERSION")).build(),
        })
    }

    /// Whether a trace is recorded; `parent`: what its beginning elsewhere has decided.
    pub fn samples(&self, trace: u128, parent: Option<bool>) -> bool {
        match parent {
            Some(sampled) if self.sampler.parent_based => sampled,
            // By the lower half, as other SDKs do: the services of a trace that have the same ratio decide alike.
            _ => trace as u64 as f64 <= self.sampler.ratio * u64::MAX as f64 && self.sampler.ratio > 0.0,
        }
    }

    /// Takes a span that is over. Blocks nobody: what has no place in the queue is lost.
    pub fn record(&self, span: SpanData) {
        // The processor has a limit of its own, but tells nobody what it drops.
        if self.ledger.waiting.fetch_add(1, Relaxed) >= self.queue {
            self.ledger.waiting.fetch_sub(1, Relaxed);
            self.ledger.slot.count_lost(Lost::QueueFull, 1);
        } else {
            self.processor.on_end(span);
        }
    }

    /// Sends what is left, for a short time at the most. Not to be called where a runtime is driven.
    pub fn close(&self) {
        self.ledger.closing.send_replace(true);
        if self.processor.shutdown_with_timeout(FAREWELL).is_err() {
            let left = &self.ledger;
            left.slot.count_lost(Lost::Shutdown, left.waiting.load(Relaxed) + left.sending.load(Relaxed));
        }
    }
}

/// What sends the spans: the service is called as the site, unless it was given another name.
fn resource(settings: &Traces, site: &str) -> Resource {
    let own =
        [KeyValue::new("service.name", site.to_owned()), KeyValue::new("process.pid", i64::from(std::process::id()))];
    let given = settings.resource.iter().map(|(key, value)| KeyValue::new(key.clone(), value.clone()));
    let sdk = Box::new(TelemetryResourceDetector);
    Resource::builder_empty().with_detector(sdk).with_attributes(own).with_attributes(given).build()
}
