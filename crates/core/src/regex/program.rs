//! From the parsed pattern to a nondeterministic automaton over bytes (Thompson's construction).
//!
//! It is built from its end: each part is told where to go on, so nothing has to be patched but loops.

use super::RegexError;
use super::class::Class;
use super::parse::{Ast, Look};

/// How many steps the program of one pattern may have; a step takes 16 bytes in wasm.
const MAX_STEPS: usize = 16_384;

/// Number of a step.
pub(super) type StepId = u32;

/// A step of the program.
#[derive(Debug, Clone)]
pub(super) enum Step {
    /// Takes one byte of a range.
    Byte { low: u8, high: u8, next: StepId },
    /// Goes on at all of these, without taking a byte; the first is tried first.
    Split(Vec<StepId>),
    /// Goes on if the place is right.
    Look(Look, StepId),
    /// Notes the place in a slot; in programs with groups only.
    Save(usize, StepId),
    /// The pattern has matched.
    Match,
}

/// A compiled pattern.
#[derive(Debug, Clone)]
pub(super) struct Program {
    pub(super) steps: Vec<Step>,
    pub(super) start: StepId,
}

/// `with_groups` keeps the places of groups: slots `2n` and `2n + 1` of group `n`.
pub(super) fn compile(ast: &Ast, with_groups: bool) -> Result<Program, RegexError> {
    let mut compiler = Compiler { steps: Vec::new(), with_groups };
    let end = compiler.step(Step::Match)?;
    let start = compiler.part(ast, end)?;
    Ok(Program { steps: compiler.steps, start })
}

struct Compiler {
    steps: Vec<Step>,
    with_groups: bool,
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
            Ast::Repeat { sub, min, max, lazy, .. } => self.repeat(sub, *min, *max, *lazy, next),
            Ast::Group { sub, number } if self.with_groups => {
                let end = self.step(Step::Save(number * 2 + 1, next))?;
                let body = self.part(sub, end)?;
                self.step(Step::Save(number * 2, body))
            }
            Ast::Group { sub, .. } => self.part(sub, next),
        }
    }

    fn repeat(
        &mut self,
        sub: &Ast,
        min: u32,
        max: Option<u32>,
        lazy: bool,
        next: StepId,
    ) -> Result<StepId, RegexError> {
        // Which way is tried first: once more, or on.
        let ways = |body: StepId| if lazy { [next, body] } else { [body, next] };
        let mut start = next;
        match max {
            None => {
                start = self.step(Step::Split(Vec::new()))?;
                let body = self.part(sub, start)?;
                if let Some(Step::Split(open)) =
                    usize::try_from(start).ok().and_then(|at| self.steps.get_mut(at))
                {
                    open.extend(ways(body));
                }
            }
            Some(max) => {
                for _ in min..max {
                    let body = self.part(sub, start)?;
                    start = self.step(Step::Split(ways(body).to_vec()))?;
                }
            }
        }
        for _ in 0..min {
            start = self.part(sub, start)?;
        }
        Ok(start)
    }

    /// One character: a byte of one of the ranges.
    fn class(&mut self, class: &Class, next: StepId) -> Result<StepId, RegexError> {
        let byte = |number| u8::try_from(number).unwrap_or(u8::MAX);
        let ranges = class.clone().canonical().into_iter();
        let mut ways = ranges
            .map(|(low, high)| self.step(Step::Byte { low: byte(low), high: byte(high), next }))
            .collect::<Result<Vec<_>, _>>()?;
        match (ways.pop(), ways.is_empty()) {
            (Some(only), true) => Ok(only),
            (last, _) => {
                ways.extend(last);
                self.step(Step::Split(ways))
            }
        }
    }
}
