//! The judge: what was observed against what a case expects, for all runners.

use std::fmt;

use crate::case::Expect;

/// A decision as text, as filter state, response code details and counters carry it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Decided {
    /// `allow`, `deny`, `limit`, `route`.
    pub verdict: String,
    /// `ns/name#rule` or `none`.
    pub by: String,
    /// The reason's code.
    pub reason: String,
}

impl fmt::Display for Decided {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {} {}", self.verdict, self.by, self.reason)
    }
}

impl Decided {
    /// Reads filter state `sailcloth.<filter>`: `deny ns/name#0 denied`.
    #[must_use]
    pub fn of_state(state: &str) -> Option<Self> {
        let mut words = state.split(' ').map(str::to_owned);
        let (verdict, by, reason) = (words.next()?, words.next()?, words.next()?);
        let known = ["allow", "deny", "limit", "route", "audit"].contains(&verdict.as_str());
        // A fourth word says what came near.
        (known && words.nth(1).is_none()).then_some(Self { verdict, by, reason })
    }

    /// Reads response code details: `sailcloth_authz_denied[ns/name#0]`. Only refusals have them; whether it was a denial
    /// or a limit stands in the status.
    #[must_use]
    pub fn of_details(filter: &str, details: &str, status: u16) -> Option<Self> {
        let rest = details.strip_prefix(&format!("sailcloth_{filter}_"))?;
        let (reason, by) = rest.split_once('[')?;
        // What stands behind says what came near.
        let (by, near) = by.split_once(']')?;
        if !(near.is_empty() || near.starts_with('(') && near.ends_with(')')) {
            return None;
        }
        let verdict = if status == 429 { "limit" } else { "deny" };
        Some(Self { verdict: verdict.to_owned(), by: by.to_owned(), reason: reason.to_owned() })
    }

    /// Reads a counter's flat name:
    /// `sailcloth_authz_decisions_total;.;policy=.=ns/name;.;rule=.=0;.;outcome=.=deny;.;reason=.=denied`.
    #[must_use]
    pub fn of_counter(filter: &str, name: &str) -> Option<Self> {
        let labels = name.strip_prefix(&format!("sailcloth_{filter}_decisions_total;.;"))?;
        let label = |wanted: &str| {
            labels
                .split(";.;")
                .filter_map(|label| label.split_once("=.="))
                .find(|(name, _)| *name == wanted)
                .map(|(_, value)| value)
        };
        let (policy, rule) = (label("policy")?, label("rule")?);
        let by = if policy == "none" { "none".to_owned() } else { format!("{policy}#{rule}") };
        Some(Self { verdict: label("outcome")?.to_owned(), by, reason: label("reason")?.to_owned() })
    }
}

/// What a runner saw. `None` where it cannot see; an expectation on something no runner can see there is not compared.
#[derive(Debug, Clone, Default)]
pub struct Observed {
    /// The decision that acted.
    pub decided: Option<Decided>,
    /// What shadow policies would have done.
    pub shadow: Option<Decided>,
    /// Status the client got.
    pub status: Option<u16>,
    /// Body the client got; only of a response that a filter gave itself.
    pub body: Option<Vec<u8>>,
    /// Response headers.
    pub headers: Option<crate::case::Headers>,
    /// Request headers at the upstream; none when it was not reached.
    pub upstream: Option<crate::case::Headers>,
    /// The cluster that was chosen.
    pub cluster: Option<String>,
    /// The arm of an experiment.
    pub arm: Option<String>,
    /// By how much metrics changed.
    pub metrics: Option<Vec<(String, i64)>>,
    /// Whatever was wrong beside the expectations: a trap, two sources that disagree.
    pub faults: Vec<String>,
}

