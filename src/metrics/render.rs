//! The one table of metrics, rendered from the scoreboard.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering::Relaxed};

use prometheus::TextEncoder;
use prometheus::proto::{Bucket, Counter, Gauge, Histogram as Proto, LabelPair, Metric, MetricFamily, MetricType};

use super::exemplar::Exemplar;
use super::histogram::{Bounds, Histogram, INNER_BOUNDS, REQUEST_BOUNDS};
use super::openmetrics;
use super::process::Process;
use super::reasons::{Lost, Reject, Restart};
use super::scoreboard::{Labels, Slot, State};
use super::site::{self, SiteMetrics};

/// What only the supervisor knows.
pub struct Facts<'a> {
    pub site: &'a str,
    pub generation: u64,
    pub reloads: u64,
    pub reloads_failed: u64,
    /// As [`Restart::NAMES`] has them.
    pub restarts: [u64; Restart::NAMES.len()],
    /// Of slots whose workers could be looked at.
    pub memory: Vec<(usize, u64)>,
    pub process: Process,
    pub python: &'a str,
}

/// How metrics are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// Prometheus' text format, version 0.0.4.
    Text,
    /// OpenMetrics 1.0.
    OpenMetrics,
}

impl Format {
    /// What a client that sends this `Accept` wants. Nothing, and anything, means text.
    pub fn wanted(accept: &str) -> Self {
        let (mut text, mut open) = (0.0, 0.0);
        for range in accept.split(',') {
            let mut parts = range.split(';').map(|part| part.trim().to_ascii_lowercase());
            let kind = parts.next().unwrap_or_default();
            let (mut quality, mut version) = (1.0, None);
            for part in parts {
                match part.split_once('=') {
                    Some(("q", value)) => quality = value.parse().unwrap_or(0.0),
                    Some(("version", value)) => version = Some(value.trim_matches('"').to_owned()),
                    _ => {}
                }
            }
            match (kind.as_str(), version.as_deref()) {
                ("application/openmetrics-text", None | Some("1.0.0")) => open = f64::max(open, quality),
                ("text/plain" | "text/*" | "*/*", None | Some("0.0.4")) => text = f64::max(text, quality),
                _ => {}
            }
        }
        if open > 0.0 && open >= text { Format::OpenMetrics } else { Format::Text }
    }

    pub fn content_type(self) -> &'static str {
        match self {
            Format::Text => "text/plain; version=0.0.4; charset=utf-8",
            Format::OpenMetrics => "application/openmetrics-text; version=1.0.0; charset=utf-8",
        }
    }
}

type Read<T> = fn(&Slot) -> &T;
/// Name, help, whether the metric has the label `site`.
type Named<T> = (&'static str, &'static str, bool, Read<T>);

const GAUGES: [Named<AtomicI64>; 4] = [
    ("atrio_connections", "Open client connections.", false, |s| &s.connections),
    ("atrio_queue_length", "Requests that wait for an app thread.", true, |s| &s.queue_length),
    ("atrio_threads", "App threads.", true, |s| &s.threads),
    ("atrio_threads_busy", "App threads that run a request.", true, |s| &s.threads_busy),
];

const COUNTERS: [Named<AtomicU64>; 5] = [
    ("atrio_connections_accepted_total", "Client connections accepted.", false, |s| &s.connections_accepted),
    ("http_server_request_body_bytes_total", "Bytes of request bodies received.", true, |s| &s.request_body_bytes),
    ("http_server_response_body_bytes_total", "Bytes of response bodies sent.", true, |s| &s.response_body_bytes),
    ("atrio_exceptions_total", "Exceptions that the site let escape.", true, |s| &s.exceptions),
    ("atrio_spans_exported_total", "Spans that the collector has taken.", true, |s| &s.spans_exported),
];

const HISTOGRAMS: [(&str, &str, Read<Histogram>); 4] = [
    ("atrio_queue_wait_seconds", "Time a request waited for an app thread.", |s| &s.queue_wait),
    ("atrio_gil_wait_seconds", "Time an app thread that was called for a request waited for the GIL.", |s| &s.gil_wait),
    ("atrio_app_seconds", "Time an app thread spent on a request.", |s| &s.app),
    ("atrio_write_seconds", "Time from the answer to a request until the kernel had all of it.", |s| &s.write),
];

/// All metrics: Atrio's, then the site's. With the names of those of the site that are left out, for something else has their names.
pub fn metrics(slots: &[Slot], own: SiteMetrics, facts: &Facts, format: Format) -> (String, Vec<String>) {
    let (families, exemplars) = families(slots, own, facts);
    let names = families
        .iter()
        .flat_map(|family| site::sample_names(openmetrics::word(family.get_field_type()), openmetrics::name(family)));
    let taken = names.collect();
    let mut out = String::with_capacity(16 * 1024);
    match format {
        Format::OpenMetrics => openmetrics::encode(&families, &exemplars, &mut out),
        // Writing to a String cannot fail, and every family has samples and a name.
        Format::Text => drop(TextEncoder::new().encode_utf8(&families, &mut out)),
    }
    let dropped = site::expose(&mut out, own, taken, format);
    if format == Format::OpenMetrics {
        out.push_str(openmetrics::END);
    }
    (out, dropped)
}

