//! The settings once they are known to be valid.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use super::access_log::AccessLog;
use super::listen::Listen;
use super::traces::Traces;

/// Every setting, validated. Child processes get it as JSON.
///
/// A field bears the key of its row in [`SETTINGS`](super::SETTINGS): `threads` is given by `--threads`,
/// `ATRIO_THREADS`, or `threads` in an `atrio.toml`.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Settings {
    /// Folder with the script, or with folders that have one. Absolute. Default `/sites`, else `./sites`.
    pub sites: PathBuf,
    /// Which of several found sites is served. Default: the only one. From `ATRIO_SITE`.
    pub site: Option<String>,
    /// File name of the script in a site's folder. Default `root.py`. From `ATRIO_SCRIPT`.
    pub script: String,
    /// Name of the WSGI application in the script. Default `application`. From `ATRIO_CALLABLE`.
    pub callable: String,
    /// Folders put on `sys.path`; relative ones start at the site's folder. Default none. From `ATRIO_PYTHON_PATH`.
    pub python_path: Vec<PathBuf>,
    /// Virtual environment; a relative one starts at the site's folder. Default none. From `ATRIO_VENV`.
    pub venv: Option<PathBuf>,
    /// Which file of requirements is installed at start. Default `auto`. From `ATRIO_REQUIREMENTS`.
    pub requirements: Requirements,
    /// Where packages are installed; `None`: the first suitable folder. Absolute. Default `None`. From `ATRIO_CACHE`.
    pub cache: Option<PathBuf>,
    /// What is placed in the WSGI `environ`. Default nothing. From `ATRIO_ENV_NAME=value`, `[env]`, `--env NAME=VALUE`.
    pub env: BTreeMap<String, String>,

    /// Where sites are served. Default `0.0.0.0:8080`. From `ATRIO_LISTEN`, else `PORT`.
    pub listen: Vec<Listen>,
    /// Where metrics and health are served; empty: nowhere. Default `127.0.0.1:9090`. From `ATRIO_ADMIN_LISTEN`.
    pub admin_listen: Vec<Listen>,
    /// Nobody asked for `admin_listen`.
    pub admin_listen_is_default: bool,
    /// Whose `X-Request-ID` is believed. Default `127.0.0.1,::1`. From `ATRIO_TRUSTED_PROXIES`, else
    /// `FORWARDED_ALLOW_IPS`.
    pub trusted_proxies: Vec<IpNet>,

    /// Processes of a site; `None`: as many as granted CPUs. Default `None`. From `ATRIO_WORKERS`, else
    /// `WEB_CONCURRENCY`.
    pub workers: Option<usize>,
    /// App threads of a worker. Default 8. From `ATRIO_THREADS`.
    pub threads: usize,
    /// Whether a site is imported once and then forked. Default `auto`. From `ATRIO_PRELOAD`.
    pub preload: Preload,
    /// Whom zygotes and workers run as, name or number. Default unchanged. From `ATRIO_USER`.
    pub user: Option<String>,
    /// Their group, name or number. Default that of `user`. From `ATRIO_GROUP`.
    pub group: Option<String>,
    /// Their umask. Default unchanged. From `ATRIO_UMASK`.
    pub umask: Option<u32>,

    /// Requests that wait in a worker for an app thread. Default 128. From `ATRIO_QUEUE`.
    pub queue: usize,
    /// Longest wait in the queue. Default 30 s. From `ATRIO_QUEUE_TIMEOUT`.
    pub queue_timeout: Duration,
    /// Longest time that a client may take to send a request's head. Default 10 s. From `ATRIO_HEADER_TIMEOUT`.
    pub header_timeout: Duration,
    /// Longest silence within a request's body. Default 30 s. From `ATRIO_BODY_TIMEOUT`.
    pub body_timeout: Duration,
    /// Longest silence between two requests of a connection. Default 75 s. From `ATRIO_KEEPALIVE_TIMEOUT`.
    pub keepalive_timeout: Duration,
    /// Largest request body, in bytes. Default 100 MB. From `ATRIO_MAX_BODY`.
    pub max_body: u64,
    /// Largest request head, in bytes. Default 64 KiB. From `ATRIO_MAX_HEADER`.
    pub max_header: usize,
    /// Connections that a worker keeps open. Default 10000. From `ATRIO_MAX_CONNECTIONS`.
    pub max_connections: usize,

    /// How long connections are still accepted after SIGTERM. Default 0 s. From `ATRIO_DRAIN_DELAY`.
    pub drain_delay: Duration,
    /// Longest time that accepted requests get to finish. Default 30 s. From `ATRIO_DRAIN_TIMEOUT`.
    pub drain_timeout: Duration,

    /// A level, or levels by target, as tracing-subscriber's `Targets`. Default `info`. From `ATRIO_LOG`.
    pub log: String,
    /// Form of the log. Default `auto`. From `ATRIO_LOG_FORMAT`.
    pub log_format: LogFormat,
    /// What is written into the access log, and how. Default `on`. From `ATRIO_ACCESS_LOG`.
    pub access_log: AccessLog,
    /// Where traces go; `None`: nowhere. Default `None`. From the `OTEL_*` variables.
    pub traces: Option<Traces>,
}

/// The file of requirements whose packages are installed before a site is imported.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(from = "Option<PathBuf>", into = "Option<PathBuf>")]
pub enum Requirements {
    /// `requirements.txt` beside the script, if the site brings no packages of its own.
    Auto,
    Off,
    /// A relative one starts at the site's folder.
    File(PathBuf),
}

const AUTO: &str = "auto";

impl From<Option<PathBuf>> for Requirements {
    fn from(given: Option<PathBuf>) -> Self {
        match given {
            None => Requirements::Off,
            Some(word) if word.as_os_str() == AUTO => Requirements::Auto,
            Some(file) => Requirements::File(file),
        }
    }
}

impl From<Requirements> for Option<PathBuf> {
    fn from(requirements: Requirements) -> Self {
        match requirements {
            Requirements::Off => None,
            Requirements::Auto => Some(AUTO.into()),
            Requirements::File(file) => Some(file),
        }
    }
}

/// Whether a site is imported once, before its workers are forked.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Preload {
    /// Where forking after the import is safe.
    Auto,
    On,
    /// Each worker imports the site by itself.
    Off,
}

/// The form of the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LogFormat {
    /// Text on a terminal, JSON elsewhere.
    Auto,
    Text,
    Json,
}
