//! What a pattern says about the beginning of every value that matches it.

use super::program::{Program, Step, StepId};
use crate::index::Key;

/// How many texts a pattern may be filed under.
const MOST: usize = 8;
/// How many bytes may follow a text for it to be told apart by them: both cases of a letter, the branches of a choice;
/// not the digits.
const WIDEST: usize = 4;
/// How long a text gets.
const LONGEST: usize = 64;

/// A text, and the steps that it leads to.
struct Branch {
    text: Vec<u8>,
    steps: Vec<StepId>,
}

/// Texts that cover every matching value: it is one of them, or begins with one. Looks are taken to hold, which can only
/// cover more. Nothing where the pattern matches nothing.
pub(super) fn keys(program: &Program) -> Vec<Key> {
    let mut done: Vec<Key> = Vec::new();
    let mut open = vec![Branch { text: Vec::new(), steps: closure(program, [program.start]) }];
    // Shortest first, so that no branch grows long at the cost of another.
    while let Some(at) = (0..open.len()).min_by_key(|at| open.get(*at).map(|branch| branch.text.len())) {
        let branch = open.swap_remove(at);
        let matches = branch.steps.iter().any(|step| matches!(get(program, *step), Some(Step::Match)));
        let bytes = if matches { Bytes::Many } else { next_bytes(program, &branch.steps) };
        let room = MOST.saturating_sub(open.len() + done.len());
        match bytes {
            Bytes::Few(bytes) if bytes.len() <= room && branch.text.len() < LONGEST => {
                open.extend(bytes.into_iter().map(|byte| follow(program, &branch, byte)));
            }
            _ if matches && next_bytes(program, &branch.steps).is_empty() => {
                done.push(Key::Exact(branch.text));
            }
            _ => done.push(Key::Prefix(branch.text)),
        }
    }
    done
}

enum Bytes {
    /// These, ascending.
    Few(Vec<u8>),
    Many,
}

impl Bytes {
    fn is_empty(&self) -> bool {
        matches!(self, Self::Few(bytes) if bytes.is_empty())
    }
}

/// The bytes that some step takes.
fn next_bytes(program: &Program, steps: &[StepId]) -> Bytes {
    let takes = |step: &StepId, byte: u8| matches!(get(program, *step), Some(Step::Byte { low, high, .. }) if (*low..=*high).contains(&byte));
    let mut bytes = (0..=u8::MAX).filter(|byte| steps.iter().any(|step| takes(step, *byte)));
    let few: Vec<u8> = bytes.by_ref().take(WIDEST).collect();
    if bytes.next().is_some() { Bytes::Many } else { Bytes::Few(few) }
}

fn follow(program: &Program, branch: &Branch, byte: u8) -> Branch {
    let next = branch.steps.iter().filter_map(|step| match get(program, *step) {
        Some(Step::Byte { low, high, next }) if (*low..=*high).contains(&byte) => Some(*next),
        _ => None,
    });
    let mut text = branch.text.clone();
    text.push(byte);
    Branch { text, steps: closure(program, next) }
}

/// The steps that take a byte or end, reached from these without taking one.
fn closure(program: &Program, from: impl IntoIterator<Item = StepId>) -> Vec<StepId> {
    let mut open: Vec<StepId> = from.into_iter().collect();
    let mut seen = vec![false; program.steps.len()];
    let mut reached = Vec::new();
    while let Some(id) = open.pop() {
        let Some(seen) = usize::try_from(id).ok().and_then(|at| seen.get_mut(at)) else { continue };
        if std::mem::replace(seen, true) {
            continue;
        }
        match get(program, id) {
            Some(Step::Split(ways)) => open.extend(ways),
            Some(Step::Look(_, next)) => open.push(*next),
            _ => reached.push(id),
        }
    }
    reached
}

fn get(program: &Program, id: StepId) -> Option<&Step> {
    program.steps.get(usize::try_from(id).ok()?)
}

#[cfg(test)]
mod tests {
    use crate::index::Key;
    use crate::regex::Regex;
    #[cfg(target_family = "wasm")]
    use wasm_bindgen_test::wasm_bindgen_test as test;

    fn keys(pattern: &str) -> Vec<String> {
        let show = |key: Key| match key {
            Key::Exact(text) => String::from_utf8(text).unwrap(),
            Key::Prefix(text) => format!("{}…", String::from_utf8(text).unwrap()),
            Key::Suffix(text) => format!("…{}", String::from_utf8(text).unwrap()),
        };
        let mut shown: Vec<String> = Regex::new(pattern).unwrap().keys().into_iter().map(show).collect();
        shown.sort();
        shown
    }

    #[test]
    fn a_pattern_is_filed_under_how_its_values_begin() {
        for (pattern, expected) in [
            ("/api/v[0-9]+/users", &["/api/v…"][..]),
            ("^/api/.*$", &["/api/…"]),
            ("/a", &["/a"]),
            ("/a(/.*)?", &["/a…"]),
            ("/(users|orders)/x", &["/orders/x", "/users/x"]),
            ("/(users|orders)/.*", &["/orders/…", "/users/…"]),
            (".*Chrome.*", &["…"]),
            ("(?i)/ab.*", &["/AB…", "/Ab…", "/aB…", "/ab…"]),
            ("(?i)/abcdefghij.*", &["/ABC…", "/ABc…", "/AbC…", "/Abc…", "/aBC…", "/aBc…", "/abC…", "/abc…"]),
            ("", &[""]),
            ("a|", &["…"]),
            (r"\bab\b.*", &["ab…"]),
            ("[^a]", &["…"]),
            ("[ab]x|cy", &["ax", "bx", "cy"]),
            (r"\xff.*", &[]),
        ] {
            if pattern == r"\xff.*" {
                assert_eq!(Regex::new(pattern).unwrap().keys(), [Key::Prefix(vec![0xff])]);
            } else {
                assert_eq!(keys(pattern), expected, "{pattern}");
            }
        }
    }

    #[test]
    fn long_texts_and_wide_choices_are_cut() {
        assert_eq!(keys(&"a".repeat(1000)), [format!("{}…", "a".repeat(64))]);
        assert_eq!(keys("x[a-h][a-h][a-h]"), ["x…"]);
        assert!(keys("(a|b|c|d)(a|b|c|d)(a|b|c|d)").len() <= 8);
    }

    /// Whatever matches is covered: random patterns on random values of two letters.
    #[test]
    fn every_matching_value_is_covered() {
        let mut seed: u64 = 7;
        let mut below = |limit: u64| {
            seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (seed >> 33) % limit
        };
        let parts =
            ["a", "b", "ab", "(a|b)", "a*", "b?", "(ab)+", ".", "^", "$", r"\b", "(a|bb|)", "[ab]", "(?i:A)"];
        let mut matched = 0;
        for _ in 0..2000 {
            let pattern: String =
                (0..=below(5)).map(|_| parts[usize::try_from(below(parts.len() as u64)).unwrap()]).collect();
            let regex = Regex::new(&pattern).unwrap();
            let keys = regex.keys();
            for _ in 0..20 {
                let value: Vec<u8> = (0..below(7)).map(|_| if below(2) == 0 { b'a' } else { b'b' }).collect();
                if regex.is_match(&value) {
                    matched += 1;
                    let covered = keys.iter().any(|key| match key {
                        Key::Exact(text) => value == *text,
                        Key::Prefix(text) => value.starts_with(text),
                        Key::Suffix(text) => value.ends_with(text),
                    });
                    assert!(covered, "{pattern} on {value:?}: {keys:?}");
                }
            }
        }
        assert!(matched > 500, "{matched}");
    }
}
