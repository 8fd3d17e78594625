//! The site's metrics as Prometheus reads them.

use std::collections::{BTreeMap, HashSet};
use std::fmt::Write;
use std::sync::atomic::AtomicU64;

use super::SiteMetrics;
use super::series::{Gauge, Key, Kind, Merge, Mode, value};
use crate::metrics::openmetrics::{escape, unit};
use crate::metrics::render::Format;

/// What `prometheus_client` says in the place of a help that its older versions do not tell.
const NO_HELP: &str = "Multiprocess metric";

type Labels = Vec<(String, String)>;
type Cells = &'static [AtomicU64];
type Exemplars = BTreeMap<(Kind, Key), String>;

/// What a metric was last declared to be.
struct Declared {
    generation: u64,
    help: String,
}

/// Writes every metric whose name nobody else has: `taken` are names of samples. Returns the names of the others.
pub fn expose(out: &mut String, metrics: SiteMetrics, mut taken: HashSet<String>, format: Format) -> Vec<String> {
    let mut declared: BTreeMap<String, BTreeMap<Kind, Declared>> = BTreeMap::new();
    for (kind, name, help, generation) in metrics.declarations() {
        let last =
            declared.entry(name).or_default().entry(kind).or_insert(Declared { generation: 0, help: String::new() });
        if (generation, &help) >= (last.generation, &last.help) {
            *last = Declared { generation, help };
        }
    }
    let mut values: BTreeMap<(String, Kind), Vec<(Key, Cells)>> = BTreeMap::new();
    for (kind, key, cells) in metrics.values() {
        values.entry((key.name.clone(), kind)).or_default().push((key, cells));
    }
    let exemplars: Exemplars = match format {
        Format::OpenMetrics => metrics.exemplars().map(|(kind, key, text)| ((kind, key), text)).collect(),
        Format::Text => Exemplars::new(),
    };
    let mut dropped = Vec::new();
    for (name, kinds) in declared {
        // A reload may have made something else of a metric: what it was is not shown any more.
        let newest = kinds.values().map(|declared| declared.generation).max().unwrap_or_default();
        for (kind, declared) in kinds.into_iter().filter(|(_, declared)| declared.generation == newest) {
            let family = Family { name: valid(&name, true), kind, format, exemplars: &exemplars };
            let names = sample_names(kind.word(), &family.name);
            if names.iter().any(|name| taken.contains(name)) {
                dropped.push(name.clone());
                continue;
            }
            let samples = values.remove(&(name.clone(), kind)).unwrap_or_default();
            let mut lines = String::new();
            // Writing to a String cannot fail.
            let _ = family.write_samples(&mut lines, samples);
            if !lines.is_empty() {
                taken.extend(names);
                let _ = family.write_head(out, &declared.help);
                out.push_str(&lines);
            }
        }
    }
    dropped
}

/// The names that samples of a family may have.
pub fn sample_names(kind: &str, family: &str) -> Vec<String> {
    let suffixes: &[&str] = match kind {
        "counter" => &["", "_total", "_created"],
        "histogram" => &["", "_bucket", "_count", "_sum", "_created"],
        "summary" => &["", "_count", "_sum", "_created"],
        _ => &[""],
    };
    suffixes.iter().map(|suffix| format!("{family}{suffix}")).collect()
}

/// A name of the characters that both formats allow; `prometheus_client` writes the others so, too.
pub fn valid(name: &str, colons: bool) -> String {
    let fits = |c: char| c.is_ascii_alphanumeric() || c == '_' || colons && c == ':';
    let name: String = name.chars().map(|c| if fits(c) { c } else { '_' }).collect();
    if name.starts_with(|c: char| c.is_ascii_digit()) { format!("_{name}") } else { name }
}

struct Family<'a> {
    name: String,
    kind: Kind,
    format: Format,
    exemplars: &'a Exemplars,
}

