//! Judges the head of a request, byte for byte, before hyper sees it (RFC 9112 sections 2 to 6).
//!
//! hyper's parser is lenient where RFC 9112 lets a server be, and leniency is what request smuggling lives on. Whatever two
//! parsers on a request's way could read differently is refused here.

use http::StatusCode;

/// Headers of one request; hyper keeps as many on its stack.
pub const MAX_HEADERS: usize = 100;
/// The longest method token that is waited for.
const MAX_METHOD: usize = 32;

/// A request that is refused before it reaches the site. The connection closes after the answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rejection {
    pub status: StatusCode,
    /// For the client and the log: what is wrong.
    pub reason: &'static str,
}

/// How the body that follows a head is delimited.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BodyFraming {
    Length(u64),
    Chunked,
}

const fn bad(reason: &'static str) -> Rejection {
    Rejection { status: StatusCode::BAD_REQUEST, reason }
}

/// Finds the end of a head that begins at `bytes[0]`, looking no further back than `from`, the length that was searched before.
///
/// `Ok(None)`: more is needed. Empty lines before the request line are passed over (RFC 9112 section 2.2).
pub fn find_end(bytes: &[u8], from: usize) -> Result<Option<usize>, Rejection> {
    let start = leading_empty_lines(bytes);
    for newline in memchr::memchr_iter(b'\n', &bytes[from..]).map(|i| i + from) {
        if newline == 0 || bytes[newline - 1] != b'\r' {
            return Err(bad("a line ends in a bare LF"));
        }
        if newline > start + 2 && bytes[newline - 2] == b'\n' {
            return Ok(Some(newline + 1));
        }
    }
    if let Some(line) = Lines(&bytes[start..]).next() {
        request_line(line)?;
    }
    let token = &bytes[start..];
    let token = &token[..token.len().min(MAX_METHOD)];
    let end = token.iter().position(|b| !is_token(*b));
    match end.map(|i| token[i]) {
        None if token.len() == MAX_METHOD => Err(bad("the method is too long")),
        None | Some(b' ') => Ok(None),
        Some(b'\r') if end == Some(0) => Ok(None),
        Some(_) => Err(bad("the method is not a token")),
    }
}

fn leading_empty_lines(bytes: &[u8]) -> usize {
    bytes.chunks_exact(2).take(4).take_while(|pair| *pair == b"\r\n").count() * 2
}

/// Judges a whole head, its final empty line included.
pub fn judge(head: &[u8]) -> Result<BodyFraming, Rejection> {
    let head = &head[leading_empty_lines(head)..];
    let mut lines = Lines(head);
    let http11 = request_line(lines.next().unwrap_or_default())?;
    let (mut hosts, mut length, mut coding) = (0, None, None);
    let mut count = 0;
    for line in lines {
        if line.is_empty() {
            break;
        }
        count += 1;
        if count > MAX_HEADERS {
            return Err(Rejection {
                status: StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE,
                reason: "more than 100 header fields",
            });
        }
        let (name, value) = field(line)?;
        if name.eq_ignore_ascii_case(b"host") {
            hosts += 1;
            host(value)?;
        } else if name.eq_ignore_ascii_case(b"content-length") {
            if length.replace(decimal(value)?).is_some() {
                return Err(bad("more than one Content-Length"));
            }
        } else if name.eq_ignore_ascii_case(b"transfer-encoding") && coding.replace(value).is_some() {
            return Err(bad("more than one Transfer-Encoding"));
        }
    }
    if hosts > 1 {
        return Err(bad("more than one Host"));
    }
    if hosts == 0 && http11 {
        return Err(bad("no Host"));
    }
    match (coding, length) {
        (None, length) => Ok(BodyFraming::Length(length.unwrap_or(0))),
        (Some(_), Some(_)) => Err(bad("both Content-Length and Transfer-Encoding")),
        (Some(_), None) if !http11 => Err(bad("Transfer-Encoding in HTTP/1.0")),
        (Some(coding), None) => transfer_encoding(coding),
    }
}

/// The lines of a head whose every LF follows a CR.
struct Lines<'a>(&'a [u8]);

impl<'a> Iterator for Lines<'a> {
    type Item = &'a [u8];

    fn next(&mut self) -> Option<&'a [u8]> {
        let end = memchr::memchr(b'\n', self.0)?;
        let (line, rest) = self.0.split_at(end + 1);
        self.0 = rest;
        line.strip_suffix(b"\r\n")
    }
}

/// Whether it says HTTP/1.1 (else 1.0).
fn request_line(line: &[u8]) -> Result<bool, Rejection> {
    let mut parts = line.splitn(3, |b| *b == b' ');
    let (Some(method), Some(target), Some(version)) = (parts.next(), parts.next(), parts.next()) else {
        return Err(bad("the request line is not: method, target, version"));
    };
    if method.is_empty() || !all(method, Class::Token) {
        return Err(bad("the method is not a token"));
    }
    let http11 = match version {
        b"HTTP/1.1" => true,
        b"HTTP/1.0" => false,
        [b'H', b'T', b'T', b'P', b'/', b'0'..=b'9', b'.', b'0'..=b'9'] => {
            let reason = "only HTTP/1.0 and HTTP/1.1 are spoken here";
            return Err(Rejection { status: StatusCode::HTTP_VERSION_NOT_SUPPORTED, reason });
        }
        _ => return Err(bad("the request line does not end in an HTTP version")),
    };
    if method == b"CONNECT" {
        return Err(Rejection { status: StatusCode::NOT_IMPLEMENTED, reason: "CONNECT is for proxies" });
    }
    self::target(method, target)?;
    Ok(http11)
}

