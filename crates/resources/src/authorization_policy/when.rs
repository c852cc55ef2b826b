//! `when[]`: a key, and what its value must be (`istio-api.md` 2.9), with what our own kind adds.

use std::fmt;

use ipnet::IpNet;
use sailcloth_core::config::{Fields, Value};

use super::typed::{Typed, TypedTest};
use super::{Condition, Dialect, PolicyText, condition, ip_block, service_account, text, trust_domain};
use crate::key::is_token;

/// One of `when`: all that is written must hold.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct When {
    /// What is looked at.
    pub key: Key,
    /// What it must be.
    pub test: Test,
    /// What our own kind asks of it beside that.
    pub typed: Vec<TypedTest>,
}

/// `values` and `notValues`, by the form they have for the key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Test {
    /// Strings of the forms of `istio-api.md` 2.4; service accounts as `namespace/name`.
    Texts(Condition<String>),
    /// Address blocks.
    Addresses(Condition<IpNet>),
    /// Ports.
    Ports(Condition<u16>),
}

/// What a condition looks at.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Key {
    /// `request.headers[name]`, the name in lower case.
    Header(String),
    /// `source.ip`: the TCP peer.
    SourceIp,
    /// `remote.ip`: the original client.
    RemoteIp,
    /// `source.principal`.
    SourcePrincipal,
    /// `source.namespace`.
    SourceNamespace,
    /// `source.serviceAccount`.
    SourceServiceAccount,
    /// `source.trustDomain`.
    SourceTrustDomain,
    /// `request.auth.principal`: issuer and subject of the verified token.
    RequestPrincipal,
    /// `request.auth.audiences`.
    Audiences,
    /// `request.auth.presenter`: the claim `azp`.
    Presenter,
    /// `request.auth.claims[a][b]`: the claim at a path.
    Claim(Vec<String>),
    /// `destination.ip`.
    DestinationIp,
    /// `destination.port`.
    DestinationPort,
    /// `connection.sni`.
    Sni,
    /// `request.method` (our own kind).
    Method,
    /// `request.path` (our own kind): without the query.
    Path,
    /// `request.path[n]` (our own kind): the segment of this number, the first being 0.
    PathSegment(usize),
    /// `request.host` (our own kind): `:authority` without its port, in lower case.
    Host,
    /// `request.query[name]` (our own kind): the decoded values of a query parameter.
    Query(String),
}

impl Key {
    /// Reads a key.
    ///
    /// # Errors
    /// Why it is none, as a message.
    pub fn parse(text: &str, dialect: Dialect) -> Result<Self, String> {
        let (name, brackets) = match text.find('[') {
            Some(at) => text.split_at_checked(at).unwrap_or((text, "")),
            None => (text, ""),
        };
        let key = match name {
            "request.headers" => return header(text, brackets),
            "request.auth.claims" => return names(text, brackets).map(Self::Claim),
            "request.query" if dialect == Dialect::Ours => {
                return single(text, brackets).map(Self::Query);
            }
            "request.path" if dialect == Dialect::Ours && !brackets.is_empty() => {
                let number = single(text, brackets)?.parse();
                return number.map(Self::PathSegment).map_err(|_| {
                    format!("`{text}` has no number in its brackets; the first segment is `request.path[0]`")
                });
            }
            "source.ip" => Self::SourceIp,
            "remote.ip" => Self::RemoteIp,
            "source.principal" => Self::SourcePrincipal,
            "source.namespace" => Self::SourceNamespace,
            "source.serviceAccount" => Self::SourceServiceAccount,
            "source.trustDomain" => Self::SourceTrustDomain,
            "request.auth.principal" => Self::RequestPrincipal,
            "request.auth.audiences" => Self::Audiences,
            "request.auth.presenter" => Self::Presenter,
            "destination.ip" => Self::DestinationIp,
            "destination.port" => Self::DestinationPort,
            "connection.sni" => Self::Sni,
            "request.method" if dialect == Dialect::Ours => Self::Method,
            "request.path" if dialect == Dialect::Ours => Self::Path,
            "request.host" if dialect == Dialect::Ours => Self::Host,
            _ => return Err(unknown(text, dialect)),
        };
        if brackets.is_empty() { Ok(key) } else { Err(format!("`{name}` takes no brackets, found `{text}`")) }
    }

    /// Whether it is about who calls, which Istio does not let a CUSTOM policy ask.
    #[must_use]
    pub fn is_identity(&self) -> bool {
        self.is_peer_identity()
            || matches!(self, Self::RequestPrincipal | Self::Audiences | Self::Presenter | Self::Claim(_))
    }

    /// Whether it is about the identity of the peer's certificate.
    #[must_use]
    pub fn is_peer_identity(&self) -> bool {
        matches!(
            self,
            Self::SourcePrincipal
                | Self::SourceNamespace
                | Self::SourceServiceAccount
                | Self::SourceTrustDomain
        )
    }

    fn is_address(&self) -> bool {
        matches!(self, Self::SourceIp | Self::RemoteIp | Self::DestinationIp)
    }
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (name, inner) = match self {
            Self::Header(name) => ("request.headers", Some(name)),
            Self::Query(name) => ("request.query", Some(name)),
            Self::Claim(path) => {
                f.write_str("request.auth.claims")?;
                return path.iter().try_for_each(|name| f.write_fmt(format_args!("[{name}]")));
            }
            Self::PathSegment(number) => return f.write_fmt(format_args!("request.path[{number}]")),
            Self::SourceIp => ("source.ip", None),
            Self::RemoteIp => ("remote.ip", None),
            Self::SourcePrincipal => ("source.principal", None),
            Self::SourceNamespace => ("source.namespace", None),
            Self::SourceServiceAccount => ("source.serviceAccount", None),
            Self::SourceTrustDomain => ("source.trustDomain", None),
            Self::RequestPrincipal => ("request.auth.principal", None),
            Self::Audiences => ("request.auth.audiences", None),
            Self::Presenter => ("request.auth.presenter", None),
            Self::DestinationIp => ("destination.ip", None),
            Self::DestinationPort => ("destination.port", None),
            Self::Sni => ("connection.sni", None),
            Self::Method => ("request.method", None),
            Self::Path => ("request.path", None),
            Self::Host => ("request.host", None),
        };
        f.write_str(name)?;
        match inner {
            Some(inner) => f.write_fmt(format_args!("[{inner}]")),
            None => Ok(()),
        }
    }
}

