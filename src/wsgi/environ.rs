//! The `environ` of a request (PEP 3333, "environ Variables").

use std::cell::RefCell;
use std::collections::{BTreeMap, HashMap};

use http::{HeaderName, Version, header};
use pyo3::intern;
use pyo3::prelude::*;
use pyo3::types::{PyDict, PyString};

use crate::http::connection::Connection;
use crate::http::job::{Job, RequestBody};
use crate::http::service::X_REQUEST_ID;

/// How many header names are remembered as `HTTP_*` keys; clients can make up any number of them.
const KNOWN_NAMES: usize = 256;

/// What is the same in every environ of a worker, and a memory of header names. One for each app thread.
pub struct Environ {
    template: Py<PyDict>,
    names: RefCell<HashMap<HeaderName, Py<PyString>>>,
}

/// What a worker tells its site in every environ.
pub struct Constants<'a> {
    pub multithread: bool,
    pub multiprocess: bool,
    /// `ATRIO_ENV_*`.
    pub env: &'a BTreeMap<String, String>,
}

impl Environ {
    pub fn new(
        py: Python,
        constants: &Constants,
        errors: &Bound<PyAny>,
        file_wrapper: &Bound<PyAny>,
    ) -> PyResult<Self> {
        let template = PyDict::new(py);
        for (name, value) in constants.env {
            template.set_item(name, value)?;
        }
        template.set_item("SCRIPT_NAME", "")?;
        template.set_item("SERVER_SOFTWARE", concat!("atrio/", env!("CARGO_PKG_VERSION")))?;
        template.set_item("wsgi.version", (1, 0))?;
        template.set_item("wsgi.url_scheme", "http")?;
        template.set_item("wsgi.errors", errors)?;
        template.set_item("wsgi.multithread", constants.multithread)?;
        template.set_item("wsgi.multiprocess", constants.multiprocess)?;
        template.set_item("wsgi.run_once", false)?;
        // The body is whole, or read until its end: a reader needs no Content-Length to know where it stops.
        template.set_item("wsgi.input_terminated", true)?;
        template.set_item("wsgi.file_wrapper", file_wrapper)?;
        Ok(Environ { template: template.unbind(), names: RefCell::default() })
    }

    /// The environ of `job`, without `wsgi.input`.
    pub fn build<'py>(&self, py: Python<'py>, job: &Job) -> PyResult<Bound<'py, PyDict>> {
        let environ = self.template.bind(py).copy()?;
        let parts = &job.parts;
        environ.set_item(intern!(py, "REQUEST_METHOD"), PyString::new(py, parts.method.as_str()))?;
        // `OPTIONS *` asks about the server, not about a path (RFC 9112 section 3.2.4).
        let path = Some(job.target.path(&parts.uri)).filter(|path| *path != b"*").unwrap_or_default();
        environ.set_item(intern!(py, "PATH_INFO"), latin1(py, path))?;
        environ.set_item(intern!(py, "QUERY_STRING"), latin1(py, parts.uri.query().unwrap_or("").as_bytes()))?;
        let raw = parts.uri.path_and_query().map_or("*", |target| target.as_str());
        let raw = latin1(py, raw.as_bytes());
        environ.set_item(intern!(py, "REQUEST_URI"), &raw)?;
        environ.set_item(intern!(py, "RAW_URI"), raw)?;
        let protocol = match parts.version {
            Version::HTTP_10 => intern!(py, "HTTP/1.0"),
            _ => intern!(py, "HTTP/1.1"),
        };
        environ.set_item(intern!(py, "SERVER_PROTOCOL"), protocol)?;
        self.addresses(py, &environ, &job.connection)?;
        self.headers(py, &environ, job)?;
        Ok(environ)
    }

    fn addresses(&self, py: Python, environ: &Bound<PyDict>, connection: &Connection) -> PyResult<()> {
        environ.set_item(intern!(py, "SERVER_NAME"), &connection.server.address)?;
        environ.set_item(intern!(py, "SERVER_PORT"), &connection.server.port)?;
        environ.set_item(intern!(py, "REMOTE_ADDR"), &connection.remote.address)?;
        environ.set_item(intern!(py, "REMOTE_PORT"), &connection.remote.port)
    }

    fn headers(&self, py: Python, environ: &Bound<PyDict>, job: &Job) -> PyResult<()> {
        let headers = &job.parts.headers;
        for name in headers.keys() {
            // `X_Forwarded_For` and `X-Forwarded-For` would become one key: a client must not pose as its proxy.
            // `Proxy` would become HTTP_PROXY, which HTTP clients take for a setting (CVE-2016-5385).
            if name.as_str().contains('_') || name == "proxy" || name == X_REQUEST_ID {
                continue;
            }
            if name == header::CONTENT_LENGTH || name == header::TRANSFER_ENCODING {
                continue;
            }
            let mut values = headers.get_all(name).iter().map(|value| value.as_bytes());
            let first = values.next().unwrap_or_default();
            let value = match values.next() {
                None => latin1(py, first),
                Some(second) => {
                    let separator: &[u8] = if name == header::COOKIE { b"; " } else { b"," };
                    let all: Vec<&[u8]> = [first, second].into_iter().chain(values).collect();
                    latin1(py, &all.join(separator))
                }
            };
            if name == header::CONTENT_TYPE {
                environ.set_item(intern!(py, "CONTENT_TYPE"), value)?;
            } else {
                environ.set_item(self.key(py, name), value)?;
            }
        }
        if let Some(host) = job.target.authority(&job.parts) {
            environ.set_item(intern!(py, "HTTP_HOST"), host)?;
        }
        environ.set_item(intern!(py, "HTTP_X_REQUEST_ID"), &*job.id)?;
        let announced = headers.contains_key(header::CONTENT_LENGTH) || headers.contains_key(header::TRANSFER_ENCODING);
        match &job.body {
            // A chunked body has been read to its end: its length is known, and no coding is left.
            RequestBody::Whole(body) if announced => {
                environ.set_item(intern!(py, "CONTENT_LENGTH"), body.len().to_string())
            }
            RequestBody::Whole(_) => Ok(()),
            RequestBody::OnDemand(_) => match headers.get(header::CONTENT_LENGTH) {
                Some(length) => environ.set_item(intern!(py, "CONTENT_LENGTH"), latin1(py, length.as_bytes())),
                None => environ.set_item(intern!(py, "HTTP_TRANSFER_ENCODING"), "chunked"),
            },
        }
    }

    fn key<'py>(&self, py: Python<'py>, name: &HeaderName) -> Bound<'py, PyString> {
        let mut names = self.names.borrow_mut();
        if let Some(key) = names.get(name) {
            return key.bind(py).clone();
        }
        let key = format!("HTTP_{}", name.as_str().to_ascii_uppercase().replace('-', "_"));
        let key = PyString::new(py, &key);
        if names.len() < KNOWN_NAMES {
            names.insert(name.clone(), key.clone().unbind());
        }
        key
    }
}

/// A native string: every byte is the code point of the same number (PEP 3333, "Unicode Issues").
pub fn latin1<'py>(py: Python<'py>, bytes: &[u8]) -> Bound<'py, PyString> {
    match std::str::from_utf8(bytes) {
        Ok(text) if text.is_ascii() => PyString::new(py, text),
        _ => PyString::new(py, &bytes.iter().map(|byte| char::from(*byte)).collect::<String>()),
    }
}
