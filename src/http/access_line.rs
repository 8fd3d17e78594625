//! A line of the access log.

use std::io::Write;
use std::time::{Duration, Instant};

use http::{HeaderValue, Method, Version};
use opentelemetry::trace::TraceId;

use super::request_id::write_hex;

/// How a line looks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// The Common Log Format, then duration and queue time in seconds, the request id, and the trace id if there is one.
    Common,
    /// The same with Referer and User-Agent, as Apache's `combined`.
    Combined,
    /// One JSON object a line.
    Json,
}

/// One request.
pub struct Entry<'a> {
    /// `None`: a unix socket.
    pub peer: Option<&'a str>,
    pub method: &'a Method,
    pub target: &'a str,
    pub version: Version,
    pub status: u16,
    /// Bytes of the response's body.
    pub bytes: u64,
    /// When it was over.
    pub ended: Instant,
    pub duration: Duration,
    pub queued: Duration,
    pub id: &'a [u8],
    pub trace: Option<TraceId>,
    pub referer: Option<&'a HeaderValue>,
    pub user_agent: Option<&'a HeaderValue>,
}

/// The time of day, for moments of the monotonic clock that come one after another.
#[derive(Default)]
pub struct Clock {
    /// One moment on both clocks, the second in milliseconds since the epoch.
    anchor: Option<(Instant, i64)>,
    /// The second that is written, as seconds since the epoch.
    shown: i64,
    /// With all that comes before it in a line of JSON.
    second: String,
}

impl Clock {
    /// Writes the second of a moment as a format has it; the milliseconds above it. The system's clock is looked at once a second.
    fn tell(&mut self, at: Instant, format: Format) -> i64 {
        let told = self.anchor.and_then(|(anchor, millis)| {
            let since = at.saturating_duration_since(anchor);
            (since.as_secs() == 0).then(|| millis + i64::from(since.subsec_millis()))
        });
        let millis = told.unwrap_or_else(|| {
            let millis = jiff::Timestamp::now().as_millisecond();
            // Not `at`, which may be long ago: a thread may have had to wait before it came here.
            self.anchor = Some((Instant::now(), millis));
            millis
        });
        let second = millis.div_euclid(1_000);
        if self.shown != second {
            self.shown = second;
            let is_json = format == Format::Json;
            let pattern = if is_json { "{\"timestamp\":\"%Y-%m-%dT%H:%M:%S." } else { "%d/%b/%Y:%H:%M:%S +0000" };
            let moment = jiff::Timestamp::from_second(second).unwrap_or_default();
            self.second = moment.strftime(pattern).to_string();
        }
        millis.rem_euclid(1_000)
    }
}

/// Adds the line of a request; `origin`: that of its site.
pub fn write_line(out: &mut Vec<u8>, entry: &Entry, format: Format, clock: &mut Clock, origin: &str) {
    let millis = clock.tell(entry.ended, format);
    // Writing to a Vec cannot fail.
    let _ = match format {
        Format::Json => json(out, entry, &clock.second, millis, origin),
        format => text(out, entry, &clock.second, format == Format::Combined),
    };
}

fn text(out: &mut Vec<u8>, entry: &Entry, clock: &str, combined: bool) -> std::io::Result<()> {
    match entry.peer {
        Some(peer) => out.extend_from_slice(peer.as_bytes()),
        None => out.push(b'-'),
    }
    write!(out, " - - [{clock}] \"{} ", entry.method)?;
    escape(out, entry.target.as_bytes());
    let minor = u8::from(entry.version != Version::HTTP_10);
    write!(out, " HTTP/1.{minor}\" {} {}", entry.status, entry.bytes)?;
    if combined {
        for header in [entry.referer, entry.user_agent] {
            out.extend_from_slice(b" \"");
            escape(out, header.map_or(b"-", |value| value.as_bytes()));
            out.push(b'"');
        }
    }
    write!(out, " {:.6} {:.6} ", entry.duration.as_secs_f64(), entry.queued.as_secs_f64())?;
    out.extend_from_slice(entry.id);
    match entry.trace {
        Some(trace) => writeln!(out, " {trace}"),
        None => writeln!(out),
    }
}

/// As Apache does: quotes, backslashes and what is not printable ASCII cannot forge a line.
fn escape(out: &mut Vec<u8>, bytes: &[u8]) {
    for byte in bytes {
        match byte {
            b'"' | b'\\' => out.extend_from_slice(&[b'\\', *byte]),
            b' '..=b'~' => out.push(*byte),
            _ => {
                let _ = write!(out, "\\x{byte:02x}");
            }
        }
    }
}

/// What comes before the client's address in each line of JSON: the time's zone, and what is the same in all lines of a site.
pub fn origin(site: &str) -> String {
    format!("Z\",\"kind\":\"access\",\"site\":{},\"remote_addr\":", serde_json::Value::from(site))
}

