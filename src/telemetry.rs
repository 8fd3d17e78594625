//! The log: records of Atrio and of its sites, on stderr.

use std::io::IsTerminal;

use tracing_subscriber::EnvFilter;

use crate::config::{LogFormat, Settings};

/// The format that `auto` stands for here: text on a terminal, JSON elsewhere.
pub fn format(setting: LogFormat) -> LogFormat {
    match setting {
        LogFormat::Auto if std::io::stderr().is_terminal() => LogFormat::Text,
        LogFormat::Auto => LogFormat::Json,
        chosen => chosen,
    }
}

/// Starts to log; a second call in one process does nothing.
pub fn init(settings: &Settings) {
    let filter = EnvFilter::try_new(&settings.log).unwrap_or_else(|_| EnvFilter::new("info"));
    let log = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_target(false)
        // A stderr that cannot be written is nothing to stop for; the default would panic on it.
        .log_internal_errors(false);
    let _ = match format(settings.log_format) {
        LogFormat::Json => log.json().flatten_event(true).try_init(),
        _ => log.with_ansi(std::io::stderr().is_terminal()).try_init(),
    };
}
