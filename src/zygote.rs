//! The zygote: installs what the site requires, starts Python, imports the site once, then only forks workers. One thread, no tokio, ever.

use std::os::fd::{AsFd, OwnedFd};
use std::path::PathBuf;

use nix::sys::stat::{Mode, umask};
use pyo3::prelude::*;

use crate::config::Preload;
use crate::control::{
    CONTROL_FD, Channel, FromZygote, ImportError, LISTENERS_FD, Launch, SCOREBOARD_FD, SITE_METRICS_FD, ToZygote,
};
use crate::exit::{Code, Failure};
use crate::metrics::{Scoreboard, SiteMetrics};
use crate::os;
use crate::python::interpreter::{self, Start};
use crate::python::requirements::{self, Installed};
use crate::python::site;
use crate::python::site_metrics;
use crate::telemetry;
use crate::worker::{self, Birth};

/// Runs until the supervisor is gone or ends it.
pub fn run() -> Result<(), Failure> {
    os::name_thread("atrio-zygote");
    let fd = |number| os::inherited(number).map_err(|e| Failure::os("the supervisor's descriptors are not here", e));
    let control = Channel::new(fd(CONTROL_FD)?);
    let board = fd(SCOREBOARD_FD)?;
    let metrics = fd(SITE_METRICS_FD)?;
    let gone = |error| Failure::os("the control socket failed", error);
    let Some((launch, _)) = control.receive::<Launch>().map_err(gone)? else { return Ok(()) };
    let supervisor = nix::unistd::getppid();
    // A hang-up meant for the supervisor must not end this process. A handler, unlike an ignored signal, does not pass on
    // to the programs that the site starts.
    signal_hook::flag::register(signal_hook::consts::SIGHUP, Default::default())
        .map_err(|e| Failure::os("cannot handle SIGHUP", e))?;
    telemetry::init(&launch.settings);
    if let Some(bits) = launch.settings.umask {
        umask(Mode::from_bits_truncate(bits));
    }
    let board = Scoreboard::open(board.as_fd(), launch.slots, launch.settings.threads)
        .map_err(|e| Failure::os("cannot map the scoreboard", e))?;
    let metrics = SiteMetrics::open(metrics.as_fd(), launch.slots)
        .map_err(|e| Failure::os("cannot map the site's metrics", e))?;
    let listeners: Vec<OwnedFd> =
        (0..launch.listeners.len()).map(|i| fd(LISTENERS_FD + i as i32)).collect::<Result<_, _>>()?;

    // Not before: an installation that the supervisor's end interrupts has to take pip along.
    let installed = requirements::provide(&launch.settings, &launch.site, &control);
    if !os::die_with_parent(supervisor).map_err(|e| Failure::os("cannot follow the supervisor", e))? {
        return Ok(());
    }
    let begun = installed
        .map_err(ImportError::from)
        .and_then(|installed| Ok((begin(&launch, metrics, installed.as_ref())?, installed)));
    let (application, installed) = match begun {
        Ok(begun) => begun,
        Err(error) => {
            control.send(&FromZygote::ImportFailed(error)).map_err(gone)?;
            return wait_for_the_end(&control);
        }
    };
    if let Some(application) = &application {
        let found = left_by_import(&launch, application);
        if !found.is_empty() {
            control.send(&FromZygote::Unforkable(found)).map_err(gone)?;
            return wait_for_the_end(&control);
        }
    }
    if let Some(installed) = &installed {
        installed.forget_older();
    }
    control.send(&FromZygote::Ready).map_err(gone)?;
    while let Some((ToZygote::Fork { slot }, fds)) = control.receive().map_err(gone)? {
        let Some(socket) = fds.into_iter().next() else { continue };
        match fork() {
            Ok(Side::Parent) => {}
            Ok(Side::Worker) => {
                drop(control.into_inner());
                let application = application.as_ref().map(|a| Python::attach(|py| a.application.clone_ref(py)));
                worker::run(Birth { launch, control: socket, listeners, board, slot, application });
            }
            Err(error) => {
                let error = Python::attach(|py| error.value(py).to_string());
                control.send(&FromZygote::ForkFailed { slot, error }).map_err(gone)?;
            }
        }
    }
    Ok(())
}

