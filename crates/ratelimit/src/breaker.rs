//! Circuit breakers: a rate limit service that does not answer is not asked for a while.

use std::collections::BTreeMap;

use sailcloth_resources::rate_limit::Breaker;

/// Those of one worker that have seen a failure, by service.
#[derive(Debug, Default)]
pub(crate) struct Breakers(BTreeMap<usize, State>);

#[derive(Debug, Clone, Copy, Default)]
struct State {
    /// Failures in a row.
    failures: u32,
    /// Until when nobody asks; 0 while it is closed.
    open_until: u64,
}

impl Breakers {
    /// Whether the service may be asked at `now`. After a pause one request may try, and the next pause begins, which
    /// its success ends.
    pub(crate) fn admits(&mut self, service: usize, breaker: &Breaker, now: u64) -> bool {
        let Some(state) = self.0.get_mut(&service).filter(|state| state.open_until != 0) else { return true };
        if now < state.open_until {
            return false;
        }
        state.open_until = pause(breaker, now);
        true
    }

    /// Notes what came of asking.
    pub(crate) fn note(&mut self, service: usize, breaker: &Breaker, answered: bool, now: u64) {
        if answered {
            self.0.remove(&service);
            return;
        }
        let state = self.0.entry(service).or_default();
        state.failures = state.failures.saturating_add(1);
        if state.failures >= breaker.failures {
            state.open_until = pause(breaker, now);
        }
    }
}

fn pause(breaker: &Breaker, now: u64) -> u64 {
    now.saturating_add(u64::try_from(breaker.open_for.as_nanos()).unwrap_or(u64::MAX)).max(1)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;
    #[cfg(target_family = "wasm")]
    use wasm_bindgen_test::wasm_bindgen_test as test;

    #[test]
    fn it_opens_after_failures_in_a_row_and_lets_one_at_a_time_try() {
        let breaker = Breaker { failures: 3, open_for: Duration::from_nanos(100) };
        let mut breakers = Breakers::default();
        for answered in [false, false, true, false, false] {
            breakers.note(0, &breaker, answered, 1);
        }
        assert!(breakers.admits(0, &breaker, 1), "never three in a row");
        breakers.note(0, &breaker, false, 1);
        assert!(!breakers.admits(0, &breaker, 100) && breakers.admits(1, &breaker, 100), "0 alone is open");
        assert!(breakers.admits(0, &breaker, 101) && !breakers.admits(0, &breaker, 101), "one tries");
        breakers.note(0, &breaker, false, 110);
        assert!(!breakers.admits(0, &breaker, 209) && breakers.admits(0, &breaker, 210), "and in vain");
        breakers.note(0, &breaker, true, 220);
        assert!(breakers.admits(0, &breaker, 221) && breakers.admits(0, &breaker, 221));
    }

    #[test]
    fn a_try_whose_end_is_never_told_does_not_keep_it_open_for_ever() {
        let breaker = Breaker { failures: 1, open_for: Duration::from_nanos(100) };
        let mut breakers = Breakers::default();
        breakers.note(0, &breaker, false, 1);
        assert!(breakers.admits(0, &breaker, 101) && !breakers.admits(0, &breaker, 200));
        assert!(breakers.admits(0, &breaker, 201));
    }
}