/// Written by hand, for it is done for every request: serde takes every number and id through the machinery of formatting.
fn json(out: &mut Vec<u8>, entry: &Entry, second: &str, millis: i64, origin: &str) -> std::io::Result<()> {
    out.extend_from_slice(second.as_bytes());
    out.extend_from_slice(&digits::<3>(millis as u32));
    out.extend_from_slice(origin.as_bytes());
    // Addresses, methods, ids and numbers have nothing to escape.
    match entry.peer {
        Some(peer) => {
            out.push(b'"');
            out.extend_from_slice(peer.as_bytes());
            out.extend_from_slice(b"\",\"method\":\"");
        }
        None => out.extend_from_slice(b"null,\"method\":\""),
    }
    out.extend_from_slice(entry.method.as_str().as_bytes());
    out.extend_from_slice(b"\",\"target\":");
    serde_json::to_writer(&mut *out, entry.target)?;
    let http10 = entry.version == Version::HTTP_10;
    let protocol: &[u8; 32] =
        if http10 { b",\"protocol\":\"HTTP/1.0\",\"status\":" } else { b",\"protocol\":\"HTTP/1.1\",\"status\":" };
    out.extend_from_slice(protocol);
    out.extend_from_slice(&digits::<3>(entry.status.into()));
    out.extend_from_slice(b",\"bytes\":");
    number(out, entry.bytes);
    out.extend_from_slice(b",\"duration\":");
    seconds(out, entry.duration);
    out.extend_from_slice(b",\"queue_time\":");
    seconds(out, entry.queued);
    out.extend_from_slice(b",\"request_id\":\"");
    out.extend_from_slice(entry.id);
    out.push(b'"');
    if let Some(trace) = entry.trace {
        let mut member = *b",\"trace_id\":\"00000000000000000000000000000000\"";
        write_hex(&trace.to_bytes(), &mut member[13..45]);
        out.extend_from_slice(&member);
    }
    for (name, header) in [(",\"referer\":", entry.referer), (",\"user_agent\":", entry.user_agent)] {
        if let Some(value) = header {
            out.extend_from_slice(name.as_bytes());
            serde_json::to_writer(&mut *out, &String::from_utf8_lossy(value.as_bytes()))?;
        }
    }
    out.extend_from_slice(b"}\n");
    Ok(())
}

fn number(out: &mut Vec<u8>, number: u64) {
    out.extend_from_slice(itoa::Buffer::new().format(number).as_bytes());
}

fn seconds(out: &mut Vec<u8>, time: Duration) {
    number(out, time.as_secs());
    out.push(b'.');
    out.extend_from_slice(&digits::<6>(time.subsec_micros()));
}

/// The last digits of a number, with zeros before it.
fn digits<const N: usize>(mut number: u32) -> [u8; N] {
    let mut text = [b'0'; N];
    for digit in text.iter_mut().rev() {
        *digit += (number % 10) as u8;
        number /= 10;
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_cannot_be_forged() {
        let agent = HeaderValue::from_bytes(b"a\"b\\c\xff").unwrap();
        let entry = Entry {
            peer: Some("10.0.0.1"),
            method: &Method::GET,
            target: "/a?\"b",
            version: Version::HTTP_11,
            status: 200,
            bytes: 5,
            ended: Instant::now(),
            duration: Duration::from_micros(1500),
            queued: Duration::from_micros(20),
            id: b"abc",
            trace: Some(5.into()),
            referer: None,
            user_agent: Some(&agent),
        };
        let mut out = Vec::new();
        text(&mut out, &entry, "01/Jan/2026:00:00:00 +0000", true).unwrap();
        assert_eq!(
            String::from_utf8(out).unwrap(),
            "10.0.0.1 - - [01/Jan/2026:00:00:00 +0000] \"GET /a?\\\"b HTTP/1.1\" 200 5 \"-\" \"a\\\"b\\\\c\\xff\" 0.001500 0.000020 abc 00000000000000000000000000000005\n"
        );
        let mut out = Vec::new();
        json(&mut out, &entry, "{\"timestamp\":\"2026-01-01T00:00:00.", 7, &origin("the \"shop\"")).unwrap();
        let line: serde_json::Value = serde_json::from_slice(&out).unwrap();
        assert_eq!(line["timestamp"], "2026-01-01T00:00:00.007Z");
        assert_eq!(line["site"], "the \"shop\"");
        assert_eq!(line["target"], "/a?\"b");
        assert_eq!(line["duration"], 0.0015);
        assert_eq!(line["trace_id"], "00000000000000000000000000000005");
    }

    #[test]
    fn the_time_of_day_follows_the_moments() {
        let mut clock = Clock::default();
        let start = Instant::now();
        clock.tell(start, Format::Json);
        clock.anchor = Some((start, 1_767_225_599_400));
        let told = |clock: &mut Clock, after: u64| {
            let millis = clock.tell(start + Duration::from_millis(after), Format::Json);
            format!("{}{millis:03}", clock.second)
        };
        assert_eq!(told(&mut clock, 0), r#"{"timestamp":"2025-12-31T23:59:59.400"#);
        assert_eq!(told(&mut clock, 607), r#"{"timestamp":"2026-01-01T00:00:00.007"#);
        assert_eq!(told(&mut clock, 599), r#"{"timestamp":"2025-12-31T23:59:59.999"#, "another thread's may be older");
        assert!(*told(&mut clock, 1_000) > *r#"{"timestamp":"2026-01-02"#, "the system's clock is looked at again");
    }

    #[test]
    fn a_line_that_comes_late_does_not_put_the_next_ones_ahead() {
        let mut clock = Clock::default();
        clock.tell(Instant::now() - Duration::from_millis(500), Format::Json);
        let next = clock.tell(Instant::now(), Format::Json) + clock.shown * 1_000;
        assert!(next <= jiff::Timestamp::now().as_millisecond());
    }
}
