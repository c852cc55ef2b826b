//! From the parsed pattern to an automaton over bytes.

use regex_automata::hybrid::dfa::DFA;
use regex_automata::nfa::thompson::{BuildError, Builder, Transition};
use regex_automata::util::look;
use regex_automata::util::primitives::StateID;
use regex_syntax::utf8::Utf8Sequences;

use super::RegexError;
use super::class::Class;
use super::parse::{Ast, Look};

/// What the program of one pattern may take.
const PROGRAM_BYTES: usize = 512 << 10;
/// What the lazily built states of one pattern may take before they are dropped and built again.
pub(super) const CACHE_BYTES: usize = 256 << 10;

/// A part of the automaton: where it begins, and the state from which the next part continues.
struct Part {
    start: StateID,
    end: StateID,
}

pub(super) fn compile(ast: &Ast) -> Result<DFA, RegexError> {
    let too_large = |_| RegexError::new(format!("the pattern needs more than {} KiB", PROGRAM_BYTES >> 10));
    let nfa = build(ast).map_err(too_large)?;
    let config = DFA::config().cache_capacity(CACHE_BYTES).skip_cache_capacity_check(true);
    let built = DFA::builder().configure(config).build_from_nfa(nfa);
    built.map_err(|error| RegexError::new(error.to_string()))
}

fn build(ast: &Ast) -> Result<regex_automata::nfa::thompson::NFA, Box<BuildError>> {
    let mut compiler = Compiler(Builder::new());
    compiler.0.set_utf8(false);
    compiler.0.set_size_limit(Some(PROGRAM_BYTES))?;
    compiler.0.start_pattern()?;
    let start = compiler.look(Look::TextStart)?;
    let body = compiler.part(ast)?;
    let end = compiler.look(Look::TextEnd)?;
    let accept = compiler.0.add_match()?;
    compiler.0.patch(start.end, body.start)?;
    compiler.0.patch(body.end, end.start)?;
    compiler.0.patch(end.end, accept)?;
    compiler.0.finish_pattern(start.start)?;
    Ok(compiler.0.build(start.start, start.start)?)
}

struct Compiler(Builder);

type Built = Result<Part, BuildError>;

impl Compiler {
    fn part(&mut self, ast: &Ast) -> Built {
        match ast {
            Ast::Empty => self.empty(),
            Ast::Class(class) => self.class(class),
            Ast::Look(place) => self.look(*place),
            Ast::Concat(items) => self.concat(items.iter()),
            Ast::Alternate(branches) => self.alternate(branches),
            Ast::Repeat { sub, min, max, .. } => self.repeat(sub, *min, *max),
        }
    }

    fn empty(&mut self) -> Built {
        let state = self.0.add_empty()?;
        Ok(Part { start: state, end: state })
    }

    fn look(&mut self, place: Look) -> Built {
        let look = match place {
            Look::TextStart => look::Look::Start,
            Look::TextEnd => look::Look::End,
            Look::LineStart => look::Look::StartLF,
            Look::LineEnd => look::Look::EndLF,
            Look::WordBoundary => look::Look::WordAscii,
            Look::NotWordBoundary => look::Look::WordAsciiNegate,
        };
        let state = self.0.add_look(StateID::ZERO, look)?;
        Ok(Part { start: state, end: state })
    }

    fn concat<'a>(&mut self, items: impl Iterator<Item = &'a Ast>) -> Built {
        let mut whole = self.empty()?;
        for item in items {
            let part = self.part(item)?;
            self.0.patch(whole.end, part.start)?;
            whole.end = part.end;
        }
        Ok(whole)
    }

    fn alternate(&mut self, branches: &[Ast]) -> Built {
        let start = self.0.add_union(Vec::new())?;
        let end = self.0.add_empty()?;
        for branch in branches {
            let part = self.part(branch)?;
            self.0.patch(start, part.start)?;
            self.0.patch(part.end, end)?;
        }
        Ok(Part { start, end })
    }

    fn repeat(&mut self, sub: &Ast, min: u32, max: Option<u32>) -> Built {
        let times = usize::try_from(min).unwrap_or(usize::MAX);
        let mut whole = self.concat(std::iter::repeat_n(sub, times))?;
        match max {
            None => {
                let again = self.0.add_union(Vec::new())?;
                let part = self.part(sub)?;
                self.0.patch(whole.end, again)?;
                self.0.patch(again, part.start)?;
                self.0.patch(part.end, again)?;
                whole.end = again;
            }
            Some(max) => {
                let end = self.0.add_empty()?;
                for _ in min..max {
                    let choice = self.0.add_union(Vec::new())?;
                    let part = self.part(sub)?;
                    self.0.patch(whole.end, choice)?;
                    self.0.patch(choice, part.start)?;
                    self.0.patch(choice, end)?;
                    whole.end = part.end;
                }
                self.0.patch(whole.end, end)?;
                whole.end = end;
            }
        }
        Ok(whole)
    }

    /// One character: its UTF-8 bytes, one after the other.
    fn class(&mut self, class: &Class) -> Built {
        let start = self.0.add_union(Vec::new())?;
        let end = self.0.add_empty()?;
        let mut first = Vec::new();
        for (low, high) in class.clone().canonical() {
            if let (Ok(low), Ok(high)) = (u8::try_from(low), u8::try_from(high.min(127)))
                && low < 128
            {
                first.push(Transition { start: low, end: high, next: end });
            }
            if low <= 0x80 && high == 0x10_ffff {
                first.extend(self.all_but_ascii(end)?);
            } else if high >= 0x80 {
                self.range(low.max(0x80), high, start, end)?;
            }
        }
        let sparse = self.0.add_sparse(first)?;
        self.0.patch(start, sparse)?;
        Ok(Part { start, end })
    }

    /// All characters from U+0080, as loosely as RE2 reads them in this one case: overlong forms after E0 and F0,
    /// surrogates, and F4 past U+10FFFF are let through (`Compiler::Add_80_10ffff`), which keeps its programs small.
    fn all_but_ascii(&mut self, end: StateID) -> Result<Vec<Transition>, BuildError> {
        let continuation = |next| Transition { start: 0x80, end: 0xbf, next };
        let one = self.0.add_range(continuation(end))?;
        let two = self.0.add_range(continuation(one))?;
        let three = self.0.add_range(continuation(two))?;
        Ok(vec![
            Transition { start: 0xc2, end: 0xdf, next: one },
            Transition { start: 0xe0, end: 0xef, next: two },
            Transition { start: 0xf0, end: 0xf4, next: three },
        ])
    }

    fn range(&mut self, low: u32, high: u32, start: StateID, end: StateID) -> Result<(), BuildError> {
        // The ends of a range may be surrogates, which are no characters: the range then begins or ends beside them.
        let low = char::from_u32(low).unwrap_or('\u{e000}');
        let high = char::from_u32(high).unwrap_or('\u{d7ff}');
        for sequence in Utf8Sequences::new(low, high) {
            let mut next = end;
            for bytes in sequence.as_slice().iter().rev() {
                next = self.0.add_range(Transition { start: bytes.start, end: bytes.end, next })?;
            }
            self.0.patch(start, next)?;
        }
        Ok(())
    }
}
