//! One call of the application: environ in, blocks out, `close()` always.

use http::Method;
use pyo3::exceptions::PyConnectionError;
use pyo3::intern;
use pyo3::prelude::*;
use pyo3::types::{PyDict, PyList, PyTuple};

use crate::http::job::Job;

use super::environ::Environ;
use super::file_wrapper::FileWrapper;
use super::log_stream::{self, Ids, traceback};
use super::start_response::{More, StartResponse, own_item};

/// Runs `application` on `job`, whatever comes of it; the exception that escaped, in a word.
pub fn call(py: Python, application: &Bound<PyAny>, environs: &Environ, job: Box<Job>) -> Option<String> {
    let environ = environs.build(py, &job);
    let _current = log_stream::current_request(&job);
    let Job { parts, body, reply, .. } = *job;
    let prepared = environ.and_then(|environ| {
        let input = environs.input(py, body)?;
        if let Some(input) = &input {
            environ.set_item(intern!(py, "wsgi.input"), input)?;
        }
        Ok((environ, input, Bound::new(py, StartResponse::new(reply, parts.method == Method::HEAD))?))
    });
    let (environ, input, response) = match prepared {
        Ok(prepared) => prepared,
        Err(error) => {
            let (ids, text) = (Ids::current(), traceback(py, &error));
            tracing::error!(
                request_id = ids.request(),
                trace_id = ids.trace(),
                "no environ could be made\n{}",
                text.trim_end()
            );
            return Some(error.to_string());
        }
    };
    let Err(error) = respond(application, &environ, &response) else { return None };
    let broken = input.is_some_and(|input| input.get().is_broken()) && error.is_instance_of::<PyConnectionError>(py);
    let ids = Ids::current();
    if response.get().is_abandoned() {
        tracing::debug!(request_id = ids.request(), trace_id = ids.trace(), "the client has left");
    } else if broken {
        // Not the site's fault, which had to begin before the client was done.
        tracing::debug!(request_id = ids.request(), trace_id = ids.trace(), "{error}");
        response.get().fail();
    } else {
        // SystemExit, KeyboardInterrupt and MemoryError too: a request never ends the server.
        let (method, path, text) = (&parts.method, parts.uri.path(), traceback(py, &error));
        tracing::error!(
            request_id = ids.request(),
            trace_id = ids.trace(),
            "{method} {path} failed\n{}",
            text.trim_end()
        );
        response.get().fail();
        return Some(error.to_string());
    }
    None
}

fn respond(application: &Bound<PyAny>, environ: &Bound<PyDict>, response: &Bound<StartResponse>) -> PyResult<()> {
    let py = application.py();
    let body = application.call1((environ, response))?;
    let list = body.is_exact_instance_of::<PyList>() || body.is_exact_instance_of::<PyTuple>();
    let sent = send(&body, response.get());
    if list {
        // It has no close(), and to ask for what is not there is slow.
        return sent;
    }
    let close = body.getattr_opt(intern!(py, "close")).and_then(|close| close.map(|close| close.call0()).transpose());
    match (sent, close) {
        (Err(error), Err(second)) => {
            let ids = Ids::current();
            tracing::error!(
                request_id = ids.request(),
                trace_id = ids.trace(),
                "close() failed too\n{}",
                traceback(py, &second).trim_end()
            );
            Err(error)
        }
        (sent, close) => sent.and(close.map(drop)),
    }
}

fn send(body: &Bound<PyAny>, response: &StartResponse) -> PyResult<()> {
    let whole = if let Ok(list) = body.cast_exact::<PyList>() {
        response.all(list.iter().map(|item| own_item(&item)))?
    } else if let Ok(tuple) = body.cast_exact::<PyTuple>() {
        response.all(tuple.iter().map(|item| own_item(&item)))?
    } else if let Ok(wrapper) = body.cast_exact::<FileWrapper>() {
        wrapper.get().plain(body.py())?.is_some_and(|(file, at, size)| response.file(file, at, size))
    } else {
        false
    };
    if whole {
        return Ok(());
    }
    for block in body.try_iter()? {
        if response.block(&block?)? == More::Unwanted {
            break;
        }
    }
    response.finish()
}
