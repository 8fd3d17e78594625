//! A worker: forked from the zygote, it serves one site until it is told to drain.
//!
//! Three kinds of threads: this one, Python's main thread, imports if need be and then only keeps Python's heartbeat; app threads run the
//! site, and tokio while its requests are quick; the I/O thread, which never needs the GIL, runs tokio otherwise.

mod io;

use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::mpsc::{self, RecvTimeoutError};
use std::time::Duration;

use pyo3::prelude::*;
use tokio::sync::{Semaphore, watch};

use crate::config::{self, LogFormat, Settings};
use crate::control::{FromWorker, Launch};
use crate::exit::Code;
use crate::http::access_log::{self, AccessLog};
use crate::http::engine::Engine;
use crate::http::service::Shared;
use crate::metrics::{Scoreboard, Slot};
use crate::os;
use crate::python::{app_threads, site, site_metrics};
use crate::telemetry::{self, tracer::Tracer};
use crate::wsgi::environ::Constants;
use crate::wsgi::log_stream::traceback;

/// How often Python's main thread shows that it gets the GIL, and runs the site's signal handlers.
const HEARTBEAT: Duration = Duration::from_secs(1);

/// What Python itself does at its end, but threads that are not daemons are waited for with a bound; then `atexit` runs.
const FAREWELL: &std::ffi::CStr = cr#"
import atexit, threading, time
for callback in reversed(getattr(threading, "_threading_atexits", [])):
    callback()
end = time.monotonic() + 5
for thread in threading.enumerate():
    if thread is not threading.current_thread() and not thread.daemon:
        thread.join(max(0, end - time.monotonic()))
atexit._run_exitfuncs()
"#;

/// What a worker is born with.
pub struct Birth {
    pub launch: Launch,
    /// Its socket to the supervisor.
    pub control: OwnedFd,
    pub listeners: Vec<OwnedFd>,
    pub board: Scoreboard,
    /// Its number on the board.
    pub slot: usize,
    /// The site's application, if the zygote has imported it.
    pub application: Option<Py<PyAny>>,
}

/// Serves until it is told to drain, then ends the process.
pub fn run(birth: Birth) -> ! {
    let Birth { launch, control, listeners, board, slot: number, application } = birth;
    let (slot, activities) = (board.slot(number), board.activities(number));
    os::name_thread("atrio-worker");
    let pid = std::process::id() as i32;
    slot.occupy(pid, launch.generation, launch.settings.threads);
    Python::attach(|_| site_metrics::occupy(number));
    let (drain_sender, drain) = watch::channel(false);
    let (finished, done) = mpsc::channel();
    // At once, and not by way of the I/O thread: who dies early is known by name.
    if let Err(error) = crate::control::tell(&control, &FromWorker::Started { pid }) {
        fail(&format!("the supervisor cannot be told: {error}"));
    }
    let engine = match Engine::new(launch.settings.queue, slot) {
        Ok(engine) => engine,
        Err(error) => fail(&format!("cannot start the engine: {error}")),
    };
    let io = io::Start { engine, board, control, listeners, launch: launch.clone(), drain: drain_sender, finished };
    let io = match io.spawn() {
        Ok(io) => io,
        Err(error) => fail(&format!("cannot start the I/O thread: {error}")),
    };
    let imported = application.map_or_else(|| Python::attach(|py| site::load(py, &launch.settings, &launch.site)), Ok);
    let application = match imported {
        Ok(application) => application,
        Err(error) => {
            io.say(FromWorker::ImportFailed(error));
            io.join();
        }
    };
    let shared: &Shared = match share(&launch, slot, engine, drain) {
        Ok(shared) => Box::leak(Box::new(shared)),
        Err(error) => fail(&format!("cannot start the access log or the tracer: {error}")),
    };
    let threads = Python::attach(|py| {
        let constants = Constants {
            multithread: launch.settings.threads > 1,
            multiprocess: launch.workers > 1,
            traced: shared.tracer.is_some(),
            propagates: shared.tracer.as_ref().is_some_and(|tracer| tracer.propagates),
            env: &launch.settings.env,
        };
        app_threads::start(py, activities, &application, shared, &constants).map_err(|error| traceback(py, &error))
    });
    let threads = threads.unwrap_or_else(|error| fail(&format!("cannot start the app threads: {error}")));
    io.serve(shared);
    keep_alive(slot, &done);
    leave(&threads);
    if let Some(log) = &shared.access_log {
        log.close();
    }
    if let Some(tracer) = &shared.tracer {
        tracer.close();
    }
    os::exit_now(0)
}

fn share(
    launch: &Launch,
    slot: &'static Slot,
    engine: &'static Engine,
    drain: watch::Receiver<bool>,
) -> std::io::Result<Shared> {
    let settings = &launch.settings;
    Ok(Shared {
        site: launch.site.name.clone(),
        slot,
        engine,
        access_log: access_format(settings)
            .map(|format| {
                AccessLog::start(&launch.site.name, format, settings.access_log.slow, settings.access_log.sample)
            })
            .transpose()?,
        tracer: settings.traces.as_ref().map(|traces| Tracer::start(traces, &launch.site.name, slot)).transpose()?,
        max_body: settings.max_body,
        // Half of the app threads stay free of slow clients.
        places: Arc::new(Semaphore::new(settings.threads / 2)),
        drain,
    })
}

fn access_format(settings: &Settings) -> Option<access_log::Format> {
    match settings.access_log.form {
        config::Form::Off => None,
        config::Form::Common => Some(access_log::Format::Common),
        config::Form::Combined => Some(access_log::Format::Combined),
        config::Form::Json => Some(access_log::Format::Json),
        config::Form::On => Some(match telemetry::format(settings.log_format) {
            LogFormat::Json => access_log::Format::Json,
            _ => access_log::Format::Combined,
        }),
    }
}

/// Until the I/O thread has finished the last request.
fn keep_alive(slot: &Slot, done: &mpsc::Receiver<()>) {
    while done.recv_timeout(HEARTBEAT) == Err(RecvTimeoutError::Timeout) {
        Python::attach(|py| {
            if let Err(error) = py.check_signals() {
                tracing::error!("a signal handler of the site failed\n{}", traceback(py, &error).trim_end());
            }
            slot.beat();
        });
    }
}

/// Joins the app threads, whose queue is closed, and lets Python say farewell.
fn leave(threads: &[Py<PyAny>]) {
    Python::attach(|py| {
        let join = || {
            for thread in threads {
                thread.call_method0(py, "join")?;
            }
            py.run(FAREWELL, None, None)
        };
        if let Err(error) = join() {
            tracing::error!("the site's exit handlers failed\n{}", traceback(py, &error).trim_end());
        }
    });
}

fn fail(message: &str) -> ! {
    tracing::error!("{message}");
    os::exit_now(Code::Os as i32)
}
