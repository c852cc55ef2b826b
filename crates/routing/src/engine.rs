//! The compiled engine and its decision.

use std::rc::Rc;

use sailcloth_core::config::{Node, Problem};
use sailcloth_core::decision::{Decision, Filter, Mode, Reason, RuleRef, Verdict};
use sailcloth_core::facts::Sources;
use sailcloth_core::request::Request;
use sailcloth_resources::Config;
use sailcloth_resources::virtual_service::VirtualService;

use crate::compile::compile;
use crate::condition::{Conditions, View};
use crate::effects::Effects;
use crate::hosts::Hosts;
use crate::index::Routes;
use crate::settings::Settings;

/// A rule matched.
const MATCHED: Reason = Reason::pass("matched");
/// The host is known and none of its rules matched. Envoy and Istio answer 404 without a body; gRPC calls that
/// `UNIMPLEMENTED`.
const NO_ROUTE: Reason = Reason { code: "no_route", status: 404, grpc_status: 12, body: "" };
/// No resource has rules for the host: for Istio the same 404.
const NO_VIRTUAL_HOST: Reason = Reason { code: "no_virtual_host", status: 404, grpc_status: 12, body: "" };

/// `VirtualService` documents, ready to decide.
#[derive(Debug)]
pub struct Engine {
    pub(crate) hosts: Hosts,
    pub(crate) tables: Vec<Table>,
    pub(crate) rules: Vec<Rule>,
    pub(crate) sources: Sources,
    pub(crate) resources: usize,
}

/// What applies to one host.
#[derive(Debug)]
pub(crate) struct Table {
    pub(crate) entries: Vec<Entry>,
    pub(crate) routes: Routes,
}

/// One `match` of a rule, or a rule without any.
#[derive(Debug, Clone)]
pub(crate) struct Entry {
    pub(crate) rule: usize,
    pub(crate) conditions: Rc<Conditions>,
}

/// One item of `http`.
#[derive(Debug)]
pub(crate) struct Rule {
    pub(crate) policy: String,
    pub(crate) number: u32,
    pub(crate) arms: Vec<Arm>,
    /// The sum of all weights, at least 1.
    pub(crate) total: u64,
    pub(crate) controls: Vec<(&'static str, String)>,
}

/// One destination of a rule.
#[derive(Debug)]
pub(crate) struct Arm {
    pub(crate) cluster: String,
    pub(crate) label: String,
    pub(crate) weight: u64,
}

/// What was decided about a request, and what to do about it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Outcome<'e> {
    /// Verdict [`Verdict::Route`] with its rule, or [`Verdict::Deny`].
    pub decision: Decision<'e>,
    /// Edits of the request headers; none when the request is refused.
    pub effects: Effects<'e>,
    arm: Option<(usize, &'e Arm)>,
}

impl PartialEq for Arm {
    fn eq(&self, other: &Self) -> bool {
        self.cluster == other.cluster
    }
}

impl Eq for Arm {}

impl Outcome<'_> {
    /// The chosen cluster.
    #[must_use]
    pub fn cluster(&self) -> Option<&str> {
        self.arm.map(|(_, arm)| arm.cluster.as_str())
    }

    /// The chosen destination's number in its rule, and its name for metrics: the subset, else the host; the cluster's
    /// name where two destinations of a rule share that. Comes from the configuration, never from a request.
    #[must_use]
    pub fn arm(&self) -> Option<(usize, &str)> {
        self.arm.map(|(number, arm)| (number, arm.label.as_str()))
    }
}

impl Engine {
    /// Reads and compiles a configuration.
    ///
    /// # Errors
    /// Every problem, when one of them refuses the configuration; beside the engine stand the warnings.
    pub fn load(text: &[u8]) -> Result<(Self, Vec<Problem>), Vec<Problem>> {
        Config::<VirtualService, Settings>::load(text, Settings::read, |config, problems| {
            compile(&config, problems)
        })
    }

    /// [`Engine::load`] from a tree.
    ///
    /// # Errors
    /// As [`Engine::load`].
    pub fn load_node(node: &Node) -> Result<(Self, Vec<Problem>), Vec<Problem>> {
        Config::<VirtualService, Settings>::load_node(node, Settings::read, |config, problems| {
            compile(&config, problems)
        })
    }

    /// The resources in force, by kind.
    #[must_use]
    pub fn resources(&self) -> Vec<(&'static str, usize)> {
        vec![("VirtualService", self.resources)]
    }

    /// Where facts about a request come from.
    #[must_use]
    pub fn sources(&self) -> &Sources {
        &self.sources
    }

    /// Decides about a request. `random` draws among weighted destinations: uniform over all of `u64`.
    #[must_use]
    pub fn decide<'e>(&'e self, request: &'e Request<'e>, random: u64) -> Outcome<'e> {
        let table = self.hosts.find(request.authority()).and_then(|table| self.tables.get(table));
        let Some(table) = table else { return refusal(NO_VIRTUAL_HOST) };
        let found = table.find(request).and_then(|id| Some((id, self.rules.get(id)?)));
        let routed = found.and_then(|(id, rule)| rule.route(id, request, random));
        routed.unwrap_or_else(|| refusal(NO_ROUTE))
    }
}

impl Table {
    pub(crate) fn new(entries: Vec<Entry>) -> Self {
        let routes = Routes::of(entries.iter().map(|entry| &*entry.conditions));
        Self { entries, routes }
    }

    pub(crate) fn find(&self, request: &Request<'_>) -> Option<usize> {
        let view = View::new(request);
        let candidates = self.routes.candidates(&view).into_iter();
        let mut candidates = candidates.filter_map(|entry| self.entries.get(usize::try_from(entry).ok()?));
        candidates.find(|entry| entry.matches(&view)).map(|entry| entry.rule)
    }
}

impl Entry {
    pub(crate) fn matches<'r>(&'r self, view: &View<'r>) -> bool {
        self.conditions.path.matches(view.path) && self.conditions.hold_beside_path(view)
    }
}

impl Rule {
    fn route<'e>(&'e self, id: usize, request: &'e Request<'e>, random: u64) -> Option<Outcome<'e>> {
        let (number, arm) = self.draw(random)?;
        let by = RuleRef { id, policy: &self.policy, rule: self.number };
        Some(Outcome {
            decision: Decision {
                filter: Filter::Routing,
                verdict: Verdict::Route,
                by: Some(by),
                reason: MATCHED,
                mode: Mode::Enforce,
            },
            effects: Effects::route(request.headers, &self.controls, &arm.cluster),
            arm: Some((number, arm)),
        })
    }

    /// The destination that a number falls to: the numbers are divided among the destinations in proportion to their
    /// weights, exactly but for one number in 2^64 per border.
    fn draw(&self, random: u64) -> Option<(usize, &Arm)> {
        let mut point = scale(random, self.total);
        for (number, arm) in self.arms.iter().enumerate() {
            match point.checked_sub(arm.weight) {
                None => return Some((number, arm)),
                Some(rest) => point = rest,
            }
        }
        None
    }
}

/// `random` of 2^64 to a number below `total`.
fn scale(random: u64, total: u64) -> u64 {
    let product = u128::from(random) * u128::from(total);
    u64::try_from(product >> 64).unwrap_or_default()
}

fn refusal(reason: Reason) -> Outcome<'static> {
    Outcome {
        decision: Decision {
            filter: Filter::Routing,
            verdict: Verdict::Deny,
            by: None,
            reason,
            mode: Mode::Enforce,
        },
        effects: Effects::default(),
        arm: None,
    }
}