/// And the exemplars of each metric of the first family.
fn families(slots: &[Slot], own: SiteMetrics, facts: &Facts) -> (Vec<MetricFamily>, Vec<Vec<Exemplar>>) {
    let (requests, exemplars) = requests(slots, facts.site);
    let site = || label("site", facts.site);
    let mut all = vec![family(
        "http_server_request_duration_seconds",
        "Time from the first byte of a request to the last byte of its response.",
        MetricType::HISTOGRAM,
        requests,
    )];
    for (name, help, read) in HISTOGRAMS {
        let (counts, sum) = slots.iter().map(read).fold(([0; 15], 0.0), add);
        all.push(family(name, help, MetricType::HISTOGRAM, vec![histogram(vec![site()], &INNER_BOUNDS, counts, sum)]));
    }
    let site_if = |is_labelled| if is_labelled { vec![site()] } else { vec![] };
    for (name, help, is_labelled, read) in GAUGES {
        let sum: i64 = slots.iter().map(|slot| read(slot).load(Relaxed)).sum();
        all.push(family(name, help, MetricType::GAUGE, vec![gauge(site_if(is_labelled), sum as f64)]));
    }
    for (name, help, is_labelled, read) in COUNTERS {
        let sum: u64 = slots.iter().map(|slot| read(slot).load(Relaxed)).sum();
        all.push(family(name, help, MetricType::COUNTER, vec![counter(site_if(is_labelled), sum as f64)]));
    }
    all.push(family(
        "http_server_active_requests",
        "Requests received and not yet answered.",
        MetricType::GAUGE,
        vec![gauge(vec![site()], slots.iter().map(Slot::active_requests).sum::<u64>() as f64)],
    ));
    all.push(family(
        "atrio_requests_lost_total",
        "Requests that were under way in a worker when it died.",
        MetricType::COUNTER,
        vec![counter(vec![site()], slots.iter().map(Slot::lost).sum::<u64>() as f64)],
    ));
    let rejected = Reject::NAMES.iter().enumerate().map(|(reason, name)| {
        counter(vec![label("reason", name)], slots.iter().map(|slot| slot.rejected(reason)).sum::<u64>() as f64)
    });
    all.push(family(
        "atrio_requests_rejected_total",
        "Requests answered without reaching the site.",
        MetricType::COUNTER,
        rejected.collect(),
    ));
    let lost = Lost::NAMES.iter().enumerate().map(|(why, name)| {
        let count: u64 = slots.iter().map(|slot| slot.spans_lost(why)).sum();
        counter(vec![site(), label("reason", name)], count as f64)
    });
    all.push(family(
        "atrio_spans_dropped_total",
        "Spans that the collector does not have.",
        MetricType::COUNTER,
        lost.collect(),
    ));
    let states = [("starting", State::Starting), ("ready", State::Ready), ("draining", State::Draining)];
    let workers = states.map(|(name, state)| {
        let count = slots.iter().filter(|slot| slot.is(state)).count();
        gauge(vec![site(), label("state", name)], count as f64)
    });
    all.push(family("atrio_workers", "Worker processes.", MetricType::GAUGE, workers.into()));
    all.push(family(
        "atrio_worker_restarts_total",
        "Workers that another one took the place of.",
        MetricType::COUNTER,
        Restart::NAMES
            .iter()
            .zip(facts.restarts)
            .map(|(reason, count)| counter(vec![site(), label("reason", reason)], count as f64))
            .collect(),
    ));
    // A family without samples is not valid.
    if !facts.memory.is_empty() {
        let worker =
            |(slot, bytes): &(usize, u64)| gauge(vec![site(), label("worker", &slot.to_string())], *bytes as f64);
        all.push(family(
            "atrio_worker_memory_bytes",
            "Memory of a worker, its part of what it shares with others included (PSS).",
            MetricType::GAUGE,
            facts.memory.iter().map(worker).collect(),
        ));
    }
    all.push(family(
        "atrio_reloads_total",
        "Reloads of the site.",
        MetricType::COUNTER,
        [("success", facts.reloads), ("failure", facts.reloads_failed)]
            .map(|(result, count)| counter(vec![site(), label("result", result)], count as f64))
            .into(),
    ));
    all.push(family(
        "atrio_generation",
        "The import of the site that serves.",
        MetricType::GAUGE,
        vec![gauge(vec![site()], facts.generation as f64)],
    ));
    all.push(family(
        "atrio_site_metrics_dropped_total",
        "Values of the site's own metrics that there was no room for.",
        MetricType::COUNTER,
        vec![counter(vec![site()], own.dropped() as f64)],
    ));
    let build = vec![
        label("version", env!("CARGO_PKG_VERSION")),
        label("python", facts.python),
        label("arch", std::env::consts::ARCH),
    ];
    all.push(family("atrio_build_info", "What this binary is.", MetricType::GAUGE, vec![gauge(build, 1.0)]));
    all.extend(supervisor(&facts.process));
    (all, exemplars)
}

