//! What a rule does with the requests that match it.

use std::borrow::Cow;

use sailcloth_core::decision::{Decision, Filter, Mode, Reason, RuleRef, Verdict};
use sailcloth_core::request::Request;
use sailcloth_resources::virtual_service::{AUTHORITY, AbortStatus, Fault, Share};

use crate::cors::Cors;
use crate::dice::Dice;
use crate::edit::{Edit, Edited, Pass};
use crate::effects::{CLUSTER_HEADER, forged};
use crate::engine::{Arm, ArmEdits, Entry, Rule};
use crate::format::Unavailable;
use crate::outcome::{Answer, Outcome};
use crate::redirect::{OwnResponse, grpc_status};
use crate::rewrite::PathChange;

/// The request goes to a destination.
const MATCHED: Reason = Reason::pass("matched");
/// The rule sends the client elsewhere.
const REDIRECTED: Reason = Reason::pass("redirected");
/// The rule answers.
const ANSWERED: Reason = Reason::pass("direct_response");
/// A preflight was answered.
const PREFLIGHT: Reason = Reason::pass("cors_preflight");
/// A fault was injected.
const ABORTED: Reason = Reason::pass("fault_abort");

const ORIGINAL_PATH: &str = "x-envoy-original-path";
const ORIGINAL_HOST: &str = "x-envoy-original-host";
const PATH: &str = ":path";
/// What Envoy's `fault` filter answers.
const ABORT_BODY: &[u8] = b"fault filter abort";

/// Everything beside the choice of a destination.
#[derive(Debug, Default)]
pub(crate) struct Work {
    pub(crate) own: Option<OwnResponse>,
    pub(crate) fault: Option<Box<Fault>>,
    pub(crate) cors: Option<Cors>,
    pub(crate) path: Option<PathChange>,
    pub(crate) authority: Option<String>,
    pub(crate) request: Pass,
    pub(crate) response: Pass,
    /// Cluster, share, and the header that carries it.
    pub(crate) mirrors: Vec<(String, Share, String)>,
    /// The port that the configuration says the listener has.
    pub(crate) listener: Option<u16>,
}

impl Rule {
    /// What comes of a request that an entry of this rule matched; `None` where no destination has a weight.
    pub(crate) fn carry_out<'e>(
        &'e self,
        id: usize,
        entry: &'e Entry,
        request: &Request<'e>,
        drawn: Option<(usize, &'e Arm)>,
        dice: &mut Dice,
    ) -> Result<Option<Outcome<'e>>, Unavailable> {
        let mut outcome = self.outcome(id, drawn);
        let own = self.work.as_ref().and_then(|work| work.own.as_ref());
        // A rule that answers by itself sends nothing on.
        match drawn {
            Some((_, arm)) => outcome.request = self.carried(arm, request, dice),
            None if own.is_none() => return Ok(None),
            None => {}
        }
        if let Some(work) = &self.work {
            work.carry_out(&mut outcome, entry, request, drawn, dice)?;
        }
        Ok(Some(outcome))
    }

    /// The edits by which Envoy's router is told the choice.
    fn carried<'e>(&'e self, arm: &'e Arm, request: &Request<'e>, dice: &mut Dice) -> Vec<Edit<'e>> {
        let mut carried = vec![(CLUSTER_HEADER, arm.cluster.as_str())];
        carried.extend(self.controls.iter().map(|(name, value)| (*name, value.as_str())));
        for (cluster, share, header) in self.work.iter().flat_map(|work| &work.mirrors) {
            if dice.hits(*share) {
                carried.push((header.as_str(), cluster.as_str()));
            }
        }
        let mut edits = forged(request.headers, &carried);
        edits.extend(carried.into_iter().map(|(name, value)| Edit::set(name, value)));
        edits
    }

    pub(crate) fn outcome<'e>(&'e self, id: usize, arm: Option<(usize, &'e Arm)>) -> Outcome<'e> {
        let by = RuleRef { id, policy: &self.policy, rule: self.number };
        let decision = Decision {
            filter: Filter::Routing,
            verdict: Verdict::Route,
            by: Some(by),
            reason: MATCHED,
            mode: Mode::Enforce,
        };
        Outcome {
            decision,
            request: Vec::new(),
            response: Vec::new(),
            delay: None,
            answer: None,
            route: None,
            shadow: None,
            arm,
        }
    }
}

