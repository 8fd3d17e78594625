//! The same families in OpenMetrics' text format, version 1.0, that the `prometheus` crate does not write.
//!
//! Where a bucket's line ends stands the trace of a request that it counts.

use std::fmt::Write;

use prometheus::proto::{LabelPair, MetricFamily, MetricType};

use super::exemplar::Exemplar;

/// Base units that a name may end in.
const UNITS: [&str; 2] = ["seconds", "bytes"];

/// Behind the last family.
pub const END: &str = "# EOF\n";

/// `exemplars`: those of each metric of the first family.
pub fn encode(families: &[MetricFamily], exemplars: &[Vec<Exemplar>], out: &mut String) {
    for (number, family) in families.iter().enumerate() {
        let exemplars = if number == 0 { exemplars } else { &[] };
        // Writing to a String cannot fail.
        let _ = write_family(out, family, exemplars);
    }
}

/// The base unit of a family, by its name.
pub fn unit(name: &str) -> Option<&'static str> {
    UNITS.into_iter().find(|unit| name.strip_suffix(unit).is_some_and(|rest| rest.ends_with('_')))
}

/// The word for a kind of family.
pub fn word(kind: MetricType) -> &'static str {
    match kind {
        MetricType::COUNTER => "counter",
        MetricType::HISTOGRAM => "histogram",
        _ => "gauge",
    }
}

/// The name of a family: a counter's samples end in `_total`, its name does not.
pub fn name(family: &MetricFamily) -> &str {
    let is_counter = family.get_field_type() == MetricType::COUNTER;
    if is_counter { family.name().trim_end_matches("_total") } else { family.name() }
}

fn write_family(out: &mut String, family: &MetricFamily, exemplars: &[Vec<Exemplar>]) -> std::fmt::Result {
    let kind = family.get_field_type();
    let name = name(family);
    writeln!(out, "# TYPE {name} {}", word(kind))?;
    if let Some(unit) = unit(name) {
        writeln!(out, "# UNIT {name} {unit}")?;
    }
    writeln!(out, "# HELP {name} {}", escape(family.help()))?;
    for (number, metric) in family.get_metric().iter().enumerate() {
        let mut exemplars = exemplars.get(number).cloned().unwrap_or_default();
        let labels = metric.get_label();
        let mut sample = |suffix: &str, le: Option<f64>, value: f64| {
            write!(out, "{name}{suffix}")?;
            write_labels(out, labels, le)?;
            write!(out, " {value}")?;
            // Of the histogram's exemplars, those of the buckets before this one are gone already.
            let counted = |e: &mut Exemplar| le.is_some_and(|bound| e.value.as_secs_f64() <= bound);
            if let Some(newest) = exemplars.extract_if(.., counted).max_by_key(|exemplar| exemplar.at) {
                let Exemplar { trace, value, at } = newest;
                write!(out, " # {{trace_id=\"{trace:032x}\"}} {} {}", value.as_secs_f64(), at.as_secs_f64())?;
            }
            writeln!(out)
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

/// The text of a help or of a label's value.
pub fn escape(text: &str) -> String {
    text.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n")
}
