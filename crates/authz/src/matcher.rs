//! Rules ready to be tried: patterns parsed, trust domains expanded, nothing left that can be invalid.

use std::net::IpAddr;

use ipnet::IpNet;
use sailcloth_core::identity::Token;
use sailcloth_core::operation::OperationMatcher;
use sailcloth_core::text::Pattern;
use sailcloth_resources::authorization_policy::{Condition, Rule, ServiceAccount, Source};
use sailcloth_resources::operation::Operation;

use crate::caller::{Caller, Truth, Unknown};

/// In a policy `cluster.local` means the workload's own trust domain, whatever its name (`istio-api.md` 2.11).
const LOCAL_TRUST_DOMAIN: &str = "cluster.local";

/// What the identities of a mesh begin with.
const SPIFFE: &[u8] = b"spiffe://";

/// A rule: `from` and `to` must both hold.
pub(crate) struct RuleMatcher {
    from: Option<Vec<SourceMatcher>>,
    to: Option<Vec<OperationMatcher>>,
}

struct SourceMatcher {
    principals: Condition<Pattern>,
    request_principals: Condition<RequestPrincipal>,
    namespaces: Condition<String>,
    service_accounts: Condition<ServiceAccount>,
    ip_blocks: Condition<IpNet>,
    remote_ip_blocks: Condition<IpNet>,
}

/// A `requestPrincipals` value (`istio-api.md` 2.6): issuer and subject, split at the last slash.
struct RequestPrincipal {
    issuer: Pattern,
    subject: Pattern,
}

impl RuleMatcher {
    pub(crate) fn new(rule: &Rule, trust_domains: &[String]) -> Self {
        let sources = |list: &Vec<Source>| {
            list.iter().map(|source| SourceMatcher::new(source, trust_domains)).collect()
        };
        let operations = |list: &Vec<Operation>| list.iter().map(Operation::matcher).collect();
        Self { from: rule.from.as_ref().map(sources), to: rule.to.as_ref().map(operations) }
    }

    pub(crate) fn matches(&self, caller: &Caller<'_>) -> Truth {
        // `to` first: it costs no hostcall but for ports.
        let to = || {
            self.to
                .as_ref()
                .map_or(Ok(true), |list| any(list.iter().map(|operation| does(operation, caller))))
        };
        let from = || {
            self.from.as_ref().map_or(Ok(true), |list| any(list.iter().map(|source| source.matches(caller))))
        };
        all([&to as &dyn Fn() -> Truth, &from])
    }
}

impl SourceMatcher {
    fn new(source: &Source, trust_domains: &[String]) -> Self {
        let principal =
            |text: &String| expand(text, trust_domains).iter().map(|text| Pattern::parse(text)).collect();
        let request_principal = |text: &String| vec![RequestPrincipal::parse(text)];
        Self {
            principals: convert(&source.principals, principal),
            request_principals: convert(&source.request_principals, request_principal),
            namespaces: source.namespaces.clone(),
            service_accounts: source.service_accounts.clone(),
            ip_blocks: source.ip_blocks.clone(),
            remote_ip_blocks: source.remote_ip_blocks.clone(),
        }
    }

    fn matches(&self, caller: &Caller<'_>) -> Truth {
        let identity = || caller.peer_uri();
        let contains = |block: &IpNet, address: &IpAddr| block.contains(address);
        all([
            &|| holds(&self.principals, identity, is_principal) as Truth,
            &|| {
                holds(&self.namespaces, identity, |glob, uri| {
                    namespaces(uri).any(|namespace| glob_matches(glob, namespace))
                })
            },
            &|| holds(&self.service_accounts, identity, |account, uri| is_account(uri, account)),
            &|| holds(&self.ip_blocks, || caller.peer_address(), contains),
            &|| holds(&self.remote_ip_blocks, || caller.remote_address(), contains),
            &|| holds(&self.request_principals, || caller.token(), RequestPrincipal::matches) as Truth,
        ] as [&dyn Fn() -> Truth; 6])
    }
}

