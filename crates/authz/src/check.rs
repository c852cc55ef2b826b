//! One condition, ready to be tried: nothing left that needs parsing.

use std::fmt;

use sailcloth_core::identity::Claim;
use sailcloth_core::index::{Choice, Key as Filed};
use sailcloth_core::text::TextSet;
use sailcloth_resources::authorization_policy::{
    Bounds, Condition, Decimal, Key, Moment, Source, Test, TypedTest, When, rfc3339,
};
use sailcloth_resources::operation::Operation;

use crate::addresses::AddressSet;
use crate::caller::{Caller, Truth};
use crate::principals::{expand, request_principals};
use crate::subject::Subject;

/// A condition on one subject.
#[derive(Debug)]
pub(crate) struct Check {
    /// The field it was written in.
    pub(crate) field: &'static str,
    pub(crate) subject: Subject,
    pub(crate) demand: Demand,
}

/// What a condition asks of its subject.
#[derive(Debug)]
pub(crate) enum Demand {
    /// One value is in `any` where that says something, and none is in `none`.
    Texts {
        any: TextSet,
        none: TextSet,
    },
    /// The same of addresses.
    Addresses {
        any: AddressSet,
        none: AddressSet,
    },
    /// Each is among the values.
    AllOf(Vec<String>),
    /// A claim of this type and value.
    Bool(bool),
    Number(Bounds<Decimal>),
    Timestamp(Bounds<Moment>),
    /// Some value of both is the same; the other way round with `negated`.
    Equals {
        other: Subject,
        negated: bool,
    },
}

/// The names of a field and of its negation.
type Names = (&'static str, &'static str);

impl Check {
    /// The conditions of a source; all must hold.
    pub(crate) fn of_source(source: &Source, trust_domains: &[String]) -> Vec<Self> {
        let mut checks = Vec::new();
        let mut texts = |(field, negated): Names, key: Key, any: TextSet, none: TextSet| {
            add(&mut checks, (field, negated), Subject::Key(key), any, none);
        };
        let principals = |list: &[String]| principals(list, trust_domains);
        let Condition { values, not_values } = &source.principals;
        texts(
            ("principals", "notPrincipals"),
            Key::SourcePrincipal,
            principals(values),
            principals(not_values),
        );
        let Condition { values, not_values } = &source.namespaces;
        texts(
            ("namespaces", "notNamespaces"),
            Key::SourceNamespace,
            TextSet::of_globs(values),
            TextSet::of_globs(not_values),
        );
        let accounts = |list: &[sailcloth_resources::authorization_policy::ServiceAccount]| -> TextSet {
            let texts: Vec<String> =
                list.iter().map(|account| format!("{}/{}", account.namespace, account.name)).collect();
            TextSet::of_globs(&texts)
        };
        let Condition { values, not_values } = &source.service_accounts;
        texts(
            ("serviceAccounts", "notServiceAccounts"),
            Key::SourceServiceAccount,
            accounts(values),
            accounts(not_values),
        );
        let Condition { values, not_values } = &source.trust_domains;
        texts(
            ("trustDomains", "notTrustDomains"),
            Key::SourceTrustDomain,
            domains(values, trust_domains),
            domains(not_values, trust_domains),
        );
        let Condition { values, not_values } = &source.request_principals;
        texts(
            ("requestPrincipals", "notRequestPrincipals"),
            Key::RequestPrincipal,
            request_principals(values),
            request_principals(not_values),
        );
        add_addresses(&mut checks, ("ipBlocks", "notIpBlocks"), Key::SourceIp, &source.ip_blocks);
        add_addresses(
            &mut checks,
            ("remoteIpBlocks", "notRemoteIpBlocks"),
            Key::RemoteIp,
            &source.remote_ip_blocks,
        );
        checks
    }