/// RFC 9112 section 3.2: origin-form, absolute-form, and `*` for OPTIONS.
fn target(method: &[u8], target: &[u8]) -> Result<(), Rejection> {
    if !all(target, Class::Target) {
        return Err(bad("the target has a character that must be percent-encoded"));
    }
    let path = target.split(|b| *b == b'?').next().unwrap_or_default();
    for at in memchr::memchr_iter(b'%', path) {
        if !matches!(path[at + 1..], [a, b, ..] if a.is_ascii_hexdigit() && b.is_ascii_hexdigit()) {
            return Err(bad("a % in the path is not followed by two hexadecimal digits"));
        }
    }
    let behind = |scheme: &[u8]| {
        let (start, rest) = target.split_at_checked(scheme.len())?;
        start.eq_ignore_ascii_case(scheme).then_some(rest)
    };
    if let Some(rest) = behind(b"http://").or_else(|| behind(b"https://")) {
        let authority = rest.split(|b| b"/?".contains(b)).next().unwrap_or_default();
        return if authority.is_empty() { Err(bad("the target has no host")) } else { host(authority) };
    }
    if target.starts_with(b"/") || (target == b"*" && method == b"OPTIONS") {
        Ok(())
    } else {
        Err(bad("the target does not begin with /"))
    }
}

/// Name and value of a header line (RFC 9112 section 5.1). A folded line has a space where its name should be.
pub fn field(line: &[u8]) -> Result<(&[u8], &[u8]), Rejection> {
    let colon = memchr::memchr(b':', line).ok_or(bad("a header line has no colon"))?;
    let (name, value) = (&line[..colon], line[colon + 1..].trim_ascii());
    if name.is_empty() || !all(name, Class::Token) {
        return Err(bad("a header name is not a token"));
    }
    // Untrimmed: `trim_ascii` trims FF too, which no value may have.
    if !all(&line[colon + 1..], Class::Value) {
        return Err(bad("a header value has a control character"));
    }
    Ok((name, value))
}

fn host(value: &[u8]) -> Result<(), Rejection> {
    let wrong = Err(bad("Host is not a host name and port"));
    let (name, port) = if value.starts_with(b"[") {
        let Some(end) = memchr::memchr(b']', value) else { return wrong };
        let address = std::str::from_utf8(&value[1..end]).ok().and_then(|text| text.parse::<std::net::Ipv6Addr>().ok());
        if address.is_none() {
            return wrong;
        }
        (&[][..], &value[end + 1..])
    } else {
        value.split_at(memchr::memchr(b':', value).unwrap_or(value.len()))
    };
    let port = if port.is_empty() { port } else { port.strip_prefix(b":").unwrap_or(b"-") };
    if all(name, Class::Host) && port.iter().all(u8::is_ascii_digit) && port.len() <= 5 { Ok(()) } else { wrong }
}

fn decimal(value: &[u8]) -> Result<u64, Rejection> {
    let digits = !value.is_empty() && value.len() <= 20 && value.iter().all(u8::is_ascii_digit);
    let number = || std::str::from_utf8(value).ok()?.parse().ok();
    digits.then(number).flatten().ok_or(bad("Content-Length is not a number"))
}

fn transfer_encoding(value: &[u8]) -> Result<BodyFraming, Rejection> {
    if value.eq_ignore_ascii_case(b"chunked") {
        return Ok(BodyFraming::Chunked);
    }
    let mut codings = value.split(|b| *b == b',').map(|c| c.trim_ascii().to_ascii_lowercase()).rev();
    let known: [&[u8]; 5] = [b"gzip", b"x-gzip", b"deflate", b"compress", b"x-compress"];
    if codings.next().as_deref() == Some(b"chunked") && codings.all(|c| known.contains(&&c[..])) {
        // RFC 9112 section 6.1: a coding that is not understood.
        return Err(Rejection {
            status: StatusCode::NOT_IMPLEMENTED,
            reason: "only the chunked coding is spoken here",
        });
    }
    Err(bad("Transfer-Encoding is not chunked"))
}

/// What a byte may be part of.
#[derive(Clone, Copy)]
#[repr(u8)]
enum Class {
    /// RFC 9110 section 5.6.2.
    Token = 1,
    /// Not what RFC 3986 has in no part of a URI; `{}|\\^` are in none either, but are sent by browsers.
    Target = 2,
    /// RFC 9110 section 5.5: visible characters, SP, HTAB and obs-text.
    Value = 4,
    /// RFC 3986 section 3.2.2: unreserved, sub-delims, and percent-encoded bytes.
    Host = 8,
}

