//! Replacing what a pattern matches, as RE2's `GlobalReplace` does it: Envoy's `regex_rewrite`.
//!
//! Of the places where the pattern matches the leftmost counts, and of the matches there the one that a backtracking
//! matcher would find first. All ways are followed at once (Pike's algorithm), so time is linear in the value.

use super::automaton::{Before, before, holds};
use super::program::{self, Program, Step, StepId};
use super::{MAX_PATTERN, RegexError, parse};

/// A substitution names groups 0 to 9.
const SLOTS: usize = 20;
/// A slot that no place was noted in.
const UNSET: usize = usize::MAX;

type Slots = [usize; SLOTS];

/// A pattern with what takes the place of its matches.
#[derive(Debug, Clone)]
pub struct Substitution {
    program: Program,
    parts: Vec<Part>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Part {
    Text(Vec<u8>),
    Group(usize),
}

impl Substitution {
    /// Compiles a pattern, which matches anywhere in a value, and its replacement, in which `\1` is the first group,
    /// `\0` all that matched and `\\` a backslash.
    ///
    /// # Errors
    /// As [`super::Regex::new`]; and when the replacement names a group that the pattern does not have, which RE2 would
    /// answer by replacing nothing.
    pub fn new(pattern: &str, replacement: &str) -> Result<Self, RegexError> {
        if pattern.len() > MAX_PATTERN {
            return Err(RegexError::new(format!("the pattern is longer than {MAX_PATTERN} bytes")));
        }
        let parsed = parse::parse(pattern)?;
        let program = program::compile(&parsed.ast, true)?;
        Ok(Self { program, parts: parts(replacement, parsed.groups)? })
    }

    /// The value with every match replaced.
    #[must_use]
    pub fn replace_all(&self, value: &[u8]) -> Vec<u8> {
        let mut out = Vec::with_capacity(value.len());
        let mut at = 0;
        let mut last_end = UNSET;
        while let Some(slots) = self.find(value, at) {
            let [start, end, ..] = slots;
            out.extend_from_slice(value.get(at..start).unwrap_or_default());
            if start == end && end == last_end {
                // An empty match where the last one ended is none: one byte further.
                out.extend(value.get(start));
                at = start + 1;
            } else {
                self.write(value, &slots, &mut out);
                (at, last_end) = (end, end);
            }
            if at > value.len() {
                return out;
            }
        }
        out.extend_from_slice(value.get(at..).unwrap_or_default());
        out
    }

    fn write(&self, value: &[u8], slots: &Slots, out: &mut Vec<u8>) {
        for part in &self.parts {
            match part {
                Part::Text(text) => out.extend_from_slice(text),
                Part::Group(group) => {
                    let place = |slot| slots.get(slot).copied().unwrap_or(UNSET);
                    let range = place(group * 2)..place(group * 2 + 1);
                    out.extend_from_slice(value.get(range).unwrap_or_default());
                }
            }
        }
    }

    /// The first match at or behind a place.
    fn find(&self, value: &[u8], from: usize) -> Option<Slots> {
        let mut here = Threads::new(self.program.steps.len());
        let mut next = Threads::new(self.program.steps.len());
        let mut found = None;
        for at in from..=value.len() {
            if found.is_none() {
                let mut slots = [UNSET; SLOTS];
                slots[0] = at;
                self.add(&mut here, self.program.start, slots, value, at);
            }
            if here.list.is_empty() && found.is_some() {
                break;
            }
            for (step, mut slots) in here.list.drain(..) {
                match self.step(step) {
                    Some(Step::Byte { low, high, next: to })
                        if value.get(at).is_some_and(|byte| (*low..=*high).contains(byte)) =>
                    {
                        self.add(&mut next, *to, slots, value, at + 1);
                    }
                    Some(Step::Match) => {
                        slots[1] = at;
                        found = Some(slots);
                        // What comes later was tried later.
                        break;
                    }
                    _ => {}
                }
            }
            here.clear();
            std::mem::swap(&mut here, &mut next);
        }
        found
    }

    /// Adds a step, or what it leads to without taking a byte, first ways first.
    fn add(&self, threads: &mut Threads, step: StepId, slots: Slots, value: &[u8], at: usize) {
        let mut open = vec![(step, slots)];
        while let Some((id, mut slots)) = open.pop() {
            let Some(mark) = usize::try_from(id).ok().and_then(|id| threads.marks.get_mut(id)) else {
                continue;
            };
            if std::mem::replace(mark, true) {
                continue;
            }
            match self.step(id) {
                Some(Step::Split(ways)) => open.extend(ways.iter().rev().map(|way| (*way, slots))),
                Some(Step::Look(look, to)) => {
                    let behind = match at.checked_sub(1).and_then(|last| value.get(last)) {
                        Some(byte) => before(*byte),
                        None => Before::Start,
                    };
                    if holds(*look, behind, value.get(at).copied()) {
                        open.push((*to, slots));
                    }
                }
                Some(Step::Save(slot, to)) => {
                    if let Some(slot) = slots.get_mut(*slot) {
                        *slot = at;
                    }
                    open.push((*to, slots));
                }
                Some(Step::Byte { .. } | Step::Match) => threads.list.push((id, slots)),
                None => {}
            }
        }
    }

