//! The admin listener: `/livez`, `/readyz`, `/startupz`, `/metrics`. Answers from shared memory, whatever the workers do.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{Method, Request, Response, StatusCode, header};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};

use crate::http::listener::{self, Stream};
use crate::metrics::render::Format;

use super::sockets;
use super::view::{Check, View};

/// How long a client may take to ask.
const PATIENCE: Duration = Duration::from_secs(10);
/// Pause after the kernel refused to give a connection.
const EXHAUSTED: Duration = Duration::from_millis(100);

/// Serves on the listeners until the process ends.
pub fn start(listeners: &[sockets::Listener], view: &Arc<View>) -> std::io::Result<()> {
    for listener in listeners {
        let listener = listener::Listener::new(listener.fd.try_clone()?, &listener.bound)?;
        let view = view.clone();
        tokio::spawn(async move {
            loop {
                match listener.accept().await {
                    Ok(accepted) => serve(accepted.into_stream(), view.clone()),
                    Err(_) => tokio::time::sleep(EXHAUSTED).await,
                }
            }
        });
    }
    Ok(())
}

fn serve(stream: Box<dyn Stream>, view: Arc<View>) {
    tokio::spawn(async move {
        let service = service_fn(move |request| {
            let view = view.clone();
            async move { Ok::<_, Infallible>(answer(&request, &view).await) }
        });
        let mut http = http1::Builder::new();
        http.timer(TokioTimer::new()).header_read_timeout(PATIENCE);
        let _ = http.serve_connection(TokioIo::new(stream), service).await;
    });
}

async fn answer(request: &Request<Incoming>, view: &View) -> Response<Full<Bytes>> {
    if request.method() != Method::GET && request.method() != Method::HEAD {
        return text(StatusCode::METHOD_NOT_ALLOWED, "only GET and HEAD\n".into());
    }
    let verbose = request.uri().query().is_some_and(|q| q.split('&').any(|part| part.starts_with("verbose")));
    match request.uri().path() {
        "/livez" => probe("livez", &view.live(), verbose),
        "/readyz" => probe("readyz", &view.ready(), verbose),
        "/startupz" => probe("startupz", &view.started(), verbose),
        "/metrics" => {
            let accept = request.headers().get_all(header::ACCEPT).iter().filter_map(|value| value.to_str().ok());
            let format = Format::wanted(&accept.collect::<Vec<_>>().join(","));
            let mut response = Response::new(Full::from(view.metrics(format).await));
            let kind = http::HeaderValue::from_static(format.content_type());
            response.headers_mut().insert(header::CONTENT_TYPE, kind);
            response
        }
        _ => text(StatusCode::NOT_FOUND, "here are /livez /readyz /startupz /metrics\n".into()),
    }
}

/// As Kubernetes' own probes answer: `ok`, or the checks and which of them failed.
fn probe(name: &str, checks: &[Check], verbose: bool) -> Response<Full<Bytes>> {
    let ok = checks.iter().all(|check| check.ok);
    let status = if ok { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    if ok && !verbose {
        return text(status, "ok".into());
    }
    let mut lines = String::new();
    for check in checks {
        lines += &format!(
            "[{}]{} {}\n",
            if check.ok { '+' } else { '-' },
            check.name,
            if check.ok { "ok" } else { "failed" }
        );
    }
    lines += &format!("{name} check {}\n", if ok { "passed" } else { "failed" });
    text(status, lines)
}

fn text(status: StatusCode, body: String) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::from(body));
    *response.status_mut() = status;
    let kind = http::HeaderValue::from_static("text/plain; charset=utf-8");
    response.headers_mut().insert(header::CONTENT_TYPE, kind);
    response
}
