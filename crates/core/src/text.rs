//! String patterns of AuthorizationPolicy.

/// A pattern as AuthorizationPolicy writes it (`istio-api.md` 2.4). The tests on the text are made in this order: `*`
/// is presence, a leading `*` suffix, a trailing `*` prefix, anything else exact; a `*` elsewhere is a literal star.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Pattern {
    /// `*`: there is something.
    Present,
    /// `*tail`.
    Suffix(String),
    /// `head*`.
    Prefix(String),
    /// The text itself.
    Exact(String),
}

impl Pattern {
    /// Reads a pattern.
    #[must_use]
    pub fn parse(text: &str) -> Self {
        if text == "*" {
            Self::Present
        } else if let Some(tail) = text.strip_prefix('*') {
            Self::Suffix(tail.to_owned())
        } else if let Some(head) = text.strip_suffix('*') {
            Self::Prefix(head.to_owned())
        } else {
            Self::Exact(text.to_owned())
        }
    }

    /// Whether a value that is there matches. [`Pattern::Present`] wants it non-empty; for header-like values, where
    /// an empty one counts as present, the caller decides.
    #[must_use]
    pub fn matches(&self, value: &[u8]) -> bool {
        match self {
            Self::Present => !value.is_empty(),
            Self::Suffix(tail) => value.ends_with(tail.as_bytes()),
            Self::Prefix(head) => value.starts_with(head.as_bytes()),
            Self::Exact(text) => value == text.as_bytes(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    #[cfg(target_family = "wasm")]
    use wasm_bindgen_test::wasm_bindgen_test as test;

    #[test]
    fn patterns_mean_what_istio_means() {
        for (pattern, value, expected) in [
            ("*", "x", true),
            ("*", "", false),
            ("/api*", "/apix", true),
            ("/api/*", "/api", false),
            ("*.js", "a.js", true),
            ("*a*", "ba*", true),
            ("*a*", "bab", false),
            ("a*b", "a*b", true),
            ("a*b", "axb", false),
            ("GET", "get", false),
        ] {
            assert_eq!(Pattern::parse(pattern).matches(value.as_bytes()), expected, "{pattern} on {value}");
        }
    }
}
