//! An HTTP/1.1 connection to one server or proxy.

use std::time::Duration;

use http_body_util::{BodyExt as _, Full, Limited};
use hyper::{
    Request, Response, Uri,
    body::{Bytes, Incoming},
    client::conn::http1::{SendRequest, handshake},
};
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;

use crate::{Error, Result};

/// The body of a request.
pub(crate) type Body = Full<Bytes>;

/// The largest response body that is kept.
const MAX_BODY: usize = 4 << 20;

/// `host:port` of an `http://` URL.
pub(crate) fn authority(what: &'static str, url: &Uri) -> Result<String> {
    if url.scheme_str() != Some("http") {
        return Err(Error::invalid(what, format!("`{url}` is not an `http://` URL")));
    }
    let host = url.host().unwrap_or_default();
    Ok(format!("{host}:{}", url.port_u16().unwrap_or(80)))
}

/// Connects to `host:port`.
pub(crate) async fn connect(address: &str) -> Result<SendRequest<Body>> {
    let failed = |error: String| Error::Request(format!("could not connect to {address}: {error}"));
    let stream = TcpStream::connect(address).await.map_err(|error| failed(error.to_string()))?;
    stream.set_nodelay(true).map_err(|error| failed(error.to_string()))?;
    let (sender, connection) =
        handshake(TokioIo::new(stream)).await.map_err(|error| failed(error.to_string()))?;
    // Its error is also that of the request under way.
    tokio::spawn(async move { drop(connection.await) });
    Ok(sender)
}

/// Sends over a new connection and reads the whole answer, within `timeout`.
pub(crate) async fn fetch(
    address: &str,
    request: Request<Body>,
    timeout: Duration,
) -> Result<(Response<()>, Bytes)> {
    let exchange = async {
        let mut sender = connect(address).await?;
        let answer = sender.send_request(request).await.map_err(|error| describe(address, &error))?;
        whole(address, answer).await
    };
    let late = |_| Error::Request(format!("{address} did not answer within {:.1} s", timeout.as_secs_f64()));
    tokio::time::timeout(timeout, exchange).await.map_err(late)?
}

async fn whole(address: &str, answer: Response<Incoming>) -> Result<(Response<()>, Bytes)> {
    let (parts, body) = answer.into_parts();
    let body = Limited::new(body, MAX_BODY).collect().await;
    let body =
        body.map_err(|error| Error::Request(format!("{address}: the answer's body failed: {error}")))?;
    Ok((Response::from_parts(parts, ()), body.to_bytes()))
}

/// A hyper error in few words, the same for the same cause, so that it can be counted.
pub(crate) fn describe(address: &str, error: &hyper::Error) -> Error {
    let cause = std::error::Error::source(error).map(|cause| format!(": {cause}")).unwrap_or_default();
    Error::Request(format!("{address}: {error}{cause}"))
}