fn unknown(text: &str, dialect: Dialect) -> String {
    if text.starts_with("experimental.") {
        return match text.ends_with(']') && text.contains('[') && !text.contains("[]") {
            true => format!(
                "`{text}` asks for another filter's dynamic metadata, which is not supported: its form is that filter's own and may \
                 change; Envoy's native `rbac` filter (`metadata`) carries it out"
            ),
            false => format!(
                "`{text}` has no key in brackets; expected a form like `experimental.envoy.filters.a[key]`"
            ),
        };
    }
    let ours = ["request.query", "request.path", "request.host", "request.method"];
    if dialect == Dialect::Istio && ours.iter().any(|key| text.starts_with(key)) {
        return format!(
            "`{text}` is a key of `sailcloth.dev/v1alpha1` only; Istio's AuthorizationPolicy does not know it"
        );
    }
    match text {
        "destination.labels" | "destination.name" | "destination.namespace" | "destination.user" => {
            format!(
                "`{text}` is no key of Istio any more; the workload is chosen by `selector` and namespace"
            )
        }
        "source.user" => "`source.user` is no key of Istio any more; write `source.principal`".to_owned(),
        _ => format!("unknown key `{text}`"),
    }
}

/// The names in `[a][b]`. Split as Istio does: `[good]]` names `good]`.
fn names(text: &str, brackets: &str) -> Result<Vec<String>, String> {
    let inner = brackets.strip_prefix('[').and_then(|rest| rest.strip_suffix(']'));
    let names: Vec<String> = inner.unwrap_or_default().split("][").map(str::to_owned).collect();
    if names.iter().any(String::is_empty) {
        return Err(format!(
            "`{text}` has no name in its brackets; expected a form like `request.headers[x-name]`"
        ));
    }
    Ok(names)
}

fn single(text: &str, brackets: &str) -> Result<String, String> {
    names(text, brackets)?;
    let inner = brackets.strip_prefix('[').and_then(|rest| rest.strip_suffix(']'));
    Ok(inner.unwrap_or_default().to_owned())
}

fn header(text: &str, brackets: &str) -> Result<Key, String> {
    let name = single(text, brackets)?.to_ascii_lowercase();
    if !is_token(name.strip_prefix(':').unwrap_or(&name)) {
        return Err(format!("`{name}` is not a header name"));
    }
    // Envoy keeps HTTP/1's Host in `:authority` and finds it there under both names.
    Ok(Key::Header(if name == "host" { ":authority".to_owned() } else { name }))
}

impl When {
    pub(super) fn read(value: &Value<'_>, policy: PolicyText<'_>) -> Option<Self> {
        let fields = value.fields()?;
        let written = fields.required("key");
        let key = written.as_ref().and_then(|written| read_key(written, policy.dialect));
        let typed = match policy.dialect {
            Dialect::Istio => Some(Vec::new()),
            Dialect::Ours => Typed::read(&fields, key.as_ref()),
        };
        let Some(key) = key else {
            // What stands beside a key that means nothing is not judged.
            let _ = (fields.get("values"), fields.get("notValues"));
            return None;
        };
        let test = read_test(&fields, &key, policy);
        let typed = typed?;
        let says =
            |name| fields.get(name).is_some_and(|list| list.items().is_none_or(|items| !items.is_empty()));
        if typed.is_empty() && !says("values") && !says("notValues") {
            value.error(match policy.dialect {
                Dialect::Istio => "needs at least one of `values` and `notValues`",
                Dialect::Ours => "needs at least one of `values`, `notValues` and the typed tests",
            });
        }
        Some(Self { key, test, typed })
    }

    /// Whether `values` or `notValues` say anything.
    #[must_use]
    pub fn has_values(&self) -> bool {
        match &self.test {
            Test::Texts(texts) => !texts.is_empty(),
            Test::Addresses(blocks) => !blocks.is_empty(),
            Test::Ports(ports) => !ports.is_empty(),
        }
    }
}

pub(super) fn read_key(value: &Value<'_>, dialect: Dialect) -> Option<Key> {
    match Key::parse(value.non_empty_text()?, dialect) {
        Ok(key) => Some(key),
        Err(message) => {
            value.error(message);
            None
        }
    }
}

fn read_test(fields: &Fields<'_>, key: &Key, policy: PolicyText<'_>) -> Test {
    let texts = |read: &dyn Fn(&Value<'_>) -> Option<String>| {
        Test::Texts(condition(fields, "values", "notValues", read))
    };
    match key {
        key if key.is_address() => Test::Addresses(condition(fields, "values", "notValues", ip_block)),
        Key::DestinationPort => Test::Ports(condition(fields, "values", "notValues", crate::operation::port)),
        Key::SourceServiceAccount => texts(&|value| {
            service_account(value, policy.metadata)
                .map(|account| format!("{}/{}", account.namespace, account.name))
        }),
        Key::SourceTrustDomain => texts(&trust_domain),
        Key::SourcePrincipal => texts(&super::principal),
        _ => texts(&text),
    }
}
