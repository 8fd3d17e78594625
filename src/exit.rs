//! Why a process ends, and its exit code: the codes of `sysexits.h`, which systemd and shells know by name.

use std::fmt;
use std::process::ExitCode;

/// The reason class of a failure. The number is the process's exit code.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub enum Code {
    /// The command line is wrong (`EX_USAGE`).
    Usage = 64,
    /// `ATRIO_USER` or `ATRIO_GROUP` is not known here (`EX_NOUSER`).
    NoUser = 67,
    /// A service that was asked for is not there (`EX_UNAVAILABLE`): an address in use, no such interface, no package index.
    Unavailable = 69,
    /// The site or Atrio itself failed at run time (`EX_SOFTWARE`): workers die again and again.
    Software = 70,
    /// The operating system refused (`EX_OSERR`): no memory, no processes, no descriptors.
    Os = 71,
    /// A file or folder could not be made (`EX_CANTCREAT`).
    CannotCreate = 73,
    /// An output could not be written (`EX_IOERR`).
    Io = 74,
    /// Permission denied (`EX_NOPERM`).
    Permission = 77,
    /// A setting or the site is wrong (`EX_CONFIG`): restarting will not help until someone mends it.
    Config = 78,
}

impl From<Code> for ExitCode {
    fn from(code: Code) -> Self {
        ExitCode::from(code as u8)
    }
}

/// A failure that ends the process: one line for the user, with a remedy, and an exit code.
#[derive(Clone, Debug, PartialEq)]
pub struct Failure {
    pub code: Code,
    pub message: String,
}

impl Failure {
    pub fn new(code: Code, message: impl Into<String>) -> Self {
        Failure { code, message: message.into() }
    }

    pub fn config(message: impl Into<String>) -> Self {
        Failure::new(Code::Config, message)
    }

    /// An operating system call that failed while doing `what`.
    pub fn os(what: &str, error: impl fmt::Display) -> Self {
        Failure::new(Code::Os, format!("{what}: {error}"))
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for Failure {}

/// `text` without what would break a line of a terminal.
pub fn one_line(text: &str) -> String {
    text.chars().flat_map(|c| if c.is_control() { c.escape_default().collect() } else { vec![c] }).collect()
}