/// Every difference between what was expected and what was observed, in words.
#[must_use]
pub fn differences(expect: &Expect, observed: &Observed) -> Vec<String> {
    let mut found = observed.faults.clone();
    let mut compare = |what: &str, expected: Option<String>, seen: Option<String>| {
        let Some(expected) = expected else { return };
        let seen = seen.unwrap_or_else(|| "nothing".to_owned());
        if expected != seen {
            found.push(format!("{what}: expected `{expected}`, observed `{seen}`"));
        }
    };
    let decided = observed.decided.as_ref();
    compare("decision", expect.decision.clone(), decided.map(|decided| decided.verdict.clone()));
    compare("by", expect.by.clone(), decided.map(|decided| decided.by.clone()));
    compare("reason", expect.reason.clone(), decided.map(|decided| decided.reason.clone()));
    compare("shadow", expect.shadow.clone(), observed.shadow.as_ref().map(ToString::to_string));
    compare("status", expect.status.map(|s| s.to_string()), observed.status.map(|s| s.to_string()));
    compare("body", expect.body.clone(), observed.body.as_deref().map(text));
    compare("cluster", expect.cluster.clone(), observed.cluster.clone());
    compare("arm", expect.arm.clone(), observed.arm.clone());
    for (what, expected, seen) in [
        ("response header", &expect.headers, observed.headers.as_ref()),
        ("upstream header", &expect.upstream, observed.upstream.as_ref()),
    ] {
        for (name, value) in expected {
            let label = format!("{what} {name}");
            let values = joined(seen, name);
            match value {
                Some(value) => compare(&label, Some(value.clone()), values),
                None => compare(&label, Some("nothing".to_owned()), values),
            }
        }
    }
    if let Some(changes) = &observed.metrics {
        for (name, value) in &expect.metrics {
            let seen = changes.iter().find(|(flat, _)| flat == name).map_or(0, |(_, change)| *change);
            compare(&format!("metric {name}"), Some(value.to_string()), Some(seen.to_string()));
        }
    }
    found
}

/// The arms of a case's repetitions.
#[derive(Debug, Default)]
pub struct Arms(std::collections::BTreeMap<String, u32>);

impl Arms {
    /// Counts one repetition.
    pub fn count(&mut self, observed: &Observed) {
        // What has no arms is shared out among its decisions.
        let verdict = observed.decided.as_ref().map(|decided| &decided.verdict);
        let arm = observed.arm.as_ref().or(verdict.filter(|verdict| *verdict != "route"));
        *self.0.entry(arm.cloned().unwrap_or_else(|| "none".to_owned())).or_default() += 1;
    }

    /// How the shares differ from what a case expects of them.
    #[must_use]
    pub fn differences(&self, expect: &Expect) -> Vec<String> {
        if expect.shares.is_empty() {
            return Vec::new();
        }
        let total = f64::from(self.0.values().sum::<u32>().max(1));
        let wanted = expect.shares.iter().map(|(arm, share)| (arm.as_str(), *share));
        let others = self.0.keys().filter(|arm| expect.shares.iter().all(|(known, _)| known != *arm));
        let all = wanted.chain(others.map(|arm| (arm.as_str(), 0.0)));
        all.filter_map(|(arm, share)| {
            let seen = f64::from(self.0.get(arm).copied().unwrap_or(0)) / total;
            let known = expect.shares.iter().any(|(known, _)| known == arm);
            let within = known && (seen - share).abs() <= expect.tolerance;
            (!within).then(|| {
                format!(
                    "share of arm {arm}: expected `{share}` within {}, observed `{seen}`",
                    expect.tolerance
                )
            })
        })
        .collect()
    }
}

