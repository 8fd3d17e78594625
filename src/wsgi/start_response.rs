//! `start_response` and `write`: the state of one response (PEP 3333, "The start_response() Callable").

use std::collections::VecDeque;
use std::fs::File;
use std::sync::{Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, StatusCode, header};
use pyo3::exceptions::{PyAssertionError, PyConnectionError, PyTypeError};
use pyo3::prelude::*;
use pyo3::pybacked::PyBackedBytes;
use pyo3::types::{PyBytes, PyString};

use crate::http::file::Part;
use crate::http::job::{self, Reply};
use crate::http::stream::{End, Sender, Sent};

use super::log_stream::Ids;
use super::response::{self, Declared};

/// Up to this size a block is copied; beyond, the response keeps the site's own bytes object.
const COPY: usize = 4096;

enum Phase {
    /// `start_response` has not been called.
    Fresh(Reply),
    /// Headers are known, and not sent: they may still be replaced.
    Declared(Reply, Declared),
    /// Headers are sent. `left`: what Content-Length still allows.
    Streaming { sender: Sender, left: Option<u64> },
    /// Nothing more is wanted: all was sent, or there is no body to send.
    Over,
    /// The client has left.
    Gone,
}

/// A body that is all there.
enum Blocks {
    One(Bytes),
    Many(VecDeque<Bytes>),
}

impl Blocks {
    fn len(&self) -> u64 {
        match self {
            Blocks::One(block) => block.len() as u64,
            Blocks::Many(blocks) => blocks.iter().map(|block| block.len() as u64).sum(),
        }
    }
}

/// Whether the application should be asked for more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum More {
    Wanted,
    Unwanted,
}

/// One response, from the application's first word to its last byte. Python sees it as `start_response`.
#[pyclass(frozen, module = "atrio")]
pub struct StartResponse {
    phase: Mutex<Phase>,
    /// The request is HEAD: the answer has no body, whatever the site yields.
    is_head: bool,
}

impl StartResponse {
    pub fn new(reply: Reply, is_head: bool) -> Self {
        StartResponse { phase: Mutex::new(Phase::Fresh(reply)), is_head }
    }

    fn lock(&self) -> MutexGuard<'_, Phase> {
        self.phase.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The client has left before the response was over.
    pub fn is_abandoned(&self) -> bool {
        matches!(*self.lock(), Phase::Gone)
    }

    fn has_no_body(&self, declared: &Declared) -> bool {
        let status = declared.head.status;
        self.is_head || status == StatusCode::NO_CONTENT || status == StatusCode::NOT_MODIFIED
    }

    /// Sends one block, and before the first the headers.
    pub fn block(&self, block: &Bound<PyAny>) -> PyResult<More> {
        let block = bytes(block)?;
        if block.as_bytes().is_empty() {
            return Ok(if matches!(*self.lock(), Phase::Over | Phase::Gone) { More::Unwanted } else { More::Wanted });
        }
        let mut phase = self.lock();
        if let Phase::Fresh(_) = *phase {
            return Err(PyAssertionError::new_err("a block was written before start_response was called"));
        }
        *phase = match std::mem::replace(&mut *phase, Phase::Over) {
            Phase::Declared(reply, declared) if self.has_no_body(&declared) => {
                reply.whole(declared.head, Bytes::new());
                Phase::Over
            }
            Phase::Declared(reply, declared) => {
                Phase::Streaming { sender: reply.stream(declared.head), left: declared.length }
            }
            other => other,
        };
        let Phase::Streaming { sender, left } = &mut *phase else { return Ok(More::Unwanted) };
        let mut data = own(block);
        let mut surplus = false;
        if let Some(left) = left {
            surplus = data.len() as u64 > *left;
            if surplus {
                let ids = Ids::current();
                tracing::warn!(
                    request_id = ids.request(),
                    trace_id = ids.trace(),
                    "the site sent more than its Content-Length: the rest is dropped"
                );
                data.truncate(*left as usize);
            }
            *left -= data.len() as u64;
        }
        let sent = if data.is_empty() { Sent::Taken } else { sender.send(data) };
        match sent {
            Sent::Taken => {}
            Sent::Full => {
                let room = sender.room();
                drop(phase);
                block.py().detach(|| room.wait());
            }
            Sent::Abandoned => {
                *phase = Phase::Gone;
                return Ok(More::Unwanted);
            }
        }
        // A site that has sent all it announced may still have work to do behind its last block.
        Ok(if surplus { More::Unwanted } else { More::Wanted })
    }

