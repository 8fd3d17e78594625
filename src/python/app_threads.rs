//! App threads: Python threads that take requests from the queue and run the site.
//!
//! Each is a `threading.Thread` for its whole life: attached once, so that `threading.local` and thread identity last; it detaches only to
//! wait.

use std::sync::Arc;
use std::time::Instant;

use pyo3::prelude::*;
use pyo3::types::{PyCFunction, PyDict};

use crate::http::job::Job;
use crate::http::queue::{QUICK, Queue, Sleeper, Wake};
use crate::http::service::Shared;
use crate::metrics::scoreboard::INNER_BOUNDS;
use crate::os;
use crate::wsgi::call::call;
use crate::wsgi::environ::{Constants, Environ};
use crate::wsgi::file_wrapper::FileWrapper;
use crate::wsgi::log_stream::LogStream;

/// Starts `count` threads that serve until the queue is closed; Python's threads, to be joined.
pub fn start(
    py: Python,
    count: usize,
    application: &Py<PyAny>,
    shared: &Arc<Shared>,
    constants: &Constants,
) -> PyResult<Vec<Py<PyAny>>> {
    let threading = py.import("threading")?;
    let errors = Bound::new(py, LogStream::new("wsgi.errors", 2))?;
    let file_wrapper = py.get_type::<FileWrapper>();
    let start = |number| {
        let environs = Environ::new(py, constants, errors.as_any(), file_wrapper.as_any())?;
        let (application, shared) = (application.clone_ref(py), shared.clone());
        let name = format!("atrio-app-{number}");
        let os_name = name.clone();
        // Taken by the first call; a closure for Python must be callable again and shareable.
        let work = std::sync::Mutex::new(Some((application, environs, shared)));
        let run = PyCFunction::new_closure(py, None, None, move |args, _| -> PyResult<()> {
            os::name_thread(&os_name);
            if let Some((application, environs, shared)) = work.lock().ok().and_then(|mut work| work.take()) {
                serve(args.py(), application.bind(args.py()), &environs, &shared);
            }
            Ok(())
        })?;
        let options = PyDict::new(py);
        options.set_item("target", run)?;
        options.set_item("name", name)?;
        // A thread that does not come back from the site must not keep the process alive.
        options.set_item("daemon", true)?;
        let thread = threading.call_method("Thread", (), Some(&options))?;
        thread.call_method0("start")?;
        Ok(thread.unbind())
    };
    (1..=count).map(start).collect()
}

fn serve(py: Python, application: &Bound<PyAny>, environs: &Environ, shared: &Shared) {
    let queue = &shared.queue;
    let sleeper = Sleeper::new();
    let mut blocking = Blocking::new();
    let mut woken = false;
    loop {
        if let Some(job) = queue.take(std::mem::take(&mut woken)) {
            run(py, application, environs, shared, &mut blocking, job);
            continue;
        }
        shared.completions.flush();
        match py.detach(|| queue.wait(&sleeper)) {
            Wake::Woken => {
                woken = true;
                blocking = Blocking::new();
            }
            Wake::Work => {}
            Wake::Closed => return,
        }
    }
}

/// Tells a thread that waited from one that only computed, or that the kernel let others go before: on a busy machine both take long.
struct Blocking(i64);

impl Blocking {
    fn new() -> Self {
        Blocking(os::voluntary_switches())
    }

    /// Since the last call, or the start.
    fn has_waited(&mut self) -> bool {
        let now = os::voluntary_switches();
        std::mem::replace(&mut self.0, now) != now
    }
}

fn run(
    py: Python,
    application: &Bound<PyAny>,
    environs: &Environ,
    shared: &Shared,
    blocking: &mut Blocking,
    mut job: Box<Job>,
) {
    let queue: &Queue = &shared.queue;
    let started = Instant::now();
    if job.reply.is_abandoned() {
        drop(job);
        return queue.ran(false);
    }
    shared.slot.queue_wait.observe(&INNER_BOUNDS, job.reply.taken(started));
    job.reply.deferred = queue.may_defer();
    if call(py, application, environs, job) {
        shared.slot.exceptions.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
    }
    let took = started.elapsed();
    shared.slot.app.observe(&INNER_BOUNDS, took);
    queue.ran(took >= QUICK && blocking.has_waited());
}
