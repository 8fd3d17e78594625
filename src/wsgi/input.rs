//! `wsgi.input` (PEP 3333, "Input and Error Streams").

use std::io::{self, BufRead, BufReader, Cursor, Read};
use std::sync::{Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use pyo3::exceptions::{PyConnectionError, PyOSError, PyValueError};
use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyList};

use crate::http::job::RequestBody;
use crate::http::spool::{OnDemand, SpoolError, Spooled};

enum Source {
    Memory(Cursor<Bytes>),
    File(BufReader<std::fs::File>),
    /// Not asked for yet.
    OnDemand(OnDemand),
    /// It could not be had; every read says so.
    Failed(String),
}

impl From<Spooled> for Source {
    fn from(body: Spooled) -> Self {
        match body {
            Spooled::Memory(bytes) => Source::Memory(Cursor::new(bytes)),
            Spooled::File(file, _) => Source::File(BufReader::with_capacity(64 * 1024, file)),
        }
    }
}

/// The body of a request as a binary file: `read`, `readline`, `readlines`, iteration, as `io.BufferedIOBase` has them.
///
/// A body that did not arrive whole raises `ConnectionError`; it never looks like the end of the file.
#[pyclass(frozen, module = "atrio")]
pub struct Input(Mutex<Source>);

impl Input {
    pub fn new(body: RequestBody) -> Self {
        Input(Mutex::new(match body {
            RequestBody::Whole(body) => body.into(),
            RequestBody::OnDemand(body) => Source::OnDemand(body),
        }))
    }

    /// Runs `read` on the body; what may wait for the client or a disk runs without the GIL.
    fn with<T: Send>(&self, py: Python, read: impl Fn(&mut dyn BufRead) -> io::Result<T> + Send + Sync) -> PyResult<T> {
        if let Source::Memory(memory) = &mut *self.lock() {
            return read(memory).map_err(|error| PyOSError::new_err(error.to_string()));
        }
        py.detach(|| {
            let mut source = self.lock();
            if let Source::OnDemand(_) = *source {
                let Source::OnDemand(body) = std::mem::replace(&mut *source, Source::Failed(String::new())) else {
                    unreachable!("matched above under the same lock")
                };
                *source = body.fetch().map_or_else(|error| Source::Failed(error.to_string()), Source::from);
            }
            match &mut *source {
                Source::Memory(memory) => read(memory),
                Source::File(file) => read(file),
                Source::Failed(why) => Err(io::Error::new(io::ErrorKind::ConnectionAborted, why.clone())),
                Source::OnDemand(_) => Err(io::ErrorKind::InvalidData.into()),
            }
        })
        .map_err(|error| match error.kind() {
            io::ErrorKind::ConnectionAborted => PyConnectionError::new_err(error.to_string()),
            _ => PyOSError::new_err(SpoolError::Disk(error).to_string()),
        })
    }

    fn lock(&self) -> MutexGuard<'_, Source> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn line(&self, py: Python, limit: Option<u64>) -> PyResult<Vec<u8>> {
        self.with(py, |body| {
            let mut line = Vec::new();
            body.take(limit.unwrap_or(u64::MAX)).read_until(b'\n', &mut line)?;
            Ok(line)
        })
    }
}

/// Python's sizes: `None` and negative numbers stand for all there is.
fn size(given: Option<i64>) -> Option<u64> {
    given.and_then(|size| u64::try_from(size).ok())
}

#[pymethods]
impl Input {
    #[pyo3(signature = (size=None, /))]
    fn read<'py>(&self, py: Python<'py>, size: Option<i64>) -> PyResult<Bound<'py, PyBytes>> {
        let limit = self::size(size);
        if let Source::Memory(memory) = &mut *self.lock() {
            let rest = &memory.get_ref()[memory.position() as usize..];
            let taken = limit.map_or(rest.len(), |limit| rest.len().min(limit as usize));
            let bytes = PyBytes::new(py, &rest[..taken]);
            memory.set_position(memory.position() + taken as u64);
            return Ok(bytes);
        }
        let data = self.with(py, |body| {
            let mut data = Vec::new();
            body.take(limit.unwrap_or(u64::MAX)).read_to_end(&mut data)?;
            Ok(data)
        })?;
        Ok(PyBytes::new(py, &data))
    }

    #[pyo3(signature = (size=None, /))]
    fn readline<'py>(&self, py: Python<'py>, size: Option<i64>) -> PyResult<Bound<'py, PyBytes>> {
        Ok(PyBytes::new(py, &self.line(py, self::size(size))?))
    }

    /// All lines; with `hint`, no more once their bytes reach it.
    #[pyo3(signature = (hint=None, /))]
    fn readlines<'py>(&self, py: Python<'py>, hint: Option<i64>) -> PyResult<Bound<'py, PyList>> {
        let hint = self::size(hint).filter(|hint| *hint > 0);
        let lines = PyList::empty(py);
        let mut total = 0;
        while hint.is_none_or(|hint| total < hint) {
            let line = self.line(py, None)?;
            if line.is_empty() {
                break;
            }
            total += line.len() as u64;
            lines.append(PyBytes::new(py, &line))?;
        }
        Ok(lines)
    }

    /// Fills a buffer, so that `io.BufferedReader` can wrap the input.
    fn readinto(&self, py: Python, buffer: &Bound<PyAny>) -> PyResult<usize> {
        let view = py.import("builtins")?.getattr("memoryview")?.call1((buffer,))?.call_method1("cast", ("B",))?;
        let data = self.read(py, Some(view.len()? as i64))?;
        let count = data.as_bytes().len();
        view.set_item(pyo3::types::PySlice::new(py, 0, count as isize, 1), data)?;
        Ok(count)
    }

    fn readable(&self) -> bool {
        true
    }

    fn writable(&self) -> bool {
        false
    }

    fn seekable(&self) -> bool {
        false
    }

    #[getter]
    fn closed(&self) -> bool {
        false
    }

    fn fileno(&self) -> PyResult<i32> {
        Err(PyValueError::new_err("wsgi.input has no file descriptor"))
    }

    /// A middleware that closes the input ends nothing: the server owns it.
    fn close(&self) {}

    fn __iter__(this: Py<Self>) -> Py<Self> {
        this
    }

    fn __next__<'py>(&self, py: Python<'py>) -> PyResult<Option<Bound<'py, PyBytes>>> {
        let line = self.line(py, None)?;
        Ok(if line.is_empty() { None } else { Some(PyBytes::new(py, &line)) })
    }
}
