//! Path templates of AuthorizationPolicy: `/users/{*}/orders/{**}` (`istio-api.md` 2.8).

use std::fmt;

/// A template, ready to match. It matches whole paths, with regard to case, after Envoy's normalization.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct PathTemplate(Vec<Piece>);

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
enum Piece {
    /// Text as it is, slashes included.
    Literal(String),
    /// `{*}`: one segment, not empty.
    Segment,
    /// `{**}`: the rest, slashes included, but for the literal text after it.
    Rest,
}

/// Why a text is no template; reads as the reason.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TemplateError(&'static str);

impl fmt::Display for TemplateError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.0)
    }
}

impl PathTemplate {
    /// Whether Istio takes a value of `paths` for a template.
    #[must_use]
    pub fn is_template(path: &str) -> bool {
        path.contains("{*}") || path.contains("{**}")
    }

    /// Reads a template.
    ///
    /// # Errors
    /// What Istio refuses, and what Envoy refuses although Istio does not: no slash at the beginning, empty segments.
    pub fn parse(path: &str) -> Result<Self, TemplateError> {
        let Some(rest) = path.strip_prefix('/') else {
            return Err(TemplateError("a path template begins with `/`"));
        };
        let mut pieces = Vec::new();
        let mut literal = String::new();
        let mut after_rest = false;
        let mut segments = rest.split('/').peekable();
        while let Some(segment) = segments.next() {
            literal.push('/');
            let last = segments.peek().is_none();
            match segment {
                "{*}" | "{**}" if after_rest => {
                    return Err(TemplateError("`{**}` must be the last operator of a path template"));
                }
                "{*}" | "{**}" => {
                    after_rest = segment == "{**}";
                    pieces.push(Piece::Literal(std::mem::take(&mut literal)));
                    pieces.push(if after_rest { Piece::Rest } else { Piece::Segment });
                }
                "" if last => {}
                text if is_literal(text) => literal.push_str(text),
                text => return Err(refuse(text)),
            }
        }
        if !literal.is_empty() {
            pieces.push(Piece::Literal(literal));
        }
        Ok(Self(pieces))
    }

    /// Whether a path (without query) matches.
    #[must_use]
    pub fn matches(&self, path: &[u8]) -> bool {
        let mut rest = path;
        let mut pieces = self.0.iter();
        while let Some(piece) = pieces.next() {
            match piece {
                Piece::Literal(text) => match rest.strip_prefix(text.as_bytes()) {
                    Some(after) => rest = after,
                    None => return false,
                },
                Piece::Segment => {
                    let end = rest.iter().take_while(|byte| is_operand(**byte)).count();
                    if end == 0 {
                        return false;
                    }
                    rest = rest.get(end..).unwrap_or_default();
                }
                Piece::Rest => {
                    let tail = match pieces.next() {
                        Some(Piece::Literal(text)) => text.as_bytes(),
                        _ => b"",
                    };
                    let middle = rest.strip_suffix(tail);
                    return middle
                        .is_some_and(|middle| middle.iter().all(|byte| *byte == b'/' || is_operand(*byte)));
                }
            }
        }
        rest.is_empty()
    }

    /// What every path that matches begins with.
    #[must_use]
    pub fn literal_prefix(&self) -> &str {
        match self.0.first() {
            Some(Piece::Literal(text)) => text,
            _ => "",
        }
    }
}

fn refuse(segment: &str) -> TemplateError {
    if segment.is_empty() {
        TemplateError("a path template has no empty segments")
    } else if segment.contains("{*}") || segment.contains("{**}") {
        TemplateError("`{*}` and `{**}` must be whole segments of a path template")
    } else if segment.contains(['{', '}']) {
        TemplateError("a path template knows no other braces than `{*}` and `{**}`")
    } else if segment.contains('*') {
        TemplateError("`*` cannot be mixed with `{*}` and `{**}`")
    } else {
        TemplateError(
            "a path template may hold only RFC 3986's path characters and `%XX` beside its operators",
        )
    }
}

/// RFC 3986's `pchar`, without the star.
fn is_literal(text: &str) -> bool {
    let mut bytes = text.bytes();
    while let Some(byte) = bytes.next() {
        let fine = match byte {
            b'%' => [bytes.next(), bytes.next()]
                .iter()
                .all(|digit| digit.is_some_and(|digit| digit.is_ascii_hexdigit())),
            b'*' => false,
            byte => is_operand(byte),
        };
        if !fine {
            return false;
        }
    }
    !text.is_empty()
}

/// What Envoy's URI templates let an operator match.
fn is_operand(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"-._~%!$&'()+,;:@=*".contains(&byte)
}

#[cfg(test)]
mod tests {
    use super::*;
    #[cfg(target_family = "wasm")]
    use wasm_bindgen_test::wasm_bindgen_test as test;

    #[test]
    fn templates_match_whole_paths() {
        for (template, path, expected) in [
            ("/allow/admin/{**}", "/allow/admin", false),
            ("/allow/admin/{**}", "/allow/admin/", true),
            ("/allow/admin/{**}", "/allow/admin/a/b", true),
            ("/foo/{*}/bar/{**}", "/foo/x/bar/", true),
            ("/foo/{*}/bar/{**}", "/foo//bar/x", false),
            ("/foo/{*}/bar/{**}", "/foo/x/y/bar/x", false),
            ("/store/{**}/cart", "/store//cart", true),
            ("/store/{**}/cart", "/store/x/y/cart", true),
            ("/store/{**}/cart", "/store/cart", false),
            ("/store/{**}/cart", "/store/x/cart/", false),
            ("/{*}", "/a", true),
            ("/{*}", "/", false),
            ("/{*}", "/a/", false),
            ("/{*}/", "/a/", true),
            ("/{**}", "/", true),
            ("/{**}", "", false),
            ("/a/{*}", "/A/b", false),
            ("/a/{*}", "/a/b\"c", false),
            ("/a/{*}", "/a/b%2fc;x=*", true),
            ("/a/{**}", "/a/b\x7f", false),
            ("/{**}/a/b", "/a/b", false),
            ("/{**}/a/b", "//a/b", true),
        ] {
            let parsed = PathTemplate::parse(template).unwrap();
            assert_eq!(parsed.matches(path.as_bytes()), expected, "{template} on {path}");
            assert!(!expected || path.starts_with(parsed.literal_prefix()), "{template} on {path}");
        }
    }

    #[test]
    fn what_istio_or_envoy_refuses_is_refused() {
        for template in [
            "/foo/{**}buzz/bar",
            "/{*}/foo/{}/bar",
            "/foo/{*}/{buzz}",
            "/{*}/foo/temp}/bar",
            "/{*}/foo/*",
            "/{*}/foo*",
            "/{**}/{**}",
            "/{**}/{*}",
            "/{*}/?abc",
            "/{*}/%2",
            "/{*}/a b",
            "/{*}//a",
            "foo/{*}",
            "",
        ] {
            assert!(PathTemplate::parse(template).is_err(), "{template}");
        }
    }
}
