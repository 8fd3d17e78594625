//! PEP 3333: the environ, `wsgi.input`, `start_response` and `write`, the call of the application and what it returns.

pub mod call;
pub mod environ;
pub mod file_wrapper;
pub mod input;
pub mod log_stream;
pub mod response;
pub mod start_response;