    /// The conditions of an operation; all must hold.
    pub(crate) fn of_operation(operation: &Operation) -> Vec<Self> {
        let mut checks = Vec::new();
        let mut texts = |names: Names, subject: Subject, any: TextSet, none: TextSet| {
            add(&mut checks, names, subject, any, none);
        };
        let patterns = TextSet::parse;
        let lower = |texts: &[String]| -> Vec<String> {
            texts.iter().map(|text| text.to_ascii_lowercase()).collect()
        };
        texts(
            ("paths", "notPaths"),
            Subject::Key(Key::Path),
            TextSet::of_paths(&operation.paths),
            TextSet::of_paths(&operation.not_paths),
        );
        texts(
            ("methods", "notMethods"),
            Subject::Key(Key::Method),
            patterns(&operation.methods),
            patterns(&operation.not_methods),
        );
        texts(
            ("hosts", "notHosts"),
            Subject::Authority,
            patterns(&lower(&operation.hosts)),
            patterns(&lower(&operation.not_hosts)),
        );
        texts(
            ("ports", "notPorts"),
            Subject::Key(Key::DestinationPort),
            ports(&operation.ports),
            ports(&operation.not_ports),
        );
        checks
    }

    /// The conditions of one of `when`; all must hold.
    pub(crate) fn of_when(when: &When, trust_domains: &[String]) -> Vec<Self> {
        let mut checks = Vec::new();
        let subject = Subject::Key(when.key.clone());
        let names = ("values", "notValues");
        match &when.test {
            Test::Addresses(blocks) => add_addresses(&mut checks, names, when.key.clone(), blocks),
            Test::Ports(Condition { values, not_values }) => {
                add(&mut checks, names, subject.clone(), ports(values), ports(not_values));
            }
            Test::Texts(Condition { values, not_values }) => {
                let set = |texts: &[String]| texts_of(&when.key, texts, trust_domains);
                add(&mut checks, names, subject.clone(), set(values), set(not_values));
            }
        }
        for test in &when.typed {
            let (field, demand) = typed(test);
            checks.push(Self { field, subject: subject.clone(), demand });
        }
        checks
    }

    /// Whether it holds.
    pub(crate) fn holds(&self, caller: &Caller<'_>) -> Truth {
        match &self.demand {
            Demand::Texts { any, none } => {
                let (mut hit, mut excluded) = (any.is_empty(), false);
                let anything = self.subject.is_header();
                caller.texts(&self.subject, &mut |value| {
                    hit |= (anything && any.has_any()) || any.contains(value);
                    excluded |= (anything && none.has_any()) || none.contains(value);
                })?;
                Ok(hit && !excluded)
            }
            Demand::Addresses { any, none } => Ok(match caller.address(&self.subject)? {
                Some(address) => (any.is_empty() || any.contains(address)) && !none.contains(address),
                None => any.is_empty(),
            }),
            Demand::AllOf(wanted) => {
                let mut missing: Vec<&[u8]> = wanted.iter().map(|text| text.as_bytes()).collect();
                caller.texts(&self.subject, &mut |value| missing.retain(|text| *text != value))?;
                Ok(missing.is_empty())
            }
            Demand::Bool(wanted) => Ok(self.claim(caller)? == Some(Claim::Bool(*wanted))),
            Demand::Number(Bounds { min, max }) => Ok(number(self.claim(caller)?).is_some_and(|number| {
                min.is_none_or(|min| number >= min.0) && max.is_none_or(|max| number <= max.0)
            })),
            Demand::Timestamp(bounds) => {
                let moment = moment(self.claim(caller)?);
                Ok(moment.is_some_and(|moment| lies_within(moment, bounds, caller)))
            }
            Demand::Equals { other, negated } => Ok(same(&self.subject, other, caller)? != *negated),
        }
    }

    fn claim<'c>(&self, caller: &'c Caller<'_>) -> Result<Option<Claim<'c>>, crate::caller::Unknown> {
        match &self.subject {
            Subject::Key(Key::Claim(path)) => caller.claim(path),
            _ => Ok(None),
        }
    }