/// The supervisor reads the reason from the socket and then closes it; leaving first could hide the reason.
fn wait_for_the_end(control: &Channel) -> Result<(), Failure> {
    let _ = control.receive::<ToZygote>();
    Ok(())
}

struct Imported {
    application: Py<PyAny>,
    sockets_before: Vec<String>,
}

/// Starts Python and, with preload, imports the site.
fn begin(
    launch: &Launch,
    metrics: SiteMetrics,
    installed: Option<&Installed>,
) -> Result<Option<Imported>, ImportError> {
    let Launch { settings, site, .. } = launch;
    let failed = |advice: String| ImportError { advice, code: Code::Config };
    let venv = site::venv(settings, site)?;
    std::env::set_current_dir(&site.folder)
        .map_err(|error| failed(format!("cannot enter {}: {error}; is it readable?", site.folder.display())))?;
    let start = Start { program: site::program(venv.as_deref()), args: vec!["atrio".into()] };
    interpreter::start(&start).map_err(|error| failed(format!("Python cannot start: {error}")))?;
    Python::attach(|py| {
        site::prepare(py, settings, site, installed.map(Installed::folder))
            .and_then(|()| tell_children(py, venv))
            .and_then(|()| site_metrics::install(py, metrics, launch.generation))
            .map_err(|error| failed(format!("Python cannot be prepared for the site: {error}")))?;
        if !launch.preload {
            return Ok(None);
        }
        let sockets_before = site::sockets();
        Ok(Some(Imported { application: site::load(py, settings, site)?, sockets_before }))
    })
}

/// A program that the site starts with `sys.executable` finds the same packages.
fn tell_children(py: Python, venv: Option<PathBuf>) -> PyResult<()> {
    match venv {
        Some(venv) => py.import("os")?.getattr("environ")?.set_item("ATRIO_VENV", venv.as_os_str()),
        None => Ok(()),
    }
}

/// What forbids the fork, with `ATRIO_PRELOAD=auto`; else the garbage collector is told to leave what was imported alone, so that
/// workers share its pages.
fn left_by_import(launch: &Launch, imported: &Imported) -> Vec<String> {
    Python::attach(|py| {
        let found = site::unforkable(py, &imported.sockets_before);
        if !found.is_empty() && launch.settings.preload == Preload::Auto {
            return found;
        }
        if !found.is_empty() {
            tracing::warn!(
                "ATRIO_PRELOAD=on: importing the site left {}; the workers inherit that",
                found.join(" and ")
            );
        }
        if let Err(error) =
            py.import("gc").and_then(|gc| gc.call_method0("collect").and_then(|_| gc.call_method0("freeze")))
        {
            tracing::warn!("gc.freeze() failed: {error}");
        }
        Vec::new()
    })
}

enum Side {
    Parent,
    Worker,
}

/// Forks twice with Python's own `os.fork()`, which keeps Python's locks and handlers right: the worker's parent ends at once, so
/// that the supervisor, as subreaper, becomes its parent.
fn fork() -> PyResult<Side> {
    Python::attach(|py| {
        let os = py.import("os")?;
        let child: i32 = os.call_method0("fork")?.extract()?;
        if child != 0 {
            os.call_method1("waitpid", (child, 0))?;
            return Ok(Side::Parent);
        }
        match os.call_method0("fork").and_then(|pid| pid.extract::<i32>()) {
            Ok(0) => Ok(Side::Worker),
            Ok(_) => crate::os::exit_now(0),
            Err(error) => {
                tracing::error!("cannot fork a worker: {error}");
                crate::os::exit_now(Code::Os as i32)
            }
        }
    })
}
