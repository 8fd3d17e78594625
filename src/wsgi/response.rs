//! Judges what an application says with `start_response` (PEP 3333, "The start_response() Callable"; RFC 9110).
//!
//! Whatever could break the framing of the connection, or inject a header, is an error of the site.

use http::header::{self, HeaderName, HeaderValue};
use http::response::Parts;
use http::{HeaderMap, StatusCode};
use hyper::ext::ReasonPhrase;
use pyo3::exceptions::{PyTypeError, PyValueError};
use pyo3::prelude::*;
use pyo3::types::{PyList, PyString, PyTuple};

use crate::http::job::head;

/// Headers of one response.
const MAX_HEADERS: usize = 1000;

/// A response as it was declared.
pub struct Declared {
    pub head: Parts,
    /// The site's Content-Length.
    pub length: Option<u64>,
}

/// Checks status and headers, and takes a copy of them.
pub fn declare(status: &Bound<PyAny>, headers: &Bound<PyAny>) -> PyResult<Declared> {
    let status = status.cast::<PyString>().map_err(|_| type_error("the status", "str", status))?;
    let (code, reason) = self::status(&native(status)?)?;
    let list = headers.cast::<PyList>().map_err(|_| type_error("the headers", "list", headers))?;
    if list.len() > MAX_HEADERS {
        return Err(PyValueError::new_err(format!("{} headers: no client takes more than {MAX_HEADERS}", list.len())));
    }
    let mut map = HeaderMap::with_capacity(list.len() + 2);
    let (mut length, mut close) = (None, false);
    for item in list.iter() {
        let pair = item.cast::<PyTuple>().map_err(|_| type_error("a header", "tuple", &item))?;
        if pair.len() != 2 {
            return Err(PyValueError::new_err(format!("a header is (name, value), not {}", pair.repr()?)));
        }
        let (name, value) = (pair.get_item(0)?, pair.get_item(1)?);
        let name = name.cast::<PyString>().map_err(|_| type_error("a header's name", "str", &name))?;
        let value = value.cast::<PyString>().map_err(|_| type_error("a header's value", "str", &value))?;
        let (name, value) = (self::name(&native(name)?)?, self::value(&native(value)?)?);
        match name {
            header::CONTENT_LENGTH => {
                let number = value.to_str().ok().filter(|text| text.bytes().all(|b| b.is_ascii_digit()));
                let number = number.and_then(|text| text.parse().ok());
                let number = number.ok_or_else(|| PyValueError::new_err("Content-Length is not a number"))?;
                if length.replace(number).is_some_and(|before| before != number) {
                    return Err(PyValueError::new_err("two different Content-Length headers"));
                }
                map.insert(name, value);
            }
            // The connection is the server's (PEP 3333, "Other HTTP Features"). A wish to close it is granted.
            header::CONNECTION => close |= value.as_bytes().eq_ignore_ascii_case(b"close"),
            name if is_hop_by_hop(&name) => {}
            name => {
                map.append(name, value);
            }
        }
    }
    if close {
        map.insert(header::CONNECTION, HeaderValue::from_static("close"));
    }
    if code == StatusCode::NO_CONTENT || code == StatusCode::NOT_MODIFIED {
        // RFC 9110 section 8.6; for 304 it would be allowed, but only if it were true.
        map.remove(header::CONTENT_LENGTH);
        length = Some(0);
    }
    let mut head = head(code, map);
    if let Some(reason) = reason {
        head.extensions.insert(reason);
    }
    Ok(Declared { head, length })
}

fn type_error(what: &str, wanted: &str, got: &Bound<PyAny>) -> PyErr {
    let kind = got.get_type().name().map_or_else(|_| "?".into(), |name| name.to_string());
    PyTypeError::new_err(format!("{what} must be a {wanted}, not {kind}"))
}

/// The bytes of a native string, in which every code point is a byte.
enum Native<'a> {
    Ascii(&'a str),
    Latin1(Vec<u8>),
}

impl std::ops::Deref for Native<'_> {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        match self {
            Native::Ascii(text) => text.as_bytes(),
            Native::Latin1(bytes) => bytes,
        }
    }
}

fn native<'a>(text: &'a Bound<'_, PyString>) -> PyResult<Native<'a>> {
    let text = text.to_str()?;
    if text.is_ascii() {
        return Ok(Native::Ascii(text));
    }
    let bytes: Result<Vec<u8>, _> = text.chars().map(u8::try_from).collect();
    bytes.map(Native::Latin1).map_err(|_| PyValueError::new_err(format!("{text:?} has characters beyond latin-1")))
}

fn status(text: &[u8]) -> PyResult<(StatusCode, Option<ReasonPhrase>)> {
    if text == b"200 OK" {
        return Ok((StatusCode::OK, None));
    }
    let wrong =
        || PyValueError::new_err(format!("{:?} is not a status like \"200 OK\"", String::from_utf8_lossy(text)));
    let (code, reason) = text.split_at_checked(3).ok_or_else(wrong)?;
    let code = StatusCode::from_bytes(code).map_err(|_| wrong())?;
    if code.is_informational() || !matches!(reason, [] | [b' ', ..]) {
        return Err(wrong());
    }
    let reason = reason.trim_ascii();
    if code.canonical_reason().is_some_and(|usual| usual.as_bytes() == reason) || reason.is_empty() {
        return Ok((code, None));
    }
    Ok((code, Some(ReasonPhrase::try_from(reason).map_err(|_| wrong())?)))
}

fn name(bytes: &[u8]) -> PyResult<HeaderName> {
    HeaderName::from_bytes(bytes)
        .map_err(|_| PyValueError::new_err(format!("{:?} is not a header name", String::from_utf8_lossy(bytes))))
}

fn value(bytes: &[u8]) -> PyResult<HeaderValue> {
    HeaderValue::from_bytes(bytes.trim_ascii()).map_err(|_| {
        let text = String::from_utf8_lossy(bytes);
        PyValueError::new_err(format!("{text:?} is not a header value: it has control characters"))
    })
}

fn is_hop_by_hop(name: &HeaderName) -> bool {
    const OTHERS: [HeaderName; 4] = [header::TRANSFER_ENCODING, header::UPGRADE, header::TE, header::TRAILER];
    OTHERS.contains(name) || name == "keep-alive" || name == "proxy-connection"
}
