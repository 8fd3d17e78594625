//! HTTP/1 on tokio and hyper: knows no Python.
//!
//! `accept` takes connections of a `listener`, `guard` judges their bytes before hyper parses them, `service` turns a request into a
//! [`job::Job`] on the bounded `queue` and the answer of an app thread into a response, `access_log` writes it down, `trace` makes spans of it. The `engine`
//! drives all that; an app thread has a `seat` at it.

pub mod accept;
mod access_line;
pub mod access_log;
pub mod account;
pub mod body;
pub mod chunks;
pub mod connection;
mod deadline;
pub mod engine;
pub mod file;
pub mod framing;
pub mod guard;
pub mod head;
pub mod job;
mod lead;
pub mod listener;
pub mod on_demand;
pub mod pace;
mod queue;
pub mod reply;
pub mod request_id;
pub mod seat;
pub mod service;
mod sleeper;
pub mod spool;
pub mod stream;
pub mod target;
pub mod trace;
pub mod upload;
