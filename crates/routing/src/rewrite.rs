//! Rewriting of paths, as Envoy's router does it.

use sailcloth_core::regex::Substitution;
use sailcloth_core::request::Request;

use crate::condition::PathCondition;

/// A change of the path.
#[derive(Debug)]
pub(crate) enum PathChange {
    /// In place of what matched.
    Matched(String),
    /// Wherever a pattern matches.
    Regex(Box<Substitution>),
}

impl PathChange {
    /// The new path with the old query.
    pub(crate) fn apply(&self, request: &Request<'_>, matched: &PathCondition) -> Option<Vec<u8>> {
        let target = request.target();
        match self {
            Self::Matched(text) => replace_matched(target, matched, text),
            Self::Regex(substitution) => {
                let path = request.path();
                let query = target.get(path.len()..).unwrap_or_default();
                let mut new = substitution.replace_all(path);
                new.extend_from_slice(query);
                Some(new)
            }
        }
    }
}

/// The target with `text` in place of the prefix that matched, or of the whole path where it matched otherwise.
pub(crate) fn replace_matched(target: &[u8], matched: &PathCondition, text: &str) -> Option<Vec<u8>> {
    let length = match matched {
        PathCondition::Prefix(prefix) | PathCondition::PrefixAnyCase(prefix) => prefix.len(),
        _ => target.iter().position(|byte| matches!(byte, b'?' | b'#')).unwrap_or(target.len()),
    };
    Some([text.as_bytes(), target.get(length..)?].concat())
}
