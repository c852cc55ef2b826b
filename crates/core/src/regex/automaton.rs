//! Running a program: a deterministic automaton whose states are made as values need them.
//!
//! A state is the set of steps that the bytes so far can have led to. Its transitions are computed once and kept, so
//! that a byte costs one table look-up; when the table reaches its bound it is emptied and filled again, so that time
//! stays linear and memory bounded whatever the pattern and the value.

use std::collections::HashMap;

use super::parse::Look;
use super::program::{Program, Step, StepId};

/// What the states of one pattern may take.
pub(super) const MAX_BYTES: usize = 256 << 10;

/// No state: nothing can match any more.
const DEAD: u32 = 0;
/// In the column of the end: the value has matched.
const ACCEPT: u32 = 1;
/// A transition that was not computed yet.
const UNKNOWN: u32 = u32::MAX;
/// States from here on are sets of steps.
const FIRST: u32 = 2;

/// What stands before a place in the text, as far as [`Look`]s ask.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Before {
    /// The program has no looks: the answer is never needed.
    Nothing,
    Start,
    Word,
    Newline,
    Other,
}

/// A program with the division of bytes that it does not tell apart.
#[derive(Debug, Clone)]
pub(super) struct Automaton {
    program: Program,
    /// Column of each byte.
    columns: Vec<u8>,
    /// A byte of each column.
    samples: Vec<u8>,
    has_looks: bool,
}

/// The states made so far.
#[derive(Debug, Clone, Default)]
pub(super) struct Cache {
    ids: HashMap<Vec<StepId>, u32>,
    /// For each state: what stands before, then its steps in ascending order.
    states: Vec<(Before, Vec<StepId>)>,
    /// Row of a state, column of a byte; the last column is the end of the text.
    table: Vec<u32>,
    bytes: usize,
    /// Steps of the set being made.
    marks: Vec<bool>,
}

impl Automaton {
    pub(super) fn new(program: Program) -> Self {
        let has_looks = program.steps.iter().any(|step| matches!(step, Step::Look(..)));
        let mut borders = [false; 257];
        let mut border = |at: u16| {
            if let Some(border) = borders.get_mut(usize::from(at)) {
                *border = true;
            }
        };
        for step in &program.steps {
            if let Step::Byte { low, high, .. } = step {
                border(u16::from(*low));
                border(u16::from(*high) + 1);
            }
        }
        if has_looks {
            let asked = (0..=255_u8).filter(|byte| before(*byte) != before(byte.wrapping_sub(1)));
            asked.for_each(|byte| border(u16::from(byte)));
        }
        let mut columns = Vec::with_capacity(256);
        let mut samples: Vec<u8> = Vec::new();
        for (byte, is_border) in (0..=255_u8).zip(borders) {
            if is_border || samples.is_empty() {
                samples.push(byte);
            }
            columns.push(u8::try_from(samples.len() - 1).unwrap_or(u8::MAX));
        }
        Self { program, columns, samples, has_looks }
    }

    pub(super) fn program(&self) -> &Program {
        &self.program
    }

    /// Whether all of a value matches.
    pub(super) fn is_match(&self, cache: &mut Cache, value: &[u8]) -> bool {
        let mut state = self.start(cache);
        for byte in value {
            let column = self.columns.get(usize::from(*byte)).copied().unwrap_or_default();
            let known = cache.table.get(self.slot(state, usize::from(column))).copied().unwrap_or(UNKNOWN);
            state = if known == UNKNOWN { self.follow(cache, state, usize::from(column)) } else { known };
            if state == DEAD {
                return false;
            }
        }
        let end = self.samples.len();
        let known = cache.table.get(self.slot(state, end)).copied().unwrap_or(UNKNOWN);
        let last = if known == UNKNOWN { self.follow(cache, state, end) } else { known };
        last == ACCEPT
    }

    /// Where a transition stands in the table.
    fn slot(&self, state: u32, column: usize) -> usize {
        usize::try_from(state.wrapping_sub(FIRST))
            .unwrap_or(usize::MAX)
            .saturating_mul(self.samples.len() + 1)
            + column
    }

    fn start(&self, cache: &mut Cache) -> u32 {
        // The first state made is the first asked for.
        if !cache.states.is_empty() {
            return FIRST;
        }
        cache.marks = vec![false; self.program.steps.len()];
        self.mark(cache, self.program.start);
        self.state(cache, if self.has_looks { Before::Start } else { Before::Nothing })
    }

