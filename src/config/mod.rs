//! The configuration: what users may set, where it is read from, and what is shown of it.
//!
//! - `table`: the one definition of every setting
//! - `sources`: flags, variables and files, read as texts
//! - `given`: one such text; figment's provider of it, which remembers the origin
//! - `parse`, `listen`, `access_log`: from a text to a value
//! - `traces`: the variables of the OpenTelemetry specification
//! - `load`: precedence and validation; the result is [`Settings`]
//! - `render`: help and `atrio config`
//! - `reference`: `config/atrio.env` and the README's table, kept current by tests

mod access_log;
mod given;
mod listen;
mod load;
mod parse;
#[cfg(test)]
mod reference;
mod render;
mod settings;
mod sources;
mod table;
mod traces;

pub use access_log::Form;
pub use listen::Listen;
pub use load::{Loaded, load};
pub use render::{Format, help, render};
pub use settings::{LogFormat, Preload, Requirements, Settings};
pub use sources::Source;
pub use traces::{Protocol, Sampler, Traces};