impl Family<'_> {
    fn write_head(&self, out: &mut String, help: &str) -> std::fmt::Result {
        let help = if help.is_empty() { NO_HELP } else { help };
        let (name, word) = (&self.name, self.kind.word());
        if self.format == Format::OpenMetrics {
            writeln!(out, "# TYPE {name} {word}")?;
            if let Some(unit) = unit(name) {
                writeln!(out, "# UNIT {name} {unit}")?;
            }
            return writeln!(out, "# HELP {name} {}", escape(help));
        }
        let total = if self.kind == Kind::Counter { "_total" } else { "" };
        writeln!(out, "# HELP {name}{total} {}", help.replace('\\', "\\\\").replace('\n', "\\n"))?;
        writeln!(out, "# TYPE {name}{total} {word}")
    }

    fn write_samples(&self, out: &mut String, mut values: Vec<(Key, Cells)>) -> std::fmt::Result {
        values.sort_by(|(a, _), (b, _)| a.cmp(b));
        match self.kind {
            Kind::Counter => {
                for (key, cells) in values {
                    let labels = key.labels.clone();
                    self.sample(out, "_total", &labels, None, first(cells), self.exemplar(key))?;
                }
            }
            Kind::Summary => {
                for (key, cells) in values.iter().filter(|(key, _)| ["_count", "_sum"].contains(&&*key.suffix)) {
                    self.sample(out, &key.suffix, &key.labels, None, first(cells), None)?;
                }
            }
            Kind::Histogram => self.write_histograms(out, values)?,
            Kind::Gauge(mode) => {
                for (key, cells) in values {
                    self.write_gauge(out, key.labels, cells, mode)?;
                }
            }
        }
        Ok(())
    }

    fn write_gauge(&self, out: &mut String, mut labels: Labels, cells: Cells, mode: Mode) -> std::fmt::Result {
        let Some(gauge) = Gauge::new(cells) else { return Ok(()) };
        if mode.merge != Merge::All {
            return gauge.merged(mode.merge).map_or(Ok(()), |value| self.sample(out, "", &labels, None, value, None));
        }
        labels.retain(|(name, _)| name != "pid");
        for reading in gauge.readings() {
            let pid = reading.pid().unwrap_or_default().to_string();
            self.sample(out, "", &labels, Some(("pid", &pid)), value(reading.value), None)?;
        }
        Ok(())
    }

    /// Buckets are not cumulative in the memory, and there is no count.
    fn write_histograms(&self, out: &mut String, values: Vec<(Key, Cells)>) -> std::fmt::Result {
        struct Bucket<'a> {
            upper: f64,
            /// The same as it is written.
            le: String,
            count: f64,
            exemplar: Option<&'a str>,
        }
        #[derive(Default)]
        struct Histogram<'a> {
            buckets: Vec<Bucket<'a>>,
            sum: f64,
        }
        let mut histograms: BTreeMap<Labels, Histogram> = BTreeMap::new();
        for (key, cells) in values {
            let mut labels = key.labels.clone();
            let bound = labels.extract_if(.., |(name, _)| key.suffix == "_bucket" && name == "le").next();
            let histogram = histograms.entry(labels).or_default();
            match bound.map(|(_, le)| (le.parse(), le)) {
                Some((Ok(upper), le)) => {
                    let exemplar = self.exemplar(key);
                    histogram.buckets.push(Bucket { upper, le, count: first(cells), exemplar });
                }
                _ => histogram.sum = first(cells),
            }
        }
        for (labels, Histogram { mut buckets, sum }) in histograms {
            buckets.sort_by(|a, b| a.upper.total_cmp(&b.upper));
            let mut seen = 0.0;
            for bucket in &buckets {
                seen += bucket.count;
                self.sample(out, "_bucket", &labels, Some(("le", &bucket.le)), seen, bucket.exemplar)?;
            }
            self.sample(out, "_count", &labels, None, seen, None)?;
            // With negative values a sum is not a counter.
            if buckets.first().is_some_and(|lowest| lowest.upper >= 0.0) {
                self.sample(out, "_sum", &labels, None, sum, None)?;
            }
        }
        Ok(())
    }

    fn sample(
        &self,
        out: &mut String,
        suffix: &str,
        labels: &Labels,
        last: Option<(&str, &str)>,
        value: f64,
        exemplar: Option<&str>,
    ) -> std::fmt::Result {
        write!(out, "{}{suffix}", self.name)?;
        let mut before = '{';
        for (name, value) in labels.iter().map(|(name, value)| (&**name, &**value)).chain(last) {
            write!(out, "{before}{}=\"{}\"", valid(name, false), escape(value))?;
            before = ',';
        }
        let end = if before == ',' { "}" } else { "" };
        write!(out, "{end} {}", number(value))?;
        exemplar.map_or(Ok(()), |exemplar| write!(out, " # {exemplar}"))?;
        writeln!(out)
    }

    fn exemplar(&self, key: Key) -> Option<&str> {
        self.exemplars.get(&(self.kind, key)).map(String::as_str)
    }
}

