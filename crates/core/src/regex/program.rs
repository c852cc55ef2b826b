//! From the parsed pattern to a nondeterministic automaton over bytes (Thompson's construction).
//!
//! It is built from its end: each part is told where to go on, so nothing has to be patched but loops.

use super::RegexError;
use super::class::Class;
use super::parse::{Ast, Look};

/// How many steps the program of one pattern may have; a step is 12 bytes.
const MAX_STEPS: usize = 10_000;

/// Number of a step.
pub(super) type StepId = u32;

/// A step of the program.
#[derive(Debug, Clone)]
pub(super) enum Step {
    /// Takes one byte of a range.
    Byte { low: u8, high: u8, next: StepId },
    /// Goes on at all of these, without taking a byte.
    Split(Vec<StepId>),
    /// Goes on if the place is right.
    Look(Look, StepId),
    /// The pattern has matched.
    Match,
}

/// A compiled pattern.
#[derive(Debug, Clone)]
pub(super) struct Program {
    pub(super) steps: Vec<Step>,
    pub(super) start: StepId,
}

pub(super) fn compile(ast: &Ast) -> Result<Program, RegexError> {
    let mut compiler = Compiler { steps: Vec::new() };
    let end = compiler.step(Step::Match)?;
    let start = compiler.part(ast, end)?;
    Ok(Program { steps: compiler.steps, start })
}

struct Compiler {
    steps: Vec<Step>,
}

impl Compiler {
    fn step(&mut self, step: Step) -> Result<StepId, RegexError> {
        let id = self.steps.len();
        if id >= MAX_STEPS {
            return Err(RegexError::new(format!("the pattern needs more than {MAX_STEPS} steps")));
        }
        self.steps.push(step);
        Ok(StepId::try_from(id).unwrap_or(StepId::MAX))
    }

    /// Adds a part that goes on at `next`; returns where it begins.
    fn part(&mut self, ast: &Ast, next: StepId) -> Result<StepId, RegexError> {
        match ast {
            Ast::Empty => Ok(next),
            Ast::Class(class) => self.class(class, next),
            Ast::Look(look) => self.step(Step::Look(*look, next)),
            Ast::Concat(items) => items.iter().rev().try_fold(next, |next, item| self.part(item, next)),
            Ast::Alternate(branches) => {
                let starts =
                    branches.iter().map(|branch| self.part(branch, next)).collect::<Result<_, _>>()?;
                self.step(Step::Split(starts))
            }
            Ast::Repeat { sub, min, max, .. } => self.repeat(sub, *min, *max, next),
        }
    }

    fn repeat(&mut self, sub: &Ast, min: u32, max: Option<u32>, next: StepId) -> Result<StepId, RegexError> {
        let mut start = next;
        match max {
            None => {
                start = self.step(Step::Split(Vec::new()))?;
                let body = self.part(sub, start)?;
                if let Some(Step::Split(ways)) =
                    usize::try_from(start).ok().and_then(|at| self.steps.get_mut(at))
                {
                    ways.extend([body, next]);
                }
            }
            Some(max) => {
                for _ in min..max {
                    let body = self.part(sub, start)?;
                    start = self.step(Step::Split(vec![body, next]))?;
                }
            }
        }
        for _ in 0..min {
            start = self.part(sub, start)?;
        }
        Ok(start)
    }

    /// One character: its UTF-8 bytes, one after the other.
    fn class(&mut self, class: &Class, next: StepId) -> Result<StepId, RegexError> {
        let mut ways = Vec::new();
        for (low, high) in class.clone().canonical() {
            self.range(low, high, next, &mut ways)?;
        }
        match ways.as_slice() {
            [only] => Ok(*only),
            _ => self.step(Step::Split(ways)),
        }
    }

    /// A range of characters as sequences of byte ranges, divided as RE2 does (`Compiler::AddRuneRangeUTF8`).
    fn range(&mut self, low: u32, high: u32, next: StepId, ways: &mut Vec<StepId>) -> Result<(), RegexError> {
        if low == 0x80 && high == 0x10_ffff {
            return self.all_but_ascii(next, ways);
        }
        if let Some(end) = last_of_first_part(low, high) {
            self.range(low, end, next, ways)?;
            return self.range(end + 1, high, next, ways);
        }
        let (low, high) = (encode(low), encode(high));
        let mut start = next;
        for (low, high) in low.iter().zip(&high).rev() {
            start = self.step(Step::Byte { low: *low, high: *high, next: start })?;
        }
        ways.push(start);
        Ok(())
    }

    /// All characters from U+0080, as loosely as RE2 reads them in this one case: overlong forms after E0 and F0,
    /// surrogates, and F4 past U+10FFFF are let through (`Compiler::Add_80_10ffff`), which keeps programs small.
    fn all_but_ascii(&mut self, next: StepId, ways: &mut Vec<StepId>) -> Result<(), RegexError> {
        let mut next = next;
        for (low, high) in [(0xc2, 0xdf), (0xe0, 0xef), (0xf0, 0xf4)] {
            next = self.step(Step::Byte { low: 0x80, high: 0xbf, next })?;
            ways.push(self.step(Step::Byte { low, high, next })?);
        }
        Ok(())
    }
}

/// Where a range has to be divided so that each part is one sequence of byte ranges; none if it already is.
fn last_of_first_part(low: u32, high: u32) -> Option<u32> {
    // Encodings of different lengths.
    let length = [0x7f, 0x7ff, 0xffff].into_iter().find(|max| low <= *max && high > *max);
    if length.is_some() || high < 0x80 {
        return length;
    }
    // Below a leading byte that differs, the continuation bytes must be free.
    for bits in [6, 12, 18] {
        let mask = (1_u32 << bits) - 1;
        if low & !mask != high & !mask {
            if low & mask != 0 {
                return Some(low | mask);
            }
            if high & mask != mask {
                return Some((high & !mask) - 1);
            }
        }
    }
    None
}

/// UTF-8 of any number up to U+10FFFF, surrogates included, which RE2 does not leave out.
fn encode(letter: u32) -> Vec<u8> {
    let low = |shift: u32| u8::try_from((letter >> shift) & 0x3f).unwrap_or_default() | 0x80;
    let lead = |shift: u32, mark: u8| u8::try_from(letter >> shift).unwrap_or_default() | mark;
    match letter {
        0..=0x7f => vec![lead(0, 0)],
        0x80..=0x7ff => vec![lead(6, 0xc0), low(0)],
        0x800..=0xffff => vec![lead(12, 0xe0), low(6), low(0)],
        _ => vec![lead(18, 0xf0), low(12), low(6), low(0)],
    }
}
