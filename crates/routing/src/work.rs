//! What a rule does with the requests that match it.

use std::borrow::Cow;

use sailcloth_core::decision::{Decision, Filter, Mode, Reason, RuleRef, Verdict};
use sailcloth_core::request::Request;
use sailcloth_resources::virtual_service::{AUTHORITY, AbortStatus, Fault, Share};

use crate::cors::Cors;
use crate::dice::Dice;
use crate::edit::{Edit, Edited, Pass};
use crate::effects::{CLUSTER_HEADER, forged};
use crate::engine::{Arm, Entry, Rule};
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
const PATH: &str = ":path";
/// What Envoy's `fault` filter answers.
const ABORT_BODY: &[u8] = b"fault filter abort";

/// Everything beside the choice of a destination.
#[derive(Debug, Default)]
pub(crate) struct Work {
    pub(crate) own: Option<OwnResponse>,
    pub(crate) fault: Option<Fault>,
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
        let work = &self.work;
        let mut outcome = self.outcome(id, drawn);
        if work.own.is_none() && drawn.is_none() {
            return Ok(None);
        }
        outcome.request = self.request_edits(entry, request, drawn, dice)?;
        outcome.response = self.response_edits(request, &outcome.request, drawn)?;
        let abort = self.inject(&mut outcome, dice);
        if let Some(abort) = abort {
            outcome.answer = Some(abort);
            return Ok(Some(outcome));
        }
        let (mut cross_origin, preflight) =
            work.cors.as_ref().map(|cors| cors.look(request)).unwrap_or_default();
        if let Some(preflight) = preflight {
            // Envoy's filter answers before the router could edit anything.
            outcome.response = cross_origin;
            outcome.answer = Some(preflight);
            outcome.decision.reason = PREFLIGHT;
            return Ok(Some(outcome));
        }
        outcome.response.append(&mut cross_origin);
        if let Some(own) = &work.own {
            outcome.answer = Some(own.answer(request, &entry.conditions.path, work.listener)?);
            outcome.decision.reason = match own {
                OwnResponse::Redirect(_) => REDIRECTED,
                OwnResponse::Direct(_) => ANSWERED,
            };
        }
        Ok(Some(outcome))
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

    /// Delays, and aborts: the answer of an abort.
    fn inject(&self, outcome: &mut Outcome<'_>, dice: &mut Dice) -> Option<Answer<'static>> {
        let fault = self.work.fault.as_ref()?;
        outcome.delay = fault.delay.as_ref().filter(|delay| dice.hits(delay.share)).map(|delay| delay.time);
        let abort = fault.abort.as_ref().filter(|abort| dice.hits(abort.share))?;
        outcome.decision.reason = ABORTED;
        let (status, grpc_status) = match abort.status {
            AbortStatus::Http(status) => (status, grpc_status(status)),
            AbortStatus::Grpc(status) => (http_status(status), status),
        };
        Some(Answer { status, grpc_status, headers: Vec::new(), body: Cow::Borrowed(ABORT_BODY) })
    }

    /// All edits of the request, in the order in which filter and router would make them.
    fn request_edits<'e>(
        &'e self,
        entry: &'e Entry,
        request: &Request<'e>,
        drawn: Option<(usize, &'e Arm)>,
        dice: &mut Dice,
    ) -> Result<Vec<Edit<'e>>, Unavailable> {
        let work = &self.work;
        // A rule that answers by itself sends nothing on.
        let Some((_, arm)) = drawn else { return Ok(Vec::new()) };
        let mut carried = vec![(CLUSTER_HEADER, arm.cluster.as_str())];
        carried.extend(self.controls.iter().map(|(name, value)| (*name, value.as_str())));
        let mirrors = work.mirrors.iter().filter(|(_, share, _)| dice.hits(*share));
        carried.extend(mirrors.map(|(cluster, _, header)| (header.as_str(), cluster.as_str())));
        let mut edits: Vec<Edit<'e>> = forged(request.headers, &carried);
        edits.extend(carried.into_iter().map(|(name, value)| Edit::set(name, value)));
        for pass in [&arm.request, &work.request].into_iter().filter(|pass| !pass.is_empty()) {
            let seen = Edited { request, edits: &edits };
            let made = pass.apply(&seen, |name| seen.first(name).is_some())?;
            edits.extend(made);
        }
        if let Some(authority) = work.authority.as_ref().or(arm.authority.as_ref()) {
            edits.push(Edit::set(AUTHORITY, authority));
        }
        let path = work.path.as_ref().and_then(|change| change.apply(request, &entry.conditions.path));
        if let Some(path) = path {
            edits.push(Edit::Set(Cow::Borrowed(ORIGINAL_PATH), Cow::Borrowed(request.target())));
            edits.push(Edit::Set(Cow::Borrowed(PATH), Cow::Owned(path)));
        }
        Ok(edits)
    }

    fn response_edits<'e>(
        &'e self,
        request: &Request<'e>,
        edits: &[Edit<'e>],
        drawn: Option<(usize, &'e Arm)>,
    ) -> Result<Vec<Edit<'e>>, Unavailable> {
        let mut response = Vec::new();
        let arm = drawn.map(|(_, arm)| &arm.response);
        for pass in arm.into_iter().chain([&self.work.response]) {
            let seen = Edited { request, edits };
            response.extend(pass.apply(&seen, |_| true)?);
        }
        Ok(response)
    }
}

/// What an HTTP client is told of a gRPC status, by Envoy's table.
fn http_status(grpc: u8) -> u16 {
    match grpc {
        0 => 200,
        1 => 499,
        3 | 9 | 11 => 400,
        4 => 504,
        5 => 404,
        6 | 10 => 409,
        7 => 403,
        8 => 429,
        12 => 501,
        14 => 503,
        16 => 401,
        _ => 500,
    }
}