impl Work {
    fn carry_out<'e>(
        &'e self,
        outcome: &mut Outcome<'e>,
        entry: &'e Entry,
        request: &Request<'e>,
        drawn: Option<(usize, &'e Arm)>,
        dice: &mut Dice,
    ) -> Result<(), Unavailable> {
        if let Some((_, arm)) = drawn {
            self.edit_request(&mut outcome.request, entry, request, arm.edits.as_deref())?;
        }
        let arm = drawn.and_then(|(_, arm)| arm.edits.as_deref());
        outcome.response = self.response_edits(request, &outcome.request, arm)?;
        if let Some(abort) = self.inject(outcome, dice) {
            outcome.answer = Some(abort);
            return Ok(());
        }
        // Envoy's filter leaves rules alone that answer by themselves.
        let cors = self.cors.as_ref().filter(|_| self.own.is_none());
        let (mut cross_origin, preflight) = cors.map(|cors| cors.look(request)).unwrap_or_default();
        if let Some(preflight) = preflight {
            // Envoy's filter answers before the router could edit anything.
            outcome.response = cross_origin;
            outcome.answer = Some(preflight);
            outcome.decision.reason = PREFLIGHT;
            return Ok(());
        }
        outcome.response.append(&mut cross_origin);
        if let Some(own) = &self.own {
            outcome.answer = Some(own.answer(request, &entry.conditions.path, self.listener)?);
            outcome.decision.reason = match own {
                OwnResponse::Redirect(_) => REDIRECTED,
                OwnResponse::Direct(_) => ANSWERED,
            };
        }
        Ok(())
    }

    /// Delays, and aborts: the answer of an abort.
    fn inject(&self, outcome: &mut Outcome<'_>, dice: &mut Dice) -> Option<Answer<'static>> {
        let fault = self.fault.as_ref()?;
        outcome.delay = fault.delay.as_ref().filter(|delay| dice.hits(delay.share)).map(|delay| delay.time);
        let abort = fault.abort.as_ref().filter(|abort| dice.hits(abort.share))?;
        outcome.decision.reason = ABORTED;
        let (status, grpc_status) = match abort.status {
            AbortStatus::Http(status) => (status, grpc_status(status)),
            // A client that does not speak gRPC gets 200 from Envoy's filter (seen on 1.40).
            AbortStatus::Grpc(status) => (200, status),
        };
        Some(Answer { status, grpc_status, headers: Vec::new(), body: Cow::Borrowed(ABORT_BODY) })
    }

    /// What the rule changes in the request, in the order in which Envoy's router would.
    fn edit_request<'e>(
        &'e self,
        edits: &mut Vec<Edit<'e>>,
        entry: &'e Entry,
        request: &Request<'e>,
        arm: Option<&'e ArmEdits>,
    ) -> Result<(), Unavailable> {
        let passes = arm.map(|arm| &arm.request).into_iter().chain([&self.request]);
        for pass in passes.filter(|pass| !pass.is_empty()) {
            let seen = Edited { request, edits };
            let made = pass.apply(&seen, |name| seen.first(name).is_some())?;
            edits.extend(made);
        }
        if let Some(authority) = self.authority.as_ref().or(arm.and_then(|arm| arm.authority.as_ref())) {
            edits.push(Edit::Set(Cow::Borrowed(ORIGINAL_HOST), Cow::Borrowed(request.authority())));
            edits.push(Edit::set(AUTHORITY, authority));
        }
        let path = self.path.as_ref().and_then(|change| change.apply(request, &entry.conditions.path));
        if let Some(path) = path {
            edits.push(Edit::Set(Cow::Borrowed(ORIGINAL_PATH), Cow::Borrowed(request.target())));
            edits.push(Edit::Set(Cow::Borrowed(PATH), Cow::Owned(path)));
        }
        Ok(())
    }

    fn response_edits<'e>(
        &'e self,
        request: &Request<'e>,
        edits: &[Edit<'e>],
        arm: Option<&'e ArmEdits>,
    ) -> Result<Vec<Edit<'e>>, Unavailable> {
        let mut response = Vec::new();
        for pass in arm.map(|arm| &arm.response).into_iter().chain([&self.response]) {
            let seen = Edited { request, edits };
            response.extend(pass.apply(&seen, |_| true)?);
        }
        Ok(response)
    }

    /// Whether a rule with this only sends its requests on.
    pub(crate) fn is_nothing(&self) -> bool {
        self.own.is_none()
            && self.fault.is_none()
            && self.cors.is_none()
            && self.path.is_none()
            && self.authority.is_none()
            && self.request.is_empty()
            && self.response.is_empty()
            && self.mirrors.is_empty()
    }
}
