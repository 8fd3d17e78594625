//! What a site prints, on `sys.stdout`, `sys.stderr` or `wsgi.errors`, becomes records of the log.

use std::cell::RefCell;

use opentelemetry::trace::TraceId;
use pyo3::intern;
use pyo3::prelude::*;
use pyo3::types::{PyDict, PyString};

use tracing::field::{DisplayValue, display};

use crate::http::job::Job;
use crate::http::request_id::RequestId;

/// Text without an end of line is logged at this size, so that it does not gather without bound.
const LIMIT: usize = 64 * 1024;

thread_local! {
    static CURRENT: RefCell<Ids> = const { RefCell::new(Ids(None)) };
    /// What this thread has written since its last end of line, by stream.
    static PENDING: RefCell<Vec<(&'static str, String)>> = const { RefCell::new(Vec::new()) };
}

/// What names the request that a thread runs, and the trace that it is part of; nothing, if there is none.
#[derive(Clone, Default)]
pub struct Ids(Option<(RequestId, Option<TraceId>)>);

impl Ids {
    /// Those of this thread's request.
    pub fn current() -> Self {
        CURRENT.with_borrow(Ids::clone)
    }

    pub fn request(&self) -> Option<&str> {
        self.0.as_ref().map(|(id, _)| id.as_str())
    }

    pub fn trace(&self) -> Option<DisplayValue<TraceId>> {
        self.0.as_ref().and_then(|(_, trace)| trace.map(display))
    }
}

/// For Python: the ids of the request and of the trace, `-` where there is none.
#[pyfunction]
pub fn current_ids() -> (String, String) {
    let ids = Ids::current();
    let or_dash = |id: Option<String>| id.unwrap_or_else(|| "-".into());
    (or_dash(ids.request().map(str::to_owned)), or_dash(ids.trace().map(|trace| trace.to_string())))
}

/// While it lives, what this thread prints belongs to a request.
pub struct Current;

/// Attributes what this thread prints from now on to a request.
pub fn current_request(job: &Job) -> Current {
    CURRENT.set(Ids(Some((job.id.clone(), job.place.as_ref().map(|place| place.trace)))));
    Current
}

impl Drop for Current {
    fn drop(&mut self) {
        flush();
        CURRENT.set(Ids(None));
    }
}

/// Logs what this thread has written without an end of line.
pub fn flush() {
    for (name, text) in PENDING.take() {
        log(name, &text);
    }
}

fn log(stream: &str, text: &str) {
    let text = text.trim_end_matches('\n');
    if text.is_empty() {
        return;
    }
    CURRENT.with_borrow(|ids| {
        tracing::info!(target: "site", stream, request_id = ids.request(), trace_id = ids.trace(), "{text}");
    });
}

/// A Python string as text; lone surrogates, which no encoding has, are escaped.
pub fn text(string: &Bound<PyString>) -> String {
    if let Ok(text) = string.to_str() {
        return text.to_owned();
    }
    let escaped = string.call_method1(intern!(string.py(), "encode"), ("utf-8", "backslashreplace"));
    escaped
        .and_then(|bytes| bytes.extract::<Vec<u8>>())
        .map_or_else(|_| string.to_string_lossy().into_owned(), |bytes| String::from_utf8_lossy(&bytes).into_owned())
}

/// A text stream of which every `write` that ends a line is one record, so that a traceback stays in one piece.
#[pyclass(frozen, module = "atrio")]
pub struct LogStream {
    name: &'static str,
    fd: i32,
}

impl LogStream {
    /// `name` is the stream's in the log; `fd` what `fileno()` tells, for child processes.
    pub fn new(name: &'static str, fd: i32) -> Self {
        LogStream { name, fd }
    }

    fn append(&self, text: &str) {
        let record = PENDING.with_borrow_mut(|pending| {
            let at = pending.iter().position(|(name, _)| *name == self.name).unwrap_or_else(|| {
                pending.push((self.name, String::new()));
                pending.len() - 1
            });
            pending[at].1.push_str(text);
            let whole = text.ends_with('\n') || pending[at].1.len() >= LIMIT;
            whole.then(|| pending.swap_remove(at).1)
        });
        if let Some(record) = record {
            log(self.name, &record);
        }
    }
}

#[pymethods]
impl LogStream {
    fn write(&self, text: &Bound<PyString>) -> PyResult<usize> {
        self.append(&self::text(text));
        text.len()
    }

    fn writelines(&self, lines: &Bound<PyAny>) -> PyResult<()> {
        for line in lines.try_iter()? {
            self.write(line?.cast::<PyString>()?)?;
        }
        Ok(())
    }

    /// Logs what this thread has written without an end of line.
    fn flush(&self) {
        flush();
    }

    /// The log is UTF-8, and stays so.
    #[pyo3(signature = (**_options))]
    fn reconfigure(&self, _options: Option<&Bound<PyDict>>) {}

    fn fileno(&self) -> i32 {
        self.fd
    }

    fn isatty(&self) -> bool {
        false
    }

    fn readable(&self) -> bool {
        false
    }

    fn writable(&self) -> bool {
        true
    }

    fn seekable(&self) -> bool {
        false
    }

    /// The log stays open.
    fn close(&self) {}

    #[getter]
    fn closed(&self) -> bool {
        false
    }

    #[getter]
    fn encoding(&self) -> &'static str {
        "utf-8"
    }

    #[getter]
    fn errors(&self) -> &'static str {
        "backslashreplace"
    }

    #[getter]
    fn mode(&self) -> &'static str {
        "w"
    }

    #[getter]
    fn name(&self) -> String {
        format!("<{}>", self.name)
    }

    #[getter]
    fn line_buffering(&self) -> bool {
        true
    }

    /// For programs that print bytes.
    #[getter]
    fn buffer(this: Py<Self>) -> LogBuffer {
        LogBuffer(this)
    }

    fn __enter__(this: Py<Self>) -> Py<Self> {
        this
    }

    #[pyo3(signature = (*_exc_info))]
    fn __exit__(&self, _exc_info: &Bound<PyAny>) {}
}

/// The binary layer of a [`LogStream`].
#[pyclass(frozen, module = "atrio")]
struct LogBuffer(Py<LogStream>);

#[pymethods]
impl LogBuffer {
    fn write(&self, data: pyo3::pybacked::PyBackedBytes) -> usize {
        self.0.get().append(&String::from_utf8_lossy(&data));
        data.len()
    }

    fn flush(&self) {
        flush();
    }

    fn fileno(&self) -> i32 {
        self.0.get().fd
    }

    fn isatty(&self) -> bool {
        false
    }

    fn readable(&self) -> bool {
        false
    }

    fn writable(&self) -> bool {
        true
    }

    fn seekable(&self) -> bool {
        false
    }

    /// The log stays open.
    fn close(&self) {}

    #[getter]
    fn closed(&self) -> bool {
        false
    }
}

/// An exception as Python would print it.
pub fn traceback(py: Python, error: &PyErr) -> String {
    let format = || {
        let lines = py
            .import("traceback")?
            .call_method1("format_exception", (error.get_type(py), error.value(py), error.traceback(py)))?;
        Ok::<_, PyErr>(text("".into_pyobject(py)?.call_method1("join", (lines,))?.cast::<PyString>()?))
    };
    format().unwrap_or_else(|_| error.to_string())
}
