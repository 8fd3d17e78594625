//! The `environ` of a request (PEP 3333, "environ Variables").

use std::borrow::Cow;
use std::cell::RefCell;
use std::collections::{BTreeMap, HashMap};

use fnv::FnvBuildHasher;
use http::{HeaderName, Method, Version, header};
use pyo3::intern;
use pyo3::prelude::*;
use pyo3::types::{PyDict, PyString};

use crate::http::chunks::Chunks;
use crate::http::connection::Connection;
use crate::http::job::{Job, RequestBody};
use crate::http::request_id::X_REQUEST_ID;
use crate::http::trace::TRACESTATE;

use super::input::Input;

/// How many header names are remembered as `HTTP_*` keys; clients can make up any number of them.
const KNOWN_NAMES: usize = 256;

/// What environs have in common. One for each app thread.
pub struct Environ {
    /// An environ as the next request would have it, were it a GET without query, body and headers, from where the last one came. A
    /// copy of it has room for the headers of a request, and does not grow.
    template: Py<PyDict>,
    /// The values of `ADDRESSES` in the template.
    addresses: RefCell<[String; 3]>,
    /// The keys of headers; `None` for those that the site does not get.
    names: RefCell<HashMap<HeaderName, Option<Py<PyString>>, FnvBuildHasher>>,
    /// The site is to continue the traces of requests.
    propagates: bool,
}

/// What rarely changes from one request to the next: behind a proxy, never.
const ADDRESSES: [&str; 3] = ["SERVER_NAME", "SERVER_PORT", "REMOTE_ADDR"];

