//! The generic cell rate algorithm (ITU-T I.371): a token bucket in a single number.
//!
//! A bucket's state is `tat`, the theoretical arrival time: when the bucket will be full again. A request that costs
//! `c` moves it `c` emission intervals ahead, and is admitted if it stays within the bucket's size of now.

use std::time::Duration;

use sailcloth_resources::rate_limit::Limit;

/// How far two workers' readings of the clock may differ without meaning that the clock went back. A `tat` beyond the
/// bucket's size by less than this is left alone and denies; by more, it is brought back (see [`Gcra::mend`]).
const CLOCK_SLACK: u64 = 1_000_000_000;
/// The shortest emission interval. Intervals are whole nanoseconds, rounded up: at one microsecond the rate is
/// less than 0.1 % below the configured one.
const MIN_INTERVAL: u64 = 1_000;
/// The longest time to refill a bucket: ten years.
const MAX_CAPACITY: u64 = 10 * 366 * 24 * 3600 * 1_000_000_000;

/// A compiled limit; all times in nanoseconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Gcra {
    interval: u64,
    capacity: u64,
    /// How far beyond the bucket's size what is settled afterwards may take it.
    debt: u64,
}

/// What a request finds in its bucket.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Take {
    /// It is admitted; the bucket becomes `tat`.
    Admitted {
        /// The bucket's new state.
        tat: u64,
    },
    /// It is over the limit.
    Limited {
        /// Nanoseconds until the same request would be admitted.
        retry_after: u64,
    },
    /// It costs more than the bucket can hold: it will never be admitted.
    TooLarge,
}

impl Gcra {
    /// Compiles a limit. `debt` is how much the requests of a full bucket may cost beyond what was taken for them
    /// beforehand; 0 where costs are known beforehand.
    ///
    /// # Errors
    /// What is wrong with the limit, for the person who wrote it.
    pub fn new(limit: Limit, debt: u64) -> Result<Self, String> {
        let per = nanoseconds(limit.per).ok_or("`per` is too long")?;
        let interval = per.div_ceil(u64::from(limit.requests).max(1));
        if interval < MIN_INTERVAL {
            return Err("more than 1000000 requests a second cannot be told apart; lower `requests`".into());
        }
        let capacity = interval.checked_mul(u64::from(limit.burst)).filter(|time| *time <= MAX_CAPACITY);
        let capacity = capacity.ok_or("a burst of that size would take more than ten years to refill")?;
        let debt = interval.saturating_mul(debt).min(MAX_CAPACITY);
        Ok(Self { interval, capacity, debt })
    }

    /// Asks a bucket for a request of this cost at `now`. A `tat` in the past is a full bucket.
    #[must_use]
    pub fn take(&self, tat: u64, now: u64, cost: u32) -> Take {
        let cost = self.time(cost);
        if cost > self.capacity {
            return Take::TooLarge;
        }
        let next = self.mend(tat, now).max(now).saturating_add(cost);
        let limit = now.saturating_add(self.capacity);
        if next <= limit { Take::Admitted { tat: next } } else { Take::Limited { retry_after: next - limit } }
    }

    /// Takes more for a request that has been admitted, whatever the bucket holds; never beyond the debt.
    #[must_use]
    pub fn charge(&self, tat: u64, now: u64, cost: u32) -> u64 {
        let next = self.mend(tat, now).max(now).saturating_add(self.time(cost));
        next.min(now.saturating_add(self.capacity).saturating_add(self.debt))
    }

    /// Gives back what was taken: as if the request had not come.
    #[must_use]
    pub fn refund(&self, tat: u64, cost: u32) -> u64 {
        tat.saturating_sub(self.time(cost))
    }

    /// A `tat` that no admission before `now` can have left means that the clock has gone back since: it becomes an
    /// empty bucket at `now`. Without this a client would wait out the whole jump.
    #[must_use]
    pub fn mend(&self, tat: u64, now: u64) -> u64 {
        let empty = now.saturating_add(self.capacity);
        let highest = empty.saturating_add(self.debt).saturating_add(CLOCK_SLACK);
        if tat > highest { empty } else { tat }
    }

    /// An empty bucket at `now`.
    #[must_use]
    pub fn emptied(&self, now: u64) -> u64 {
        now.saturating_add(self.capacity)
    }

