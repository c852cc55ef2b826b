//! One rule, ready to be tried.

use sailcloth_core::index::Choice;
use sailcloth_resources::authorization_policy::Rule;

use crate::caller::{Caller, Truth, Unknown};
use crate::check::Check;
use crate::subject::Subject;

/// A rule: some alternative of `from`, some of `to`, and every one of `when` must hold.
#[derive(Debug)]
pub(crate) struct CompiledRule {
    /// Number in the engine, for tables of counters.
    pub(crate) id: usize,
    /// Number of its policy in the engine.
    pub(crate) policy: usize,
    /// Its index in the policy.
    pub(crate) index: u32,
    from: Option<Alternatives>,
    to: Option<Alternatives>,
    when: Vec<Vec<Check>>,
}

/// One of them must hold, which is: all of its conditions.
type Alternatives = Vec<Vec<Check>>;

/// A condition that does not hold, by its place in the rule.
pub(crate) struct Failure<'r> {
    /// `from`, `to` or `when`.
    pub(crate) part: &'static str,
    /// Which of its entries.
    pub(crate) entry: usize,
    pub(crate) check: &'r Check,
    /// Why it cannot be known; none where it is known not to hold.
    pub(crate) unknown: Option<Unknown>,
}

impl Failure<'_> {
    /// As a person finds it in the policy: `from[0].principals`, `when[1].request.headers[x-a]`.
    pub(crate) fn place(&self) -> String {
        let Self { part, entry, check, .. } = self;
        let place = match *part {
            "when" => format!("when[{entry}].{}", check.subject),
            part => format!("{part}[{entry}].{}", check.field),
        };
        // It becomes a word of log lines and of response code details.
        place.replace(|letter: char| letter.is_whitespace() || letter.is_control() || letter == ')', "_")
    }
}

impl CompiledRule {
    pub(crate) fn new(rule: &Rule, trust_domains: &[String], id: usize, policy: usize, index: u32) -> Self {
        let sources =
            |list: &Vec<_>| list.iter().map(|source| Check::of_source(source, trust_domains)).collect();
        let operations = |list: &Vec<_>| list.iter().map(Check::of_operation).collect();
        Self {
            id,
            policy,
            index,
            from: rule.from.as_ref().map(sources),
            to: rule.to.as_ref().map(operations),
            when: rule.when.iter().map(|when| Check::of_when(when, trust_domains)).collect(),
        }
    }

    pub(crate) fn matches(&self, caller: &Caller<'_>) -> Truth {
        // `to` first: it costs no hostcall but for ports.
        let mut doubt = None;
        let parts = [&self.to, &self.from].into_iter().flatten().map(|part| any(part, caller));
        for truth in parts.chain(self.when.iter().map(|checks| all(checks, caller))) {
            match truth {
                Ok(true) => {}
                Ok(false) => return Ok(false),
                Err(unknown) => doubt = doubt.or(Some(unknown)),
            }
        }
        doubt.map_or(Ok(true), Err)
    }

    /// The ways in which it can be filed, the cheapest to look up first.
    pub(crate) fn choices(&self) -> Vec<Choice<Subject>> {
        let mut choices: Vec<Choice<Subject>> = Vec::new();
        let mut add = |choice: Choice<Subject>| {
            let cost = choice.dimension.cost();
            let place = choices.iter().take_while(|known| known.dimension.cost() <= cost).count();
            choices.insert(place, choice);
        };
        for part in [&self.to, &self.from].into_iter().flatten() {
            common_choices(part).into_iter().for_each(&mut add);
        }
        self.when.iter().flatten().filter_map(Check::choice).for_each(add);
        choices
    }

    /// Every condition that does not hold; of alternatives those of each one, where none holds.
    pub(crate) fn failures<'r>(&'r self, caller: &Caller<'_>, see: &mut dyn FnMut(Failure<'r>)) {
        for (part, alternatives) in [("to", &self.to), ("from", &self.from)] {
            let Some(alternatives) = alternatives else { continue };
            if any(alternatives, caller) == Ok(true) {
                continue;
            }
            for (entry, checks) in alternatives.iter().enumerate() {
                failing(checks, part, entry, caller, see);
            }
        }
        for (entry, checks) in self.when.iter().enumerate() {
            failing(checks, "when", entry, caller, see);
        }
    }

    /// Which of its three parts is the first that fails, in the order in which they are tried: a rule that fails later
    /// came nearer.
    pub(crate) fn progress(&self, caller: &Caller<'_>) -> usize {
        let part =
            |part: &Option<Alternatives>| part.as_ref().is_none_or(|part| any(part, caller) == Ok(true));
        match (part(&self.to), part(&self.from)) {
            (false, _) => 0,
            (true, false) => 1,
            (true, true) => 2,
        }
    }
}

fn failing<'r>(
    checks: &'r [Check],
    part: &'static str,
    entry: usize,
    caller: &Caller<'_>,
    see: &mut dyn FnMut(Failure<'r>),
) {
    for check in checks {
        match check.holds(caller) {
            Ok(true) => {}
            Ok(false) => see(Failure { part, entry, check, unknown: None }),
            Err(unknown) => see(Failure { part, entry, check, unknown: Some(unknown) }),
        }
    }
}

/// All must hold. One that does not decides, even beside one that cannot be known.
fn all(checks: &[Check], caller: &Caller<'_>) -> Truth {
    let mut doubt = None;
    for check in checks {
        match check.holds(caller) {
            Ok(true) => {}
            Ok(false) => return Ok(false),
            Err(unknown) => doubt = doubt.or(Some(unknown)),
        }
    }
    doubt.map_or(Ok(true), Err)
}

/// One must hold. One that does decides, even beside one that cannot be known.
fn any(alternatives: &Alternatives, caller: &Caller<'_>) -> Truth {
    let mut doubt = None;
    for checks in alternatives {
        match all(checks, caller) {
            Ok(true) => return Ok(true),
            Ok(false) => {}
            Err(unknown) => doubt = doubt.or(Some(unknown)),
        }
    }
    doubt.map_or(Ok(false), Err)
}

/// What holds of a subject whichever alternative does: the keys of all alternatives together.
fn common_choices(alternatives: &Alternatives) -> Vec<Choice<Subject>> {
    let mut each =
        alternatives.iter().map(|checks| checks.iter().filter_map(Check::choice).collect::<Vec<_>>());
    let Some(mut common) = each.next() else { return Vec::new() };
    for other in each {
        common.retain_mut(|choice| {
            let same = other.iter().find(|other| other.dimension == choice.dimension);
            same.map(|same| choice.keys.extend(same.keys.iter().cloned())).is_some()
        });
    }
    common
}