    /// How a rule with this condition can be filed: under what one of its subject's values must be.
    pub(crate) fn choice(&self) -> Option<Choice<Subject>> {
        let keys: Vec<Filed> = match &self.demand {
            Demand::Texts { any, .. } if !any.is_empty() => any.keys()?,
            Demand::Addresses { any, .. } if !any.is_empty() => any.keys(),
            Demand::AllOf(texts) => vec![Filed::Exact(texts.first()?.clone().into_bytes())],
            _ => return None,
        };
        Some(Choice { dimension: self.subject.clone(), keys })
    }
}

/// As a person finds it in the policy: `principals`, or the key of a `when` and what was asked of it.
impl fmt::Display for Check {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.field)
    }
}

fn add(checks: &mut Vec<Check>, (field, negated): Names, subject: Subject, any: TextSet, none: TextSet) {
    // Two conditions where both say something, so that the one that fails can be named.
    if !any.is_empty() {
        let demand = Demand::Texts { any, none: TextSet::default() };
        checks.push(Check { field, subject: subject.clone(), demand });
    }
    if !none.is_empty() {
        checks.push(Check {
            field: negated,
            subject,
            demand: Demand::Texts { any: TextSet::default(), none },
        });
    }
}

fn add_addresses(
    checks: &mut Vec<Check>,
    (field, negated): Names,
    key: Key,
    blocks: &Condition<ipnet::IpNet>,
) {
    let mut push = |field, any: &[ipnet::IpNet], none: &[ipnet::IpNet]| {
        let demand = Demand::Addresses { any: AddressSet::new(any), none: AddressSet::new(none) };
        checks.push(Check { field, subject: Subject::Key(key.clone()), demand });
    };
    if !blocks.values.is_empty() {
        push(field, &blocks.values, &[]);
    }
    if !blocks.not_values.is_empty() {
        push(negated, &[], &blocks.not_values);
    }
}

fn principals(texts: &[String], trust_domains: &[String]) -> TextSet {
    let expanded: Vec<String> = texts.iter().flat_map(|text| expand(text, trust_domains)).collect();
    TextSet::parse(&expanded)
}

/// Trust domains, of which one of ours stands for all of ours: aliases are the same trust domain.
fn domains(texts: &[String], trust_domains: &[String]) -> TextSet {
    let mut all = texts.to_vec();
    if texts.iter().any(|text| trust_domains.contains(text)) {
        all.extend_from_slice(trust_domains);
    }
    TextSet::of_globs(&all)
}

fn ports(ports: &[u16]) -> TextSet {
    let texts: Vec<String> = ports.iter().map(u16::to_string).collect();
    TextSet::parse(&texts)
}

/// Texts by the form they have for a key (`istio-api.md` 2.4, 2.5).
fn texts_of(key: &Key, texts: &[String], trust_domains: &[String]) -> TextSet {
    match key {
        Key::SourcePrincipal => principals(texts, trust_domains),
        Key::SourceTrustDomain => domains(texts, trust_domains),
        Key::SourceNamespace | Key::SourceServiceAccount => TextSet::of_globs(texts),
        Key::RequestPrincipal => request_principals(texts),
        Key::Path => TextSet::of_paths(texts),
        Key::Host => {
            let lower: Vec<String> = texts.iter().map(|text| text.to_ascii_lowercase()).collect();
            TextSet::parse(&lower)
        }
        _ => TextSet::parse(texts),
    }
}

