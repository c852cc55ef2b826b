//! The authorization engine against an evaluator that is slow and obvious.

use sailcloth_core::config::Node;
use sailcloth_tests::conformance::{Verdict, load};
use sailcloth_tests::differential::authz::ask::Ask;
use sailcloth_tests::differential::authz::generate::Generator;
use sailcloth_tests::differential::authz::plain::{self, Answer};
use sailcloth_tests::differential::authz::words::Words;
use sailcloth_tests::differential::authz::{ask_engine, language, named_rule, shown};
use sailcloth_tests::differential::random::Random;
use sailcloth_tests::differential::shrink::smallest;
use sailcloth_tests::differential::{Tally, scaled, seed};
use sailcloth_tests::judge::Observed;
use sailcloth_tests::subject::Subject;

const ASKS: usize = 50;

#[test]
fn the_engine_decides_what_the_page_says() {
    let configurations = scaled(2_400, 40_000);
    let (words, (language, refused)) = (Words::wide(), language());
    let mut tally = Tally::new("authorization: the engine and the plain evaluator");
    refused.into_iter().for_each(|what| tally.skip(format!("not in the language yet: {what}")));
    for number in 0..configurations {
        let random = Random::new(seed()).nth(number);
        let mut generator = Generator { words: &words, language: &language, random };
        let configuration = generator.configuration(&[("peerIdentity", "certificate")]);
        let mut engine = match load(Subject::named("authz"), &configuration) {
            Verdict::Accepted(engine) => engine,
            Verdict::Unsupported(reason) | Verdict::NoFilter(reason) => {
                tally.skip(reason);
                continue;
            }
            Verdict::Refused(problems) => {
                tally.differed(|| {
                    format!("configuration {number} is refused: {problems:?}\n{}", shown(&configuration))
                });
                continue;
            }
        };
        for _ in 0..ASKS {
            let ask = generator.ask(&configuration);
            let expected = plain::decide(&configuration, &ask);
            let observed = ask_engine(engine.as_mut(), &ask);
            match difference(&expected, &observed) {
                None => tally.agreed(outcome(&expected)),
                Some(_) => tally.differed(|| told(&configuration, &ask)),
            }
        }
    }
    for outcome in ["allowed by a rule", "denied by a rule", "denied, no rule matched"] {
        assert!(tally.count(outcome) * 20 > tally.compared(), "hardly any request is {outcome}");
    }
    tally.finish(scaled(100_000, 1_500_000));
}

/// The difference on the smallest configuration that has it.
fn told(configuration: &Node, ask: &Ask) -> String {
    let shows = |configuration: &Node| match load(Subject::named("authz"), configuration) {
        Verdict::Accepted(mut engine) => {
            difference(&plain::decide(configuration, ask), &ask_engine(engine.as_mut(), ask))
        }
        _ => None,
    };
    let small = smallest(configuration, &mut |configuration| shows(configuration).is_some());
    format!("{}\n  {ask:?}\n  {}", shows(&small).unwrap_or_default(), shown(&small))
}

fn outcome(answer: &Answer) -> &'static str {
    match (answer.allowed, answer.by.is_empty()) {
        (true, false) => "allowed by a rule",
        (true, true) => "allowed, no policy",
        (false, false) => "denied by a rule",
        (false, true) => "denied, no rule matched",
    }
}

/// The decision must be the same, and the rule that it names one of those that match.
fn difference(expected: &Answer, observed: &Observed) -> Option<String> {
    let Some(decided) = &observed.decided else { return Some("the engine decided nothing".to_owned()) };
    let allowed = decided.verdict == "allow";
    if allowed != expected.allowed {
        return Some(format!("expected {expected:?}, observed {decided}"));
    }
    let named = named_rule(observed);
    let right = match &named {
        Some(rule) => expected.by.contains(rule),
        None => expected.by.is_empty(),
    };
    (!right).then(|| format!("expected one of {:?} to be named, observed {decided}", expected.by))
}