impl RequestPrincipal {
    /// The order of tests is Istio's: `*`, a leading `*`, a trailing `*`, then exact.
    fn parse(text: &str) -> Self {
        let exact = |text: &str| Pattern::Exact(text.to_owned());
        if text == "*" {
            return Self { issuer: Pattern::Present, subject: Pattern::Present };
        }
        if let Some(tail) = text.strip_prefix('*') {
            return match tail.rsplit_once('/') {
                Some(("", subject)) => Self { issuer: Pattern::Present, subject: exact(subject) },
                Some((issuer, subject)) => {
                    Self { issuer: Pattern::Suffix(issuer.to_owned()), subject: exact(subject) }
                }
                None => Self { issuer: Pattern::Present, subject: Pattern::Suffix(tail.to_owned()) },
            };
        }
        if let Some(head) = text.strip_suffix('*') {
            return match head.rsplit_once('/') {
                Some((issuer, "")) => Self { issuer: exact(issuer), subject: Pattern::Present },
                Some((issuer, subject)) => {
                    Self { issuer: exact(issuer), subject: Pattern::Prefix(subject.to_owned()) }
                }
                None => Self { issuer: Pattern::Prefix(head.to_owned()), subject: Pattern::Present },
            };
        }
        let (issuer, subject) = text.rsplit_once('/').unwrap_or((text, ""));
        Self { issuer: exact(issuer), subject: exact(subject) }
    }

    /// A token without `iss` or `sub` has no principal (`istio-api.md` 3.4): nothing matches it, not even a value whose
    /// subject is empty.
    fn matches(&self, token: &Token) -> bool {
        match (token.text(&["iss"]), token.text(&["sub"])) {
            (Some(issuer), Some(subject)) => self.issuer.matches(issuer) && self.subject.matches(subject),
            _ => false,
        }
    }
}

fn does(operation: &OperationMatcher, caller: &Caller<'_>) -> Truth {
    // The port is the only thing an operation asks for that a request may not carry.
    operation.matches(&caller.request).map_err(|_| Unknown::DestinationPort)
}

/// Whether a condition holds. A value that is not there matches nothing, so it satisfies every `not…` list.
fn holds<'c, T, V: ?Sized + 'c>(
    condition: &Condition<T>,
    value: impl FnOnce() -> Result<Option<&'c V>, Unknown>,
    matches: impl Fn(&T, &V) -> bool,
) -> Truth {
    if condition.is_empty() {
        return Ok(true);
    }
    let Some(value) = value()? else { return Ok(condition.values.is_empty()) };
    let one_of = |list: &[T]| list.iter().any(|item| matches(item, value));
    Ok((condition.values.is_empty() || one_of(&condition.values)) && !one_of(&condition.not_values))
}

/// All must hold. One that does not decides, even beside one that cannot be known.
fn all<const N: usize>(conditions: [&dyn Fn() -> Truth; N]) -> Truth {
    let mut unknown = None;
    for condition in conditions {
        match condition() {
            Ok(true) => {}
            Ok(false) => return Ok(false),
            Err(why) => unknown = unknown.or(Some(why)),
        }
    }
    unknown.map_or(Ok(true), Err)
}

/// One must hold. One that does decides, even beside one that cannot be known.
fn any(alternatives: impl Iterator<Item = Truth>) -> Truth {
    let mut unknown = None;
    for alternative in alternatives {
        match alternative {
            Ok(true) => return Ok(true),
            Ok(false) => {}
            Err(why) => unknown = unknown.or(Some(why)),
        }
    }
    unknown.map_or(Ok(false), Err)
}

fn convert<T, U>(condition: &Condition<T>, each: impl Fn(&T) -> Vec<U>) -> Condition<U> {
    Condition {
        values: condition.values.iter().flat_map(&each).collect(),
        not_values: condition.not_values.iter().flat_map(&each).collect(),
    }
}

