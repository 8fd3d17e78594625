//! What the OpenTelemetry specification's variables say of traces. They are taken as they stand there, and only once something turns traces
//! on: until then they are the site's affair.

use std::collections::BTreeMap;
use std::time::Duration;

use http::{HeaderName, HeaderValue, Uri};
use percent_encoding::percent_decode_str;
use serde::{Deserialize, Serialize};

use super::sources::Source;

/// Where traces go, and which.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Traces {
    /// The collector. Default `localhost`. From `OTEL_EXPORTER_OTLP_TRACES_ENDPOINT`, else `OTEL_EXPORTER_OTLP_ENDPOINT`.
    pub host: String,
    /// Default 4318, or 4317 by gRPC.
    pub port: u16,
    /// Default `/v1/traces`, or gRPC's own.
    pub path: String,
    /// Default `http/protobuf`. From `OTEL_EXPORTER_OTLP_PROTOCOL`.
    pub protocol: Protocol,
    /// Sent with every export. From `OTEL_EXPORTER_OTLP_HEADERS`; secret.
    pub headers: Vec<(String, String)>,
    /// For one export, repetitions included. Default 10 s. From `OTEL_EXPORTER_OTLP_TIMEOUT` and `OTEL_BSP_EXPORT_TIMEOUT`.
    pub timeout: Duration,
    /// Which requests are traced. Default `parentbased_always_on`. From `OTEL_TRACES_SAMPLER` and `OTEL_TRACES_SAMPLER_ARG`.
    pub sampler: Sampler,
    /// What all spans have in common. From `OTEL_RESOURCE_ATTRIBUTES` and `OTEL_SERVICE_NAME`.
    pub resource: BTreeMap<String, String>,
    /// Whether `traceparent` counts. Default yes. From `OTEL_PROPAGATORS`.
    pub propagates: bool,
    /// Longest wait for company. Default 5 s. From `OTEL_BSP_SCHEDULE_DELAY`.
    pub delay: Duration,
    /// Spans that wait. Default 2048. From `OTEL_BSP_MAX_QUEUE_SIZE`.
    pub queue: usize,
    /// Spans of one export. Default 512. From `OTEL_BSP_MAX_EXPORT_BATCH_SIZE`.
    pub batch: usize,
}

/// How OTLP is spoken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Protocol {
    /// `http/protobuf`.
    Http,
    /// `grpc`.
    Grpc,
}

/// Decides which traces are recorded.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Sampler {
    /// Where there is a parent, it has decided already.
    pub parent_based: bool,
    /// The part of the traces, from 0 to 1.
    pub ratio: f64,
}

/// Service and method of OTLP for traces.
const GRPC_PATH: &str = "/opentelemetry.proto.collector.trace.v1.TraceService/Export";

const ENDPOINT: [&str; 2] = ["OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT"];
const PROTOCOL: [&str; 2] = ["OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "OTEL_EXPORTER_OTLP_PROTOCOL"];
const HEADERS: [&str; 2] = ["OTEL_EXPORTER_OTLP_TRACES_HEADERS", "OTEL_EXPORTER_OTLP_HEADERS"];
const TIMEOUT: [&str; 2] = ["OTEL_EXPORTER_OTLP_TRACES_TIMEOUT", "OTEL_EXPORTER_OTLP_TIMEOUT"];
const COMPRESSION: [&str; 2] = ["OTEL_EXPORTER_OTLP_TRACES_COMPRESSION", "OTEL_EXPORTER_OTLP_COMPRESSION"];
const RESOURCE: &str = "OTEL_RESOURCE_ATTRIBUTES";
const SAMPLER_ARG: &str = "OTEL_TRACES_SAMPLER_ARG";
const BATCH: &str = "OTEL_BSP_MAX_EXPORT_BATCH_SIZE";

/// `None`: there are no traces.
pub(super) fn read(source: &Source, problems: &mut Vec<String>) -> Option<Traces> {
    let found = source.variables.iter().filter_map(|(name, value)| {
        let name = name.to_str().filter(|name| name.starts_with("OTEL_"))?;
        // An empty one counts as not set.
        Some((name, value.to_string_lossy().trim().to_owned())).filter(|(_, value)| !value.is_empty())
    });
    let mut variables = Variables { found: found.collect(), problems };
    if !variables.turn_on() {
        return None;
    }
    let protocol = variables.protocol();
    variables.one(&COMPRESSION, (), |word| (word == "none").then_some(()), "traces are sent as they are: give none");
    let (host, port, path) = variables.endpoint(protocol);
    let queue = variables.whole("OTEL_BSP_MAX_QUEUE_SIZE", 2048);
    let batch = variables.whole(BATCH, 512.min(queue));
    if batch > queue {
        variables.problems.push(format!("{BATCH}={batch}: more than OTEL_BSP_MAX_QUEUE_SIZE; give one up to {queue}"));
    }
    let mut timeout = |names: &[&'static str], default| {
        variables.one(names, default, |text| millis(text).filter(|t| !t.is_zero()), MILLISECONDS)
    };
    let timeout = timeout(&TIMEOUT, 10 * SECOND).min(timeout(&["OTEL_BSP_EXPORT_TIMEOUT"], 30 * SECOND));
    Some(Traces {
        host,
        port,
        path,
        protocol,
        headers: variables.headers(),
        timeout,
        sampler: variables.sampler(),
        resource: variables.resource(),
        propagates: variables.propagates(),
        delay: variables.one(&["OTEL_BSP_SCHEDULE_DELAY"], 5 * SECOND, millis, MILLISECONDS),
        queue,
        batch,
    })
}

const SECOND: Duration = Duration::from_secs(1);
const MILLISECONDS: &str = "give a whole number of milliseconds";

struct Variables<'a> {
    found: BTreeMap<&'a str, String>,
    problems: &'a mut Vec<String>,
}

