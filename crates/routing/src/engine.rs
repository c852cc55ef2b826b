//! The compiled engine and its decision.

use std::rc::Rc;

use sailcloth_core::config::{Node, Problem};
use sailcloth_core::decision::Reason;
use sailcloth_core::facts::Sources;
use sailcloth_core::request::Request;
use sailcloth_resources::Config;
use sailcloth_resources::virtual_service::VirtualService;

use crate::compile::compile;
use crate::condition::{Conditions, View};
use crate::dice::{Dice, scale};
use crate::edit::Pass;
use crate::format::Unavailable;
use crate::hosts::Hosts;
use crate::index::Routes;
use crate::outcome::Outcome;
use crate::settings::Settings;
use crate::work::Work;

/// The host is known and none of its rules matched. Envoy and Istio answer 404 without a body; gRPC calls that
/// `UNIMPLEMENTED`.
const NO_ROUTE: Reason = Reason { code: "no_route", status: 404, grpc_status: 12, body: "" };
/// No resource has rules for the host: for Istio the same 404.
const NO_VIRTUAL_HOST: Reason = Reason { code: "no_virtual_host", status: 404, grpc_status: 12, body: "" };
/// A rule asks for something that Envoy did not say: the token where no jwt filter ran, the port.
const FACT_UNAVAILABLE: Reason = Reason { code: "fact_unavailable", status: 500, grpc_status: 13, body: "" };

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
    /// The sum of all weights; 0 where the rule answers by itself.
    pub(crate) total: u64,
    pub(crate) controls: Vec<(&'static str, String)>,
    pub(crate) work: Work,
}

/// One destination of a rule.
#[derive(Debug)]
pub(crate) struct Arm {
    pub(crate) cluster: String,
    pub(crate) label: String,
    pub(crate) weight: u64,
    /// Edits for this destination, where the rule has others.
    pub(crate) request: Pass,
    pub(crate) response: Pass,
    pub(crate) authority: Option<String>,
}

impl PartialEq for Arm {
    fn eq(&self, other: &Self) -> bool {
        self.cluster == other.cluster
    }
}

impl Eq for Arm {}

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

    /// Decides about a request. `random` draws among weighted destinations and for faults and mirrors: uniform over all
    /// of `u64`.
    #[must_use]
    pub fn decide<'e>(&'e self, request: &Request<'e>, random: u64) -> Outcome<'e> {
        let table = self.hosts.find(request.authority()).and_then(|table| self.tables.get(table));
        let Some(table) = table else { return Outcome::refusal(NO_VIRTUAL_HOST) };
        let found = match table.find(request) {
            Ok(found) => found.and_then(|entry| Some((entry, self.rules.get(entry.rule)?))),
            Err(Unavailable) => return Outcome::refusal(FACT_UNAVAILABLE),
        };
        let Some((entry, rule)) = found else { return Outcome::refusal(NO_ROUTE) };
        let arm = rule.draw(random);
        match rule.carry_out(entry.rule, entry, request, arm, &mut Dice::new(random)) {
            Ok(outcome) => outcome.unwrap_or_else(|| Outcome::refusal(NO_ROUTE)),
            Err(Unavailable) => Outcome::refusal(FACT_UNAVAILABLE),
        }
    }
}

impl Table {
    pub(crate) fn new(entries: Vec<Entry>) -> Self {
        let routes = Routes::of(entries.iter().map(|entry| &*entry.conditions));
        Self { entries, routes }
    }

    /// The first entry that matches. A condition that cannot be decided before one is found decides nothing.
    pub(crate) fn find(&self, request: &Request<'_>) -> Result<Option<&Entry>, Unavailable> {
        let view = View::new(request);
        let candidates = self.routes.candidates(&view).into_iter();
        let mut candidates = candidates.filter_map(|entry| self.entries.get(usize::try_from(entry).ok()?));
        let found = candidates.find(|entry| entry.matches(&view));
        if view.is_undecided() { Err(Unavailable) } else { Ok(found) }
    }
}

impl Entry {
    pub(crate) fn matches<'r>(&'r self, view: &View<'r>) -> bool {
        self.conditions.path.matches(view.path) && self.conditions.hold_beside_path(view)
    }
}

impl Rule {
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
