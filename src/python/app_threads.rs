//! App threads: Python threads that take requests from the queue and run the site.
//!
//! Each is a `threading.Thread` for its whole life: attached once, so that `threading.local` and thread identity last; it detaches only to
//! wait, or to drive the runtime.

use std::time::Instant;

use pyo3::prelude::*;
use pyo3::types::{PyCFunction, PyDict};

use crate::http::job::Job;
use crate::http::pace::QUICK;
use crate::http::seat::Seat;
use crate::http::service::Shared;
use crate::http::trace::Place;
use crate::metrics::Activity;
use crate::metrics::activity::{Clock, thread_name};
use crate::metrics::histogram::INNER_BOUNDS;
use crate::os;
use crate::wsgi::call::call;
use crate::wsgi::environ::{Constants, Environ};
use crate::wsgi::file_wrapper::FileWrapper;
use crate::wsgi::log_stream::LogStream;

/// Starts a thread for each activity, to serve until the queue is closed; Python's threads, to be joined.
pub fn start(
    py: Python,
    activities: &'static [Activity],
    application: &Py<PyAny>,
    shared: &'static Shared,
    constants: &Constants,
) -> PyResult<Vec<Py<PyAny>>> {
    let threading = py.import("threading")?;
    let errors = Bound::new(py, LogStream::new("wsgi.errors", 2))?;
    let file_wrapper = py.get_type::<FileWrapper>();
    let start = |(number, activity): (usize, &'static Activity)| {
        let environs = Environ::new(py, constants, errors.as_any(), file_wrapper.as_any())?;
        let application = application.clone_ref(py);
        let name = thread_name(number);
        let os_name = name.clone();
        // Taken by the first call; a closure for Python must be callable again and shareable.
        let work = std::sync::Mutex::new(Some((application, environs)));
        let run = PyCFunction::new_closure(py, None, None, move |args, _| -> PyResult<()> {
            os::name_thread(&os_name);
            if let Some((application, environs)) = work.lock().ok().and_then(|mut work| work.take()) {
                serve(args.py(), application.bind(args.py()), &environs, shared, activity);
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
    activities.iter().enumerate().map(start).collect()
}

fn serve(py: Python, application: &Bound<PyAny>, environs: &Environ, shared: &Shared, activity: &'static Activity) {
    let desk = Desk { application, environs, shared, activity, clock: Clock::new() };
    let mut seat = Seat::new(shared.engine);
    let mut blocking = Blocking::default();
    // When this thread last asked for the GIL.
    let mut asked = None;
    loop {
        // Within a batch, one request begins when the last one ended.
        let mut now = None;
        while let Some(job) = seat.take() {
            let started = now.unwrap_or_else(Instant::now);
            let ended = desk.run(py, started, asked.take(), job);
            seat.ran(started, ended, ended.duration_since(started) >= QUICK && blocking.has_waited());
            now = Some(ended);
        }
        asked = py.detach(|| seat.wait().then(Instant::now));
        if asked.is_none() {
            return;
        }
        blocking.begin(seat.leads());
    }
}

/// What an app thread runs requests with.
struct Desk<'a, 'py> {
    application: &'a Bound<'py, PyAny>,
    environs: &'a Environ,
    shared: &'a Shared,
    activity: &'static Activity,
    clock: Clock,
}

impl Desk<'_, '_> {
    /// Runs one request; when that was over. `asked`: when the thread asked for the GIL, if it had to before this request.
    fn run(&self, py: Python, started: Instant, asked: Option<Instant>, mut job: Box<Job>) -> Instant {
        if job.reply.is_abandoned() {
            return started;
        }
        let slot = self.shared.slot;
        let mut waited = job.reply.taken(started, self.activity);
        if let Some(asked) = asked {
            let gil = started.duration_since(asked);
            slot.gil_wait.observe(&INNER_BOUNDS, gil);
            waited = waited.saturating_sub(gil);
        }
        slot.queue_wait.observe(&INNER_BOUNDS, waited);
        let (method, path, id) = (&job.parts.method, job.parts.uri.path(), job.id.as_header());
        self.activity.begin(self.clock, started, method.as_str().as_bytes(), path.as_bytes(), id.as_bytes());
        let enqueued = job.reply.enqueued();
        let place = job.place.clone().filter(Place::is_sampled);
        let escaped = call(py, self.application, self.environs, job);
        if let Some(escaped) = &escaped {
            slot.failures.note(self.activity, escaped);
            slot.exceptions.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        }
        self.activity.end();
        let ended = Instant::now();
        slot.app.observe(&INNER_BOUNDS, ended.duration_since(started));
        if let (Some(tracer), Some(place)) = (&self.shared.tracer, place) {
            place.record_application(tracer, enqueued, started, ended, escaped.is_some());
        }
        ended
    }
}

/// Tells a thread that waited from one that only computed, or that the kernel let others go before: on a busy machine both take long.
#[derive(Default)]
struct Blocking {
    /// How often the thread had waited when it was looked at last.
    switches: Option<i64>,
    /// For how many more batches to look at their beginning, which is a system call.
    suspicion: u32,
}

/// After a request that took long, so many batches are looked at.
const SUSPICION: u32 = 32;

impl Blocking {
    /// A batch of requests begins. A thread that leads has a great many of them: it is looked at only with suspicion.
    fn begin(&mut self, leads: bool) {
        self.switches = (!leads || self.suspicion > 0).then(os::voluntary_switches);
        self.suspicion = self.suspicion.saturating_sub(1);
    }

    /// Since the last call, or the beginning of the batch; no, if nobody looked then.
    fn has_waited(&mut self) -> bool {
        self.suspicion = SUSPICION;
        let now = os::voluntary_switches();
        self.switches.replace(now).is_some_and(|before| before != now)
    }
}
