//! The embedded CPython: its start, the site's application, and the threads that run it.

pub mod app_threads;
pub mod interpreter;
pub mod site;
