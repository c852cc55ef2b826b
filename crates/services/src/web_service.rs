//! The caller of the demo: asks the API for its users and shows what it was told.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use axum::{
    Router,
    extract::{Request, State},
    http::{HeaderName, StatusCode, Uri, header::CONTENT_TYPE, header::HOST},
    response::{IntoResponse, Response},
    routing::get,
};
use hyper::body::Bytes;
use serde_json::{Value, json};

use crate::{
    Result, api_service,
    client::{self, Body},
    duration, serve,
};

/// What a caller passes on so that a trace stays one and the API knows who asks: W3C and B3 trace context, the
/// request's id, the token, and what routes look at.
const PROPAGATED: [&str; 13] = [
    "traceparent",
    "tracestate",
    "baggage",
    "b3",
    "x-b3-traceid",
    "x-b3-spanid",
    "x-b3-parentspanid",
    "x-b3-sampled",
    "x-b3-flags",
    "x-request-id",
    "authorization",
    "user-agent",
    "cookie",
];

/// How it listens and whom it calls.
#[derive(Clone, Debug, clap::Args)]
pub struct Args {
    /// The address to listen on; port 0 takes a free one (the actual address is printed)
    #[arg(long, default_value = "127.0.0.1:8000")]
    pub listen: SocketAddr,
    /// The API's URL, e.g. `http://127.0.0.1:8080`; `GET /orders` here becomes `GET /api/v1/orders` there
    #[arg(long)]
    pub api: Uri,
    /// An HTTP proxy to reach the API through (a sidecar's outbound listener)
    #[arg(long)]
    pub proxy: Option<Uri>,
    /// Another request header to pass on, beside trace context, x-request-id, authorization, user-agent and cookie
    #[arg(long)]
    pub propagate: Vec<HeaderName>,
    /// How long the API may take
    #[arg(long, default_value = "10s", value_parser = duration::parse)]
    pub timeout: Duration,
}

/// Serves until SIGTERM or SIGINT.
///
/// # Errors
/// When it cannot listen, or a URL cannot be used.
pub async fn run(args: Args) -> Result<()> {
    let listen = args.listen;
    let service = Service::new(args)?;
    let (listener, _) = serve::bind(listen).await?;
    let router = Router::new()
        .route("/health", get(|| async { "ok\n" }))
        .fallback(get(forward))
        .with_state(Arc::new(service));
    serve::serve("web-service", listener, router).await
}

#[derive(Debug)]
struct Service {
    /// `host:port` to connect to: the API or the proxy.
    connect: String,
    /// `host:port` of the API.
    api: String,
    /// The path of the API's URL, without a slash at its end.
    base: String,
    propagated: Vec<HeaderName>,
    proxied: bool,
    timeout: Duration,
}

impl Service {
    fn new(args: Args) -> Result<Self> {
        let api = client::authority("api", &args.api)?;
        let connect = match &args.proxy {
            Some(proxy) => client::authority("proxy", proxy)?,
            None => api.clone(),
        };
        let mut propagated: Vec<_> = PROPAGATED.into_iter().map(HeaderName::from_static).collect();
        propagated.extend(args.propagate);
        let base = args.api.path().trim_end_matches('/').to_owned();
        Ok(Self { connect, api, base, propagated, proxied: args.proxy.is_some(), timeout: args.timeout })
    }

    /// The target at the API: `/orders?x` becomes `/api/v1/orders?x`; a path that already says so stays.
    fn target(&self, asked: &Uri) -> String {
        let asked = asked.path_and_query().map_or("/", |path| path.as_str());
        let prefix = if asked.starts_with("/api/v1/") { "" } else { "/api/v1" };
        let path = format!("{}{prefix}{asked}", self.base);
        // A proxy is told the whole URL.
        if self.proxied { format!("http://{}{path}", self.api) } else { path }
    }

    fn request(&self, asked: &Request) -> Result<hyper::Request<Body>, axum::http::Error> {
        let mut request =
            hyper::Request::get(self.target(asked.uri())).header(HOST, &self.api).body(Body::default())?;
        for name in &self.propagated {
            for value in asked.headers().get_all(name) {
                request.headers_mut().append(name, value.clone());
            }
        }
        Ok(request)
    }
}

async fn forward(State(service): State<Arc<Service>>, asked: Request) -> Response {
    let request = match service.request(&asked) {
        Ok(request) => request,
        Err(error) => return show(StatusCode::BAD_REQUEST, &json!({"error": error.to_string()})),
    };
    let target = request.uri().to_string();
    match client::fetch(&service.connect, request, service.timeout).await {
        Ok((answer, body)) => show(
            answer.status(),
            &json!({
                "service": "web-service",
                "asked": target,
                "api": {
                    "status": answer.status().as_u16(),
                    "headers": api_service::headers(answer.headers()),
                    "body": json_or_text(&body),
                },
            }),
        ),
        Err(error) => {
            let text = json!({"service": "web-service", "asked": target, "error": error.to_string()});
            show(StatusCode::BAD_GATEWAY, &text)
        }
    }
}

fn json_or_text(body: &Bytes) -> Value {
    serde_json::from_slice(body).unwrap_or_else(|_| Value::from(String::from_utf8_lossy(body)))
}

fn show(status: StatusCode, answer: &Value) -> Response {
    (status, [(CONTENT_TYPE, "application/json")], format!("{answer}\n")).into_response()
}
