//! What a condition looks at, and its values in a request.

use std::fmt;

use sailcloth_resources::authorization_policy::Key;

/// What a condition looks at: a key of `when`, or `to[].operation.hosts`, which is the host with its port.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Subject {
    /// `:authority` in lower case, port included.
    Authority,
    Key(Key),
}

impl Subject {
    /// Where `*` means that it is there, be it empty.
    pub(crate) fn is_header(&self) -> bool {
        matches!(self, Self::Authority | Self::Key(Key::Method | Key::Header(_)))
    }

    /// Whether case means nothing; its values are in lower case.
    pub(crate) fn ignores_case(&self) -> bool {
        matches!(self, Self::Authority | Self::Key(Key::Host))
    }

    /// Rules are filed under what is cheap to look at, where there is a choice: headers are there already, everything
    /// else is a hostcall.
    pub(crate) fn cost(&self) -> u8 {
        match self {
            Self::Key(Key::Path) => 0,
            Self::Authority | Self::Key(Key::Host | Key::Method | Key::PathSegment(_)) => 1,
            Self::Key(Key::Header(_) | Key::Query(_)) => 2,
            Self::Key(Key::DestinationPort) => 3,
            Self::Key(_) => 4,
        }
    }
}

impl fmt::Display for Subject {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Authority => f.write_str("request.headers[:authority]"),
            Self::Key(key) => key.fmt(f),
        }
    }
}

/// The namespaces that an identity names: Istio asks for `/ns/<namespace>/` anywhere in the URI, so a path with more parts
/// than `<trust domain>/ns/<namespace>/sa/<name>` counts as well.
pub(crate) fn namespaces(uri: &[u8]) -> impl Iterator<Item = &[u8]> {
    let segments: Vec<&[u8]> = uri.split(|byte| *byte == b'/').collect();
    let mut found = Vec::new();
    for window in segments.windows(3) {
        // A third part, be it empty, says that the namespace is followed by a slash.
        if let [b"ns", namespace, _] = window {
            found.push(*namespace);
        }
    }
    found.into_iter()
}

/// The service accounts that an identity names, as `namespace/name`: Istio's
/// `spiffe://.+/ns/<namespace>/(.+/)?sa/<name>(/.+)?`.
pub(crate) fn service_accounts(identity: &[u8], see: &mut dyn FnMut(&[u8])) {
    let segments: Vec<&[u8]> = identity.split(|byte| *byte == b'/').collect();
    let part = |range: std::ops::Range<usize>| segments.get(range).unwrap_or_default();
    for at in 1..segments.len() {
        let [b"ns", namespace] = part(at..at + 2) else { continue };
        if part(0..at) == [b""] {
            continue;
        }
        for account in at + 2..segments.len() {
            let [b"sa", name] = part(account..account + 2) else { continue };
            if part(at + 2..account) != [b""] && part(account + 2..segments.len()) != [b""] {
                see(&[namespace, b"/".as_slice(), name].concat());
            }
        }
    }
}

/// The trust domain of an identity (without `spiffe://`).
pub(crate) fn trust_domain(identity: &[u8]) -> Option<&[u8]> {
    let end = identity.iter().position(|byte| *byte == b'/')?;
    identity.get(..end)
}

/// `:authority` without its port.
pub(crate) fn host(authority: &[u8]) -> &[u8] {
    let end = match authority.iter().rposition(|byte| *byte == b':') {
        // An IPv6 address has colons of its own, in brackets.
        Some(at) if !authority.get(at..).is_some_and(|rest| rest.contains(&b']')) => at,
        _ => authority.len(),
    };
    authority.get(..end).unwrap_or(authority)
}

#[cfg(test)]
mod tests {
    use super::*;
    #[cfg(target_family = "wasm")]
    use wasm_bindgen_test::wasm_bindgen_test as test;

    #[test]
    fn identities_may_have_more_parts_than_istio_writes() {
        for (identity, expected) in [
            ("td/ns/a/sa/b", true),
            ("td/ns/a/sa/b/k/v", true),
            ("td/k/v/ns/a/sa/b", true),
            ("td/k/v/ns/a/k/v/sa/b/k/v", true),
            ("td/ns/x/ns/a/sa/b", true),
            ("td/ns/a/sa/bb", false),
            ("td/ns/a", false),
            ("td/sa/b/ns/a", false),
            ("td/ns/a/sa/b/", false),
            ("td/ns/a//sa/b", false),
            ("ns/a/sa/b", false),
            ("/ns/a/sa/b", false),
            ("", false),
        ] {
            let mut found = false;
            service_accounts(identity.as_bytes(), &mut |account| found |= account == b"a/b");
            assert_eq!(found, expected, "{identity}");
        }
        let found: Vec<&[u8]> = namespaces(b"td/ns/a/x/ns/ns/c/sa/d/ns/last").collect();
        assert_eq!(found, [b"a".as_slice(), b"ns", b"c"]);
        assert_eq!(namespaces(b"").count(), 0);
    }

    #[test]
    fn hosts_have_no_port() {
        for (authority, expected) in
            [("a.b:80", "a.b"), ("a.b", "a.b"), ("[::1]:80", "[::1]"), ("[::1]", "[::1]"), ("", "")]
        {
            assert_eq!(host(authority.as_bytes()), expected.as_bytes(), "{authority}");
        }
    }
}
