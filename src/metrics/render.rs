//! The one table of metrics, rendered from the scoreboard in Prometheus' text format.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering::Relaxed};

use prometheus::proto::{Bucket, Counter, Gauge, Histogram as Proto, LabelPair, Metric, MetricFamily, MetricType};
use prometheus::{Encoder, TextEncoder};

use super::scoreboard::{Histogram, INNER_BOUNDS, Labels, REQUEST_BOUNDS, Reject, Slot, State};

/// What only the supervisor knows.
pub struct Facts<'a> {
    pub site: &'a str,
    pub generation: u64,
    pub reloads: u64,
    pub reloads_failed: u64,
    pub restarts: u64,
    pub python: &'a str,
}

type Read<T> = fn(&Slot) -> &T;

const GAUGES: [(&str, &str, Read<AtomicI64>); 5] = [
    ("atrio_connections", "Open client connections.", |s| &s.connections),
    ("http_server_active_requests", "Requests received and not yet answered.", |s| &s.active_requests),
    ("atrio_queue_length", "Requests that wait for an app thread.", |s| &s.queue_length),
    ("atrio_threads", "App threads.", |s| &s.threads),
    ("atrio_threads_busy", "App threads that run a request.", |s| &s.threads_busy),
];

const COUNTERS: [(&str, &str, Read<AtomicU64>); 4] = [
    ("atrio_connections_accepted_total", "Client connections accepted.", |s| &s.connections_accepted),
    ("http_server_request_body_bytes_total", "Bytes of request bodies received.", |s| &s.request_body_bytes),
    ("http_server_response_body_bytes_total", "Bytes of response bodies sent.", |s| &s.response_body_bytes),
    ("atrio_exceptions_total", "Exceptions that the site let escape.", |s| &s.exceptions),
];

const HISTOGRAMS: [(&str, &str, Read<Histogram>); 2] = [
    ("atrio_queue_wait_seconds", "Time a request waited for an app thread.", |s| &s.queue_wait),
    ("atrio_app_seconds", "Time an app thread spent on a request.", |s| &s.app),
];

/// The text format 0.0.4 of everything.
pub fn text(slots: &[Slot], facts: &Facts) -> Vec<u8> {
    let mut out = Vec::with_capacity(16 * 1024);
    // Writing to memory cannot fail, and every family below has samples and a name.
    let _ = TextEncoder::new().encode(&families(slots, facts), &mut out);
    out
}

fn families(slots: &[Slot], facts: &Facts) -> Vec<MetricFamily> {
    let site = || label("site", facts.site);
    let mut all = vec![family(
        "http_server_request_duration_seconds",
        "Time from the first byte of a request to the last byte of its response.",
        MetricType::HISTOGRAM,
        requests(slots, facts.site),
    )];
    for (name, help, read) in HISTOGRAMS {
        let (counts, sum) = slots.iter().map(read).fold(([0; 15], 0.0), add);
        all.push(family(name, help, MetricType::HISTOGRAM, vec![histogram(vec![site()], &INNER_BOUNDS, counts, sum)]));
    }
    for (name, help, read) in GAUGES {
        let sum: i64 = slots.iter().map(|slot| read(slot).load(Relaxed)).sum();
        all.push(family(name, help, MetricType::GAUGE, vec![gauge(vec![site()], sum as f64)]));
    }
    for (name, help, read) in COUNTERS {
        let sum: u64 = slots.iter().map(|slot| read(slot).load(Relaxed)).sum();
        all.push(family(name, help, MetricType::COUNTER, vec![counter(vec![site()], sum)]));
    }
    let rejected = Reject::NAMES.iter().enumerate().map(|(reason, name)| {
        counter(vec![label("reason", name)], slots.iter().map(|slot| slot.rejected(reason)).sum())
    });
    all.push(family(
        "atrio_requests_rejected_total",
        "Requests answered without reaching the site.",
        MetricType::COUNTER,
        rejected.collect(),
    ));
    let states = [("starting", State::Starting), ("ready", State::Ready), ("draining", State::Draining)];
    let workers = states.map(|(name, state)| {
        let count = slots.iter().filter(|slot| slot.is(state)).count();
        gauge(vec![site(), label("state", name)], count as f64)
    });
    all.push(family("atrio_workers", "Worker processes.", MetricType::GAUGE, workers.into()));
    all.push(family(
        "atrio_worker_restarts_total",
        "Workers that ended without being asked to.",
        MetricType::COUNTER,
        vec![counter(vec![site(), label("reason", "crashed")], facts.restarts)],
    ));
    all.push(family(
        "atrio_reloads_total",
        "Reloads of the site.",
        MetricType::COUNTER,
        [("success", facts.reloads), ("failure", facts.reloads_failed)]
            .map(|(result, count)| counter(vec![site(), label("result", result)], count))
            .into(),
    ));
    all.push(family(
        "atrio_generation",
        "The import of the site that serves.",
        MetricType::GAUGE,
        vec![gauge(vec![site()], facts.generation as f64)],
    ));
    let build = vec![
        label("version", env!("CARGO_PKG_VERSION")),
        label("python", facts.python),
        label("arch", std::env::consts::ARCH),
    ];
    all.push(family("atrio_build_info", "What this binary is.", MetricType::GAUGE, vec![gauge(build, 1.0)]));
    all
}

