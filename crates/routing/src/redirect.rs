//! Redirects and direct responses, as Envoy's router gives them.

use std::borrow::Cow;

use sailcloth_core::facts::Fact;
use sailcloth_core::request::Request;
use sailcloth_resources::virtual_service::{DirectResponse, Redirect, RedirectPath, RedirectPort};

use crate::condition::PathCondition;
use crate::format::Unavailable;
use crate::outcome::Answer;
use crate::rewrite::replace_matched;

/// The response of a rule that answers by itself.
#[derive(Debug)]
pub(crate) enum OwnResponse {
    Redirect(Redirect),
    Direct(DirectResponse),
}

impl OwnResponse {
    /// The answer; `listener` is the port that the configuration names.
    pub(crate) fn answer<'e>(
        &'e self,
        request: &Request<'_>,
        matched: &PathCondition,
        listener: Option<u16>,
    ) -> Result<Answer<'e>, Unavailable> {
        let (status, body, location) = match self {
            Self::Redirect(redirect) => (
                redirect.code,
                Cow::Borrowed([].as_slice()),
                Some(location(redirect, request, matched, listener)?),
            ),
            Self::Direct(direct) => {
                // Envoy gives these a location too: the request's own address.
                let located = direct.status == 201 || (300..400).contains(&direct.status);
                (direct.status, Cow::Borrowed(&*direct.body), located.then(|| own_address(request)))
            }
        };
        let headers = location.map(|location| ("location", Cow::Owned(location))).into_iter().collect();
        Ok(Answer { status, grpc_status: grpc_status(status), headers, body })
    }
}

/// What a gRPC client is told of an HTTP status (<https://github.com/grpc/grpc/blob/master/doc/http-grpc-status-mapping.md>).
pub(crate) fn grpc_status(http: u16) -> u8 {
    match http {
        400 => 13,
        401 => 16,
        403 => 7,
        404 => 12,
        429 | 502..=504 => 14,
        _ => 2,
    }
}

fn own_address(request: &Request<'_>) -> Vec<u8> {
    let scheme = request.headers.first(":scheme").unwrap_or(b"http");
    [scheme, b"://", request.authority(), request.target()].concat()
}

fn location(
    redirect: &Redirect,
    request: &Request<'_>,
    matched: &PathCondition,
    listener: Option<u16>,
) -> Result<Vec<u8>, Unavailable> {
    let own = request.headers.first(":scheme").unwrap_or(b"http");
    let scheme = redirect.scheme.as_ref().map_or(own, |scheme| scheme.as_bytes());
    let port = port(redirect.port, scheme, request, listener)?;
    let host = match &redirect.authority {
        Some(authority) => authority.as_bytes(),
        None => kept_host(request, scheme, port.is_some()),
    };
    let target = request.target();
    let path: Cow<'_, [u8]> = match &redirect.path {
        RedirectPath::Kept => Cow::Borrowed(target),
        RedirectPath::Prefix(prefix) => {
            replace_matched(target, matched, prefix).map_or(Cow::Borrowed(target), Cow::Owned)
        }
        RedirectPath::Whole(path) if path.contains('?') => Cow::Borrowed(path.as_bytes()),
        RedirectPath::Whole(path) => {
            let query = target.iter().position(|byte| *byte == b'?').and_then(|at| target.get(at..));
            Cow::Owned([path.as_bytes(), query.unwrap_or_default()].concat())
        }
    };
    let port = port.map(|port| format!(":{port}")).unwrap_or_default();
    Ok([scheme, b"://", host, port.as_bytes(), &path].concat())
}

/// The port to write: none where it is the scheme's own (Istio leaves `:80` and `:443` out).
fn port(
    port: RedirectPort,
    scheme: &[u8],
    request: &Request<'_>,
    listener: Option<u16>,
) -> Result<Option<u16>, Unavailable> {
    let number = match (port, listener) {
        (RedirectPort::Host, _) => return Ok(None),
        (RedirectPort::Number(number), _) => number,
        (RedirectPort::Request, Some(listener)) => listener,
        (RedirectPort::Request, None) => match request.facts.destination_port() {
            Fact::Known(port) => port,
            Fact::Absent | Fact::Unavailable(_) => return Err(Unavailable),
        },
    };
    let own = (scheme == b"http" && number == 80) || (scheme == b"https" && number == 443);
    Ok((!own).then_some(number))
}

/// The request's host without its port where another one is written, or where it was the old scheme's own.
fn kept_host<'r>(request: &Request<'r>, scheme: &[u8], other_port: bool) -> &'r [u8] {
    let host = request.authority();
    let colon = match host.first() {
        Some(b'[') => host.windows(2).rposition(|pair| pair == b"]:").map(|at| at + 1),
        _ => host.iter().rposition(|byte| *byte == b':'),
    };
    let Some((bare, port)) = colon.and_then(|colon| host.split_at_checked(colon)) else { return host };
    // Envoy's connection manager always writes it.
    let own = request.headers.first(":scheme").unwrap_or_default();
    let protocol = request.headers.first("x-forwarded-proto").unwrap_or(own);
    let old = protocol != scheme
        && ((protocol == b"https" && port == b":443") || (protocol == b"http" && port == b":80"));
    if other_port || old { bare } else { host }
}
