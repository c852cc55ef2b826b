//! From resources to an engine.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::hash::{Hash, Hasher};

use sailcloth_core::config::{Node, Path, Problems, Value};
use sailcloth_core::siphash::Sip;
use sailcloth_resources::rate_limit::{
    Bound as Written, Cost, Global, KeyItem, Limit, LimitRule, Local, OnFailure, RateLimit,
};
use sailcloth_resources::{Config, Loaded, operation::Operation};

use crate::engine::Service;
use crate::index::Index;
use crate::rule::{Bound, Fallback, Listed, Remote, Rule, Table, push_value};
use crate::tier::Tier;
use crate::{Engine, Gcra, Settings};

/// Makes the engine of a configuration.
pub(crate) fn engine(config: Config<RateLimit, Settings>, problems: &Problems) -> Engine {
    let applicable = config.applicable();
    refuse_duplicates(&config.resources, problems);
    let mut engine = Engine {
        rules: Vec::new(),
        index: Index::default(),
        services: Vec::new(),
        sources: config.common.sources,
        settings: config.settings.clone(),
        resources: applicable.len(),
    };
    // Every document is compiled, so that a mistake in one that does not apply here is found as well.
    for resource in &config.resources {
        let applies = applicable.iter().any(|other| std::ptr::eq(*other, resource));
        let mut nothing = Vec::new();
        let services = if applies { &mut engine.services } else { &mut nothing };
        for rule in policy(resource, &config.settings, services, problems) {
            if applies {
                engine.index.add(engine.rules.len(), rule.exact_paths());
                engine.rules.push(rule);
            }
        }
    }
    engine
}

fn policy(
    resource: &Loaded<RateLimit>,
    settings: &Settings,
    services: &mut Vec<Service>,
    problems: &Problems,
) -> Vec<Rule> {
    let policy = resource.metadata.id();
    let mut identities = HashSet::new();
    let mut rules = Vec::new();
    for (number, written) in resource.spec.rules.iter().enumerate() {
        let path = resource.path.key("spec").key("rules").index(number);
        let mut compiler = Compiler {
            policy: &policy,
            written,
            rows: Tier::rows_for(settings.slots),
            path: &path,
            problems,
            services,
        };
        if !identities.insert(compiler.content()) {
            let at = Value::at(&Node::Null, path.clone(), problems);
            at.error("is the same as an earlier rule, so it would share its buckets; remove it or give it a `name`");
        }
        let number = u32::try_from(number).unwrap_or(u32::MAX);
        let Some(bound) = compiler.bound() else { continue };
        rules.push(Rule {
            label: label(&policy, number, &written.name),
            policy: policy.clone(),
            number,
            to: written.to.iter().map(Operation::matcher).collect(),
            key: written.key.clone(),
            cost: written.cost.clone(),
            missing: written.on_missing_key,
            shadow: written.shadow,
            deny: written.deny.clone(),
            bound,
        });
    }
    rules
}

/// The rule's name, or `namespace/name#0`.
fn label(policy: &str, number: u32, name: &str) -> String {
    if name.is_empty() { format!("{policy}#{number}") } else { name.to_owned() }
}

struct Compiler<'c> {
    policy: &'c str,
    written: &'c LimitRule,
    rows: u32,
    path: &'c Path,
    problems: &'c Problems,
    services: &'c mut Vec<Service>,
}

