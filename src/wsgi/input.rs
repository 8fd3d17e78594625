//! `wsgi.input` (PEP 3333, "Input and Error Streams").

use std::io::{self, BufRead, BufReader, Read, Take};
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::{Mutex, MutexGuard, PoisonError};

use pyo3::exceptions::{PyConnectionError, PyOSError, PyValueError};
use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyList};

use crate::http::chunks::Chunks;
use crate::http::job::RequestBody;
use crate::http::on_demand::OnDemand;
use crate::http::spool::SpoolError;
use crate::http::upload::Upload;

/// Memory for so much is taken before the client has sent it.
const ADVANCE: u64 = 1024 * 1024;

enum Source {
    Memory(Chunks),
    File(Take<BufReader<std::fs::File>>),
    /// Still on its way.
    Upload(Upload),
    /// Not asked for yet.
    OnDemand(OnDemand),
    /// It could not be had; every read says so.
    Failed(String),
}

impl From<RequestBody> for Source {
    fn from(body: RequestBody) -> Self {
        match body {
            RequestBody::Memory(chunks) => Source::Memory(chunks),
            RequestBody::File(file, len) => Source::File(BufReader::with_capacity(64 * 1024, file).take(len)),
            RequestBody::Upload(upload) => Source::Upload(upload),
            RequestBody::OnDemand(body) => Source::OnDemand(body),
        }
    }
}

impl Source {
    /// What is left and in memory, if that is all there is, or `wanted` at least.
    fn at_hand(&mut self, wanted: u64) -> Option<&mut Chunks> {
        match self {
            Source::Memory(chunks) => Some(chunks),
            Source::Upload(upload) => {
                let wanted = wanted.min(upload.len());
                Some(upload.ready()).filter(|ready| ready.len() as u64 >= wanted)
            }
            _ => None,
        }
    }

    /// How much of `wanted` there will be, if that is known and memory for it may be taken.
    fn expected(&self, wanted: u64) -> Option<usize> {
        match self {
            Source::File(file) => Some(file.limit().min(wanted) as usize),
            Source::Upload(upload) => {
                Some(upload.len().min(wanted)).filter(|len| *len <= ADVANCE).map(|len| len as usize)
            }
            _ => None,
        }
    }

    /// Asks the client if need be, and waits for the body then.
    fn reader(&mut self) -> io::Result<&mut dyn BufRead> {
        if let Source::OnDemand(_) = self
            && let Source::OnDemand(body) = std::mem::replace(self, Source::Failed(String::new()))
        {
            *self = body.fetch().map_or_else(|error| Source::Failed(error.to_string()), Source::from);
        }
        match self {
            Source::Memory(chunks) => Ok(chunks),
            Source::File(file) => Ok(file),
            Source::Upload(upload) => Ok(upload),
            Source::Failed(why) => Err(io::Error::new(io::ErrorKind::ConnectionAborted, why.clone())),
            Source::OnDemand(_) => Err(io::ErrorKind::InvalidData.into()),
        }
    }
}

/// The body of a request as a binary file: `read`, `readline`, `readlines`, iteration, as `io.BufferedIOBase` has them.
///
/// A body that did not arrive whole raises `ConnectionError`; it never looks like the end of the file.
#[pyclass(frozen, module = "atrio")]
pub struct Input {
    source: Mutex<Source>,
    broken: AtomicBool,
}

impl Input {
    pub fn new(body: RequestBody) -> Self {
        Input { source: Mutex::new(body.into()), broken: AtomicBool::new(false) }
    }

    /// Whether a read has shown that the body did not arrive whole.
    pub fn is_broken(&self) -> bool {
        self.broken.load(Relaxed)
    }

    /// Runs `read` on the body; what may wait for the client or a disk runs without the GIL.
    fn with<T: Send>(
        &self,
        py: Python,
        wanted: u64,
        read: impl FnOnce(&mut dyn BufRead) -> io::Result<T> + Send,
    ) -> PyResult<T> {
        // Another thread that reads may wait for the client: only for that, nobody waits with the GIL.
        if let Ok(mut source) = self.source.try_lock()
            && let Some(chunks) = source.at_hand(wanted)
        {
            return Ok(read(chunks)?);
        }
        py.detach(|| self.lock().reader().and_then(read)).map_err(|error| match error.kind() {
            io::ErrorKind::ConnectionAborted => {
                self.broken.store(true, Relaxed);
                PyConnectionError::new_err(error.to_string())
            }
            _ => PyOSError::new_err(SpoolError::Disk(error).to_string()),
        })
    }

    fn lock(&self) -> MutexGuard<'_, Source> {
        self.source.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn line(&self, py: Python, limit: Option<u64>) -> PyResult<Vec<u8>> {
        let limit = limit.unwrap_or(u64::MAX);
        self.with(py, limit, |body| {
            let mut line = Vec::new();
            body.take(limit).read_until(b'\n', &mut line)?;
            Ok(line)
        })
    }
}

/// Reads until the buffer is full or the body ends; how much that was.
fn fill(body: &mut dyn BufRead, buffer: &mut [u8]) -> io::Result<usize> {
    let mut filled = 0;
    while filled < buffer.len() {
        match body.read(&mut buffer[filled..])? {
            0 => break,
            count => filled += count,
        }
    }
    Ok(filled)
}

/// Python's sizes: `None` and negative numbers stand for all there is.
fn size(given: Option<i64>) -> Option<u64> {
    given.and_then(|size| u64::try_from(size).ok())
}

#[pymethods]
impl Input {
    #[pyo3(signature = (size=None, /))]
    fn read<'py>(&self, py: Python<'py>, size: Option<i64>) -> PyResult<Bound<'py, PyBytes>> {
        let limit = self::size(size).unwrap_or(u64::MAX);
        let mut expected = None;
        if let Ok(mut source) = self.source.try_lock() {
            expected = source.expected(limit);
            if let Some(chunks) = source.at_hand(limit) {
                let wanted = limit.min(chunks.len() as u64) as usize;
                if let Some(contiguous) = chunks.first().get(..wanted) {
                    let bytes = PyBytes::new(py, contiguous);
                    chunks.consume(wanted);
                    return Ok(bytes);
                }
                expected = Some(wanted);
            }
        }
        let Some(expected) = expected else {
            let read = |body: &mut dyn BufRead| {
                let mut data = Vec::new();
                body.take(limit).read_to_end(&mut data)?;
                Ok(data)
            };
            return Ok(PyBytes::new(py, &self.with(py, limit, read)?));
        };
        let mut filled = 0;
        let bytes = PyBytes::new_with(py, expected, |buffer| {
            filled = self.with(py, limit, |body| fill(body, buffer))?;
            Ok(())
        })?;
        // Less, if another thread of the site has read meanwhile.
        Ok(if filled == expected { bytes } else { PyBytes::new(py, &bytes.as_bytes()[..filled]) })
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
