//! The `environ` of a request (PEP 3333, "environ Variables").

use std::cell::RefCell;
use std::collections::{BTreeMap, HashMap};

use bytes::Bytes;
use fnv::FnvBuildHasher;
use http::{HeaderName, Method, Version, header};
use pyo3::intern;
use pyo3::prelude::*;
use pyo3::types::{PyDict, PyString};

use crate::http::connection::Connection;
use crate::http::job::{Job, RequestBody};
use crate::http::request_id::X_REQUEST_ID;
use crate::http::spool::Spooled;

use super::input::Input;

/// How many header names are remembered as `HTTP_*` keys; clients can make up any number of them.
const KNOWN_NAMES: usize = 256;

/// What environs have in common. One for each app thread.
pub struct Environ {
    /// All that is the same in every environ of a worker, and the keys of what never lacks: a copy of it has room for the headers of a
    /// request, and does not grow.
    template: Py<PyDict>,
    /// `HTTP_*` keys.
    names: RefCell<HashMap<HeaderName, Py<PyString>, FnvBuildHasher>>,
    server_name: Memo,
    server_port: Memo,
    remote_addr: Memo,
    /// `wsgi.input` of a request without a body: there is nothing in it to share.
    no_input: Py<Input>,
}

/// The Python string of a text that is mostly the same as the last time.
#[derive(Default)]
struct Memo(RefCell<Option<(String, Py<PyString>)>>);

impl Memo {
    fn get<'py>(&self, py: Python<'py>, text: &str) -> Bound<'py, PyString> {
        let mut last = self.0.borrow_mut();
        match &*last {
            Some((known, string)) if known == text => string.bind(py).clone(),
            _ => {
                let string = PyString::new(py, text);
                *last = Some((text.to_owned(), string.clone().unbind()));
                string
            }
        }
    }
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
        for key in [
            intern!(py, "wsgi.input"),
            intern!(py, "REQUEST_METHOD"),
            intern!(py, "PATH_INFO"),
            intern!(py, "QUERY_STRING"),
            intern!(py, "REQUEST_URI"),
            intern!(py, "RAW_URI"),
            intern!(py, "SERVER_PROTOCOL"),
            intern!(py, "SERVER_NAME"),
            intern!(py, "SERVER_PORT"),
            intern!(py, "REMOTE_ADDR"),
            intern!(py, "REMOTE_PORT"),
            intern!(py, "HTTP_X_REQUEST_ID"),
        ] {
            template.set_item(key, py.None())?;
        }
        Ok(Environ {
            template: template.unbind(),
            names: RefCell::default(),
            server_name: Memo::default(),
            server_port: Memo::default(),
            remote_addr: Memo::default(),
            no_input: Py::new(py, Input::new(RequestBody::Whole(Spooled::Memory(Bytes::new()))))?,
        })
    }

    /// The `wsgi.input` for `body`.
    pub fn input(&self, py: Python, body: RequestBody) -> PyResult<Py<Input>> {
        match body {
            RequestBody::Whole(Spooled::Memory(bytes)) if bytes.is_empty() => Ok(self.no_input.clone_ref(py)),
            body => Py::new(py, Input::new(body)),
        }
    }

    /// The environ of `job`, but for `wsgi.input`.
    pub fn build<'py>(&self, py: Python<'py>, job: &Job) -> PyResult<Bound<'py, PyDict>> {
        let environ = self.template.bind(py).copy()?;
        let parts = &job.parts;
        let method = match &parts.method {
            &Method::GET => intern!(py, "GET").clone(),
            &Method::POST => intern!(py, "POST").clone(),
            other => PyString::new(py, other.as_str()),
        };
        environ.set_item(intern!(py, "REQUEST_METHOD"), method)?;
        let raw = parts.uri.path_and_query().map_or("*", |target| target.as_str()).as_bytes();
        let uri = latin1(py, raw);
        // `OPTIONS *` asks about the server, not about a path (RFC 9112 section 3.2.4).
        let path = Some(job.target.path(&parts.uri)).filter(|path| *path != b"*").unwrap_or_default();
        let path = if path == raw { uri.clone() } else { latin1(py, path) };
        let query = match parts.uri.query() {
            None | Some("") => intern!(py, "").clone(),
            Some(query) => latin1(py, query.as_bytes()),
        };
        environ.set_item(intern!(py, "PATH_INFO"), path)?;
        environ.set_item(intern!(py, "QUERY_STRING"), query)?;
        environ.set_item(intern!(py, "REQUEST_URI"), &uri)?;
        environ.set_item(intern!(py, "RAW_URI"), uri)?;
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
        let Connection { server, remote, .. } = connection;
        environ.set_item(intern!(py, "SERVER_NAME"), self.server_name.get(py, &server.address))?;
        environ.set_item(intern!(py, "SERVER_PORT"), self.server_port.get(py, &server.port))?;
        environ.set_item(intern!(py, "REMOTE_ADDR"), self.remote_addr.get(py, &remote.address))?;
        environ.set_item(intern!(py, "REMOTE_PORT"), PyString::new(py, &remote.port))
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
        environ.set_item(intern!(py, "HTTP_X_REQUEST_ID"), job.id.as_str())?;
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
fn latin1<'py>(py: Python<'py>, bytes: &[u8]) -> Bound<'py, PyString> {
    match std::str::from_utf8(bytes) {
        Ok(text) if text.is_ascii() => PyString::new(py, text),
        _ => PyString::new(py, &bytes.iter().map(|byte| char::from(*byte)).collect::<String>()),
    }
}