fn requests(slots: &[Slot], site: &str) -> Vec<Metric> {
    let mut series: BTreeMap<Labels, ([u64; 15], f64)> = BTreeMap::new();
    for (labels, one) in slots.iter().flat_map(Slot::requests) {
        let sum = series.entry(labels).or_insert(([0; 15], 0.0));
        *sum = add(*sum, one);
    }
    // A family without samples is not valid: until the first request, one empty series stands for it.
    if series.is_empty() {
        series.insert(Labels::new("GET", 200, false), ([0; 15], 0.0));
    }
    let metric = |(labels, (counts, sum)): (Labels, _)| {
        let pairs = vec![
            label("site", site),
            label("http_request_method", labels.method()),
            label("http_response_status_code", &labels.status()),
            label("network_protocol_version", labels.version()),
        ];
        histogram(pairs, &REQUEST_BOUNDS, counts, sum)
    };
    series.into_iter().map(metric).collect()
}

fn add((mut counts, sum): ([u64; 15], f64), one: &Histogram) -> ([u64; 15], f64) {
    for (total, count) in counts.iter_mut().zip(one.counts()) {
        *total += count;
    }
    (counts, sum + one.sum_seconds())
}

fn family(name: &str, help: &str, kind: MetricType, metrics: Vec<Metric>) -> MetricFamily {
    let mut family = MetricFamily::default();
    family.set_name(name.into());
    family.set_help(help.into());
    family.set_field_type(kind);
    family.set_metric(metrics);
    family
}

fn label(name: &str, value: &str) -> LabelPair {
    let mut pair = LabelPair::default();
    pair.set_name(name.into());
    pair.set_value(value.into());
    pair
}

fn gauge(labels: Vec<LabelPair>, value: f64) -> Metric {
    let mut inner = Gauge::default();
    inner.set_value(value);
    let mut metric = Metric::from_label(labels);
    metric.set_gauge(inner);
    metric
}

fn counter(labels: Vec<LabelPair>, value: u64) -> Metric {
    let mut inner = Counter::default();
    inner.set_value(value as f64);
    let mut metric = Metric::from_label(labels);
    metric.set_counter(inner);
    metric
}

fn histogram(labels: Vec<LabelPair>, bounds: &[f64; 14], counts: [u64; 15], sum: f64) -> Metric {
    let mut seen = 0;
    let buckets = bounds.iter().zip(counts).map(|(bound, count)| {
        seen += count;
        let mut bucket = Bucket::default();
        bucket.set_upper_bound(*bound);
        bucket.set_cumulative_count(seen);
        bucket
    });
    let mut inner = Proto::default();
    inner.set_bucket(buckets.collect());
    inner.set_sample_count(counts.iter().sum());
    inner.set_sample_sum(sum);
    let mut metric = Metric::from_label(labels);
    metric.set_histogram(inner);
    metric
}

#[cfg(test)]
mod tests {
    use super::super::Scoreboard;
    use super::*;

    #[test]
    fn slots_add_up_and_histograms_are_cumulative() {
        let (_fd, board) = Scoreboard::create(2).unwrap();
        for slot in board.slots() {
            slot.occupy(1, 1, 4);
            slot.set_state(State::Ready);
            slot.count_request(Labels::new("GET", 200, false), std::time::Duration::from_millis(20));
        }
        let facts = Facts { site: "shop", generation: 1, reloads: 0, reloads_failed: 0, restarts: 0, python: "3.13.5" };
        let text = String::from_utf8(text(board.slots(), &facts)).unwrap();
        let labels =
            r#"site="shop",http_request_method="GET",http_response_status_code="200",network_protocol_version="1.1""#;
        for line in [
            &format!(r#"http_server_request_duration_seconds_bucket{{{labels},le="0.01"}} 0"#),
            &format!(r#"http_server_request_duration_seconds_bucket{{{labels},le="0.025"}} 2"#),
            &format!(r#"http_server_request_duration_seconds_bucket{{{labels},le="+Inf"}} 2"#),
            r#"atrio_threads{site="shop"} 8"#,
            r#"atrio_workers{site="shop",state="ready"} 2"#,
        ] {
            assert!(text.contains(line), "{line} is not in\n{text}");
        }
    }
}
