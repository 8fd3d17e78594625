//! The target of a request, decoded and checked (RFC 9112 section 3.2, RFC 3986 section 2.1).

use http::Uri;
use http::request::Parts;

use super::head::Rejection;

/// A decoded path.
#[derive(Debug, PartialEq)]
pub struct Target {
    /// Percent-decoded bytes; `None` when the raw path has no `%`, and is the decoded one.
    decoded: Option<Vec<u8>>,
    absolute: bool,
}

impl Target {
    /// Refuses a path that climbs: a `..` segment in its decoded form, whichever way it was encoded, and NUL.
    pub fn new(uri: &Uri) -> Result<Self, Rejection> {
        let raw = uri.path().as_bytes();
        let decoded = memchr::memchr(b'%', raw).map(|_| decode(raw));
        let path = decoded.as_deref().unwrap_or(raw);
        if memchr::memmem::find(path, b"..").is_some()
            && path.split(|b| *b == b'/' || *b == b'\\').any(|segment| segment == b"..")
        {
            return Err(Rejection { status: http::StatusCode::BAD_REQUEST, reason: "the path has a .. segment" });
        }
        if memchr::memchr(0, path).is_some() {
            return Err(Rejection { status: http::StatusCode::BAD_REQUEST, reason: "the path has a NUL" });
        }
        Ok(Target { decoded, absolute: uri.scheme().is_some() })
    }

    /// The decoded path.
    pub fn path<'a>(&'a self, uri: &'a Uri) -> &'a [u8] {
        self.decoded.as_deref().unwrap_or(uri.path().as_bytes())
    }

    /// The host of an absolute-form target, which replaces the Host header (RFC 9112 section 3.2.2).
    pub fn authority<'a>(&self, parts: &'a Parts) -> Option<&'a str> {
        if self.absolute { parts.uri.authority().map(|a| a.as_str()) } else { None }
    }
}

fn decode(raw: &[u8]) -> Vec<u8> {
    let digit = |b: &u8| (*b as char).to_digit(16).map(|d| d as u8);
    let mut out = Vec::with_capacity(raw.len());
    let mut rest = raw;
    while let [first, tail @ ..] = rest {
        match (first, tail) {
            (b'%', [a, b, after @ ..]) if let (Some(a), Some(b)) = (digit(a), digit(b)) => {
                out.push(a << 4 | b);
                rest = after;
            }
            _ => {
                out.push(*first);
                rest = tail;
            }
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn path(uri: &'static str) -> Option<Vec<u8>> {
        let uri = Uri::from_static(uri);
        Target::new(&uri).ok().map(|target| target.path(&uri).to_vec())
    }

    #[test]
    fn paths_are_decoded_once() {
        assert_eq!(path("/a%20b%2Fc%2520?x=%41").unwrap(), b"/a b/c%20");
        assert_eq!(path("/%ff").unwrap(), b"/\xff");
        assert_eq!(path("http://host/a").unwrap(), b"/a");
        assert_eq!(path("/a..b/...").unwrap(), b"/a..b/...");
    }

    #[test]
    fn paths_do_not_climb() {
        for uri in ["/..", "/a/../b", "/%2e%2e/b", "/.%2E/b", "/a%2f..%2fb", "/..%5cb", "/a%00b"] {
            assert_eq!(path(uri), None, "{uri}");
        }
    }
}
