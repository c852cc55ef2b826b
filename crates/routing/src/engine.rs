//! The compiled engine and its decision.

use std::rc::Rc;

use sailcloth_core::config::{Node, Problem};
use sailcloth_core::decision::Reason;
use sailcloth_core::facts::Sources;
use sailcloth_core::key::Unknown;
use sailcloth_core::request::Request;
use sailcloth_resources::Config;
use sailcloth_resources::virtual_service::VirtualService;

use crate::compile::compile;
use crate::condition::{Conditions, View};
use crate::dice::{Dice, scale};
use crate::edit::{Edit, Pass};
use crate::format::Unavailable;
use crate::hosts::Hosts;
use crate::index::Routes;
use crate::outcome::Outcome;
use crate::settings::Settings;
use crate::sticky::{self, Point, Sticky};
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
    pub(crate) enforced: Side,
    /// Of documents that never act.
    pub(crate) shadow: Side,
    pub(crate) rules: Vec<Rule>,
    pub(crate) sources: Sources,
    pub(crate) resources: usize,
}

/// The rules of all hosts.
#[derive(Debug, Default)]
pub(crate) struct Side {
    pub(crate) hosts: Hosts,
    pub(crate) tables: Vec<Table>,
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
    /// Its place in the rule's `match`.
    pub(crate) place: u32,
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
    pub(crate) controls: Rc<Vec<(&'static str, String)>>,
    /// None where the rule only sends its requests on.
    pub(crate) work: Option<Box<Work>>,
    /// What native routes match it by, where they carry it out.
    pub(crate) native: Option<String>,
    /// For a rule with several destinations.
    pub(crate) sticky: Option<Sticky>,
}

/// One destination of a rule.
#[derive(Debug, Default)]
pub(crate) struct Arm {
    pub(crate) cluster: String,
    pub(crate) label: String,
    pub(crate) weight: u64,
    /// Edits for this destination, where the rule has others.
    pub(crate) edits: Option<Box<ArmEdits>>,
}

/// Edits for one of several destinations.
#[derive(Debug, Default)]
pub(crate) struct ArmEdits {
    pub(crate) request: Pass,
    pub(crate) response: Pass,
    pub(crate) authority: Option<String>,
}

/// What was chosen for a request.
struct Choice<'e> {
    arm: Option<(usize, &'e Arm)>,
    /// `set-cookie` for its response.
    cookie: Option<String>,
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
        let mut outcome = self
            .decide_in(&self.enforced, request, random)
            .unwrap_or_else(|| Outcome::refusal(NO_VIRTUAL_HOST));
        outcome.shadow = self.decide_in(&self.shadow, request, random).map(Outcome::into_shadow);
        outcome
    }

    /// `None` where no document has rules for the host.
    fn decide_in<'e>(&'e self, side: &'e Side, request: &Request<'e>, random: u64) -> Option<Outcome<'e>> {
        let table = side.tables.get(side.hosts.find(request.authority())?)?;
        let found = match table.find(request) {
            Ok(found) => found.and_then(|entry| Some((entry, self.rules.get(entry.rule)?))),
            Err(Unavailable) => return Some(Outcome::refusal(FACT_UNAVAILABLE)),
        };
        let Some((entry, rule)) = found else { return Some(Outcome::refusal(NO_ROUTE)) };
        let Choice { arm, cookie } = match rule.choose(request, random) {
            Ok(chosen) => chosen,
            Err(unknown) => return Some(Outcome::refusal(sticky::reason(unknown))),
        };
        let carried = match &rule.native {
            Some(route) => Ok(Some(rule.pair(entry.rule, route, request, arm))),
            None => rule.carry_out(entry.rule, entry, request, arm, &mut Dice::new(random)),
        };
        Some(match carried {
            Ok(Some(mut outcome)) => {
                outcome.response.extend(cookie.map(|cookie| Edit::add_own("set-cookie", cookie)));
                outcome
            }
            Ok(None) => Outcome::refusal(NO_ROUTE),
            Err(Unavailable) => Outcome::refusal(FACT_UNAVAILABLE),
        })
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
    /// The destination of a request, and the cookie by which its user is known from now on.
    fn choose(&self, request: &Request<'_>, random: u64) -> Result<Choice<'_>, Unknown> {
        let drawn = || Choice { arm: self.draw(random), cookie: None };
        let Some(sticky) = &self.sticky else { return Ok(drawn()) };
        let (place, cookie) = match sticky.point(request, random)? {
            Point::Nobody => return Ok(drawn()),
            Point::Known(place) => (place, None),
            Point::New(place, id) => (place, sticky.set_cookie(id, request.headers)),
        };
        let number = sticky.arm(place, self.arms.iter().map(|arm| arm.weight));
        Ok(Choice { arm: number.and_then(|number| Some((number, self.arms.get(number)?))), cookie })
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
