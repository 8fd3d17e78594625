//! One export to a collector: OTLP by protobuf over HTTP, or by gRPC, which is the same message in a frame over HTTP/2.

use bytes::{BufMut, Bytes, BytesMut};
use http::response::Parts;
use http::{HeaderMap, HeaderName, HeaderValue, Request, Response, header};
use http_body_util::{BodyExt, Collected, Full, Limited};
use hyper::body::Incoming;
use hyper::client::conn::{http1, http2};
use hyper_util::rt::{TokioExecutor, TokioIo};
use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceResponse;
use prost::Message;
use tokio::net::TcpStream;

use crate::config::{Protocol, Traces};
use crate::metrics::Lost;

/// What is read of a collector's answer, in bytes.
const ANSWER: usize = 64 * 1024;
/// Before a message of gRPC: whether it is compressed, and its length.
const FRAME: usize = 5;
/// Codes of gRPC after which the same may be tried again (OTLP specification, "Failures").
const PASSING: [&str; 6] = ["1", "4", "10", "11", "14", "15"];

pub struct Collector {
    host: String,
    port: u16,
    protocol: Protocol,
    uri: String,
    headers: HeaderMap,
}

/// Why a collector does not have spans.
pub struct Failure {
    pub why: Lost,
    pub text: String,
    /// It may take them later.
    pub later: bool,
}

impl Failure {
    pub fn unreachable(text: impl ToString) -> Self {
        Failure { why: Lost::Unreachable, text: text.to_string(), later: true }
    }
}

impl std::fmt::Display for Collector {
    fn fmt(&self, f: &mut std::fmt::Formatter) -> std::fmt::Result {
        write!(f, "{}:{}", self.host, self.port)
    }
}

impl Collector {
    pub fn new(settings: &Traces) -> std::io::Result<Self> {
        let Traces { host, port, path, protocol, .. } = settings;
        let mut headers = HeaderMap::new();
        headers.insert(header::USER_AGENT, HeaderValue::from_static(concat!("atrio/", env!("CARGO_PKG_VERSION"))));
        let kind = match protocol {
            Protocol::Http => {
                let host = HeaderValue::try_from(format!("{host}:{port}")).map_err(std::io::Error::other)?;
                headers.insert(header::HOST, host);
                "application/x-protobuf"
            }
            Protocol::Grpc => {
                headers.insert(header::TE, HeaderValue::from_static("trailers"));
                "application/grpc"
            }
        };
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(kind));
        for (name, value) in &settings.headers {
            let name = HeaderName::try_from(name.as_str()).map_err(std::io::Error::other)?;
            let mut value = HeaderValue::try_from(value.as_str()).map_err(std::io::Error::other)?;
            value.set_sensitive(true);
            headers.insert(name, value);
        }
        let uri = match protocol {
            Protocol::Http => path.clone(),
            Protocol::Grpc => format!("http://{host}:{port}{path}"),
        };
        Ok(Collector { host: host.clone(), port: *port, protocol: *protocol, uri, headers })
    }

    /// Sends an `ExportTraceServiceRequest`; how many of its spans are refused (OTLP specification, "Partial Success").
    pub async fn take(&self, message: Bytes) -> Result<u64, Failure> {
        let name = self.host.trim_start_matches('[').trim_end_matches(']');
        let stream = TcpStream::connect((name, self.port)).await.map_err(Failure::unreachable)?;
        let io = TokioIo::new(stream);
        let (head, body) = match self.protocol {
            Protocol::Http => {
                let request = self.request(message)?;
                let (mut sender, connection) = http1::handshake(io).await.map_err(Failure::unreachable)?;
                over(connection, async { answer(sender.send_request(request).await).await }).await?
            }
            Protocol::Grpc => {
                let request = self.request(framed(&message))?;
                let handshake = http2::handshake(TokioExecutor::new(), io).await;
                let (mut sender, connection) = handshake.map_err(Failure::unreachable)?;
                over(connection, async { answer(sender.send_request(request).await).await }).await?
            }
        };
        self.judge(&head, body)
    }

    fn request(&self, body: Bytes) -> Result<Request<Full<Bytes>>, Failure> {
        let mut request = Request::post(&self.uri).body(Full::new(body)).map_err(Failure::unreachable)?;
        request.headers_mut().clone_from(&self.headers);
        Ok(request)
    }

    fn judge(&self, head: &Parts, body: Collected<Bytes>) -> Result<u64, Failure> {
        let refusal = |text, later| Err(Failure { why: Lost::Refused, text, later });
        if !head.status.is_success() {
            let later = [429, 502, 503, 504].contains(&head.status.as_u16());
            return refusal(format!("it answers {}", head.status), later);
        }
        if self.protocol == Protocol::Http {
            return Ok(refused(body.to_bytes()));
        }
        // An answer without a message has no trailers: what they would say is in its head.
        let said = |name| body.trailers().and_then(|trailers| trailers.get(name)).or(head.headers.get(name));
        let code = said("grpc-status").and_then(|code| code.to_str().ok()).unwrap_or("none").to_owned();
        if code != "0" {
            let message = said("grpc-message").map(|m| String::from_utf8_lossy(m.as_bytes()).into_owned());
            let text = format!("it answers with the status {code} of gRPC {}", message.unwrap_or_default());
            return refusal(text.trim_end().to_owned(), PASSING.contains(&code.as_str()));
        }
        let body = body.to_bytes();
        Ok(if body.len() > FRAME { refused(body.slice(FRAME..)) } else { 0 })
    }
}

/// Drives a connection until the exchange over it has come to its end.
async fn over<T>(connection: impl Future, exchange: impl Future<Output = T>) -> T {
    tokio::pin!(exchange);
    tokio::select! {
        result = &mut exchange => result,
        _ = connection => exchange.await,
    }
}

/// Head and body of a response.
async fn answer(response: hyper::Result<Response<Incoming>>) -> Result<(Parts, Collected<Bytes>), Failure> {
    let (head, body) = response.map_err(Failure::unreachable)?.into_parts();
    Ok((head, Limited::new(body, ANSWER).collect().await.map_err(Failure::unreachable)?))
}

fn framed(message: &Bytes) -> Bytes {
    let mut frame = BytesMut::with_capacity(FRAME + message.len());
    frame.put_u8(0);
    frame.put_u32(message.len() as u32);
    frame.extend_from_slice(message);
    frame.freeze()
}

fn refused(answer: Bytes) -> u64 {
    let partial = ExportTraceServiceResponse::decode(answer).ok().and_then(|answer| answer.partial_success);
    partial.map_or(0, |partial| partial.rejected_spans.max(0) as u64)
}