fn typed(test: &TypedTest) -> (&'static str, Demand) {
    let none = TextSet::default;
    let equals = |key: &Key, negated| Demand::Equals { other: Subject::Key(key.clone()), negated };
    match test {
        TypedTest::Regexes(regexes) => {
            ("regexes", Demand::Texts { any: none().with_regexes(regexes.clone()), none: none() })
        }
        TypedTest::NotRegexes(regexes) => {
            ("notRegexes", Demand::Texts { any: none(), none: none().with_regexes(regexes.clone()) })
        }
        TypedTest::AllOf(texts) => ("allOf", Demand::AllOf(texts.clone())),
        TypedTest::Bool(wanted) => ("bool", Demand::Bool(*wanted)),
        TypedTest::Number(bounds) => ("number", Demand::Number(*bounds)),
        TypedTest::Timestamp(bounds) => ("timestamp", Demand::Timestamp(*bounds)),
        TypedTest::Equals(key) => ("equals", equals(key, false)),
        TypedTest::NotEquals(key) => ("notEquals", equals(key, true)),
    }
}

#[expect(clippy::cast_precision_loss, reason = "claims past 2^53 are doubles in JSON too")]
fn number(claim: Option<Claim<'_>>) -> Option<f64> {
    match claim? {
        Claim::Integer(number) => Some(number as f64),
        Claim::Double(number) => Some(number),
        _ => None,
    }
}

/// A NumericDate (RFC 7519) or a text of RFC 3339, in seconds since the Unix epoch.
fn moment(claim: Option<Claim<'_>>) -> Option<f64> {
    match claim? {
        #[expect(clippy::cast_precision_loss, reason = "no date of RFC 3339 is past 2^53 seconds")]
        Claim::Text(text) => rfc3339(text).map(|seconds| seconds as f64),
        other => number(Some(other)),
    }
}

#[expect(clippy::cast_precision_loss, reason = "no moment that can be written is past 2^53 seconds")]
fn lies_within(moment: f64, bounds: &Bounds<Moment>, caller: &Caller<'_>) -> bool {
    let seconds = |bound: &Moment| match bound {
        Moment::At(seconds) => *seconds as f64,
        Moment::Now(offset) => caller.now().saturating_add(*offset) as f64,
    };
    bounds.min.as_ref().is_none_or(|min| moment >= seconds(min))
        && bounds.max.as_ref().is_none_or(|max| moment <= seconds(max))
}

/// Whether the values of two subjects meet. Whole numbers and truth values of claims count as they are written.
fn same(one: &Subject, other: &Subject, caller: &Caller<'_>) -> Truth {
    let ignore_case = one.ignores_case() || other.ignores_case();
    let mut values: Vec<Vec<u8>> = Vec::new();
    comparable(one, caller, &mut |value| values.push(value.to_vec()))?;
    let mut found = false;
    comparable(other, caller, &mut |value| {
        found |= values
            .iter()
            .any(|known| if ignore_case { known.eq_ignore_ascii_case(value) } else { known == value });
    })?;
    Ok(found)
}

fn comparable(
    subject: &Subject,
    caller: &Caller<'_>,
    see: &mut dyn FnMut(&[u8]),
) -> Result<(), crate::caller::Unknown> {
    if let Subject::Key(Key::Header(_) | Key::Query(_)) = subject {
        // Of a header or parameter that a client repeats the upstream may read either value: which is meant is not known.
        let (mut only, mut differ): (Option<Vec<u8>>, bool) = (None, false);
        caller.texts(subject, &mut |value| {
            differ |= only.get_or_insert_with(|| value.to_vec()) != value;
        })?;
        only.iter().for_each(|value| see(value));
        return if differ { Err(crate::caller::Unknown::WhichValue) } else { Ok(()) };
    }
    if let Subject::Key(Key::Claim(path)) = subject {
        match caller.claim(path)? {
            Some(Claim::Integer(number)) => see(number.to_string().as_bytes()),
            #[expect(clippy::cast_possible_truncation, reason = "the range is checked before the cast")]
            Some(Claim::Double(number)) if number.fract() == 0.0 && number.abs() < 9e15 => {
                see((number as i64).to_string().as_bytes());
            }
            Some(Claim::Bool(flag)) => see(if flag { b"true" } else { b"false" }),
            _ => {}
        }
    }
    caller.texts(subject, see)
}
