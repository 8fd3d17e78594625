//! Runs pip as a program of its own, and says in one sentence why it failed.

use std::io::{self, Read};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use crate::exit::{Failure, one_line};
use crate::python::pip_errors::{Context, diagnose};

/// Lines of pip that are kept to tell why it failed.
const KEPT: usize = 400;
/// Characters of a line that are logged.
const WIDTH: usize = 1000;
/// Longest wait for output between two looks at the supervisor.
const PATIENCE: Duration = Duration::from_secs(1);

/// What pip is to do.
pub struct Job<'a> {
    pub requirements: &'a Path,
    /// The only source of packages, if there is one.
    pub wheels: Option<&'a Path>,
    /// Where relative paths among the requirements start.
    pub folder: &'a Path,
    /// An empty folder for the packages.
    pub target: &'a Path,
    /// For temporary files.
    pub scratch: &'a Path,
}

/// Installs. `wait` waits for the output for a time, and tells whether there is some.
pub fn install(job: &Job, wait: impl FnMut(BorrowedFd, Duration) -> io::Result<bool>) -> Result<(), Failure> {
    let run = || {
        let (output, input) = io::pipe()?;
        let mut child = command(job, input)?.spawn()?;
        let lines = listen(output, wait)?;
        Ok::<_, io::Error>((child.wait()?, lines))
    };
    let (status, lines) = run().map_err(|error| Failure::os("pip cannot be run", error))?;
    if status.success() {
        return Ok(());
    }
    let wheels = job.wheels.map(|folder| (folder.display().to_string(), names(folder)));
    let context = Context { file: job.requirements.display().to_string(), wheels };
    let Failure { code, message } = diagnose(&lines, &status.to_string(), &context);
    Err(Failure::new(code, one_line(&message)))
}

fn names(folder: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
    entries.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect()
}

fn command(job: &Job, output: io::PipeWriter) -> io::Result<Command> {
    let mut command = Command::new("/proc/self/exe");
    // Isolated: what PYTHONPATH and the site's folder hold is not pip's.
    command.arg0("atrio").args(["python", "-I", "-m", "pip", "install"]);
    command.args(["--no-input", "--progress-bar", "off", "--disable-pip-version-check"]);
    command.arg("--target").arg(job.target).arg("--requirement").arg(job.requirements);
    if let Some(wheels) = job.wheels {
        command.arg("--no-index").arg("--find-links").arg(wheels);
    }
    command.env_remove("ATRIO_VENV");
    // They contradict --target, or warn of what does not happen here.
    for (variable, value) in [("PIP_USER", "0"), ("PIP_REQUIRE_VIRTUALENV", "0"), ("PIP_ROOT_USER_ACTION", "ignore")] {
        command.env(variable, value);
    }
    // A second store of everything, which nobody would ever clear.
    if std::env::var_os("PIP_CACHE_DIR").is_none() {
        command.env("PIP_NO_CACHE_DIR", "1");
    }
    command.env("TMPDIR", job.scratch).current_dir(job.folder);
    command.stdin(Stdio::null()).stdout(output.try_clone()?).stderr(output);
    Ok(command)
}

/// Logs each line as it comes, until the output ends; returns the last ones.
fn listen(
    mut output: io::PipeReader,
    mut wait: impl FnMut(BorrowedFd, Duration) -> io::Result<bool>,
) -> io::Result<Vec<String>> {
    let (mut lines, mut pending, mut buffer) = (Vec::new(), Vec::new(), [0; 8192]);
    loop {
        if !wait(output.as_fd(), PATIENCE)? {
            continue;
        }
        let size = output.read(&mut buffer)?;
        pending.extend_from_slice(&buffer[..size]);
        let whole =
            if size == 0 { pending.len() } else { pending.iter().rposition(|b| *b == b'\n').map_or(0, |at| at + 1) };
        for line in pending.drain(..whole).collect::<Vec<u8>>().split(|byte| *byte == b'\n') {
            let line = String::from_utf8_lossy(line).trim_end().chars().take(WIDTH).collect::<String>();
            if !line.trim().is_empty() {
                log(&line);
                lines.push(line);
            }
        }
        lines.drain(..lines.len().saturating_sub(KEPT));
        if size == 0 {
            return Ok(lines);
        }
    }
}

fn log(line: &str) {
    match line.split_once(": ") {
        Some(("WARNING" | "DEPRECATION", text)) => tracing::warn!(target: "pip", "{text}"),
        Some(("ERROR" | "error", text)) => tracing::error!(target: "pip", "{text}"),
        _ => tracing::info!(target: "pip", "{line}"),
    }
}
