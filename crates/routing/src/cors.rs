//! Cross-origin requests, as Envoy's `cors` filter answers them for a route of Istio's.

use std::borrow::Cow;

use sailcloth_core::request::Request;
use sailcloth_resources::virtual_service::{CorsPolicy, StringMatch};

use crate::condition::text_matches;
use crate::edit::Edit;
use crate::outcome::Answer;

const ALLOW_ORIGIN: &str = "access-control-allow-origin";
const ALLOW_CREDENTIALS: &str = "access-control-allow-credentials";
const ALLOW_METHODS: &str = "access-control-allow-methods";
const ALLOW_HEADERS: &str = "access-control-allow-headers";
const MAX_AGE: &str = "access-control-max-age";
const EXPOSE_HEADERS: &str = "access-control-expose-headers";

/// A policy with its lists joined.
#[derive(Debug)]
pub(crate) struct Cors {
    origins: Vec<StringMatch>,
    /// Whether some origin stands for all.
    any: bool,
    methods: String,
    headers: String,
    expose: String,
    max_age: Option<String>,
    credentials: bool,
    forward_unmatched: bool,
}

impl Cors {
    pub(crate) fn of(policy: &CorsPolicy) -> Self {
        Self {
            any: policy.origins.iter().any(|origin| text_matches(origin, b"*")),
            origins: policy.origins.clone(),
            methods: policy.methods.join(","),
            headers: policy.headers.join(","),
            expose: policy.expose.join(","),
            max_age: policy.max_age.map(|age| age.as_secs().to_string()),
            credentials: policy.credentials == Some(true),
            forward_unmatched: policy.forward_unmatched,
        }
    }

    /// What the policy makes of a request: edits of its response, or the answer to a preflight.
    pub(crate) fn look<'e>(&'e self, request: &Request<'e>) -> (Vec<Edit<'e>>, Option<Answer<'e>>) {
        let origin = request.headers.joined("origin").filter(|origin| !origin.is_empty());
        let Some(origin) = origin else { return (Vec::new(), None) };
        let allowed = self.any || self.origins.iter().any(|condition| text_matches(condition, &origin));
        let preflight = preflight(request).filter(|_| allowed || !self.forward_unmatched);
        let edits = if allowed { self.edits(&origin) } else { Vec::new() };
        let Some(method) = preflight else { return (edits, None) };
        let headers = self.preflight_headers(request, method, allowed);
        let answer = Answer { status: 200, grpc_status: 0, headers, body: Cow::Borrowed(&[]) };
        (edits, Some(answer))
    }

    /// Of every response to an allowed origin.
    fn edits<'e>(&'e self, origin: &Cow<'e, [u8]>) -> Vec<Edit<'e>> {
        let mut edits = vec![Edit::Set(Cow::Borrowed(ALLOW_ORIGIN), origin.clone())];
        if self.credentials {
            edits.push(Edit::set(ALLOW_CREDENTIALS, "true"));
        }
        if !self.expose.is_empty() {
            edits.push(Edit::set(EXPOSE_HEADERS, &self.expose));
        }
        edits
    }

    fn preflight_headers<'e>(
        &'e self,
        request: &Request<'e>,
        method: Cow<'e, [u8]>,
        allowed: bool,
    ) -> Vec<(&'static str, Cow<'e, [u8]>)> {
        let mut headers = Vec::new();
        // Envoy says all this to a foreign origin too, and withholds only the origin (seen on 1.40). To an allowed one the
        // edits of its response say it.
        if self.credentials && !allowed {
            headers.push((ALLOW_CREDENTIALS, Cow::Borrowed(b"true".as_slice())));
        }
        // A lone `*` answers what was asked for.
        match self.methods.as_str() {
            "" => {}
            "*" => headers.push((ALLOW_METHODS, method)),
            methods => headers.push((ALLOW_METHODS, Cow::Borrowed(methods.as_bytes()))),
        }
        match self.headers.as_str() {
            "" => {}
            "*" => {
                let asked = request.headers.joined("access-control-request-headers");
                headers.push((ALLOW_HEADERS, asked.unwrap_or_default()));
            }
            names => headers.push((ALLOW_HEADERS, Cow::Borrowed(names.as_bytes()))),
        }
        headers.extend(self.max_age.as_ref().map(|age| (MAX_AGE, Cow::Borrowed(age.as_bytes()))));
        headers
    }
}

/// The method that a preflight asks for; none when the request is no preflight.
fn preflight<'e>(request: &Request<'e>) -> Option<Cow<'e, [u8]>> {
    let asked =
        request.headers.joined("access-control-request-method").filter(|method| !method.is_empty())?;
    (request.method() == b"OPTIONS").then_some(asked)
}
