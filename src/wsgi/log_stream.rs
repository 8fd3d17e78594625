//! What a site prints, on `sys.stdout`, `sys.stderr` or `wsgi.errors`, becomes records of the log.

use std::cell::RefCell;
use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, ThreadId};

use pyo3::prelude::*;

/// Text without an end of line is logged at this size, so that it does not gather without bound.
const LIMIT: usize = 64 * 1024;

thread_local! {
    static CURRENT: RefCell<Option<Arc<str>>> = const { RefCell::new(None) };
}

/// While it lives, what this thread prints belongs to a request.
pub struct Current;

/// Attributes what this thread prints from now on to the request `id`.
pub fn current_request(id: &Arc<str>) -> Current {
    CURRENT.with(|current| current.replace(Some(id.clone())));
    Current
}

impl Drop for Current {
    fn drop(&mut self) {
        CURRENT.with(|current| current.replace(None));
    }
}

/// A text stream of which every `write` that ends a line is one record, so that a traceback stays in one piece.
#[pyclass(frozen, module = "atrio")]
pub struct LogStream {
    name: &'static str,
    fd: i32,
    /// What each thread has written since its last end of line.
    pending: Mutex<HashMap<ThreadId, String>>,
}

impl LogStream {
    /// `name` is the stream's in the log; `fd` what `fileno()` tells, for child processes.
    pub fn new(name: &'static str, fd: i32) -> Self {
        LogStream { name, fd, pending: Mutex::default() }
    }

    fn log(&self, text: &str) {
        let text = text.trim_end_matches('\n');
        if text.is_empty() {
            return;
        }
        CURRENT.with_borrow(|id| match id {
            Some(id) => tracing::info!(target: "site", stream = self.name, request_id = &**id, "{text}"),
            None => tracing::info!(target: "site", stream = self.name, "{text}"),
        });
    }
}

#[pymethods]
impl LogStream {
    fn write(&self, text: &str) -> usize {
        let mut pending = self.pending.lock().unwrap_or_else(PoisonError::into_inner);
        let thread = thread::current().id();
        if !text.ends_with('\n') {
            let waiting = pending.entry(thread).or_default();
            waiting.push_str(text);
            if waiting.len() < LIMIT {
                return text.chars().count();
            }
        }
        let mut record = pending.remove(&thread).unwrap_or_default();
        drop(pending);
        if text.ends_with('\n') {
            record.push_str(text);
        }
        self.log(&record);
        text.chars().count()
    }

    fn writelines(&self, lines: &Bound<PyAny>) -> PyResult<()> {
        for line in lines.try_iter()? {
            self.write(&line?.extract::<String>()?);
        }
        Ok(())
    }

    /// Logs what this thread has written without an end of line.
    fn flush(&self) {
        let waiting = self.pending.lock().unwrap_or_else(PoisonError::into_inner).remove(&thread::current().id());
        if let Some(text) = waiting {
            self.log(&text);
        }
    }

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
    fn write(&self, data: &[u8]) -> usize {
        self.0.get().write(&String::from_utf8_lossy(data));
        data.len()
    }

    fn flush(&self) {
        self.0.get().flush();
    }
}

/// An exception as Python would print it.
pub fn traceback(py: Python, error: &PyErr) -> String {
    let format = || {
        let lines = py
            .import("traceback")?
            .call_method1("format_exception", (error.get_type(py), error.value(py), error.traceback(py)))?;
        "".into_pyobject(py)?.call_method1("join", (lines,))?.extract::<String>()
    };
    format().unwrap_or_else(|_| error.to_string())
}
