//! Requests that a fault holds, until a tick lets them go.

use std::collections::VecDeque;
use std::time::Duration;

use sailcloth_host::{Status, StreamId, clock, timer};
use sailcloth_routing::Answer;

/// Nanoseconds of Envoy's monotonic clock.
pub(crate) type Deadline = u64;

/// An answer with its response code details; none for a request that goes on.
type Then = Option<(Answer<'static>, String)>;

/// The requests that wait, the next one first. While none waits, nothing ticks.
#[derive(Default)]
pub(crate) struct Held(VecDeque<Request>);

struct Request {
    deadline: Deadline,
    id: StreamId,
    then: Then,
}

impl Held {
    /// Notes a request that stops here for a time.
    pub(crate) fn hold(&mut self, id: StreamId, time: Duration, then: Then) -> Result<Deadline, Status> {
        let now = clock::monotonic_nanoseconds()?;
        let deadline = now.saturating_add(u64::try_from(time.as_nanos()).unwrap_or(u64::MAX));
        // The period begins anew whenever it is set, so it is set only for what comes before all others.
        if self.0.front().is_none_or(|first| deadline < first.deadline) {
            timer::set_period(Some(until(deadline, now)))?;
        }
        // Most rules delay by the same time: the newest is the last.
        let behind = self.0.iter().rev().take_while(|other| other.deadline > deadline).count();
        self.0.insert(self.0.len() - behind, Request { deadline, id, then });
        Ok(deadline)
    }

    /// Takes the requests whose time has come, and asks for the next tick.
    pub(crate) fn due(&mut self) -> Vec<(StreamId, Then)> {
        // Without a clock nobody is held any longer: a fault is no reason to hang.
        let now = clock::monotonic_nanoseconds().unwrap_or(u64::MAX);
        let mut due = Vec::new();
        while let Some(first) = self.0.pop_front() {
            if first.deadline > now {
                self.0.push_front(first);
                break;
            }
            due.push((first.id, first.then));
        }
        self.tick_again(now);
        due
    }

    /// Forgets a request that is gone.
    pub(crate) fn forget(&mut self, deadline: Deadline, id: StreamId) {
        let first = self.0.partition_point(|other| other.deadline < deadline);
        let place = self.0.iter().skip(first).position(|other| other.id == id);
        if let Some(place) = place {
            drop(self.0.remove(first + place));
        }
        if self.0.is_empty() {
            self.tick_again(0);
        }
    }

    /// A timer that cannot be set keeps its old period: later or too often, and both are harmless.
    fn tick_again(&self, now: u64) {
        let period = self.0.front().map(|first| until(first.deadline, now));
        let _ = timer::set_period(period);
    }
}

/// Rounded up to whole milliseconds, so that a tick does not come just before.
fn until(deadline: u64, now: u64) -> Duration {
    Duration::from_millis(deadline.saturating_sub(now).div_ceil(1_000_000).max(1))
}
