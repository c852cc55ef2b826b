//! Texts as policies write them: patterns, and sets of them.

use crate::index::{Builder, Choice, Index, Key, Keys};
use crate::path_template::PathTemplate;
use crate::regex::Regex;

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

    /// Under what a rule with this pattern can be filed; nothing for [`Pattern::Present`].
    #[must_use]
    pub fn key(&self) -> Option<Key> {
        match self {
            Self::Present => None,
            Self::Suffix(tail) => Some(Key::Suffix(tail.clone().into_bytes())),
            Self::Prefix(head) => Some(Key::Prefix(head.clone().into_bytes())),
            Self::Exact(text) => Some(Key::Exact(text.clone().into_bytes())),
        }
    }
}

/// `*` stands for any run of characters, anywhere: `prod-*-eu`. Linear: no star is ever gone back to.
#[must_use]
pub fn glob_matches(glob: &str, text: &[u8]) -> bool {
    let mut pieces = glob.split('*').map(str::as_bytes);
    let Some(first) = pieces.next() else { return text.is_empty() };
    let Some(mut rest) = text.strip_prefix(first) else { return false };
    let Some(last) = pieces.next_back() else { return rest.is_empty() };
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

/// Past this many, texts are looked up in a tree and no longer tried one by one.
const FEW: usize = 8;

/// Texts of which a value must be one: patterns, globs, path templates, regular expressions. Ten thousand cost about
/// what ten do.
#[derive(Debug, Default)]
pub struct TextSet {
    /// `*` is among them.
    present: bool,
    patterns: Vec<Key>,
    /// The patterns, where there are many.
    tree: Option<Box<Keys>>,
    globs: Vec<String>,
    templates: Vec<PathTemplate>,
    /// The templates by how they begin, where there are many.
    filed: Option<Box<Index<()>>>,
    regexes: Vec<Regex>,
}

impl TextSet {
    /// A set of patterns.
    #[must_use]
    pub fn of_patterns(patterns: impl IntoIterator<Item = Pattern>) -> Self {
        let mut present = false;
        let mut keys = Vec::new();
        for pattern in patterns {
            match pattern.key() {
                Some(key) => keys.push(key),
                None => present = true,
            }
        }
        Self::of_keys(present, keys)
    }

    /// A set of what the keys cover, and of every value where `present`.
    #[must_use]
    pub fn of_keys(present: bool, keys: impl IntoIterator<Item = Key>) -> Self {
        let mut set = Self { present, patterns: keys.into_iter().collect(), ..Self::default() };
        if set.patterns.len() > FEW {
            let mut tree = Keys::default();
            set.patterns.drain(..).for_each(|key| tree.insert(&key));
            set.tree = Some(Box::new(tree));
        }
        set
    }

    /// A set of patterns as they are written.
    #[must_use]
    pub fn parse(texts: &[String]) -> Self {
        Self::of_patterns(texts.iter().map(|text| Pattern::parse(text)))
    }

    /// A set of path patterns and templates as they are written. A malformed template, which the reader of policies
    /// refuses, is a pattern here.
    #[must_use]
    pub fn of_paths(texts: &[String]) -> Self {
        let mut patterns = Vec::new();
        let mut templates = Vec::new();
        for text in texts {
            match PathTemplate::parse(text) {
                Ok(template) if PathTemplate::is_template(text) => templates.push(template),
                _ => patterns.push(Pattern::parse(text)),
            }
        }
        let mut filed = None;
        if templates.len() > FEW {
            let mut builder = Builder::default();
            for template in &templates {
                let keys = vec![Key::Prefix(template.literal_prefix().as_bytes().to_vec())];
                builder.add([Choice { dimension: (), keys }]);
            }
            filed = Some(Box::new(builder.build()));
        }
        Self { templates, filed, ..Self::of_patterns(patterns) }
    }

    /// A set of texts in which `*` stands for any run of characters, anywhere.
    #[must_use]
    pub fn of_globs(texts: &[String]) -> Self {
        let (globs, exact): (Vec<_>, Vec<_>) = texts.iter().cloned().partition(|text| text.contains('*'));
        Self { globs, ..Self::of_patterns(exact.into_iter().map(Pattern::Exact)) }
    }

    /// Adds regular expressions.
    #[must_use]
    pub fn with_regexes(mut self, regexes: Vec<Regex>) -> Self {
        self.regexes = regexes;
        self
    }

    /// Whether there is nothing in it.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        let Self { present, patterns, tree, globs, templates, filed: _, regexes } = self;
        !*present
            && patterns.is_empty()
            && tree.is_none()
            && globs.is_empty()
            && templates.is_empty()
            && regexes.is_empty()
    }

    /// Whether `*` is in it.
    #[must_use]
    pub fn has_any(&self) -> bool {
        self.present
    }

    /// Whether a value that is there is one of them. `*` wants it non-empty ([`TextSet::has_any`] for header-like
    /// values).
    #[must_use]
    pub fn contains(&self, value: &[u8]) -> bool {
        (self.present && !value.is_empty())
            || self.patterns.iter().any(|key| key.covers(value))
            || self.tree.as_ref().is_some_and(|tree| tree.contains(value))
            || self.globs.iter().any(|glob| glob_matches(glob, value))
            || self.matches_template(value)
            || self.regexes.iter().any(|regex| regex.is_match(value))
    }

    fn matches_template(&self, value: &[u8]) -> bool {
        let Some(filed) = &self.filed else {
            return self.templates.iter().any(|template| template.matches(value));
        };
        let mut found = Vec::new();
        filed.find(&mut found, |(), see| see(value));
        found.iter().any(|number| {
            let template = usize::try_from(*number).ok().and_then(|number| self.templates.get(number));
            template.is_some_and(|template| template.matches(value))
        })
    }

    /// Keys one of which covers every value that is in the set; none where there are no such keys.
    #[must_use]
    pub fn keys(&self) -> Option<Vec<Key>> {
        if self.present || !self.regexes.is_empty() {
            return None;
        }
        let mut keys = self.patterns.clone();
        keys.extend(self.tree.iter().flat_map(|tree| tree.keys()));
        for glob in &self.globs {
            let prefix = glob.split('*').next().unwrap_or_default();
            keys.push(Key::Prefix(prefix.as_bytes().to_vec()));
        }
        let heads = self.templates.iter().map(PathTemplate::literal_prefix);
        keys.extend(heads.map(|head| Key::Prefix(head.as_bytes().to_vec())));
        let files = |key: &Key| !matches!(key, Key::Prefix(text) | Key::Suffix(text) if text.is_empty());
        keys.iter().all(files).then_some(keys)
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

    #[test]
    fn a_star_of_a_glob_is_any_run() {
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
    fn many_texts_match_as_few_do() {
        let texts = ["/a", "/b*", "*.js", "/x/{*}/y", "/z/{**}", "/a*c"].map(str::to_owned);
        let more = |index: usize| [format!("/e{index}"), format!("/p{index}/*"), format!("/t{index}/{{*}}")];
        let many: Vec<String> = texts.iter().cloned().chain((0..100).flat_map(more)).collect();
        let (few, many) = (TextSet::of_paths(&texts), TextSet::of_paths(&many));
        for value in ["/a", "/ab", "/b", "/bx", "/q.js", "/x/1/y", "/x/1/2/y", "/z/", "/a*c", "/aac", "", "*"]
        {
            assert_eq!(few.contains(value.as_bytes()), many.contains(value.as_bytes()), "{value}");
        }
        for (value, expected) in
            [("/e7", true), ("/e77x", false), ("/p9/x", true), ("/t99/x", true), ("/t99/", false)]
        {
            assert_eq!(many.contains(value.as_bytes()), expected, "{value}");
        }
    }

    #[test]
    fn keys_cover_every_value_of_the_set() {
        let set =
            |texts: &[&str]| TextSet::of_paths(&texts.iter().map(|t| (*t).to_owned()).collect::<Vec<_>>());
        assert_eq!(
            set(&["/a", "*b"]).keys(),
            Some(vec![Key::Exact(b"/a".to_vec()), Key::Suffix(b"b".to_vec())])
        );
        assert_eq!(set(&["/a/{*}"]).keys(), Some(vec![Key::Prefix(b"/a/".to_vec())]));
        assert_eq!(set(&["/a", "*"]).keys(), None);
        let globs = TextSet::of_globs(&["prod-*".to_owned(), "test".to_owned()]);
        assert_eq!(globs.keys(), Some(vec![Key::Exact(b"test".to_vec()), Key::Prefix(b"prod-".to_vec())]));
        assert_eq!(TextSet::of_globs(&["*-eu".to_owned()]).keys(), None);
        let many: Vec<String> = (0..50).map(|index| format!("{index}*")).collect();
        let keys = TextSet::parse(&many).keys().unwrap();
        assert_eq!(keys.len(), 50);
        assert!(keys.contains(&Key::Prefix(b"37".to_vec())));
    }
}
