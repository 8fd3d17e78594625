//! The access log: a line for every request, on stdout.
//!
//! The I/O thread only appends to memory; a thread of its own writes, so that a slow reader of the log delays nobody. What
//! the reader does not take in time is dropped, and the log says how much.

use std::io::Write;
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use http::{HeaderValue, Method, Version};
use opentelemetry::trace::TraceId;

use super::request_id::write_hex;

/// How long a line may wait for company.
const FLUSH_AFTER: Duration = Duration::from_millis(100);
/// At this size the writer is woken at once.
const FLUSH_AT: usize = 64 * 1024;
/// What may wait for a reader that does not keep up.
const LIMIT: usize = 4 * 1024 * 1024;

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
    pub site: &'a str,
    /// `None`: a unix socket.
    pub peer: Option<&'a str>,
    pub method: &'a Method,
    pub target: &'a str,
    pub version: Version,
    pub status: u16,
    /// Bytes of the response's body.
    pub bytes: u64,
    pub duration: Duration,
    pub queued: Duration,
    pub id: &'a str,
    pub trace: Option<TraceId>,
    pub referer: Option<&'a HeaderValue>,
    pub user_agent: Option<&'a HeaderValue>,
}

#[derive(Default)]
struct Buffer {
    lines: Vec<u8>,
    dropped: u64,
    closed: bool,
    /// The second that `clock` shows, and how the formats write it.
    second: i64,
    clock: String,
}

#[derive(Default)]
struct Shared {
    buffer: Mutex<Buffer>,
    wake: Condvar,
}

pub struct AccessLog {
    shared: Arc<Shared>,
    format: Format,
    slow: Option<Duration>,
    sample: Option<f64>,
    writer: Mutex<Option<JoinHandle<()>>>,
}

impl AccessLog {
    /// Starts the thread that writes. Written are requests that take as long as `slow`, and the part `sample` of the others; without
    /// both, all.
    pub fn start(format: Format, slow: Option<Duration>, sample: Option<f64>) -> std::io::Result<Self> {
        let shared = Arc::new(Shared::default());
        let theirs = shared.clone();
        let writer = std::thread::Builder::new().name("atrio-log".into()).spawn(move || write(&theirs))?;
        Ok(AccessLog { shared, format, slow, sample, writer: Mutex::new(Some(writer)) })
    }

    /// Whether a request that took so long is written down.
    pub fn wants(&self, duration: Duration) -> bool {
        match (self.slow, self.sample) {
            (None, None) => true,
            (Some(slow), _) if duration >= slow => true,
            (_, sample) => sample.is_some_and(|part| fastrand::f64() < part),
        }
    }

    pub fn log(&self, entry: &Entry) {
        let mut buffer = self.shared.buffer.lock().unwrap_or_else(PoisonError::into_inner);
        if buffer.lines.len() > LIMIT {
            buffer.dropped += 1;
            return;
        }
        let before = buffer.lines.len();
        let Buffer { lines, second, clock, .. } = &mut *buffer;
        let now = jiff::Timestamp::now();
        if *second != now.as_second() {
            *second = now.as_second();
            let pattern = if self.format == Format::Json { "%Y-%m-%dT%H:%M:%S" } else { "%d/%b/%Y:%H:%M:%S +0000" };
            *clock = now.strftime(pattern).to_string();
        }
        // Writing to a Vec cannot fail.
        let _ = match self.format {
            Format::Json => json(lines, entry, clock, now.subsec_millisecond()),
            format => text(lines, entry, clock, format == Format::Combined),
        };
        let much = lines.len() >= FLUSH_AT && before < FLUSH_AT;
        drop(buffer);
        // It costs a system call: once for each time that the writer has something to do.
        if before == 0 || much {
            self.shared.wake.notify_one();
        }
    }

    /// Writes what is left, and ends the thread.
    pub fn close(&self) {
        self.shared.buffer.lock().unwrap_or_else(PoisonError::into_inner).closed = true;
        self.shared.wake.notify_one();
        if let Some(writer) = self.writer.lock().unwrap_or_else(PoisonError::into_inner).take() {
            let _ = writer.join();
        }
    }
}

fn write(shared: &Shared) {
    let mut failed = false;
    loop {
        let buffer = shared.buffer.lock().unwrap_or_else(PoisonError::into_inner);
        let idle = |b: &mut Buffer| b.lines.is_empty() && !b.closed;
        let buffer = shared.wake.wait_while(buffer, idle).unwrap_or_else(PoisonError::into_inner);
        let few = |b: &mut Buffer| b.lines.len() < FLUSH_AT && !b.closed;
        let waited = shared.wake.wait_timeout_while(buffer, FLUSH_AFTER, few);
        let mut buffer = waited.unwrap_or_else(PoisonError::into_inner).0;
        let (lines, dropped) = (std::mem::take(&mut buffer.lines), std::mem::take(&mut buffer.dropped));
        let closed = buffer.closed;
        drop(buffer);
        let result = std::io::stdout().lock().write_all(&lines).and_then(|()| std::io::stdout().flush());
        match result {
            Err(error) if !failed => {
                failed = true;
                tracing::error!(
                    "the access log cannot be written to stdout: {error}; mend it, or set ATRIO_ACCESS_LOG=off"
                );
            }
            Ok(()) => failed = false,
            Err(_) => {}
        }
        if dropped > 0 {
            tracing::warn!(dropped, "the reader of the access log is too slow: lines were dropped");
        }
        if closed {
            return;
        }
    }
}

