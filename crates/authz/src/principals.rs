//! Principals and request principals as patterns of one text.

use sailcloth_core::index::Key;
use sailcloth_core::text::{Pattern, TextSet};

/// Stands between issuer and subject: no text of a policy or a token holds this byte.
const BETWEEN: u8 = 0xff;

/// Before a request principal of two parts.
const WHOLE: u8 = 0xfd;

/// Around a request principal of which a part is empty: no star of a pattern matches there.
const HALF: u8 = 0xfe;

/// In a policy `cluster.local` means the workload's own trust domain, whatever its name (`istio-api.md` 2.11).
const LOCAL_TRUST_DOMAIN: &str = "cluster.local";

/// A principal with the local trust domain or an alias of it, for each of them; any other as written. A trust domain that
/// begins with `*` stays as it is beside those that it does not cover (`istio-api.md` 2.11). Only what has the five parts of
/// `<trust domain>/ns/<namespace>/sa/<name>` names a trust domain: Istio leaves `td/ns/a/*` as written.
pub(crate) fn expand(principal: &str, trust_domains: &[String]) -> Vec<String> {
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

/// Request principals (`istio-api.md` 2.6): issuer and subject, split at the last slash, of which at most one has a star.
/// The order of tests is Istio's: `*`, a leading `*`, a trailing `*`, then exact.
pub(crate) fn request_principals(texts: &[String]) -> TextSet {
    TextSet::of_keys(false, texts.iter().map(|text| request_principal(&Pattern::parse(text))))
}

fn request_principal(pattern: &Pattern) -> Key {
    match pattern {
        Pattern::Present => Key::Prefix(vec![WHOLE]),
        Pattern::Suffix(tail) => Key::Suffix(match tail.rsplit_once('/') {
            Some((issuer, "")) => [issuer.as_bytes(), &[BETWEEN, HALF]].concat(),
            Some((issuer, subject)) => [issuer.as_bytes(), &[BETWEEN], subject.as_bytes()].concat(),
            None => tail.clone().into_bytes(),
        }),
        Pattern::Prefix(head) => Key::Prefix(match head.rsplit_once('/') {
            Some(("", subject)) => [&[HALF, BETWEEN], subject.as_bytes()].concat(),
            Some((issuer, subject)) => [&[WHOLE], issuer.as_bytes(), &[BETWEEN], subject.as_bytes()].concat(),
            None => [&[WHOLE], head.as_bytes()].concat(),
        }),
        Pattern::Exact(text) => {
            let (issuer, subject) = text.rsplit_once('/').unwrap_or((text, ""));
            Key::Exact(joined(issuer.as_bytes(), subject.as_bytes()))
        }
    }
}

/// Issuer and subject of a token as the text that [`request_principals`] are compared with.
pub(crate) fn joined(issuer: &[u8], subject: &[u8]) -> Vec<u8> {
    let (before, after): (&[u8], &[u8]) =
        if issuer.is_empty() || subject.is_empty() { (&[HALF], &[HALF]) } else { (&[WHOLE], &[]) };
    [before, issuer, &[BETWEEN], subject, after].concat()
}

#[cfg(test)]
mod tests {
    use super::*;
    #[cfg(target_family = "wasm")]
    use wasm_bindgen_test::wasm_bindgen_test as test;

    #[test]
    fn request_principals_split_at_the_last_slash() {
        for (text, issuer, subject, expected) in [
            ("*", "https://a.example", "user-1", true),
            ("https://a.example/user-1", "https://a.example", "user-1", true),
            ("https://a.example/*", "https://a.example", "user-1", true),
            ("https://a.example/user*", "https://a.example", "user-1", true),
            ("*/user-1", "https://a.example", "user-1", true),
            ("*a.example/user-1", "https://a.example", "user-1", true),
            ("*er-1", "https://a.example", "user-1", true),
            ("https*", "https://a.example", "user-1", true),
            ("https://a.example", "https://a.example", "user-1", false),
            ("https://b.example/user-1", "https://a.example", "user-1", false),
            ("https://a.example/user-2", "https://a.example", "user-1", false),
            // Who is an empty text is matched by that text, and by no star.
            ("a.example", "a.example", "", true),
            ("https://a.example", "https://a.example", "", false),
            ("*a.example/", "https://a.example", "", true),
            ("/user-1", "", "user-1", true),
            ("/user*", "", "user-1", true),
            ("*", "https://a.example", "", false),
            ("https://a.example/*", "https://a.example", "", false),
            ("https*", "https://a.example", "", false),
            ("*/user-1", "", "user-1", false),
            ("*er-1", "", "user-1", false),
        ] {
            let set = request_principals(&[text.to_owned()]);
            let value = joined(issuer.as_bytes(), subject.as_bytes());
            assert_eq!(set.contains(&value), expected, "{text} on {issuer} and {subject}");
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
}
