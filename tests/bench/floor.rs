//! The floor of `make bench`: hyper on one thread, which answers every request with the same bytes. What Atrio costs above it is
//! what Python, a queue, limits and an account of each request cost.
//! usage: floor ADDRESS

use std::convert::Infallible;
use std::env;

use anyhow::{Context, Result};
use bytes::Bytes;
use http::header::CONTENT_TYPE;
use http::{HeaderValue, Response};
use http_body_util::Full;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use tokio::net::TcpListener;
use tokio::runtime;

const HELLO: Bytes = Bytes::from_static(b"Hello, World!\n");

fn main() -> Result<()> {
    let address = env::args().nth(1).context("usage: floor ADDRESS")?;
    runtime::Builder::new_current_thread().enable_io().build()?.block_on(serve(&address))
}

async fn serve(address: &str) -> Result<()> {
    let listener = TcpListener::bind(address).await?;
    loop {
        let (stream, _) = listener.accept().await?;
        // A client that vanishes is no error of the floor's.
        tokio::spawn(http1::Builder::new().serve_connection(TokioIo::new(stream), service_fn(|_| hello())));
    }
}

async fn hello() -> Result<Response<Full<Bytes>>, Infallible> {
    let mut response = Response::new(Full::new(HELLO));
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("text/plain"));
    Ok(response)
}