fn text(out: &mut Vec<u8>, entry: &Entry, clock: &str, combined: bool) -> std::io::Result<()> {
    match entry.peer {
        Some(peer) => out.extend_from_slice(peer.as_bytes()),
        None => out.push(b'-'),
    }
    write!(out, " - - [{clock}] \"{} ", entry.method)?;
    escape(out, entry.target.as_bytes());
    write!(out, " {}\" {} {}", protocol(entry.version), entry.status, entry.bytes)?;
    if combined {
        for header in [entry.referer, entry.user_agent] {
            out.extend_from_slice(b" \"");
            escape(out, header.map_or(b"-", |value| value.as_bytes()));
            out.push(b'"');
        }
    }
    write!(out, " {:.6} {:.6} {}", entry.duration.as_secs_f64(), entry.queued.as_secs_f64(), entry.id)?;
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

/// Written by hand, for it is done for every request: serde takes every number and id through the machinery of formatting.
fn json(out: &mut Vec<u8>, entry: &Entry, clock: &str, millis: i32) -> std::io::Result<()> {
    out.extend_from_slice(b"{\"timestamp\":\"");
    out.extend_from_slice(clock.as_bytes());
    out.push(b'.');
    digits(out, millis as u64, 3);
    out.extend_from_slice(b"Z\",\"kind\":\"access\",\"site\":");
    serde_json::to_writer(&mut *out, entry.site)?;
    out.extend_from_slice(b",\"remote_addr\":");
    serde_json::to_writer(&mut *out, &entry.peer)?;
    // Methods, ids and numbers have nothing to escape.
    quoted(out, ",\"method\":", entry.method.as_str());
    out.extend_from_slice(b",\"target\":");
    serde_json::to_writer(&mut *out, entry.target)?;
    quoted(out, ",\"protocol\":", protocol(entry.version));
    out.extend_from_slice(b",\"status\":");
    digits(out, entry.status.into(), 1);
    out.extend_from_slice(b",\"bytes\":");
    digits(out, entry.bytes, 1);
    out.extend_from_slice(b",\"duration\":");
    seconds(out, entry.duration);
    out.extend_from_slice(b",\"queue_time\":");
    seconds(out, entry.queued);
    quoted(out, ",\"request_id\":", entry.id);
    if let Some(trace) = entry.trace {
        out.extend_from_slice(b",\"trace_id\":\"");
        let at = out.len();
        out.resize(at + 32, 0);
        write_hex(&trace.to_bytes(), &mut out[at..]);
        out.push(b'"');
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

fn protocol(version: Version) -> &'static str {
    if version == Version::HTTP_10 { "HTTP/1.0" } else { "HTTP/1.1" }
}

fn quoted(out: &mut Vec<u8>, name: &str, text: &str) {
    out.extend_from_slice(name.as_bytes());
    out.push(b'"');
    out.extend_from_slice(text.as_bytes());
    out.push(b'"');
}

/// A decimal number of at least `width` digits.
fn digits(out: &mut Vec<u8>, mut number: u64, width: usize) {
    let mut text = [b'0'; 20];
    let mut at = text.len();
    while number > 0 {
        at -= 1;
        text[at] = b'0' + (number % 10) as u8;
        number /= 10;
    }
    out.extend_from_slice(&text[at.min(text.len() - width)..]);
}

fn seconds(out: &mut Vec<u8>, time: Duration) {
    digits(out, time.as_secs(), 1);
    out.push(b'.');
    digits(out, time.subsec_micros().into(), 6);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_cannot_be_forged() {
        let agent = HeaderValue::from_bytes(b"a\"b\\c\xff").unwrap();
        let entry = Entry {
            site: "shop",
            peer: Some("10.0.0.1"),
            method: &Method::GET,
            target: "/a?\"b",
            version: Version::HTTP_11,
            status: 200,
            bytes: 5,
            duration: Duration::from_micros(1500),
            queued: Duration::from_micros(20),
            id: "abc",
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
        json(&mut out, &entry, "2026-01-01T00:00:00", 7).unwrap();
        let line: serde_json::Value = serde_json::from_slice(&out).unwrap();
        assert_eq!(line["timestamp"], "2026-01-01T00:00:00.007Z");
        assert_eq!(line["target"], "/a?\"b");
        assert_eq!(line["duration"], 0.0015);
        assert_eq!(line["trace_id"], "00000000000000000000000000000005");
    }
}
