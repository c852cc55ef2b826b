//! The request as the engines see it.

use crate::facts::Facts;
use crate::headers::HeaderBlock;

/// One request: its headers, and what can be asked about its connection and caller.
#[derive(Debug, Clone, Copy)]
pub struct Request<'r> {
    /// The request headers, pseudo headers included.
    pub headers: &'r HeaderBlock,
    /// Connection, peer and token; read lazily, because each property costs a hostcall.
    pub facts: Facts<'r>,
}

impl<'r> Request<'r> {
    /// `:method`; empty when a malformed request carries none.
    #[must_use]
    pub fn method(&self) -> &'r [u8] {
        self.headers.first(":method").unwrap_or_default()
    }

    /// `:path` as received: path, query and all.
    #[must_use]
    pub fn target(&self) -> &'r [u8] {
        self.headers.first(":path").unwrap_or_default()
    }

    /// The path without query and fragment. It is *not* normalized here: Envoy does that before any filter when its
    /// `normalize_path` is on (Istio's default), and a second normalization would disagree with the upstream.
    #[must_use]
    pub fn path(&self) -> &'r [u8] {
        let target = self.target();
        let end = target.iter().position(|byte| matches!(byte, b'?' | b'#')).unwrap_or(target.len());
        target.get(..end).unwrap_or(target)
    }

    /// `:authority` (HTTP/1 `Host`), port included.
    #[must_use]
    pub fn authority(&self) -> &'r [u8] {
        self.headers.first(":authority").unwrap_or_default()
    }

    /// Whether this is a gRPC request (`content-type: application/grpc…`), as Envoy decides it.
    #[must_use]
    pub fn is_grpc(&self) -> bool {
        let content_type = self.headers.first("content-type").unwrap_or_default();
        content_type
            .strip_prefix(b"application/grpc")
            .is_some_and(|rest| matches!(rest.first(), None | Some(b'+' | b';')))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::facts::{NoProperties, Sources};
    #[cfg(target_family = "wasm")]
    use wasm_bindgen_test::wasm_bindgen_test as test;

    #[test]
    fn the_path_ends_at_query_or_fragment() {
        for (target, path) in [("/a?b", "/a"), ("/a#b?c", "/a"), ("/a", "/a"), ("?", ""), ("", "")] {
            let headers = HeaderBlock::from_pairs([(":path", target)]);
            let sources = Sources::default();
            let request = Request { headers: &headers, facts: Facts::new(&NoProperties, &sources) };
            assert_eq!(request.path(), path.as_bytes(), "{target}");
        }
    }

    #[test]
    fn only_grpc_content_types_are_grpc() {
        let sources = Sources::default();
        for (value, grpc) in [
            ("application/grpc", true),
            ("application/grpc+proto", true),
            ("application/grpc-web", false),
            ("text/html", false),
        ] {
            let headers = HeaderBlock::from_pairs([("content-type", value)]);
            let request = Request { headers: &headers, facts: Facts::new(&NoProperties, &sources) };
            assert_eq!(request.is_grpc(), grpc, "{value}");
        }
    }
}