    /// Computes one transition and keeps it.
    fn follow(&self, cache: &mut Cache, from: u32, column: usize) -> u32 {
        let at = usize::try_from(from.wrapping_sub(FIRST)).unwrap_or(usize::MAX);
        let Some((before_it, steps)) = cache.states.get(at).cloned() else { return DEAD };
        let next = self.samples.get(column).copied();
        let steps = self.past_looks(cache, &steps, before_it, next);
        let Some(byte) = next else {
            let accepts = steps.iter().any(|step| matches!(self.step(*step), Some(Step::Match)));
            let last = if accepts { ACCEPT } else { DEAD };
            self.keep(cache, from, column, last);
            return last;
        };
        for step in steps {
            if let Some(Step::Byte { low, high, next }) = self.step(step)
                && (*low..=*high).contains(&byte)
            {
                self.mark(cache, *next);
            }
        }
        let full = cache.bytes > MAX_BYTES;
        if full {
            self.empty(cache);
        }
        let to = self.state(cache, if self.has_looks { before(byte) } else { Before::Nothing });
        if !full {
            self.keep(cache, from, column, to);
        }
        to
    }

    /// Forgets all states but the first.
    fn empty(&self, cache: &mut Cache) {
        let marks = std::mem::take(&mut cache.marks);
        *cache = Cache::default();
        self.start(cache);
        cache.marks = marks;
    }

    fn keep(&self, cache: &mut Cache, from: u32, column: usize, to: u32) {
        if let Some(slot) = cache.table.get_mut(self.slot(from, column)) {
            *slot = to;
        }
    }

    /// The steps of a state and those behind looks that hold between what is before and what comes next.
    fn past_looks(
        &self,
        cache: &mut Cache,
        steps: &[StepId],
        before: Before,
        next: Option<u8>,
    ) -> Vec<StepId> {
        if !self.has_looks {
            return steps.to_vec();
        }
        for step in steps {
            if let Some(mark) = usize::try_from(*step).ok().and_then(|at| cache.marks.get_mut(at)) {
                *mark = true;
            }
        }
        // Behind a look there may be another one: until nothing new is reached.
        loop {
            let reached = self.program.steps.iter().zip(&cache.marks).filter_map(|(step, mark)| match step {
                Step::Look(look, behind) if *mark && holds(*look, before, next) => Some(*behind),
                _ => None,
            });
            let is_new = |step: &StepId| {
                usize::try_from(*step).ok().and_then(|at| cache.marks.get(at)).is_some_and(|mark| !mark)
            };
            let new: Vec<StepId> = reached.filter(is_new).collect();
            if new.is_empty() {
                return take_marked(cache);
            }
            new.into_iter().for_each(|step| self.mark(cache, step));
        }
    }

    fn step(&self, id: StepId) -> Option<&Step> {
        self.program.steps.get(usize::try_from(id).ok()?)
    }

    /// Marks a step and all that it splits into.
    fn mark(&self, cache: &mut Cache, step: StepId) {
        let mut open = vec![step];
        while let Some(step) = open.pop() {
            let Some(mark) = usize::try_from(step).ok().and_then(|at| cache.marks.get_mut(at)) else {
                continue;
            };
            if std::mem::replace(mark, true) {
                continue;
            }
            if let Some(Step::Split(ways)) = self.step(step) {
                open.extend(ways);
            }
        }
    }

    /// The state of the marked steps.
    fn state(&self, cache: &mut Cache, before: Before) -> u32 {
        let mut steps = take_marked(cache);
        steps.retain(|step| !matches!(self.step(*step), Some(Step::Split(_))));
        if steps.is_empty() {
            return DEAD;
        }
        let mut key = steps.clone();
        key.push(before as StepId);
        if let Some(known) = cache.ids.get(&key) {
            return *known;
        }
        let id = u32::try_from(cache.states.len()).unwrap_or(u32::MAX - FIRST).saturating_add(FIRST);
        cache.bytes += steps.len() * 8 + (self.samples.len() + 1) * 4 + 128;
        cache.states.push((before, steps));
        cache.table.extend(std::iter::repeat_n(UNKNOWN, self.samples.len() + 1));
        cache.ids.insert(key, id);
        id
    }
}

impl Cache {
    /// About what the states take.
    #[cfg(test)]
    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }
}

/// The marked steps in ascending order; the marks are taken away.
fn take_marked(cache: &mut Cache) -> Vec<StepId> {
    let mut steps = Vec::new();
    for (step, mark) in (0..).zip(&mut cache.marks) {
        if std::mem::take(mark) {
            steps.push(step);
        }
    }
    steps
}

pub(super) fn before(byte: u8) -> Before {
    match byte {
        b'\n' => Before::Newline,
        b'0'..=b'9' | b'A'..=b'Z' | b'a'..=b'z' | b'_' => Before::Word,
        _ => Before::Other,
    }
}

pub(super) fn holds(look: Look, behind: Before, next: Option<u8>) -> bool {
    let ahead = next.map(before);
    let is_boundary = (behind == Before::Word) != (ahead == Some(Before::Word));
    match look {
        Look::TextStart => behind == Before::Start,
        Look::TextEnd => ahead.is_none(),
        Look::LineStart => matches!(behind, Before::Start | Before::Newline),
        Look::LineEnd => matches!(ahead, None | Some(Before::Newline)),
        Look::WordBoundary => is_boundary,
        Look::NotWordBoundary => !is_boundary,
    }
}
