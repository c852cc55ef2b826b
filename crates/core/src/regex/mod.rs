//! The one regular-expression dialect of all filters: RE2's, as Istio means it.
//!
//! A pattern matches a *whole* value. A character is a byte, as in Envoy since 1.39 (RE2's Latin-1 mode): a value that is
//! not UTF-8 cannot slip past `.*`. `\d \w \s \b` are ASCII, there are no look-arounds and no back-references, a pattern
//! has at most 1024 characters and its program is bounded, and matching takes time linear in the value. The
//! text is parsed here, by RE2's grammar ([`parse`]), because no Rust crate has that grammar: `\<` is a word boundary
//! in one and a literal in the other, `[a&&b]` an intersection or five characters, and a policy that silently means
//! something else is worse than one that is refused. The automaton behind it is small for the same reason: what the
//! crates need in a module, in numbers, and every known difference to RE2: `docs/decisions/002-regex-crate.md`.
//!
//! ```
//! use sailcloth_core::regex::Regex;
//!
//! let chrome = Regex::new(".*Chrome.*").unwrap();
//! assert!(chrome.is_match(b"Mozilla/5.0 Chrome/126"));
//! assert!(!Regex::new("Chrome").unwrap().is_match(b"Mozilla/5.0 Chrome/126"));
//! assert!(Regex::new("(?=a)").is_err());
//! ```

mod automaton;
mod class;
mod literal;
mod parse;
mod program;
mod substitution;

use std::cell::RefCell;
use std::fmt;

use automaton::{Automaton, Cache};
pub use substitution::Substitution;

use crate::index::Key;

/// Istio's limit on the length of a pattern, in bytes.
pub const MAX_PATTERN: usize = 1024;

/// A compiled pattern.
#[derive(Clone)]
pub struct Regex {
    source: String,
    automaton: Automaton,
    /// The states seen so far, bounded by [`automaton::MAX_BYTES`].
    cache: RefCell<Cache>,
}

/// A pattern that RE2 or this build refuses; reads as the reason.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RegexError(String);

impl Regex {
    /// Compiles a pattern.
    ///
    /// # Errors
    /// When RE2 refuses it, when its program is too large, or when it needs what this build leaves out (`\p{…}`, `\C`).
    pub fn new(pattern: &str) -> Result<Self, RegexError> {
        if pattern.len() > MAX_PATTERN {
            return Err(RegexError(format!(
                "the pattern has {} bytes; Istio allows at most {MAX_PATTERN}",
                pattern.len()
            )));
        }
        let automaton = Automaton::new(program::compile(&parse::parse(pattern)?.ast, false)?);
        Ok(Self { source: pattern.to_owned(), automaton, cache: RefCell::default() })
    }

    /// The pattern as written.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.source
    }

    /// Texts under which an index can file what this pattern decides ([`crate::index`]): every value that matches is one of
    /// them or begins with one. A pattern that proves nothing has the empty beginning, one that matches nothing has none.
    #[must_use]
    pub fn keys(&self) -> Vec<Key> {
        literal::keys(self.automaton.program())
    }

    /// Whether the whole value matches. A value is bytes, and every byte is a character.
    #[must_use]
    pub fn is_match(&self, value: &[u8]) -> bool {
        match self.cache.try_borrow_mut() {
            Ok(mut cache) => self.automaton.is_match(&mut cache, value),
            // Nothing calls back into a running match; should it ever happen, a second cache gives the same answer.
            Err(_) => self.automaton.is_match(&mut Cache::default(), value),
        }
    }
}

impl fmt::Debug for Regex {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Regex").field(&self.source).finish()
    }
}

impl PartialEq for Regex {
    fn eq(&self, other: &Self) -> bool {
        self.source == other.source
    }
}

impl Eq for Regex {}

impl RegexError {
    fn new(reason: impl Into<String>) -> Self {
        Self(reason.into())
    }
}

impl fmt::Display for RegexError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for RegexError {}

#[cfg(test)]
mod tests {
    use super::*;
    #[cfg(target_family = "wasm")]
    use wasm_bindgen_test::wasm_bindgen_test as test;

    fn matches(pattern: &str, value: &[u8]) -> bool {
        Regex::new(pattern).unwrap_or_else(|error| panic!("{pattern}: {error}")).is_match(value)
    }

    #[test]
    fn a_pattern_matches_the_whole_value() {
        for (pattern, value, expected) in [
            ("Chrome", "x Chrome y", false),
            (".*Chrome.*", "x Chrome y", true),
            ("a|ab", "ab", true),
            ("^a$", "a", true),
            ("a$b", "ab", false),
            ("", "", true),
            ("", "a", false),
            ("/api/v[0-9]+/(users|orders)", "/api/v12/orders", true),
            ("/api/v[0-9]+/(users|orders)", "/api/v12/orders/1", false),
            ("a{2,3}", "aa", true),
            ("a{2,3}", "aaaa", false),
            ("a{2,}", "aaaaaa", true),
            ("a{0}", "", true),
            ("(a|b*)*c", "abbac", true),
            ("(?:a+)+$", "aaaa", true),
        ] {
            assert_eq!(matches(pattern, value.as_bytes()), expected, "{pattern} on {value}");
        }
    }