/// What Prometheus expects of the process that answers, which is the supervisor.
fn supervisor(process: &Process) -> Vec<MetricFamily> {
    let gauges = [
        ("process_start_time_seconds", "When the supervisor started, since the epoch.", process.start_time_seconds),
        ("process_virtual_memory_bytes", "Virtual memory of the supervisor.", process.virtual_memory_bytes as f64),
        ("process_resident_memory_bytes", "Resident memory of the supervisor.", process.resident_memory_bytes as f64),
        ("process_threads", "Threads of the supervisor.", process.threads as f64),
        ("process_open_fds", "Open file descriptors of the supervisor.", process.open_fds as f64),
        ("process_max_fds", "Most file descriptors that the supervisor may open.", process.max_fds as f64),
    ];
    let mut all = vec![family(
        "process_cpu_seconds_total",
        "Processor time of the supervisor.",
        MetricType::COUNTER,
        vec![counter(vec![], process.cpu_seconds)],
    )];
    let gauge = |(name, help, value)| family(name, help, MetricType::GAUGE, vec![gauge(vec![], value)]);
    all.extend(gauges.map(gauge));
    all
}

fn requests(slots: &[Slot], site: &str) -> (Vec<Metric>, Vec<Vec<Exemplar>>) {
    let mut series: BTreeMap<Labels, ([u64; 15], f64)> = BTreeMap::new();
    for (labels, one) in slots.iter().flat_map(Slot::requests) {
        let sum = series.entry(labels).or_insert(([0; 15], 0.0));
        *sum = add(*sum, one);
    }
    // A family without samples is not valid: until the first request, one empty series stands for it.
    if series.is_empty() {
        series.insert(Labels::new("GET", 200, false), ([0; 15], 0.0));
    }
    let of = |labels: &Labels| {
        let found = slots.iter().flat_map(Slot::exemplars).filter(|(of, _)| of == labels);
        found.map(|(_, exemplar)| exemplar).collect()
    };
    let exemplars = series.keys().map(of).collect();
    let metric = |(labels, (counts, sum)): (Labels, _)| {
        let pairs = vec![
            label("site", site),
            label("http_request_method", labels.method()),
            label("http_response_status_code", &labels.status()),
            label("network_protocol_version", labels.version()),
        ];
        histogram(pairs, &REQUEST_BOUNDS, counts, sum)
    };
    (series.into_iter().map(metric).collect(), exemplars)
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

fn counter(labels: Vec<LabelPair>, value: f64) -> Metric {
    let mut inner = Counter::default();
    inner.set_value(value);
    let mut metric = Metric::from_label(labels);
    metric.set_counter(inner);
    metric
}

fn histogram(labels: Vec<LabelPair>, bounds: &Bounds, counts: [u64; 15], sum: f64) -> Metric {
    let mut seen = 0;
    let buckets = bounds.iter().zip(counts).map(|(bound, count)| {
        seen += count;
        let mut bucket = Bucket::default();
        bucket.set_upper_bound(*bound as f64 / 1e9);
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
    fn the_format_is_what_the_client_accepts() {
        // As Prometheus 2.42 and 3 ask.
        let old = "application/openmetrics-text;version=1.0.0,application/openmetrics-text;version=0.0.1;q=0.75,text/plain;version=0.0.4;q=0.5,*/*;q=0.1";
        let new = "application/openmetrics-text;version=1.0.0;escaping=allow-utf-8;q=0.6,application/openmetrics-text;version=0.0.1;q=0.5,text/plain;version=1.0.0;escaping=allow-utf-8;q=0.4,text/plain;version=0.0.4;q=0.3,*/*;q=0.2";
        for accept in [old, new, "Application/OpenMetrics-Text", "application/openmetrics-text; version=\"1.0.0\""] {
            assert_eq!(Format::wanted(accept), Format::OpenMetrics, "{accept}");
        }
        let unknown = "application/openmetrics-text;version=2.0.0";
        for accept in [
            "",
            "*/*",
            "text/html",
            "text/plain, application/openmetrics-text;q=0.5",
            unknown,
            "application/openmetrics-text;q=0",
        ] {
            assert_eq!(Format::wanted(accept), Format::Text, "{accept}");
        }
    }

    #[test]
    fn slots_add_up_and_histograms_are_cumulative() {
        let (_fd, board) = Scoreboard::create(2, 1).unwrap();
        for slot in board.slots() {
            slot.occupy(1, 1, 4);
            slot.set_state(State::Ready);
            slot.count_request(Labels::new("GET", 200, false), std::time::Duration::from_millis(20), None);
        }
        let facts = Facts {
            site: "shop",
            generation: 1,
            reloads: 0,
            reloads_failed: 0,
            restarts: [0; Restart::NAMES.len()],
            memory: vec![],
            process: Process::default(),
            python: "3.13.5",
        };
        let (_fd, own) = SiteMetrics::create(2).unwrap();
        let (text, _) = metrics(board.slots(), own, &facts, Format::Text);
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