    fn step(&self, id: StepId) -> Option<&Step> {
        self.program.steps.get(usize::try_from(id).ok()?)
    }
}

/// The ways that are followed, the preferred first.
struct Threads {
    list: Vec<(StepId, Slots)>,
    marks: Vec<bool>,
}

impl Threads {
    fn new(steps: usize) -> Self {
        Self { list: Vec::new(), marks: vec![false; steps] }
    }

    fn clear(&mut self) {
        self.list.clear();
        self.marks.fill(false);
    }
}

fn parts(replacement: &str, groups: usize) -> Result<Vec<Part>, RegexError> {
    let mut parts = Vec::new();
    let mut text = Vec::new();
    let mut bytes = replacement.bytes();
    while let Some(byte) = bytes.next() {
        if byte != b'\\' {
            text.push(byte);
            continue;
        }
        match bytes.next() {
            Some(b'\\') => text.push(b'\\'),
            Some(digit @ b'0'..=b'9') => {
                let group = usize::from(digit - b'0');
                if group > groups {
                    return Err(RegexError::new(format!(
                        "`{replacement}` names group {group}, and the pattern has {groups}"
                    )));
                }
                parts.push(Part::Text(std::mem::take(&mut text)));
                parts.push(Part::Group(group));
            }
            _ => {
                return Err(RegexError::new(format!(
                    "`{replacement}` has a `\\` that is followed by neither a digit nor `\\`"
                )));
            }
        }
    }
    parts.push(Part::Text(text));
    Ok(parts)
}

#[cfg(test)]
mod tests {
    use super::*;
    #[cfg(target_family = "wasm")]
    use wasm_bindgen_test::wasm_bindgen_test as test;

    fn replace(pattern: &str, replacement: &str, value: &str) -> String {
        let substitution = Substitution::new(pattern, replacement).unwrap();
        String::from_utf8(substitution.replace_all(value.as_bytes())).unwrap()
    }

    #[test]
    fn matches_are_replaced_as_re2_replaces_them() {
        for (pattern, replacement, value, expected) in [
            ("^/service/([^/]+)(/.*)$", r"\2/instance/\1", "/service/foo/v1/api", "/v1/api/instance/foo"),
            ("one", "two", "/xxx/one/yyy/one/zzz", "/xxx/two/yyy/two/zzz"),
            ("^(.*?)one(.*)$", r"\1two\2", "/xxx/one/yyy/one/zzz", "/xxx/two/yyy/one/zzz"),
            ("(?i)/xxx/", "/yyy/", "/aaa/XxX/bbb", "/aaa/yyy/bbb"),
            ("/.*", "/replaced", "/a/b/c", "/replaced"),
            ("/prefix(/?)(.*)", r"/\2", "/prefix/x", "/x"),
            ("a|ab", "<\\0>", "ab", "<a>b"),
            ("ab|a", "<\\0>", "ab", "<ab>"),
            ("(?U)a+", "-", "aaa", "---"),
            ("a+?", "-", "aaa", "---"),
            ("a*", "-", "baac", "-b-c-"),
            ("", "-", "ab", "-a-b-"),
            ("$", "!", "ab", "ab!"),
            ("(a)|(b)", r"[\1\2]", "ab", "[a][b]"),
            (r"\bx", "y", "x ax x", "y ax y"),
            ("x", r"\\", "axb", r"a\b"),
            ("(?P<n>[0-9]+)", r"<\1>", "/v12/3", "/v<12>/<3>"),
            ("(?:a)(b)", r"\1", "ab", "b"),
            ("z", "-", "abc", "abc"),
            ("(a*)+b", r"\1", "aab", "aa"),
        ] {
            assert_eq!(
                replace(pattern, replacement, value),
                expected,
                "{pattern} -> {replacement} on {value}"
            );
        }
    }

    #[test]
    fn what_replaces_nothing_is_refused() {
        for (pattern, replacement) in [("a", r"\1"), ("(a)", r"\2"), ("a", r"\x"), ("a", "\\"), ("(", "a")] {
            assert!(Substitution::new(pattern, replacement).is_err(), "{pattern} -> {replacement}");
        }
    }

    #[test]
    fn a_pattern_that_would_backtrack_for_ever_is_linear() {
        let value = "a".repeat(5000);
        assert_eq!(replace("(a*)*b", "-", &value), value);
    }
}
