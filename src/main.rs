//! Atrio serves the Python web site that is mounted into it: one binary, with CPython inside.
//!
//! One binary has several roles. The [`supervisor`] owns sockets and processes; the [`zygote`] imports the site and forks
//! [`worker`]s, which put [`http`], [`wsgi`] and [`python`] together. Imports go down in that order, and from there to
//! [`config`], [`control`], [`metrics`], [`os`], [`exit`] and [`telemetry`].

mod config;
mod control;
mod exit;
mod healthcheck;
mod http;
mod instance;
mod metrics;
mod os;
mod python;
mod role;
mod supervisor;
mod telemetry;
mod top;
mod worker;
mod wsgi;
mod zygote;

use std::ffi::OsString;
use std::io::Write;
use std::process::ExitCode;

use config::{Format, Source};
use exit::{Code, Failure};
use role::Role;

fn main() -> ExitCode {
    let mut args = std::env::args_os();
    let name = args.next().unwrap_or_default();
    let result = match role::choose(&name, args.collect()) {
        Ok(Role::Serve(args)) => serve(&args),
        Ok(Role::Zygote) => zygote::run().map(|()| ExitCode::SUCCESS),
        Ok(Role::Python(args)) => return python(role::python(name, args)),
        Ok(Role::Config(args)) => config(args),
        Ok(Role::Healthcheck(args)) => healthcheck(&args),
        Ok(Role::Top(args)) => top(args),
        Ok(Role::Help) => print(&config::help()),
        Ok(Role::Version) => {
            print(&format!("atrio {} (Python {})\n", env!("CARGO_PKG_VERSION"), python::site::PYTHON_MINOR))
        }
        Err(failure) => Err(failure),
    };
    result.unwrap_or_else(|failure| {
        // The last thing said; if stderr is gone there is nobody to tell.
        let _ = writeln!(std::io::stderr(), "atrio: {failure}");
        failure.code.into()
    })
}

fn load(args: &[OsString]) -> Result<config::Loaded, Failure> {
    config::load(args, &Source::from_process()).map_err(|problems| Failure::config(problems.to_string()))
}

fn serve(args: &[OsString]) -> Result<ExitCode, Failure> {
    let loaded = load(args)?;
    telemetry::init(&loaded.settings);
    let explicit = loaded.is_given("listen");
    supervisor::run(loaded.settings, explicit).map(|()| ExitCode::SUCCESS)
}

fn config(mut args: Vec<OsString>) -> Result<ExitCode, Failure> {
    let format = Format::take(&mut args).map_err(|problems| Failure::new(Code::Usage, problems.to_string()))?;
    print(&config::render(&load(&args)?, format))
}

/// 0 when the instance is ready, else 1, as health checks of containers want it.
fn healthcheck(args: &[OsString]) -> Result<ExitCode, Failure> {
    let settings = load(args)?.settings;
    Ok(healthcheck::ask(&settings).map_or_else(
        |reason| {
            let _ = writeln!(std::io::stderr(), "atrio: {reason}");
            ExitCode::FAILURE
        },
        |()| ExitCode::SUCCESS,
    ))
}

fn top(mut args: Vec<OsString>) -> Result<ExitCode, Failure> {
    let once = top::take_once(&mut args);
    let shown = top::show(&load(&args)?.settings, once);
    let text = shown.map_err(|reason| Failure::new(Code::Unavailable, reason))?;
    text.map_or(Ok(ExitCode::SUCCESS), |text| print(&text))
}

fn python(start: python::interpreter::Start) -> ExitCode {
    match python::interpreter::main(&start) {
        Ok(code) => ExitCode::from(code as u8),
        Err(error) => {
            let _ = writeln!(std::io::stderr(), "atrio: Python cannot start: {error}");
            Code::Software.into()
        }
    }
}

fn print(text: &str) -> Result<ExitCode, Failure> {
    let mut out = std::io::stdout().lock();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        // `atrio --help | head` has read enough.
        Err(error) if error.kind() != std::io::ErrorKind::BrokenPipe => {
            Err(Failure::new(Code::Io, format!("cannot write to stdout: {error}")))
        }
        _ => Ok(ExitCode::SUCCESS),
    }
}
