//! What is asked of rate limit services for one request.

use std::time::Duration;

use crate::outcome::Ledger;
use crate::rls;
use crate::tier::Claim;

/// What one rule wants to know.
#[derive(Debug)]
pub(crate) struct Question {
    pub(crate) rule: usize,
    /// For the limit that holds where there is no answer.
    pub(crate) claim: Claim,
    pub(crate) descriptor: Vec<u8>,
}

/// One call of `ShouldRateLimit`.
#[derive(Debug)]
pub struct Call {
    /// The place of the service in [`Engine::services`](crate::Engine::services).
    pub service: usize,
    /// The encoded request.
    pub message: Vec<u8>,
    /// How long to wait for the answer.
    pub timeout: Duration,
    /// Emptied when there is an answer.
    questions: Option<Vec<Question>>,
}

/// Why there is no answer: all end the same way.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Failure;

/// What goes into one call.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct CallKey<'e> {
    pub(crate) service: usize,
    pub(crate) domain: &'e str,
    pub(crate) timeout: Duration,
    /// `hits_addend` is one number for all descriptors.
    pub(crate) cost: u32,
}

impl CallKey<'_> {
    pub(crate) fn call(&self, questions: Vec<Question>) -> Call {
        let descriptors = questions.iter().map(|question| question.descriptor.as_slice());
        let message = rls::request(self.domain, descriptors, self.cost);
        Call { service: self.service, message, timeout: self.timeout, questions: Some(questions) }
    }
}

/// A request whose decision waits for answers.
#[derive(Debug)]
pub struct Asking {
    /// The calls to make, all at once.
    pub calls: Vec<Call>,
    /// Taken when it is decided.
    ledger: Option<Ledger>,
}

impl Asking {
    pub(crate) fn of(ledger: Ledger, calls: Vec<Call>) -> Self {
        Self { calls, ledger: Some(ledger) }
    }

    /// The questions of a call that has no answer yet.
    pub(crate) fn resolve(&mut self, call: usize) -> Option<Vec<Question>> {
        self.calls.get_mut(call)?.questions.take()
    }

    pub(crate) fn ledger_mut(&mut self) -> &mut Ledger {
        self.ledger.get_or_insert_default()
    }

    pub(crate) fn finished(&mut self) -> Option<Ledger> {
        let open = self.calls.iter().any(|call| call.questions.is_some());
        let refuses = self.ledger.as_ref().is_some_and(Ledger::refuses);
        if open && !refuses { None } else { self.ledger.take() }
    }
}
