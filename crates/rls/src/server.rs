//! gRPC by hand: one unary method over HTTP/2.

use std::convert::Infallible;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;

use http_body_util::{BodyExt as _, Full, Limited, combinators::BoxBody};
use hyper::body::{Bytes, Incoming};
use hyper::header::{CONTENT_TYPE, HeaderMap, HeaderValue};
use hyper::server::conn::http2;
use hyper::service::service_fn;
use hyper::{Request, Response};
use hyper_util::rt::{TokioExecutor, TokioIo};
use prost::Message as _;
use tokio::net::TcpListener;

use crate::limits::Limits;
use crate::proto::RateLimitRequest;

const PATH: &str = "/envoy.service.ratelimit.v3.RateLimitService/ShouldRateLimit";
const MAX_MESSAGE: usize = 1 << 20;

/// Answers until the listener fails or the task is dropped.
///
/// # Errors
/// That of the listener.
pub async fn serve(listener: TcpListener, limits: Arc<Limits>) -> io::Result<()> {
    loop {
        let (stream, _): (_, SocketAddr) = listener.accept().await?;
        let limits = Arc::clone(&limits);
        tokio::spawn(async move {
            let service = service_fn(move |request| answer(request, Arc::clone(&limits)));
            let connection = http2::Builder::new(TokioExecutor::new());
            // A client that leaves in the middle is no concern of the others.
            drop(connection.serve_connection(TokioIo::new(stream), service).await);
        });
    }
}

type Body = BoxBody<Bytes, Infallible>;

async fn answer(request: Request<Incoming>, limits: Arc<Limits>) -> Result<Response<Body>, Infallible> {
    let result = if request.uri().path() == PATH {
        respond(request, &limits).await
    } else {
        Err((12, "no such method".to_owned()))
    };
    let (message, status, text) = match result {
        Ok(message) => (message, 0, String::new()),
        Err((status, text)) => (Vec::new(), status, text),
    };
    let mut trailers = HeaderMap::new();
    trailers.insert("grpc-status", HeaderValue::from(status));
    if let Ok(text) = HeaderValue::from_str(&text.replace(['\r', '\n', '%'], " "))
        && !text.is_empty()
    {
        trailers.insert("grpc-message", text);
    }
    let body = Full::new(Bytes::from(message)).with_trailers(async move { Some(Ok(trailers)) });
    let mut response = Response::new(body.boxed());
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
    Ok(response)
}

/// The framed response, or a gRPC status with its reason.
async fn respond(request: Request<Incoming>, limits: &Limits) -> Result<Vec<u8>, (u16, String)> {
    let body = Limited::new(request.into_body(), MAX_MESSAGE).collect().await;
    let bytes = body.map_err(|error| (8, error.to_string()))?.to_bytes();
    // A byte that says whether it is compressed, and the length.
    let message = match bytes.split_at_checked(5) {
        Some(([0, ..], message)) => message,
        Some(_) => return Err((12, "compression is not supported".to_owned())),
        None => return Err((13, "the frame is cut short".to_owned())),
    };
    let request = RateLimitRequest::decode(message).map_err(|error| (13, error.to_string()))?;
    let response = limits.should_rate_limit(&request).await.map_err(|error| (14, error))?;
    let mut out = vec![0];
    out.extend(u32::try_from(response.encoded_len()).unwrap_or(u32::MAX).to_be_bytes());
    out.extend(response.encode_to_vec());
    Ok(out)
}
