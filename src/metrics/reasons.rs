//! Why something was counted: values of the label `reason`.

/// Why a request was answered without reaching the site.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(usize)]
pub enum Reject {
    BadRequest,
    HeaderTimeout,
    HeaderTooLarge,
    BodyTimeout,
    BodyTooLarge,
    QueueFull,
    QueueTimeout,
    /// The request's body could not be kept in a temporary file.
    Spool,
    /// Past `ATRIO_MAX_CONNECTIONS`.
    Connections,
}

impl Reject {
    pub const NAMES: [&str; 9] = [
        "bad_request",
        "header_timeout",
        "header_too_large",
        "body_timeout",
        "body_too_large",
        "queue_full",
        "queue_timeout",
        "spool",
        "connections",
    ];
}

/// Why a span was not exported.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(usize)]
pub enum Lost {
    QueueFull,
    /// The collector did not answer in time, or there was none.
    Unreachable,
    /// The collector did not want it.
    Refused,
    /// The worker left before the collector had it.
    Shutdown,
}

impl Lost {
    pub const NAMES: [&str; 4] = ["queue_full", "unreachable", "refused", "shutdown"];
}

/// Why a worker was replaced by another.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(usize)]
pub enum Restart {
    /// It ended unasked.
    Crashed,
    Reload,
    /// Somebody sent it SIGTERM.
    Terminated,
}

impl Restart {
    pub const NAMES: [&str; 3] = ["crashed", "reload", "terminated"];
}