    /// Answers with blocks that are all there: no need to stream, and the length is known.
    ///
    /// False, and nothing done, when they have to take the way of a stream: headers are not declared or already sent, or
    /// the blocks are not as long as the site's Content-Length says.
    pub fn all(&self, mut items: impl ExactSizeIterator<Item = PyResult<Bytes>>) -> PyResult<bool> {
        let blocks = match items.len() {
            0 => Blocks::One(Bytes::new()),
            1 => Blocks::One(items.next().transpose()?.unwrap_or_default()),
            _ => {
                let items = items.filter(|item| !item.as_ref().is_ok_and(Bytes::is_empty));
                Blocks::Many(items.collect::<PyResult<_>>()?)
            }
        };
        let total = blocks.len();
        let fits = |declared: &Declared| declared.length.is_none_or(|length| length == total);
        Ok(self.at_once(total, fits, |reply, declared| match blocks {
            Blocks::One(block) => reply.whole(declared.head, block),
            Blocks::Many(blocks) => reply.blocks(declared.head, blocks),
        }))
    }

    /// Answers with `file` from `at` to its end, `size`. False, and nothing done: headers are not declared, or already sent.
    pub fn file(&self, file: File, at: u64, size: u64) -> bool {
        let total = size.saturating_sub(at);
        self.at_once(
            total,
            |_| true,
            |reply, declared| {
                let length = declared.length.unwrap_or(total);
                if length > total {
                    too_short();
                }
                let end = if length > total { End::Cut } else { End::Complete };
                reply.file(declared.head, Part::new(file, at, length.min(total), end));
            },
        )
    }

    /// Answers with a body of `total` bytes that is all there. False, and nothing done, unless headers are declared, not sent, and `fit`,
    /// or there is to be no body.
    fn at_once(&self, total: u64, fit: impl FnOnce(&Declared) -> bool, answer: impl FnOnce(Reply, Declared)) -> bool {
        let mut phase = self.lock();
        let (reply, mut declared) = match std::mem::replace(&mut *phase, Phase::Over) {
            Phase::Declared(reply, declared) if self.has_no_body(&declared) || fit(&declared) => (reply, declared),
            other => {
                *phase = other;
                return false;
            }
        };
        if !self.has_no_body(&declared) {
            answer(reply, declared);
            return true;
        }
        // Many sites give HEAD no body at all: zero would be a lie then (RFC 9110 section 8.6).
        if self.is_head && declared.length.is_none() && total > 0 {
            declared.head.headers.insert(header::CONTENT_LENGTH, total.into());
        }
        reply.whole(declared.head, Bytes::new());
        true
    }

    /// The application has given all its blocks.
    pub fn finish(&self) -> PyResult<()> {
        let mut phase = self.lock();
        if let Phase::Fresh(_) = *phase {
            return Err(PyAssertionError::new_err("the application returned without calling start_response"));
        }
        match std::mem::replace(&mut *phase, Phase::Over) {
            Phase::Declared(reply, declared) => match declared.length {
                // Content-Length promised what did not come: only a cut connection can tell the client.
                Some(1..) if !self.has_no_body(&declared) => {
                    too_short();
                    reply.stream(declared.head).finish(End::Cut);
                }
                _ => reply.whole(declared.head, Bytes::new()),
            },
            Phase::Streaming { sender, left: Some(1..) } => {
                too_short();
                sender.finish(End::Cut);
            }
            Phase::Streaming { sender, .. } => sender.finish(End::Complete),
            Phase::Fresh(_) | Phase::Over | Phase::Gone => {}
        }
        Ok(())
    }