/// A number as both formats write it.
pub fn number(value: f64) -> String {
    match value {
        f64::INFINITY => "+Inf".into(),
        f64::NEG_INFINITY => "-Inf".into(),
        _ => format!("{value:?}"),
    }
}

fn first(cells: Cells) -> f64 {
    cells.first().map_or(0.0, value)
}

#[cfg(test)]
mod tests {
    use super::super::series::{add, set};
    use super::*;

    fn key(name: &str, suffix: &str, labels: &[(&str, &str)]) -> Key {
        let labels = labels.iter().map(|(name, value)| (name.to_string(), value.to_string())).collect();
        Key { name: name.into(), suffix: suffix.into(), labels }
    }

    fn count(metrics: SiteMetrics, kind: Kind, key: &Key, amount: f64) {
        add(&metrics.value(kind, key).unwrap().cells()[0], amount);
    }

    fn shown(metrics: SiteMetrics, format: Format) -> String {
        let mut out = String::new();
        assert_eq!(expose(&mut out, metrics, HashSet::new(), format), [] as [&str; 0]);
        out
    }

    #[test]
    fn both_formats_say_what_was_counted() {
        let (_fd, metrics) = SiteMetrics::create(1).unwrap();
        metrics.declare(Kind::Counter, "shop_orders", "Orders,\nwith a \\ and a \".", 1).unwrap();
        metrics.declare(Kind::Histogram, "shop_wait_seconds", "Waits.", 1).unwrap();
        metrics.declare(Kind::Summary, "shop.größe", "", 1).unwrap();
        count(metrics, Kind::Counter, &key("shop_orders", "_total", &[("of", "a \"b\"\n\\")]), 2.0);
        for (bound, amount) in [("10.0", 1.0), ("+Inf", 2.0), ("5.0", 3.0)] {
            count(metrics, Kind::Histogram, &key("shop_wait_seconds", "_bucket", &[("le", bound)]), amount);
        }
        count(metrics, Kind::Histogram, &key("shop_wait_seconds", "_sum", &[]), 0.25);
        count(metrics, Kind::Summary, &key("shop.größe", "_sum", &[]), f64::INFINITY);
        count(metrics, Kind::Summary, &key("shop.größe", "_count", &[]), 1.0);
        let samples = "shop_wait_seconds_bucket{le=\"5.0\"} 3.0\nshop_wait_seconds_bucket{le=\"10.0\"} 4.0\n\
            shop_wait_seconds_bucket{le=\"+Inf\"} 6.0\nshop_wait_seconds_count 6.0\nshop_wait_seconds_sum 0.25\n";
        let orders = r#"shop_orders_total{of="a \"b\"\n\\"} 2.0"#;
        assert_eq!(
            shown(metrics, Format::Text),
            format!(
                "# HELP shop_gr__e Multiprocess metric\n# TYPE shop_gr__e summary\nshop_gr__e_count 1.0\nshop_gr__e_sum +Inf\n\
                # HELP shop_orders_total Orders,\\nwith a \\\\ and a \".\n# TYPE shop_orders_total counter\n{orders}\n\
                # HELP shop_wait_seconds Waits.\n# TYPE shop_wait_seconds histogram\n{samples}"
            )
        );
        assert_eq!(
            shown(metrics, Format::OpenMetrics),
            format!(
                "# TYPE shop_gr__e summary\n# HELP shop_gr__e Multiprocess metric\nshop_gr__e_count 1.0\nshop_gr__e_sum +Inf\n\
                # TYPE shop_orders counter\n# HELP shop_orders Orders,\\nwith a \\\\ and a \\\".\n{orders}\n\
                # TYPE shop_wait_seconds histogram\n# UNIT shop_wait_seconds seconds\n# HELP shop_wait_seconds Waits.\n{samples}"
            )
        );
    }