/// A principal with the local trust domain or an alias of it, for each of them; any other as written. A trust domain that
/// begins with `*` stays as it is beside those that it does not cover (`istio-api.md` 2.11). Only what has the five parts of
/// `<trust domain>/ns/<namespace>/sa/<name>` names a trust domain: Istio leaves `td/ns/a/*` as written.
fn expand(principal: &str, trust_domains: &[String]) -> Vec<String> {
    let parts = principal.split('/').count();
    let Some((domain, rest)) = principal.split_once('/').filter(|_| parts == 5) else {
        return vec![principal.to_owned()];
    };
    let of = |domain: &str| format!("{domain}/{rest}");
    if let Some(ending) = domain.strip_prefix('*').filter(|ending| !ending.is_empty()) {
        let (covered, others): (Vec<_>, Vec<_>) =
            trust_domains.iter().partition(|local| local.ends_with(ending));
        let others = others.iter().filter(|_| !covered.is_empty()).map(|local| of(local));
        return std::iter::once(principal.to_owned()).chain(others).collect();
    }
    if domain == LOCAL_TRUST_DOMAIN || trust_domains.iter().any(|local| local == domain) {
        return trust_domains.iter().map(|local| of(local)).collect();
    }
    vec![principal.to_owned()]
}

/// `*` is any certificate's URI; every other pattern is one of SPIFFE identities, since Istio writes `spiffe://` before it:
/// `*/sa/web` is not `https://elsewhere/sa/web`.
fn is_principal(pattern: &Pattern, uri: &[u8]) -> bool {
    match pattern {
        Pattern::Present => true,
        pattern => uri.strip_prefix(SPIFFE).is_some_and(|identity| pattern.matches(identity)),
    }
}

/// The namespaces that an identity names: Istio asks for `/ns/<namespace>/` anywhere in the SPIFFE URI, so a path with
/// more parts than `<trust domain>/ns/<namespace>/sa/<name>` counts as well.
fn namespaces(identity: &[u8]) -> impl Iterator<Item = &[u8]> {
    let segments: Vec<&[u8]> = identity.split(|byte| *byte == b'/').collect();
    let mut rest = segments.into_iter().peekable();
    std::iter::from_fn(move || {
        while let Some(segment) = rest.next() {
            if segment == b"ns" {
                let namespace = *rest.peek()?;
                // `ns` may be the name of a namespace too: the next round looks at it again.
                let mut after = rest.clone();
                after.next();
                after.peek()?;
                return Some(namespace);
            }
        }
        None
    })
}

/// Istio's `spiffe://.+/ns/<namespace>/(.+/)?sa/<name>(/.+)?`.
fn is_account(uri: &[u8], account: &ServiceAccount) -> bool {
    let Some(identity) = uri.strip_prefix(SPIFFE) else { return false };
    let segments: Vec<&[u8]> = identity.split(|byte| *byte == b'/').collect();
    let pair = |window: &[&[u8]], key: &[u8], value: &str| matches!(window, [k, v] if *k == key && *v == value.as_bytes());
    let after_namespace = segments
        .windows(2)
        .enumerate()
        .skip(1)
        .find(|(_, window)| pair(window, b"ns", &account.namespace))
        .and_then(|(index, _)| segments.get(index + 2..));
    after_namespace.is_some_and(|rest| rest.windows(2).any(|window| pair(window, b"sa", &account.name)))
}

/// `*` stands for any run of characters, anywhere. Linear: the last star is the only one ever gone back to.
fn glob_matches(glob: &str, text: &[u8]) -> bool {
    let mut pieces = glob.split('*').map(str::as_bytes);
    let Some(first) = pieces.next() else { return text.is_empty() };
    let Some(mut rest) = text.strip_prefix(first) else { return false };
    let mut pieces: Vec<&[u8]> = pieces.collect();
    let Some(last) = pieces.pop() else { return rest.is_empty() };
    for piece in pieces {
        let Some(after) = find(rest, piece) else { return false };
        rest = after;
    }
    rest.ends_with(last)
}

/// What follows the first occurrence of `piece`.
fn find<'t>(text: &'t [u8], piece: &[u8]) -> Option<&'t [u8]> {
    (0..=text.len()).find_map(|start| text.get(start..)?.strip_prefix(piece))
}

