//! External authorization: the ext_authz protocol over HTTP, as Envoy's own filter speaks it
//! (`envoy.extensions.filters.http.ext_authz.v3.HttpService`), written as Istio's `meshConfig.extensionProviders`.

use std::time::Duration;

use sailcloth_core::config::{Fields, Value};
use sailcloth_core::headers::HeaderBlock;
use sailcloth_core::text::TextSet;
use sailcloth_resources::deny_reply::read_headers;

/// How long a provider may take when nobody says. Istio's own default is ten minutes.
const DEFAULT_TIMEOUT: Duration = Duration::from_secs(10);

/// The header by which a provider names request headers that must not reach the upstream.
const REMOVE: &[u8] = b"x-envoy-auth-headers-to-remove";

/// Request headers that a provider always gets.
const ALWAYS: [&[u8]; 4] = [b":method", b":path", b":authority", b"authorization"];

/// Response headers that are never a provider's to set: they belong to one connection or to Envoy.
const NEVER: [&[u8]; 8] = [
    b"connection",
    b"content-length",
    b"host",
    b"keep-alive",
    b"proxy-connection",
    b"te",
    b"transfer-encoding",
    b"upgrade",
];

/// How request headers begin that Envoy itself writes or checks.
const ENVOYS: [&[u8]; 3] = [b"x-envoy-", b"x-forwarded-", b"x-request-id"];

/// Response headers that a refused client gets beside those that are named.
const WITH_REFUSALS: [&[u8]; 3] = [b"www-authenticate", b"location", b"content-type"];

/// One external provider.
#[derive(Debug)]
pub struct Provider {
    /// The name that policies give.
    pub name: String,
    /// The Envoy cluster that is asked.
    pub cluster: String,
    /// How long it may take.
    pub timeout: Duration,
    path_prefix: String,
    fail_open: bool,
    status_on_error: u16,
    sent: TextSet,
    added: Vec<(String, String)>,
    upstream: TextSet,
    downstream: Option<TextSet>,
}

/// Header names and values.
pub type Pairs = Vec<(String, Vec<u8>)>;

/// What a provider said.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Ruling {
    /// The request goes on, its headers edited.
    Allow {
        /// Headers to set.
        set: Pairs,
        /// Headers to remove.
        remove: Vec<String>,
    },
    /// The request is refused with this answer.
    Refuse {
        /// Its status.
        status: u16,
        /// Its headers.
        headers: Pairs,
        /// Its body.
        body: Vec<u8>,
    },
    /// The provider gave no answer that counts; the request is refused with this status.
    Error {
        /// `statusOnError`.
        status: u16,
    },
    /// The provider gave no answer that counts, and `failOpen` lets the request pass.
    Ignored,
}

/// The answer of a provider, as the host got it.
#[derive(Debug, Clone, Copy)]
pub enum Answer<'a> {
    /// A response.
    Response {
        /// `:status`.
        status: u16,
        /// Its headers.
        headers: &'a HeaderBlock,
        /// Its body.
        body: &'a [u8],
    },
    /// None came.
    Failed,
}

impl Provider {
    pub(crate) fn read(value: &Value<'_>) -> Option<Self> {
        let fields = value.fields()?;
        let name = fields.required("name").and_then(|name| name.non_empty_text());
        fields.refuse(
            "envoyExtAuthzGrpc",
            "is not supported: a Wasm filter speaks ext_authz over HTTP only; use `envoyExtAuthzHttp`, or Envoy's native \
             `ext_authz` filter in front of this one",
        );
        if fields.get("envoyExtAuthzGrpc").is_some() {
            return None;
        }
        let http = fields.required("envoyExtAuthzHttp")?;
        read_http(name?, &http.fields()?)
    }

    /// The headers of the question about a request.
    #[must_use]
    pub fn question(&self, request: &HeaderBlock) -> Pairs {
        let mut pairs = Pairs::new();
        for (name, value) in request.iter() {
            if !(ALWAYS.contains(&name) || self.sent.contains(name)) || NEVER.contains(&name) {
                continue;
            }
            let value = match name {
                b":path" => [self.path_prefix.as_bytes(), value].concat(),
                _ => value.to_vec(),
            };
            pairs.push((String::from_utf8_lossy(name).into_owned(), value));
        }
        for (name, value) in &self.added {
            pairs.retain(|(other, _)| other != name);
            pairs.push((name.clone(), value.clone().into_bytes()));
        }
        pairs.push(("content-length".to_owned(), b"0".to_vec()));
        pairs
    }

    /// Whether a request header is this provider's to write: one of `headersToUpstreamOnAllow` that it is not shown. What a
    /// client sends under such a name would pass for the provider's word wherever the provider does not overwrite it.
    fn owns(&self, name: &[u8]) -> bool {
        let of_envoy = ENVOYS.iter().any(|of_envoy| name.starts_with(of_envoy));
        let shown = ALWAYS.contains(&name) || self.sent.contains(name);
        !shown && !of_envoy && of_provider(name) && self.upstream.contains(name)
    }