/// All values of a header, joined as Envoy joins them.
fn joined(headers: Option<&crate::case::Headers>, name: &str) -> Option<String> {
    let same = |given: &&(String, Vec<u8>)| given.0.eq_ignore_ascii_case(name);
    let values: Vec<String> = headers?.iter().filter(same).map(|(_, value)| text(value)).collect();
    (!values.is_empty()).then(|| values.join(","))
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// Which decisions the changes of counters tell of: those that acted, and those of shadow policies.
#[must_use]
pub fn counted(filter: &str, changes: &[(String, i64)]) -> (Vec<Decided>, Vec<Decided>) {
    let all = changes
        .iter()
        .filter(|(_, change)| *change > 0)
        .filter_map(|(name, _)| Decided::of_counter(filter, name));
    let (shadow, acted): (Vec<_>, Vec<_>) = all.partition(|decided| decided.verdict.starts_with("shadow_"));
    let strip = |decided: Decided| Decided {
        verdict: decided.verdict.trim_start_matches("shadow_").to_owned(),
        ..decided
    };
    (acted, shadow.into_iter().map(strip).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn observed() -> Observed {
        Observed {
            decided: Decided::of_details("authz", "sailcloth_authz_denied[n/p#2]", 403),
            status: Some(403),
            body: Some(b"no".to_vec()),
            headers: Some(vec![("x".into(), b"1".to_vec()), ("X".into(), b"2".to_vec())]),
            metrics: Some(vec![("m".into(), 2)]),
            ..Observed::default()
        }
    }

    #[test]
    fn equal_is_no_difference() {
        let expect = Expect {
            decision: Some("deny".into()),
            by: Some("n/p#2".into()),
            reason: Some("denied".into()),
            status: Some(403),
            body: Some("no".into()),
            headers: vec![("x".into(), Some("1,2".into())), ("y".into(), None)],
            metrics: vec![("m".into(), 2)],
            ..Expect::default()
        };
        assert_eq!(differences(&expect, &observed()), Vec::<String>::new());
    }

    #[test]
    fn every_difference_is_named() {
        let expect = Expect {
            decision: Some("allow".into()),
            by: Some("n/p#1".into()),
            status: Some(200),
            shadow: Some("deny n/p#0 denied".into()),
            headers: vec![("x".into(), None), ("y".into(), Some("1".into()))],
            upstream: vec![("z".into(), Some("1".into()))],
            metrics: vec![("m".into(), 1), ("n".into(), 1)],
            ..Expect::default()
        };
        let found = differences(&expect, &observed());
        assert_eq!(found.len(), 9, "{found:#?}");
        assert_eq!(found[0], "decision: expected `allow`, observed `deny`");
    }

    #[test]
    fn shares_are_of_all_repetitions_and_leave_no_arm_out() {
        let expect = Expect {
            shares: vec![("v1".into(), 0.75), ("v2".into(), 0.25)],
            tolerance: 0.1,
            ..Expect::default()
        };
        let of = |arms: &[Option<&str>]| {
            let mut counted = Arms::default();
            for arm in arms {
                counted.count(&Observed { arm: arm.map(str::to_owned), ..Observed::default() });
            }
            counted.differences(&expect)
        };
        let (one, two) = (Some("v1"), Some("v2"));
        assert!(of(&[one, one, two, one]).is_empty());
        assert_eq!(
            of(&[one, two, two, one]),
            [
                "share of arm v1: expected `0.75` within 0.1, observed `0.5`",
                "share of arm v2: expected `0.25` within 0.1, observed `0.5`"
            ]
        );
        assert_eq!(of(&[one, one, one, one, one, one, two, two, None]).len(), 1);
    }

    #[test]
    fn a_decision_reads_alike_from_its_three_places() {
        let state = Decided::of_state("deny n/p#2 denied").unwrap();
        assert_eq!(Decided::of_details("authz", "sailcloth_authz_denied[n/p#2]", 403).unwrap(), state);
        let name =
            "sailcloth_authz_decisions_total;.;policy=.=n/p;.;rule=.=2;.;outcome=.=deny;.;reason=.=denied";
        assert_eq!(Decided::of_counter("authz", name).unwrap(), state);
        assert_eq!(Decided::of_state("\u{1}\u{3}"), None);
        assert_eq!(Decided::of_details("authz", "via_upstream", 200), None);
        assert_eq!(
            Decided::of_details("authz", "sailcloth_authz_over_limit[n/p#0]", 429).unwrap().verdict,
            "limit"
        );
    }
}
