//! The callee of the demo: says what it received and which version it is.

use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use axum::{
    Router,
    body::Body,
    extract::{Request, State},
    http::{HeaderMap, StatusCode, header::CONTENT_TYPE},
    response::{IntoResponse, Response},
    routing::get,
};
use http_body_util::BodyExt as _;
use serde_json::{Value, json};

use crate::{Error, Result, duration, serve};

/// How it listens and behaves.
#[derive(Clone, Debug, clap::Args)]
pub struct Args {
    /// The address to listen on; port 0 takes a free one (the actual address is printed)
    #[arg(long, default_value = "127.0.0.1:8080")]
    pub listen: SocketAddr,
    /// The version it reports in the body and in the header `x-version`
    #[arg(long, default_value = "v1")]
    pub version: String,
    /// How long it takes to answer, e.g. `20ms`
    #[arg(long, default_value = "0ms", value_parser = duration::parse)]
    pub delay: Duration,
    /// The share of requests that fail, 0 to 1; spread evenly: 0.1 means every tenth
    #[arg(long, default_value_t = 0.0, value_parser = share)]
    pub failure_rate: f64,
    /// The status of those that fail
    #[arg(long, default_value_t = 503, value_parser = clap::value_parser!(u16).range(200..600))]
    pub failure_status: u16,
}

fn share(text: &str) -> Result<f64, String> {
    let share = text.parse::<f64>().ok().filter(|share| (0.0..=1.0).contains(share));
    share.ok_or_else(|| format!("`{text}` is not a number from 0 to 1"))
}

/// Serves until SIGTERM or SIGINT.
///
/// # Errors
/// When it cannot listen.
pub async fn run(args: Args) -> Result<()> {
    let name = format!("api-service {}", args.version);
    if args.version.parse::<axum::http::HeaderValue>().is_err() {
        return Err(Error::invalid("version", "cannot be sent in a header"));
    }
    let (listener, _) = serve::bind(args.listen).await?;
    serve::serve(&name, listener, router(args)).await
}

#[derive(Debug)]
struct Service {
    args: Args,
    requests: AtomicU64,
}

fn router(args: Args) -> Router {
    let service = Arc::new(Service { args, requests: AtomicU64::new(0) });
    Router::new().route("/health", get(health)).fallback(echo).with_state(service)
}

/// Says which version is healthy: a route that sends health checks elsewhere shows.
async fn health(State(service): State<Arc<Service>>) -> Response {
    ([("x-version", service.args.version.as_str())], "ok\n").into_response()
}

async fn echo(State(service): State<Arc<Service>>, request: Request) -> Response {
    let args = &service.args;
    let failed = fails(service.requests.fetch_add(1, Ordering::Relaxed), args.failure_rate);
    // tokio's timer counts whole milliseconds: even a wait of nothing would cost up to one.
    if !args.delay.is_zero() {
        tokio::time::sleep(args.delay).await;
    }
    let (parts, body) = request.into_parts();
    let body_size = match size(body).await {
        Ok(size) => size,
        Err(error) => {
            return (StatusCode::BAD_REQUEST, format!("the body failed: {error}\n")).into_response();
        }
    };
    let answer = json!({
        "service": "api-service",
        "version": args.version,
        "method": parts.method.as_str(),
        "path": parts.uri.path_and_query().map_or("/", |path| path.as_str()),
        "headers": headers(&parts.headers),
        "bodySize": body_size,
        "failed": failed,
    });
    let status = if failed { args.failure_status } else { 200 };
    let status = StatusCode::from_u16(status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    let head = [(CONTENT_TYPE.as_str(), "application/json"), ("x-version", args.version.as_str())];
    (status, head, format!("{answer}\n")).into_response()
}

/// Whether the `n`th request (from 0) fails: those at which the running total of the rate reaches a whole number.
fn fails(n: u64, rate: f64) -> bool {
    #[expect(clippy::cast_precision_loss, reason = "2^52 requests are never counted")]
    let total = |count: u64| (count as f64 * rate + 1e-9).floor();
    total(n + 1) > total(n)
}

/// Pairs, in the order in which they arrived; bytes that are not UTF-8 are shown as `\xff`.
pub(crate) fn headers(headers: &HeaderMap) -> Vec<Value> {
    let text = |bytes: &[u8]| match std::str::from_utf8(bytes) {
        Ok(text) => text.to_owned(),
        Err(_) => bytes.escape_ascii().to_string(),
    };
    headers.iter().map(|(name, value)| json!([name.as_str(), text(value.as_bytes())])).collect()
}

/// Counts the body without keeping it.
async fn size(mut body: Body) -> Result<usize, axum::Error> {
    let mut size = 0_usize;
    while let Some(frame) = body.frame().await {
        size = size.saturating_add(frame?.data_ref().map_or(0, |data| data.len()));
    }
    Ok(size)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn failures_are_spread_evenly() {
        let failures = |rate| (0..1000).filter(|&n| fails(n, rate)).count();
        assert_eq!([0.0, 0.1, 0.25, 0.333, 1.0].map(failures), [0, 100, 250, 333, 1000]);
        assert_eq!((0..30).filter(|&n| fails(n, 0.1)).collect::<Vec<_>>(), [9, 19, 29]);
    }

    #[test]
    fn a_share_lies_between_0_and_1() {
        assert_eq!(share("0.5"), Ok(0.5));
        for bad in ["1.1", "-0.1", "NaN", "x"] {
            assert!(share(bad).is_err(), "{bad}");
        }
    }
}
