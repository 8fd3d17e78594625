//! One call of the application: environ in, blocks out, `close()` always.

use pyo3::intern;
use pyo3::prelude::*;
use pyo3::types::{PyList, PyTuple};

use crate::http::job::Job;

use super::environ::Environ;
use super::input::Input;
use super::log_stream::{self, traceback};
use super::start_response::{More, StartResponse, own_item};

/// Runs `application` on `job`, whatever comes of it; whether an exception escaped.
pub fn call(py: Python, application: &Bound<PyAny>, environs: &Environ, job: Box<Job>) -> bool {
    let (id, method, uri) = (job.id.clone(), job.parts.method.clone(), job.parts.uri.clone());
    let _current = log_stream::current_request(&id);
    let result = environs.build(py, &job).and_then(|environ| {
        let input = Bound::new(py, Input::new(job.body))?;
        environ.set_item(intern!(py, "wsgi.input"), input)?;
        let response = Bound::new(py, StartResponse::new(job.reply, method == http::Method::HEAD))?;
        let result = respond(application, &environ, &response);
        if result.is_err() && response.get().is_abandoned() {
            tracing::debug!(request_id = &*id, "the client has left");
        } else if let Err(error) = &result {
            // SystemExit, KeyboardInterrupt and MemoryError too: a request never ends the server.
            tracing::error!(request_id = &*id, "{method} {} failed\n{}", uri.path(), traceback(py, error).trim_end());
            response.get().fail();
        }
        Ok(result)
    });
    match result {
        Ok(result) => result.is_err(),
        Err(error) => {
            tracing::error!(request_id = &*id, "no environ could be made\n{}", traceback(py, &error).trim_end());
            true
        }
    }
}

fn respond(application: &Bound<PyAny>, environ: &Bound<PyAny>, response: &Bound<StartResponse>) -> PyResult<()> {
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
            tracing::error!("close() failed too\n{}", traceback(py, &second).trim_end());
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