/// The classes of each byte: looked up, since heads have many bytes.
const CLASSES: [u8; 256] = {
    let mut classes = [0; 256];
    let mut i = 0;
    while i < 256 {
        let byte = i as u8;
        let alphanumeric = byte.is_ascii_alphanumeric();
        let control = byte < b' ' || byte == 0x7f;
        if alphanumeric || contains(b"!#$%&'*+-.^_`|~", byte) {
            classes[i] |= Class::Token as u8;
        }
        if !control && !contains(b" #<>\"`", byte) {
            classes[i] |= Class::Target as u8;
        }
        if !control || byte == b'\t' {
            classes[i] |= Class::Value as u8;
        }
        if alphanumeric || contains(b"-._~!$&'()*+;=%", byte) {
            classes[i] |= Class::Host as u8;
        }
        i += 1;
    }
    classes
};

const fn contains(bytes: &[u8], byte: u8) -> bool {
    let mut i = 0;
    while i < bytes.len() {
        if bytes[i] == byte {
            return true;
        }
        i += 1;
    }
    false
}

fn all(bytes: &[u8], class: Class) -> bool {
    bytes.iter().all(|byte| CLASSES[usize::from(*byte)] & class as u8 != 0)
}

pub fn is_token(byte: u8) -> bool {
    all(&[byte], Class::Token)
}

/// Whether a byte may be part of a header's value.
pub fn is_value(byte: u8) -> bool {
    all(&[byte], Class::Value)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn judged(head: &str) -> Result<BodyFraming, u16> {
        let status = |r: Rejection| r.status.as_u16();
        match find_end(head.as_bytes(), 0).map_err(status)? {
            Some(end) => judge(&head.as_bytes()[..end]).map_err(status),
            None => Err(0),
        }
    }

    #[test]
    fn whole_requests_pass() {
        assert_eq!(judged("GET / HTTP/1.1\r\nHost: a\r\n\r\n"), Ok(BodyFraming::Length(0)));
        assert_eq!(judged("\r\nGET /a%20b?%zz HTTP/1.0\r\n\r\n"), Ok(BodyFraming::Length(0)));
        assert_eq!(judged("POST / HTTP/1.1\r\nhost:a\r\ncontent-length:\t3 \r\n\r\n"), Ok(BodyFraming::Length(3)));
        assert_eq!(judged("P / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: Chunked\r\n\r\n"), Ok(BodyFraming::Chunked));
        assert_eq!(judged("OPTIONS * HTTP/1.1\r\nHost: a\r\n\r\n"), Ok(BodyFraming::Length(0)));
        assert_eq!(judged("GET http://a/b HTTP/1.1\r\nHost: a\r\n\r\n"), Ok(BodyFraming::Length(0)));
    }

    #[test]
    fn partial_heads_wait_and_garbage_does_not() {
        assert_eq!(judged("GET / HTTP/1.1\r\nHost"), Err(0));
        assert_eq!(judged("GE"), Err(0));
        assert_eq!(judged("\r"), Err(0));
        assert_eq!(judged("\r\n\r\n"), Err(0));
        assert_eq!(judged("\x16\x03\x01"), Err(400));
        assert_eq!(judged("GET / HTTP/1.1\n"), Err(400));
        assert_eq!(judged(&"A".repeat(40)), Err(400));
    }

    #[test]
    fn what_two_parsers_could_read_differently_is_refused() {
        for field in [
            "Content-Length: 3\r\nTransfer-Encoding: chunked",
            "Content-Length: 3\r\nContent-Length: 3",
            "Content-Length: +3",
            "Content-Length: 3, 3",
            "Content-Length: 99999999999999999999999",
            "Content-Length: ",
            "Content-Length : 3",
            "Transfer-Encoding: chunked, chunked",
            "Transfer-Encoding: chunked, identity",
            "Transfer-Encoding: \x0bchunked",
            "Transfer-Encoding: chunked\r\nTransfer-Encoding: identity",
            "X: a\r\n folded",
            " X: a",
            ": a",
            "X",
            "X: a\0b",
            "X: a\rb",
            "X y: a",
            "Host: b",
        ] {
            assert_eq!(judged(&format!("POST / HTTP/1.1\r\nHost: a\r\n{field}\r\n\r\n")), Err(400), "{field:?}");
        }
        for line in
            ["GET /a b HTTP/1.1", "GET / http/1.1", "GET /", "G@T / HTTP/1.1", "GET a HTTP/1.1", "GET /#a HTTP/1.1"]
        {
            assert_eq!(judged(&format!("{line}\r\nHost: a\r\n\r\n")), Err(400), "{line:?}");
        }
        assert_eq!(judged("GET / HTTP/1.1\r\nX: y\r\n\r\n"), Err(400));
        assert_eq!(judged("GET / HTTP/9.9\r\nHost: a\r\n\r\n"), Err(505));
        assert_eq!(judged("PRI * HTTP/2.0\r\n\r\n"), Err(505));
        assert_eq!(judged("GET / HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n"), Err(400));
    }
}