    #[test]
    fn a_gauge_of_every_worker_has_their_pids() {
        let (_fd, metrics) = SiteMetrics::create(2).unwrap();
        let all = Kind::named("gauge", "all").unwrap();
        metrics.declare(all, "shop_depth", "Depth.", 1).unwrap();
        let gauge =
            Gauge::new(metrics.value(all, &key("shop_depth", "", &[("pid", "mine"), ("q", "a")])).unwrap().cells())
                .unwrap();
        assert_eq!(shown(metrics, Format::Text), "", "nobody shows it");
        gauge.reading(0).occupy(11, 3.0, 0.0);
        gauge.reading(1).occupy(12, -1.0, 0.0);
        let lines = "shop_depth{q=\"a\",pid=\"11\"} 3.0\nshop_depth{q=\"a\",pid=\"12\"} -1.0\n";
        assert!(shown(metrics, Format::Text).ends_with(lines));
        metrics.bury(0);
        assert!(shown(metrics, Format::Text).ends_with(lines), "until another one has its slot");
        metrics.occupy(0);
        assert!(shown(metrics, Format::Text).ends_with("gauge\nshop_depth{q=\"a\",pid=\"12\"} -1.0\n"));
    }

    #[test]
    fn the_last_generation_says_what_a_metric_is() {
        let (_fd, metrics) = SiteMetrics::create(1).unwrap();
        let max = Kind::named("gauge", "max").unwrap();
        metrics.declare(Kind::Counter, "shop_x", "Old.", 1).unwrap();
        count(metrics, Kind::Counter, &key("shop_x", "_total", &[]), 1.0);
        metrics.declare(max, "shop_x", "New.", 2).unwrap();
        Gauge::new(metrics.value(max, &key("shop_x", "", &[])).unwrap().cells())
            .unwrap()
            .reading(0)
            .occupy(1, 7.0, 0.0);
        assert_eq!(shown(metrics, Format::Text), "# HELP shop_x New.\n# TYPE shop_x gauge\nshop_x 7.0\n");
        // What is declared as two things at once: one is shown, the other one is said to be dropped.
        metrics.declare(Kind::Counter, "shop_x", "Newer.", 2).unwrap();
        let mut out = String::new();
        assert_eq!(expose(&mut out, metrics, HashSet::new(), Format::Text), ["shop_x"]);
        assert_eq!(out, "# HELP shop_x_total Newer.\n# TYPE shop_x_total counter\nshop_x_total 1.0\n");
    }

    #[test]
    fn a_name_that_is_taken_is_dropped() {
        let (_fd, metrics) = SiteMetrics::create(1).unwrap();
        for name in ["atrio_x", "atrio_y"] {
            metrics.declare(Kind::Counter, name, "X.", 1).unwrap();
            set(&metrics.value(Kind::Counter, &key(name, "_total", &[])).unwrap().cells()[0], 1.0);
        }
        let mut out = String::new();
        let taken = sample_names("counter", "atrio_x").into_iter().collect();
        assert_eq!(expose(&mut out, metrics, taken, Format::Text), ["atrio_x"]);
        assert!(out.contains("atrio_y_total 1.0") && !out.contains("atrio_x"), "{out}");
    }
}