    /// The names in a request that only this provider may write.
    pub(crate) fn forged<'r>(&self, request: &'r HeaderBlock) -> impl Iterator<Item = &'r [u8]> {
        request.iter().map(|(name, _)| name).filter(|name| self.owns(name))
    }

    /// What an answer means. A timeout and a provider that cannot be reached are 5xx in the host's words, and errors
    /// here as in Envoy's own filter.
    #[must_use]
    pub fn rule(&self, answer: Answer<'_>) -> Ruling {
        match answer {
            Answer::Response { status: 200, headers, .. } => self.allow(headers),
            Answer::Response { status: status @ (201..500 | 600..), headers, body } => Ruling::Refuse {
                status,
                headers: picked(headers, |name| match &self.downstream {
                    Some(names) => WITH_REFUSALS.contains(&name) || names.contains(name),
                    None => true,
                }),
                body: body.to_vec(),
            },
            Answer::Response { .. } | Answer::Failed if self.fail_open => Ruling::Ignored,
            Answer::Response { .. } | Answer::Failed => Ruling::Error { status: self.status_on_error },
        }
    }

    fn allow(&self, headers: &HeaderBlock) -> Ruling {
        let removed = headers
            .iter()
            .filter(|(name, _)| *name == REMOVE)
            .flat_map(|(_, value)| value.split(|b| *b == b','));
        let names = removed.map(|name| String::from_utf8_lossy(name.trim_ascii()).to_ascii_lowercase());
        let remove =
            names.filter(|name| !name.is_empty() && !name.starts_with(':') && name != "host").collect();
        Ruling::Allow { set: picked(headers, |name| self.upstream.contains(name)), remove }
    }
}

/// Whether a header may be a provider's at all.
fn of_provider(name: &[u8]) -> bool {
    !name.starts_with(b":") && !NEVER.contains(&name) && name != REMOVE
}

fn picked(headers: &HeaderBlock, wanted: impl Fn(&[u8]) -> bool) -> Pairs {
    headers
        .iter()
        .filter(|(name, _)| of_provider(name) && wanted(name))
        .map(|(name, value)| (String::from_utf8_lossy(name).into_owned(), value.to_vec()))
        .collect()
}

fn read_http(name: &str, fields: &Fields<'_>) -> Option<Provider> {
    let service = fields.required("service").and_then(|service| service.non_empty_text());
    let port = fields.required("port").and_then(|port| port.integer(1, 65535));
    let cluster = fields.get("cluster").and_then(|cluster| cluster.non_empty_text()).map(str::to_owned);
    let timeout = fields.get("timeout").and_then(|timeout| {
        let duration = timeout.duration()?;
        if duration.is_zero() {
            timeout.error("must be more than 0: a request may not wait for ever");
        }
        Some(duration)
    });
    let path_prefix = fields.get("pathPrefix").and_then(|prefix| {
        let text = prefix.text()?;
        if !text.is_empty() && !text.starts_with('/') {
            prefix.error(format!("`{text}` is not a path prefix; it begins with `/`"));
        }
        Some(text.to_owned())
    });
    let fail_open = fields.get("failOpen").and_then(|value| value.boolean());
    fields.refuse(
        "includeRequestBodyInCheck",
        "is not supported: this filter does not see bodies; Envoy's native `ext_authz` filter sends them",
    );
    fields.refuse(
        "headersToDownstreamOnAllow",
        "is not supported: it would cost every response a call into the filter; Envoy's native `ext_authz` filter carries it out",
    );
    if let Some(value) = fields.get("clearRouteCache")
        && value.boolean() == Some(true)
    {
        value.warn(
            "says nothing here: Envoy chooses the route anew whenever a Wasm filter changes a request header",
        );
    }
    let deprecated = fields.get("includeHeadersInCheck").map(|list| names(&list));
    let sent = fields.get("includeRequestHeadersInCheck").map(|list| names(&list));
    let added = fields.get("includeAdditionalHeadersInCheck").map(|map| read_headers(&map));
    let upstream = fields.get("headersToUpstreamOnAllow").map(|list| names(&list));
    if let Some(list) = fields.get("headersToUpstreamOnAllow")
        && upstream.as_ref().is_some_and(TextSet::has_any)
    {
        list.error(
            "`*` alone is no pattern of header names, as in Istio; expected a name, `prefix*` or `*suffix`",
        );
    }
    let downstream = fields.get("headersToDownstreamOnDeny").map(|list| names(&list));
    let status_on_error = fields.get("statusOnError").map(|status| read_status(&status));
    let (service, port) = (service?, port?);
    // As in Istio: `namespace/host`, or the host alone.
    let host = service.rsplit('/').next().unwrap_or(service);
    Some(Provider {
        name: name.to_owned(),
        cluster: cluster.unwrap_or_else(|| format!("outbound|{port}||{host}")),
        timeout: timeout.unwrap_or(DEFAULT_TIMEOUT),
        path_prefix: path_prefix.unwrap_or_default(),
        fail_open: fail_open.unwrap_or(false),
        status_on_error: status_on_error.unwrap_or(Some(403))?,
        sent: sent.or(deprecated).unwrap_or_default(),
        added: added.unwrap_or_default(),
        upstream: upstream.unwrap_or_default(),
        // An empty list is an absent one to Envoy: everything goes to the client.
        downstream: downstream.filter(|names| !names.is_empty()),
    })
}

/// Names of headers, as patterns without regard to case.
fn names(list: &Value<'_>) -> TextSet {
    let texts = list.list(|item| item.non_empty_text().map(str::to_ascii_lowercase));
    TextSet::parse(&texts.unwrap_or_default())
}

/// A status, which Istio writes as a text.
fn read_status(value: &Value<'_>) -> Option<u16> {
    let status = match value.node().text() {
        Some(text) => text.parse().ok(),
        None => value.integer(200, 599).and_then(|status| u16::try_from(status).ok()),
    };
    let status = status.filter(|status| (200..600).contains(status));
    if status.is_none() {
        value.error("expected a status such as \"403\"");
    }
    status
}