/// What a worker tells its site in every environ.
pub struct Constants<'a> {
    pub multithread: bool,
    pub multiprocess: bool,
    /// Every request has a place in a trace.
    pub traced: bool,
    /// The site is to continue it.
    pub propagates: bool,
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
        // Sites look keys up by interned strings: what is the same object is found without a comparison.
        let key = |name: &str| PyString::intern(py, name);
        for (name, value) in constants.env {
            template.set_item(key(name), value)?;
        }
        template.set_item(key("SCRIPT_NAME"), "")?;
        template.set_item(key("SERVER_SOFTWARE"), concat!("atrio/", env!("CARGO_PKG_VERSION")))?;
        template.set_item(key("wsgi.version"), (1, 0))?;
        template.set_item(key("wsgi.url_scheme"), "http")?;
        template.set_item(key("wsgi.errors"), errors)?;
        template.set_item(key("wsgi.multithread"), constants.multithread)?;
        template.set_item(key("wsgi.multiprocess"), constants.multiprocess)?;
        template.set_item(key("wsgi.run_once"), false)?;
        // The body is whole, or read until its end: a reader needs no Content-Length to know where it stops.
        template.set_item(key("wsgi.input_terminated"), true)?;
        template.set_item(key("wsgi.file_wrapper"), file_wrapper)?;
        template.set_item(key("REQUEST_METHOD"), "GET")?;
        template.set_item(key("QUERY_STRING"), "")?;
        template.set_item(key("SERVER_PROTOCOL"), "HTTP/1.1")?;
        // There is nothing in it: all requests without a body can have the same.
        let nothing = RequestBody::Memory(Chunks::default());
        template.set_item(key("wsgi.input"), Py::new(py, Input::new(nothing))?)?;
        // What every request sets has its place.
        let own = ["PATH_INFO", "REQUEST_URI", "RAW_URI", "REMOTE_PORT", "HTTP_X_REQUEST_ID", "atrio.request_id"];
        let traced = constants.traced.then_some("atrio.trace_id");
        let continued = constants.propagates.then_some("HTTP_TRACEPARENT");
        for name in ADDRESSES.into_iter().chain(own).chain(traced).chain(continued) {
            template.set_item(key(name), "")?;
        }
        Ok(Environ {
            template: template.unbind(),
            addresses: RefCell::default(),
            names: RefCell::default(),
            propagates: constants.propagates,
        })
    }

    /// The `wsgi.input` for `body`, if there is one; else the environ has it already.
    pub fn input(&self, py: Python, body: RequestBody) -> PyResult<Option<Py<Input>>> {
        match body {
            RequestBody::Memory(chunks) if chunks.is_empty() => Ok(None),
            body => Py::new(py, Input::new(body)).map(Some),
        }
    }

    /// The environ of `job`, but for the `wsgi.input` of a body.
    pub fn build<'py>(&self, py: Python<'py>, job: &Job) -> PyResult<Bound<'py, PyDict>> {
        self.note_addresses(py, &job.connection)?;
        let environ = self.template.bind(py).copy()?;
        let parts = &job.parts;
        if parts.method != Method::GET {
            environ.set_item(intern!(py, "REQUEST_METHOD"), parts.method.as_str())?;
        }
        if parts.version == Version::HTTP_10 {
            environ.set_item(intern!(py, "SERVER_PROTOCOL"), intern!(py, "HTTP/1.0"))?;
        }
        if let Some(query) = parts.uri.query().filter(|query| !query.is_empty()) {
            environ.set_item(intern!(py, "QUERY_STRING"), latin1(py, query.as_bytes()))?;
        }
        let raw = parts.uri.path_and_query().map_or("*", |target| target.as_str()).as_bytes();
        let uri = latin1(py, raw);
        // `OPTIONS *` asks about the server, not about a path (RFC 9112 section 3.2.4).
        let path = Some(job.target.path(&parts.uri)).filter(|path| *path != b"*").unwrap_or_default();
        let path = if path == raw { uri.clone() } else { latin1(py, path) };
        environ.set_item(intern!(py, "PATH_INFO"), path)?;
        environ.set_item(intern!(py, "REQUEST_URI"), &uri)?;
        environ.set_item(intern!(py, "RAW_URI"), uri)?;
        environ.set_item(intern!(py, "REMOTE_PORT"), &job.connection.remote.port)?;
        self.headers(py, &environ, job)?;
        Ok(environ)
    }

    fn note_addresses(&self, py: Python, connection: &Connection) -> PyResult<()> {
        let Connection { server, remote, .. } = connection;
        let mut known = self.addresses.borrow_mut();
        for (i, address) in [&server.address, &server.port, &remote.address].into_iter().enumerate() {
            if known[i] != *address {
                self.template.bind(py).set_item(ADDRESSES[i], address)?;
                known[i].clone_from(address);
            }
        }
        Ok(())
    }

    fn headers(&self, py: Python, environ: &Bound<PyDict>, job: &Job) -> PyResult<()> {
        let headers = &job.parts.headers;
        let (mut length, mut chunked) = (None, false);
        // Without a parent that anybody can read, its state says nothing (Trace Context section 4.3).
        let orphaned = self.propagates && job.place.as_ref().is_some_and(|place| !place.has_parent);
        let mut fields = headers.iter().peekable();
        while let Some((name, value)) = fields.next() {
            let mut value = Cow::Borrowed(value.as_bytes());
            // The values of a name stand together.
            while let Some((_, more)) = fields.next_if(|(next, _)| std::ptr::eq(*next, name)) {
                let separator: &[u8] = if name == header::COOKIE { b"; " } else { b"," };
                let value = value.to_mut();
                value.extend_from_slice(separator);
                value.extend_from_slice(more.as_bytes());
            }
            match *name {
                header::CONTENT_LENGTH => length = Some(value),
                header::TRANSFER_ENCODING => chunked = true,
                _ if orphaned && *name == TRACESTATE => {}
                _ => {
                    if let Some(key) = self.key(py, name) {
                        environ.set_item(key, latin1(py, &value))?;
                    }
                }
            }
        }
        if let Some(host) = job.target.authority(&job.parts) {
            environ.set_item(intern!(py, "HTTP_HOST"), host)?;
        }
        let id = latin1(py, job.id.as_bytes());
        environ.set_item(intern!(py, "HTTP_X_REQUEST_ID"), &id)?;
        if let Some(place) = &job.place {
            let traceparent = place.traceparent();
            let digits = &traceparent[3..35];
            let trace = if digits == job.id.as_bytes() { id.clone() } else { latin1(py, digits) };
            environ.set_item(intern!(py, "atrio.trace_id"), trace)?;
            if self.propagates {
                // What the site records itself is part of what its application does.
                environ.set_item(intern!(py, "HTTP_TRACEPARENT"), latin1(py, &traceparent))?;
            }
        }
        environ.set_item(intern!(py, "atrio.request_id"), id)?;
        match (job.body.len(), length) {
            (Some(_), None) if !chunked => Ok(()),
            // A chunked body has been read to its end: its length is known, and no coding is left.
            (Some(len), _) => environ.set_item(intern!(py, "CONTENT_LENGTH"), len.to_string()),
            (None, Some(length)) => environ.set_item(intern!(py, "CONTENT_LENGTH"), latin1(py, &length)),
            (None, None) => environ.set_item(intern!(py, "HTTP_TRANSFER_ENCODING"), "chunked"),
        }
    }

    /// The key of a header in the environ; `None`: the site does not get it.
    fn key<'py>(&self, py: Python<'py>, name: &HeaderName) -> Option<Bound<'py, PyString>> {
        let mut names = self.names.borrow_mut();
        if let Some(key) = names.get(name) {
            return key.as_ref().map(|key| key.bind(py).clone());
        }
        let key = key(name);
        if names.len() >= KNOWN_NAMES {
            return key.map(|key| PyString::new(py, &key));
        }
        let key = key.map(|key| PyString::intern(py, &key));
        names.insert(name.clone(), key.clone().map(Bound::unbind));
        key
    }
}

fn key(name: &HeaderName) -> Option<String> {
    // `X_Forwarded_For` and `X-Forwarded-For` would become one key: a client must not pose as its proxy.
    // `Proxy` would become HTTP_PROXY, which HTTP clients take for a setting (CVE-2016-5385).
    if name.as_str().contains('_') || name == "proxy" || name == X_REQUEST_ID {
        return None;
    }
    let name = name.as_str().to_ascii_uppercase().replace('-', "_");
    Some(if name == "CONTENT_TYPE" { name } else { format!("HTTP_{name}") })
}

/// A native string: every byte is the code point of the same number (PEP 3333, "Unicode Issues").
fn latin1<'py>(py: Python<'py>, bytes: &[u8]) -> Bound<'py, PyString> {
    let ascii = bytes.is_ascii().then(|| PyString::from_bytes(py, bytes).ok()).flatten();
    ascii.unwrap_or_else(|| PyString::new(py, &bytes.iter().map(|byte| char::from(*byte)).collect::<String>()))
}