    #[test]
    fn what_rust_crates_read_otherwise_is_read_as_re2_reads_it() {
        for (pattern, value, expected) in [
            (r"\<a\>", "<a>", true),
            ("[a&&b]", "&", true),
            ("[+--]", ",", true),
            ("[a~~b]", "~", true),
            ("[[a]]", "a]", true),
            ("[[a]]", "[]", true),
            ("[]a]", "]", true),
            ("[^]a]", "b", true),
            ("[a-b-c]", "-", true),
            ("a{", "a{", true),
            ("a{,5}", "a{,5}", true),
            ("a{,5}", "aa", false),
            ("a{01}", "a{01}", true),
            (r"\b{start}", "{start}", false),
            (r"\s", "\u{b}", false),
            ("[[:space:]]", "\u{b}", true),
            (r"\d", "\u{661}", false),
            (r"\w", "\u{e9}", false),
            (r"\Qa.b\E+", "a.bbb", true),
            (r"\Qa.b", "axb", false),
            (r"\012", "\n", true),
            (r"\101", "A", true),
            (r"\_\-\ ", "_- ", true),
            (r"[\]\-\\]", "\\", true),
            (r"[[:^alpha:]]", "1", true),
            (r"[^\d]", "1", false),
            (".", "\n", false),
            ("(?s).", "\n", true),
            ("[^a]", "\n", true),
            (r"(?P<n>a)(?<m>b)", "ab", true),
            (r"\x{c3}\xa9", "\u{e9}", true),
            ("é", "é", true),
            (".", "é", false),
            ("..", "é", true),
            ("[é]", "é", false),
            ("(?i)chrome", "cHroMe", true),
            ("(?i)k", "\u{212a}", false),
            ("(?i)[^a]", "A", false),
            (r"(?i)\xe9", "\u{e9}", false),
            ("(?i:a)b", "AB", false),
            ("(?i)a(?-i)b", "AB", false),
            ("(?m)a$\n^b", "a\nb", true),
            ("a$\nb", "a\nb", false),
            (r"a\b b", "a b", true),
            (r"\Bab", "ab", false),
        ] {
            assert_eq!(matches(pattern, value.as_bytes()), expected, "{pattern} on {value:?}");
        }
    }

    #[test]
    fn what_re2_refuses_is_refused() {
        for pattern in [
            "(",
            ")",
            "a)",
            "(a",
            "[",
            "[a",
            "[b-a]",
            "*",
            "a**",
            "a+*",
            "a{2}{3}",
            "|*",
            "(*a)",
            "a{2,1}",
            "a{1001}",
            "(a{100}){11}",
            r"\1",
            r"\8",
            r"(a)\1",
            r"\",
            r"\y",
            r"\Z",
            r"\G",
            r"\u00e9",
            "(?=a)",
            "(?!a)",
            "(?<=a)",
            "(?<!a)",
            "(?>a)",
            "(?#a)",
            "(?x)a",
            "(?u)a",
            "(?R)a",
            "(?i",
            "(?i-)a",
            "(?P<>a)",
            "(?P<a b>a)",
            "(?P=a)",
            "{2}",
            "(?i){2}",
            "a|{2,}",
            "(?P<a>b)(?P<a>c)",
            "[[:foo:]]",
            "[a--b]",
            r"[a-\d]",
            r"[\b]",
            r"\x",
            r"\xg1",
            r"\x{}",
            r"\x{100}",
            r"\k<a>",
            "?",
        ] {
            assert!(Regex::new(pattern).is_err(), "{pattern} was accepted");
        }
    }

    #[test]
    fn what_this_build_leaves_out_is_refused_by_name() {
        for (pattern, word) in [(r"\pL", r"\p"), (r"[\PL]", r"\P"), (r"\C", r"\C")] {
            let error = Regex::new(pattern).unwrap_err().to_string();
            assert!(error.contains(word), "{pattern}: {error}");
        }
    }

    #[test]
    fn every_byte_is_a_character() {
        for value in [b"\xff".as_slice(), b"a\x80", b"\xc3", b"\xf8\x88\x80\x80\x80"] {
            for pattern in [".*", "(?s).*", "[^b]*", r"[\x00-\xff]+", r"\D+", r"(?:a?\W)*"] {
                assert!(matches(pattern, value), "{pattern} on {value:?}");
            }
            assert!(!matches(r"[\x00-\x7f]*", value), "{value:?}");
        }
        assert!(matches(r"(?i)\xe9", b"\xc9") && matches(r"(?i)[\xc0-\xc9]", b"\xe1"));
        assert!(!matches(r"(?i)\xd7", b"\xf7") && !matches(r"(?i)\xff", b"\xdf"));
    }

    #[test]
    fn size_is_bounded() {
        assert!(Regex::new(&"a".repeat(MAX_PATTERN)).is_ok());
        assert!(Regex::new(&"a".repeat(MAX_PATTERN + 1)).is_err());
        assert!(Regex::new(&"(".repeat(512)).is_err());
        let nested = format!("{}a{}", "(".repeat(500), ")".repeat(500));
        assert!(Regex::new(&nested).unwrap_err().to_string().contains("nested"));
        assert!(Regex::new("\\w{1000}|\\W{1000}|[acegik]{1000}").is_err());
    }

    #[test]
    fn a_pattern_that_makes_many_states_stays_within_its_memory() {
        let regex = Regex::new(".*a.{14}b").unwrap();
        let mut value = Vec::new();
        let mut bits: u32 = 1;
        for _ in 0..20_000 {
            bits = bits.wrapping_mul(1_103_515_245).wrapping_add(12345);
            value.push(if bits & 0x10000 == 0 { b'a' } else { b'c' });
        }
        assert!(!regex.is_match(&value));
        let used = regex.cache.try_borrow().unwrap().bytes();
        assert!(used <= automaton::MAX_BYTES * 2, "{used} bytes");
    }
}