    /// The application failed: 500 while that can still be said, else the response is cut.
    pub fn fail(&self) {
        match std::mem::replace(&mut *self.lock(), Phase::Over) {
            Phase::Fresh(reply) | Phase::Declared(reply, _) => {
                let mut headers = HeaderMap::new();
                headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
                let text = if self.is_head { "" } else { "500 Internal Server Error\n" };
                reply.whole(job::head(StatusCode::INTERNAL_SERVER_ERROR, headers), Bytes::from_static(text.as_bytes()));
            }
            Phase::Streaming { sender, .. } => sender.finish(End::Cut),
            Phase::Over | Phase::Gone => {}
        }
    }
}

fn too_short() {
    let ids = Ids::current();
    tracing::error!(
        request_id = ids.request(),
        trace_id = ids.trace(),
        "the site sent less than its Content-Length: the connection is cut"
    );
}

fn bytes<'a, 'py>(block: &'a Bound<'py, PyAny>) -> PyResult<&'a Bound<'py, PyBytes>> {
    block.cast::<PyBytes>().map_err(|_| {
        let kind = block.get_type().name().map_or_else(|_| "?".into(), |name| name.to_string());
        PyTypeError::new_err(format!("a response consists of bytes, not of {kind}"))
    })
}

/// The block as bytes that outlive the GIL.
fn own(block: &Bound<PyBytes>) -> Bytes {
    if block.as_bytes().len() <= COPY {
        Bytes::copy_from_slice(block.as_bytes())
    } else {
        Bytes::from_owner(PyBackedBytes::from(block.clone()))
    }
}

/// The same for an item of a list.
pub fn own_item(item: &Bound<PyAny>) -> PyResult<Bytes> {
    bytes(item).map(own)
}

impl StartResponse {
    fn start(&self, status: &Bound<PyAny>, headers: &Bound<PyAny>, exc_info: Option<&Bound<PyAny>>) -> PyResult<()> {
        if let Some(exc_info) = exc_info
            && matches!(*self.lock(), Phase::Streaming { .. } | Phase::Over | Phase::Gone)
        {
            return Err(PyErr::from_value(exc_info.get_item(1)?));
        }
        // Before the lock: it may run the site's code, to show what is wrong.
        let declared = response::declare(status, headers)?;
        let mut phase = self.lock();
        match &*phase {
            Phase::Fresh(_) => {}
            Phase::Declared(..) if exc_info.is_some() => {}
            _ => return Err(PyAssertionError::new_err("start_response was called a second time without exc_info")),
        }
        if let Phase::Fresh(reply) | Phase::Declared(reply, _) = std::mem::replace(&mut *phase, Phase::Over) {
            *phase = Phase::Declared(reply, declared);
        }
        Ok(())
    }

    fn write(&self, data: &Bound<PyAny>) -> PyResult<()> {
        self.block(data)?;
        if self.is_abandoned() {
            // Nothing else ends a site that writes in a loop.
            return Err(PyConnectionError::new_err("the client has left"));
        }
        Ok(())
    }
}

#[pymethods]
impl StartResponse {
    /// `start_response(status, headers, exc_info=None)` returns this same object, which with one argument is `write(data)`: few sites
    /// ever call that, and another object a request would be made for nothing.
    #[pyo3(signature = (status_or_data, headers=None, exc_info=None, /))]
    fn __call__<'py>(
        this: Bound<'py, Self>,
        status_or_data: &Bound<PyAny>,
        headers: Option<&Bound<PyAny>>,
        exc_info: Option<&Bound<PyAny>>,
    ) -> PyResult<Option<Bound<'py, Self>>> {
        match headers {
            Some(headers) => {
                this.get().start(status_or_data, headers, exc_info)?;
                Ok(Some(this))
            }
            None if status_or_data.is_instance_of::<PyString>() => {
                Err(PyTypeError::new_err("start_response takes a status and headers; write takes bytes, not str"))
            }
            None => this.get().write(status_or_data).map(|()| None),
        }
    }
}