    /// Whole requests of cost 1 that a bucket could still take at `now`.
    #[must_use]
    pub fn remaining(&self, tat: u64, now: u64) -> u64 {
        self.capacity.saturating_sub(tat.saturating_sub(now)) / self.interval
    }

    fn time(&self, cost: u32) -> u64 {
        self.interval.saturating_mul(u64::from(cost))
    }
}

/// Nanoseconds as whole seconds, rounded up: a client that waits that long does not come too early.
#[must_use]
pub(crate) fn ceil_seconds(nanoseconds: u64) -> u64 {
    nanoseconds.div_ceil(1_000_000_000)
}

fn nanoseconds(duration: Duration) -> Option<u64> {
    u64::try_from(duration.as_nanos()).ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    #[cfg(target_family = "wasm")]
    use wasm_bindgen_test::wasm_bindgen_test as test;

    const SECOND: u64 = 1_000_000_000;

    fn limit(requests: u32, per: u64, burst: u32) -> Limit {
        Limit { requests, per: Duration::from_nanos(per), burst, lease: 1 }
    }

    #[test]
    fn a_full_bucket_gives_its_burst_and_then_the_rate() {
        let gcra = Gcra::new(limit(2, SECOND, 3), 0).unwrap();
        let mut tat = 0;
        let mut admitted = |now| match gcra.take(tat, now, 1) {
            Take::Admitted { tat: next } => {
                tat = next;
                true
            }
            Take::Limited { .. } | Take::TooLarge => false,
        };
        let start = 7 * SECOND;
        assert_eq!([start; 4].map(&mut admitted), [true, true, true, false]);
        let half = start + SECOND / 2;
        assert_eq!([half - 1, half, half, half + SECOND / 2].map(&mut admitted), [false, true, false, true]);
    }

    #[test]
    fn waiting_as_long_as_told_is_enough_and_not_too_much() {
        let gcra = Gcra::new(limit(7, SECOND, 5), 0).unwrap();
        let Take::Admitted { tat } = gcra.take(0, SECOND, 3) else { panic!("a full bucket refused") };
        let Take::Limited { retry_after } = gcra.take(tat, SECOND, 3) else { panic!("over the burst") };
        assert!(matches!(gcra.take(tat, SECOND + retry_after - 1, 3), Take::Limited { retry_after: 1 }));
        assert!(matches!(gcra.take(tat, SECOND + retry_after, 3), Take::Admitted { .. }));
    }

    #[test]
    fn after_the_clock_went_back_a_bucket_is_empty_and_no_more_than_empty() {
        let gcra = Gcra::new(limit(1, SECOND, 4), 0).unwrap();
        let tat = gcra.mend(1_000 * SECOND, 10 * SECOND);
        assert_eq!(gcra.take(tat, 10 * SECOND, 1), Take::Limited { retry_after: SECOND });
    }

    #[test]
    fn limits_that_cannot_be_kept_are_refused() {
        assert!(Gcra::new(limit(1_100_000, SECOND, 1), 0).unwrap_err().contains("1000000 requests a second"));
        let year = 366 * 24 * 3600 * SECOND;
        assert!(Gcra::new(limit(1, year, 11), 0).unwrap_err().contains("ten years"));
        assert!(Gcra::new(limit(1, year, 1_000_000_000), 0).unwrap_err().contains("ten years"));
        assert!(Gcra::new(limit(1, year, 10), 0).is_ok());
    }

    #[test]
    fn what_is_settled_later_is_a_debt_that_is_paid_at_the_rate() {
        let gcra = Gcra::new(limit(1, SECOND, 2), 10).unwrap();
        let Take::Admitted { tat } = gcra.take(0, SECOND, 1) else { panic!("a full bucket refused") };
        let tat = gcra.charge(tat, SECOND, 4);
        assert_eq!(gcra.take(tat, SECOND, 1), Take::Limited { retry_after: 4 * SECOND });
        assert_eq!(gcra.mend(tat, SECOND), tat, "a debt is no clock that went back");
        assert_eq!(gcra.charge(tat, SECOND, u32::MAX), 13 * SECOND, "the bucket and ten more");
        assert_eq!(gcra.refund(gcra.charge(tat, SECOND, 3), 3), tat);
        assert_eq!(gcra.take(0, SECOND, 3), Take::TooLarge);
    }
}