impl<'a> Variables<'a> {
    /// The first of these variables that is set.
    fn first(&self, names: &[&'static str]) -> Option<(&'static str, String)> {
        names.iter().find_map(|name| Some((*name, self.found.get(name)?.clone())))
    }

    fn one<T>(&mut self, names: &[&'static str], default: T, parse: impl Fn(&str) -> Option<T>, remedy: &str) -> T {
        let Some((name, text)) = self.first(names) else { return default };
        parse(&text).unwrap_or_else(|| {
            self.problems.push(format!("{name}={text}: {remedy}"));
            default
        })
    }

    fn whole(&mut self, name: &'static str, default: usize) -> usize {
        let parse = |text: &str| text.parse().ok().filter(|number| (1..=1_000_000).contains(number));
        self.one(&[name], default, parse, "give a whole number from 1 to 1000000")
    }

    fn turn_on(&mut self) -> bool {
        let truth = |text: &str| text.to_ascii_lowercase().parse().ok();
        if self.one(&["OTEL_SDK_DISABLED"], false, truth, "give true or false") {
            return false;
        }
        // Exporters that the site's own SDK may have are known here, and left to it.
        let known = |word: &str| ["otlp", "none", "console", "logging", "zipkin"].contains(&word);
        let parse = |text: &str| {
            let mut words = text.split(',').map(str::trim);
            words.clone().all(known).then(|| words.any(|word| word == "otlp"))
        };
        let given = self.first(&ENDPOINT).is_some();
        self.one(&["OTEL_TRACES_EXPORTER"], given, parse, "give otlp or none")
    }

    fn protocol(&mut self) -> Protocol {
        let parse = |word: &str| match word {
            "http/protobuf" => Some(Protocol::Http),
            "grpc" => Some(Protocol::Grpc),
            _ => None,
        };
        self.one(&PROTOCOL, Protocol::Http, parse, "give http/protobuf or grpc")
    }

    fn endpoint(&mut self, protocol: Protocol) -> (String, u16, String) {
        let default = match protocol {
            Protocol::Http => "http://localhost:4318",
            Protocol::Grpc => "http://localhost:4317",
        };
        let (name, mut text) = self.first(&ENDPOINT).unwrap_or((ENDPOINT[1], default.into()));
        if protocol == Protocol::Grpc && !text.contains("://") {
            // As gRPC itself names its targets.
            text.insert_str(0, "http://");
        }
        let parsed = text.parse::<Uri>().ok().filter(|uri| uri.host().is_some_and(|host| !host.is_empty()));
        let uri = match parsed.as_ref().and_then(Uri::scheme_str) {
            Some("http") => parsed.unwrap_or_default(),
            Some("https") => {
                let remedy = "Atrio speaks no TLS to a collector: give http://, e.g. that of a collector beside it";
                self.problems.push(format!("{name}={text}: {remedy}"));
                Uri::default()
            }
            _ => {
                self.problems.push(format!("{name}={text}: give a URL, e.g. http://localhost:4318"));
                Uri::default()
            }
        };
        let own = uri.path_and_query().map_or("/", |path| path.as_str());
        // The one for all signals is a base; the one for traces stands as it is.
        let path = match protocol {
            Protocol::Grpc => GRPC_PATH.to_owned(),
            Protocol::Http if name == ENDPOINT[1] => format!("{}/v1/traces", own.trim_end_matches('/')),
            Protocol::Http => own.to_owned(),
        };
        (uri.host().unwrap_or_default().to_owned(), uri.port_u16().unwrap_or(80), path)
    }

    fn headers(&mut self) -> Vec<(String, String)> {
        let Some((name, text)) = self.first(&HEADERS) else { return Vec::new() };
        let valid = |(name, value): &(String, String)| {
            HeaderName::try_from(name.as_str()).is_ok() && HeaderValue::try_from(value.as_str()).is_ok()
        };
        let pairs = pairs(&text).filter(|pairs| pairs.iter().all(valid));
        pairs.unwrap_or_else(|| {
            // The value stays unsaid: it is likely to be a secret.
            self.problems.push(format!("{name}: not a list of headers; give name=value,name=value, percent-encoded"));
            Vec::new()
        })
    }

    fn sampler(&mut self) -> Sampler {
        let given = self.first(&["OTEL_TRACES_SAMPLER"]).map_or("parentbased_always_on".into(), |(_, word)| word);
        let parent_based = given.starts_with("parentbased_");
        let ratio = match given.trim_start_matches("parentbased_") {
            "always_on" => 1.0,
            "always_off" => 0.0,
            "traceidratio" => {
                let parse = |text: &str| text.parse().ok().filter(|ratio| (0.0..=1.0).contains(ratio));
                self.one(&[SAMPLER_ARG], 1.0, parse, "give a number from 0 to 1")
            }
            _ => {
                let remedy = "give always_on, always_off or traceidratio, with or without parentbased_ before it";
                self.problems.push(format!("OTEL_TRACES_SAMPLER={given}: {remedy}"));
                0.0
            }
        };
        Sampler { parent_based, ratio }
    }

    fn resource(&mut self) -> BTreeMap<String, String> {
        let remedy = "give key=value,key=value, percent-encoded";
        let mut resource: BTreeMap<String, String> =
            self.one(&[RESOURCE], Vec::new(), pairs, remedy).into_iter().collect();
        if let Some((_, name)) = self.first(&["OTEL_SERVICE_NAME"]) {
            resource.insert("service.name".into(), name);
        }
        resource
    }

    fn propagates(&mut self) -> bool {
        // Baggage goes to the site as it came, like every header.
        let parse = |text: &str| {
            let mut words = text.split(',').map(str::trim);
            let known = words.clone().all(|word| ["tracecontext", "baggage", "none"].contains(&word));
            known.then(|| words.any(|word| word == "tracecontext"))
        };
        self.one(&["OTEL_PROPAGATORS"], true, parse, "give some of tracecontext, baggage and none")
    }
}

fn millis(text: &str) -> Option<Duration> {
    text.parse().ok().filter(|millis| *millis <= 86_400_000).map(Duration::from_millis)
}

/// `key=value,key=value`, as W3C's Baggage has it: values are percent-encoded.
fn pairs(text: &str) -> Option<Vec<(String, String)>> {
    let parts = text.split(',').map(str::trim).filter(|part| !part.is_empty());
    let pair = |part: &str| {
        let (key, value) = part.split_once('=')?;
        let value = percent_decode_str(value.trim()).decode_utf8().ok()?.into_owned();
        Some((key.trim().to_owned(), value)).filter(|(key, _)| !key.is_empty())
    };
    parts.map(pair).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read_of(variables: &[(&str, &str)]) -> (Option<Traces>, Vec<String>) {
        let source = Source {
            variables: variables.iter().map(|(name, value)| (name.into(), value.into())).collect(),
            etc: "/nonexistent".into(),
            sites: vec![],
            directory: "/".into(),
        };
        let mut problems = Vec::new();
        (read(&source, &mut problems), problems)
    }

    fn traces(variables: &[(&str, &str)]) -> Traces {
        let (traces, problems) = read_of(variables);
        assert_eq!(problems, [""; 0]);
        traces.expect("traces are on")
    }

    #[test]
    fn nothing_is_read_until_traces_are_on() {
        for variables in [
            &[][..],
            &[("OTEL_EXPORTER_OTLP_ENDPOINT", "")],
            &[("OTEL_SERVICE_NAME", "shop"), ("OTEL_TRACES_SAMPLER", "wrong")],
            &[("OTEL_EXPORTER_OTLP_ENDPOINT", "http://a"), ("OTEL_TRACES_EXPORTER", "none")],
            &[("OTEL_EXPORTER_OTLP_ENDPOINT", "http://a"), ("OTEL_TRACES_EXPORTER", "console")],
            &[("OTEL_EXPORTER_OTLP_ENDPOINT", "https://a"), ("OTEL_SDK_DISABLED", "TRUE")],
        ] {
            assert_eq!(read_of(variables), (None, vec![]), "{variables:?}");
        }
    }

    #[test]
    fn the_specification_s_defaults() {
        let traces = traces(&[("OTEL_TRACES_EXPORTER", "otlp")]);
        assert_eq!((traces.host.as_str(), traces.port, traces.path.as_str()), ("localhost", 4318, "/v1/traces"));
        assert_eq!(traces.sampler, Sampler { parent_based: true, ratio: 1.0 });
        assert_eq!((traces.timeout, traces.delay, traces.queue, traces.batch), (10 * SECOND, 5 * SECOND, 2048, 512));
        assert!(traces.propagates && traces.headers.is_empty() && traces.resource.is_empty());
    }

    #[test]
    fn the_endpoint_of_traces_stands_as_it_is_and_the_general_one_is_a_base() {
        let path = |name, value| traces(&[(name, value)]).path;
        assert_eq!(path("OTEL_EXPORTER_OTLP_ENDPOINT", "http://c:1/base/"), "/base/v1/traces");
        assert_eq!(path("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "http://c:1/base/"), "/base/");
        let grpc = |endpoint| {
            let by_grpc = ("OTEL_EXPORTER_OTLP_PROTOCOL", "grpc");
            let Traces { host, port, path, .. } =
                traces(&[("OTEL_TRACES_EXPORTER", "otlp"), by_grpc, ("OTEL_EXPORTER_OTLP_ENDPOINT", endpoint)]);
            (host, port, path)
        };
        let expected = |host: &str, port| (host.to_owned(), port, GRPC_PATH.to_owned());
        assert_eq!(grpc(""), expected("localhost", 4317));
        assert_eq!(grpc("http://c:1/ignored"), expected("c", 1));
        assert_eq!(grpc("c:1"), expected("c", 1));
        let both = [("OTEL_EXPORTER_OTLP_ENDPOINT", "http://a:1"), ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "http://b")];
        let both = traces(&both);
        assert_eq!((both.host.as_str(), both.port, both.path.as_str()), ("b", 80, "/"));
    }

    #[test]
    fn lists_are_percent_encoded_and_the_service_name_wins() {
        let traces = traces(&[
            ("OTEL_EXPORTER_OTLP_ENDPOINT", "http://c:4318"),
            ("OTEL_EXPORTER_OTLP_HEADERS", "authorization=Bearer%20abc, x-tenant=1"),
            ("OTEL_RESOURCE_ATTRIBUTES", "service.name=other,deployment.environment.name=a%2Cb"),
            ("OTEL_SERVICE_NAME", "shop"),
            ("OTEL_TRACES_SAMPLER", "traceidratio"),
            ("OTEL_TRACES_SAMPLER_ARG", "0.25"),
            ("OTEL_EXPORTER_OTLP_TIMEOUT", "20000"),
            ("OTEL_BSP_EXPORT_TIMEOUT", "15000"),
            ("OTEL_PROPAGATORS", "baggage"),
        ]);
        let header = |name: &str, value: &str| (name.to_owned(), value.to_owned());
        assert_eq!(traces.headers, [header("authorization", "Bearer abc"), header("x-tenant", "1")]);
        assert_eq!(
            (&*traces.resource["service.name"], &*traces.resource["deployment.environment.name"]),
            ("shop", "a,b")
        );
        assert_eq!(traces.sampler, Sampler { parent_based: false, ratio: 0.25 });
        assert!(traces.timeout == 15 * SECOND && !traces.propagates);
    }

    #[test]
    fn what_is_wrong_names_its_variable_and_all_of_it_is_said_at_once() {
        let on = ("OTEL_TRACES_EXPORTER", "otlp");
        for (name, value) in [
            ("OTEL_SDK_DISABLED", "yes"),
            ("OTEL_TRACES_EXPORTER", "otpl"),
            ("OTEL_EXPORTER_OTLP_ENDPOINT", "https://collector"),
            ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "collector:4318"),
            ("OTEL_EXPORTER_OTLP_PROTOCOL", "http/json"),
            ("OTEL_EXPORTER_OTLP_COMPRESSION", "gzip"),
            ("OTEL_EXPORTER_OTLP_TIMEOUT", "10s"),
            ("OTEL_TRACES_SAMPLER", "sometimes"),
            ("OTEL_RESOURCE_ATTRIBUTES", "shop"),
            ("OTEL_PROPAGATORS", "b3"),
            ("OTEL_BSP_SCHEDULE_DELAY", "-1"),
            ("OTEL_BSP_MAX_QUEUE_SIZE", "0"),
            ("OTEL_BSP_MAX_EXPORT_BATCH_SIZE", "4096"),
        ] {
            let problems = read_of(&[on, (name, value)]).1;
            assert!(
                matches!(&problems[..], [problem] if problem.starts_with(&format!("{name}={value}: "))),
                "{problems:?}"
            );
        }
        let several = read_of(&[on, ("OTEL_TRACES_SAMPLER", "x"), ("OTEL_EXPORTER_OTLP_HEADERS", "s3cret")]).1;
        assert!(several.len() == 2 && !several.concat().contains("s3cret"), "{several:?}");
    }
}
