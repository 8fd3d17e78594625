//! The same families in OpenMetrics' text format, version 1.0, that the `prometheus` crate does not write.
//!
//! Where a bucket's line ends an exemplar may stand; there are none yet.

use std::fmt::Write;

use prometheus::proto::{LabelPair, MetricFamily, MetricType};

/// Base units that a name may end in.
const UNITS: [&str; 2] = ["seconds", "bytes"];

pub fn encode(families: &[MetricFamily]) -> String {
    let mut out = String::with_capacity(16 * 1024);
    for family in families {
        // Writing to a String cannot fail.
        let _ = write_family(&mut out, family);
    }
    out.push_str("# EOF\n");
    out
}

fn write_family(out: &mut String, family: &MetricFamily) -> std::fmt::Result {
    let kind = family.get_field_type();
    // A counter's samples end in `_total`, its name does not.
    let name = if kind == MetricType::COUNTER { family.name().trim_end_matches("_total") } else { family.name() };
    let word = match kind {
        MetricType::COUNTER => "counter",
        MetricType::HISTOGRAM => "histogram",
        _ => "gauge",
    };
    writeln!(out, "# TYPE {name} {word}")?;
    if let Some(unit) = UNITS.iter().find(|unit| name.strip_suffix(**unit).is_some_and(|rest| rest.ends_with('_'))) {
        writeln!(out, "# UNIT {name} {unit}")?;
    }
    writeln!(out, "# HELP {name} {}", escape(family.help()))?;
    for metric in family.get_metric() {
        let labels = metric.get_label();
        let mut sample = |suffix: &str, le: Option<f64>, value: f64| {
            write!(out, "{name}{suffix}")?;
            write_labels(out, labels, le)?;
            writeln!(out, " {value}")
        };
        match kind {
            MetricType::COUNTER => sample("_total", None, metric.get_counter().get_value())?,
            MetricType::HISTOGRAM => {
                let histogram = metric.get_histogram();
                for bucket in histogram.get_bucket() {
                    sample("_bucket", Some(bucket.upper_bound()), bucket.cumulative_count() as f64)?;
                }
                sample("_bucket", Some(f64::INFINITY), histogram.get_sample_count() as f64)?;
                sample("_count", None, histogram.get_sample_count() as f64)?;
                sample("_sum", None, histogram.get_sample_sum())?;
            }
            _ => sample("", None, metric.get_gauge().get_value())?,
        }
    }
    Ok(())
}

fn write_labels(out: &mut String, labels: &[LabelPair], le: Option<f64>) -> std::fmt::Result {
    if labels.is_empty() && le.is_none() {
        return Ok(());
    }
    let mut before = '{';
    for label in labels {
        write!(out, "{before}{}=\"{}\"", label.name(), escape(label.value()))?;
        before = ',';
    }
    match le {
        Some(f64::INFINITY) => write!(out, "{before}le=\"+Inf\"}}"),
        // A canonical number: 10.0, not 10.
        Some(bound) => write!(out, "{before}le=\"{bound:?}\"}}"),
        None => write!(out, "}}"),
    }
}

fn escape(text: &str) -> String {
    text.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n")
}
