//! The log: records of Atrio and of its sites, on stderr. Below it, traces: `tracer`, its `exporter`, and the
//! `collector` as that sees it.

mod collector;
mod exporter;
pub mod tracer;

use std::io::IsTerminal;

use tracing_subscriber::filter::{LevelFilter, Targets};
use tracing_subscriber::prelude::*;

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
    let levels: Vec<&str> = settings.log.split(',').map(str::trim).collect();
    // Not an EnvFilter, whose regular expressions are a fifteenth of the binary.
    let levels = levels.join(",").parse().unwrap_or_else(|_| Targets::new().with_default(LevelFilter::INFO));
    let log = tracing_subscriber::fmt::layer()
        .with_writer(std::io::stderr)
        .with_target(false)
        // A stderr that cannot be written is nothing to stop for; the default would panic on it.
        .log_internal_errors(false);
    let registry = tracing_subscriber::registry().with(levels);
    let _ = match format(settings.log_format) {
        LogFormat::Json => registry.with(log.json().flatten_event(true)).try_init(),
        _ => registry.with(log.with_ansi(std::io::stderr().is_terminal())).try_init(),
    };
}
