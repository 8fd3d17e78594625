//! The embedded CPython: its start, a site's packages, the site's application, and the threads that run it.

mod abi;
pub mod app_threads;
mod cache;
pub mod interpreter;
mod log_records;
mod pip;
mod pip_errors;
pub mod requirements;
pub mod site;
pub mod site_metrics;
