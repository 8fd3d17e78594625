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
        "/status" if !wants_json(&accept(request)) => {
            let refreshes = !request.uri().query().is_some_and(|q| q.split('&').any(|part| part == "refresh=off"));
            let (page, policy) = status::page(&status::report(view).await, refreshes);
            let mut response = fresh(page.into(), "text/html; charset=utf-8");
            if let Ok(policy) = HeaderValue::try_from(policy) {
                response.headers_mut().insert(header::CONTENT_SECURITY_POLICY, policy);
            }
            response
        }
        "/status" | "/status.json" => {
            // A value of strings and numbers can be written as JSON.
            fresh(serde_json::to_vec(&status::report(view).await).unwrap_or_default(), "application/json")
        }
        _ => text(StatusCode::NOT_FOUND, "here are /livez /readyz /startupz /metrics /status /status.json\n".into()),
    }
}

/// All that a client says it accepts.
fn accept<B>(request: &Request<B>) -> String {
    let values = request.headers().get_all(header::ACCEPT).iter().filter_map(|value| value.to_str().ok());
    values.collect::<Vec<_>>().join(",")
}

/// Whether a client that sends this `Accept` would rather have JSON than a page.
fn wants_json(accept: &str) -> bool {
    let quality = |kind: &str| {
        let of_range = |range: &str| {
            let mut parts = range.split(';').map(str::trim);
            let is_kind = parts.next().is_some_and(|range| range.eq_ignore_ascii_case(kind));
            let given = parts.find_map(|part| part.strip_prefix("q=")).map_or(1.0, |q| q.parse().unwrap_or(0.0));
            if is_kind { given } else { 0.0 }
        };
        accept.split(',').map(of_range).fold(0.0, f64::max)
    };
    quality("application/json") > quality("text/html")
}

/// What is true now alone, and shown as what it is.
fn fresh(body: Vec<u8>, kind: &'static str) -> Response<Full<Bytes>> {
    let mut response = typed(Full::from(body), kind);
    let headers = [
        (header::CACHE_CONTROL, "no-store"),
        (header::VARY, "accept"),
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (header::REFERRER_POLICY, "no-referrer"),
    ];
    for (name, value) in headers {
        response.headers_mut().insert(name, HeaderValue::from_static(value));
    }
    response
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn browsers_get_the_page_and_programs_that_ask_for_it_json() {
        let browser = "text/html,application/xhtml+xml,application/xml;q=0.9,image/avif,*/*;q=0.8";
        for accept in ["", "*/*", browser, "text/html, application/json;q=0.9", "application/json;q=0"] {
            assert!(!wants_json(accept), "{accept}");
        }
        for accept in [
            "application/json",
            "Application/JSON; q=0.5",
            "application/json, text/html;q=0.5",
            "a/b, application/json",
        ] {
            assert!(wants_json(accept), "{accept}");
        }
    }
}
