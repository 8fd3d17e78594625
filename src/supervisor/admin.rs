//! The admin listener: `/livez`, `/readyz`, `/startupz`, `/metrics`, `/status`. Answers from shared memory, whatever the workers do.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderValue, Method, Request, Response, StatusCode, header};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};

use crate::http::listener::{self, Stream};
use crate::metrics::render::Format;

use super::sockets;
use super::status;
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
            let format = Format::wanted(&accept(request));
            typed(Full::from(view.metrics(format).await), format.content_type())
        }
        "/status" | "/status.json" => {
            let report = status::report(view).await;
            // A value of strings and numbers can be written as JSON.
            let json = serde_json::to_vec(&report).unwrap_or_default();
            let mut response = typed(Full::from(json), "application/json");
            response.headers_mut().insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
            response
        }
        _ => text(StatusCode::NOT_FOUND, "here are /livez /readyz /startupz /metrics /status /status.json\n".into()),
    }
}

/// All that a client says it accepts.
fn accept<B>(request: &Request<B>) -> String {
    let values = request.headers().get_all(header::ACCEPT).iter().filter_map(|value| value.to_str().ok());
    values.collect::<Vec<_>>().join(",")
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
    let mut response = typed(Full::from(body), "text/plain; charset=utf-8");
    *response.status_mut() = status;
    response
}

fn typed(body: Full<Bytes>, kind: &'static str) -> Response<Full<Bytes>> {
    let mut response = Response::new(body);
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static(kind));
    response
}