#[cfg(test)]
mod tests {
    use super::*;
    #[cfg(target_family = "wasm")]
    use wasm_bindgen_test::wasm_bindgen_test as test;

    #[test]
    fn namespaces_are_globs() {
        for (glob, text, expected) in [
            ("prod", "prod", true),
            ("prod", "prod2", false),
            ("prod*", "prod2", true),
            ("*-eu", "prod-eu", true),
            ("a*b*c", "axxbyyc", true),
            ("a*b*c", "acb", false),
            ("*", "anything", true),
            ("a*a", "a", false),
            ("**", "", true),
        ] {
            assert_eq!(glob_matches(glob, text.as_bytes()), expected, "{glob} on {text}");
        }
    }

    #[test]
    fn request_principals_split_at_the_last_slash() {
        let token = Token::of_principal(b"https://a.example", b"user-1");
        for (text, expected) in [
            ("*", true),
            ("https://a.example/user-1", true),
            ("https://a.example/*", true),
            ("https://a.example/user*", true),
            ("*/user-1", true),
            ("*a.example/user-1", true),
            ("*er-1", true),
            ("https*", true),
            ("https://a.example", false),
            ("https://b.example/user-1", false),
            ("https://a.example/user-2", false),
        ] {
            assert_eq!(RequestPrincipal::parse(text).matches(&token), expected, "{text}");
        }
        assert!(!RequestPrincipal::parse("*").matches(&Token::of_principal(b"https://a.example", b"")));
    }

    #[test]
    fn a_token_without_a_subject_matches_no_request_principal() {
        let claims = sailcloth_core::config::Node::from_json(br#"{"iss":"https://a.example"}"#).unwrap();
        for text in ["https://a.example", "https://a.example/", "*a.example/", "*/", "*", "https*"] {
            assert!(!RequestPrincipal::parse(text).matches(&Token::of_claims(&claims)), "{text}");
        }
    }

    #[test]
    fn the_local_trust_domain_has_aliases() {
        let domains = ["td1".to_owned(), "td2".to_owned()];
        assert_eq!(expand("cluster.local/ns/a/sa/b", &domains), ["td1/ns/a/sa/b", "td2/ns/a/sa/b"]);
        assert_eq!(expand("td2/ns/a/sa/b", &domains), ["td1/ns/a/sa/b", "td2/ns/a/sa/b"]);
        assert_eq!(expand("other/ns/a/sa/b", &domains), ["other/ns/a/sa/b"]);
        assert_eq!(expand("*/ns/a/sa/b", &domains), ["*/ns/a/sa/b"]);
        assert_eq!(expand("*2/ns/a/sa/b", &domains), ["*2/ns/a/sa/b", "td1/ns/a/sa/b"]);
        assert_eq!(expand("*x/ns/a/sa/b", &domains), ["*x/ns/a/sa/b"]);
        for written in ["cluster.local/ns/a/*", "td1/ns/a/sa/b/k/v", "td1/sa/b", "td1"] {
            assert_eq!(expand(written, &domains), [written]);
        }
    }

    #[test]
    fn identities_may_have_more_parts_than_istio_writes() {
        let account = ServiceAccount { namespace: "a".into(), name: "b".into() };
        for (identity, expected) in [
            ("td/ns/a/sa/b", true),
            ("td/ns/a/sa/b/k/v", true),
            ("td/k/v/ns/a/sa/b", true),
            ("td/k/v/ns/a/k/v/sa/b/k/v", true),
            ("td/ns/a/sa/bb", false),
            ("td/ns/a", false),
            ("td/sa/b/ns/a", false),
            ("ns/a/sa/b", false),
            ("", false),
        ] {
            let uri = format!("spiffe://{identity}");
            assert_eq!(is_account(uri.as_bytes(), &account), expected, "{identity}");
        }
        let found: Vec<&[u8]> = namespaces(b"td/ns/a/x/ns/ns/c/sa/d/ns/last").collect();
        assert_eq!(found, [b"a".as_slice(), b"ns", b"c"]);
        assert_eq!(namespaces(b"").count(), 0);
    }
}