impl Compiler<'_> {
    fn bound(&mut self) -> Option<Bound> {
        match &self.written.bound {
            Written::Local(local) => self.table(local).map(Bound::Local),
            Written::Global(global) => self.remote(global).map(Bound::Global),
        }
    }

    fn table(&self, local: &Local) -> Option<Table> {
        let mut tiers = vec![self.tier(&local.limit, &self.path.key("limit"))?];
        let mut numbers: BTreeMap<Limit, usize> = BTreeMap::new();
        let mut listed: BTreeMap<(usize, Vec<bool>), HashMap<Vec<u8>, usize>> = BTreeMap::new();
        for (place, over) in local.overrides.iter().enumerate() {
            let path = self.path.key("overrides").index(place);
            let number = match numbers.get(&over.limit) {
                Some(number) => *number,
                None => {
                    tiers.push(self.tier(&over.limit, &path.key("limit"))?);
                    numbers.insert(over.limit, tiers.len() - 1);
                    tiers.len() - 1
                }
            };
            let any: Vec<bool> = over.key.iter().map(Option::is_none).collect();
            let mut values = Vec::new();
            for (item, value) in self.written.key.iter().zip(&over.key) {
                let Some(value) = value else { continue };
                match item.part.literal(value.expose()) {
                    Some(value) => push_value(&mut values, &value),
                    None => self.error(&path.key("key"), "is no address, which the key is made of"),
                }
            }
            let stars = any.iter().filter(|any| **any).count();
            let same = listed.entry((stars, any)).or_default().insert(values, number);
            if same.is_some() {
                self.error(&path, "is the same key as an earlier one; keep one");
            }
        }
        let listed = listed.into_iter().map(|((_, any), tiers)| Listed { any, tiers }).collect();
        Some(Table { tiers, listed, unlisted: local.unlisted })
    }

    fn remote(&mut self, global: &Global) -> Option<Remote> {
        let fallback = match &global.on_failure {
            OnFailure::Allow => Fallback::Allow,
            OnFailure::Deny => Fallback::Deny,
            OnFailure::Local(limit) => {
                Fallback::Local(self.tier(limit, &self.path.key("global").key("local"))?)
            }
        };
        let service = Service { cluster: global.cluster.clone(), breaker: global.breaker };
        let known = self.services.iter().position(|other| *other == service);
        let service = known.unwrap_or_else(|| {
            self.services.push(service);
            self.services.len() - 1
        });
        Some(Remote {
            service,
            domain: global.domain.clone(),
            timeout: global.timeout,
            entries: self.written.key.iter().map(KeyItem::entry).collect(),
            fallback,
        })
    }

    fn tier(&self, limit: &Limit, path: &Path) -> Option<Tier> {
        // As many as a full bucket admits may be under way, each of which may turn out to cost the most.
        let debt = match &self.written.cost {
            Cost::Response(cost) => u64::from(limit.burst) * u64::from(cost.max.unwrap_or(limit.burst)),
            Cost::Fixed(_) | Cost::Header { .. } => 0,
        };
        match Gcra::new(*limit, debt) {
            Ok(gcra) => Some(Tier { gcra, limit: *limit, identity: self.identity(limit), rows: self.rows }),
            Err(why) => {
                self.error(path, why);
                None
            }
        }
    }

    /// How a refusal looks and whether it acts do not belong to a rule's buckets, nor does the rest of its table.
    fn identity(&self, limit: &Limit) -> u64 {
        let LimitRule { name, to, key, bound: _, cost, on_missing_key, shadow: _, deny: _ } = self.written;
        let parts: Vec<_> = key.iter().map(|item| &item.part).collect();
        let mut hash = Sip::new([0, 0]);
        (self.policy, name, to, parts, limit, cost, on_missing_key, self.rows).hash(&mut hash);
        hash.finish()
    }

    /// Tells rules apart.
    fn content(&self) -> u64 {
        match &self.written.bound {
            Written::Local(local) => self.identity(&local.limit),
            Written::Global(global) => {
                let LimitRule { name, to, key, cost, on_missing_key, .. } = self.written;
                let mut hash = Sip::new([0, 1]);
                (name, to, key, global, cost, on_missing_key).hash(&mut hash);
                hash.finish()
            }
        }
    }

    fn error(&self, path: &Path, message: impl Into<String>) {
        Value::at(&Node::Null, path.clone(), self.problems).error(message);
    }
}

fn refuse_duplicates(resources: &[Loaded<RateLimit>], problems: &Problems) {
    let mut seen = HashSet::new();
    for resource in resources {
        let id = resource.metadata.id();
        if !seen.insert(id.clone()) {
            let at = Value::at(&Node::Null, resource.path.clone(), problems);
            at.error(format!("`{id}` is defined twice; keep one"));
        }
    }
}
