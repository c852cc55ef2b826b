//! Which table of rules a Host header selects.

use std::borrow::Cow;
use std::collections::HashMap;

/// Tables by host: exact names first, then the longest wildcard, then `*`.
#[derive(Debug, Default)]
pub(crate) struct Hosts {
    exact: HashMap<String, usize>,
    /// By what follows the `*`.
    suffixes: HashMap<String, usize>,
    /// Lengths of suffixes, longest first.
    lengths: Vec<usize>,
    any: Option<usize>,
}

impl Hosts {
    /// Adds a host in lower case, unless it is there; whether it was added.
    pub(crate) fn add(&mut self, host: &str, table: usize) -> bool {
        let slot = match host.strip_prefix('*') {
            Some("") => {
                let is_new = self.any.is_none();
                self.any = self.any.or(Some(table));
                return is_new;
            }
            Some(suffix) => {
                if !self.lengths.contains(&suffix.len()) {
                    let at = self.lengths.partition_point(|length| *length > suffix.len());
                    self.lengths.insert(at, suffix.len());
                }
                self.suffixes.entry(suffix.to_owned())
            }
            None => self.exact.entry(host.to_owned()),
        };
        let is_new = matches!(slot, std::collections::hash_map::Entry::Vacant(_));
        slot.or_insert(table);
        is_new
    }

    /// The table of a request's `:authority`: without port, in any case, with or without the final dot.
    pub(crate) fn find(&self, authority: &[u8]) -> Option<usize> {
        let host = lower(without_port(authority));
        let host = host.strip_suffix(b".").unwrap_or(&host);
        // A name that is not text is no configured one; only `*` takes it.
        let named = std::str::from_utf8(host).ok().and_then(|host| self.named(host));
        named.or(self.any)
    }

    fn named(&self, host: &str) -> Option<usize> {
        if let Some(table) = self.exact.get(host) {
            return Some(*table);
        }
        let shorter = self.lengths.iter().filter(|length| **length < host.len());
        shorter.filter_map(|length| self.suffixes.get(host.get(host.len() - length..)?)).next().copied()
    }
}

/// Envoy's rule (`HeaderUtility::getPortStart`): from the last colon, unless it stands inside `[…]`.
fn without_port(authority: &[u8]) -> &[u8] {
    let colon = authority.iter().rposition(|byte| *byte == b':');
    let bracket = authority.iter().rposition(|byte| *byte == b']');
    match colon {
        Some(colon) if bracket.is_none_or(|bracket| bracket < colon) => {
            authority.get(..colon).unwrap_or(authority)
        }
        _ => authority,
    }
}

fn lower(host: &[u8]) -> Cow<'_, [u8]> {
    if host.iter().any(u8::is_ascii_uppercase) { host.to_ascii_lowercase().into() } else { host.into() }
}

#[cfg(test)]
mod tests {
    use super::*;
    #[cfg(target_family = "wasm")]
    use wasm_bindgen_test::wasm_bindgen_test as test;

    #[test]
    fn exact_beats_wildcard_and_the_longer_wildcard_beats_the_shorter() {
        let mut hosts = Hosts::default();
        for (table, host) in
            ["*", "*.com", "*.shop.com", "*-api.shop.com", "a.shop.com", "[::1]"].iter().enumerate()
        {
            assert!(hosts.add(host, table));
        }
        for (authority, table) in [
            ("a.shop.com", 4),
            ("A.Shop.COM:8080", 4),
            ("a.shop.com.", 4),
            ("b.shop.com", 2),
            ("x-api.shop.com", 3),
            ("-api.shop.com", 2),
            ("shop.com", 1),
            (".shop.com", 1),
            ("com", 0),
            ("", 0),
            ("[::1]:80", 5),
            ("[::1]", 5),
            ("\u{e9}.shop.com", 2),
        ] {
            assert_eq!(hosts.find(authority.as_bytes()), Some(table), "{authority}");
        }
        assert_eq!(hosts.find(b"\xff.shop.com"), Some(0));
        assert_eq!(Hosts::default().find(b"a"), None);
    }
}
