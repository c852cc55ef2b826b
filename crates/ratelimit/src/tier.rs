//! One limit with the buckets of its clients.

use sailcloth_resources::rate_limit::Limit;

use crate::row::{Visit, WAYS};
use crate::worker::{LeaseKey, Leases};
use crate::{Gcra, Moment, Row, RowKey, Store, StoreError, Take};

/// Attempts to write a row that other workers keep changing; then the request counts as over the limit.
pub(crate) const ATTEMPTS: u32 = 16;

/// One limit of a rule, or of a key in its table, with the rows that hold the buckets of its clients.
#[derive(Debug)]
pub(crate) struct Tier {
    pub(crate) gcra: Gcra,
    pub(crate) limit: Limit,
    /// A hash of what makes its buckets: policy, name, match, key, limit, cost and number of rows. An edit elsewhere
    /// leaves it as it is, so it refills nothing.
    pub(crate) identity: u64,
    pub(crate) rows: u32,
}

/// A client of a tier, with what its request costs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Claim {
    pub(crate) tag: u64,
    pub(crate) cost: u32,
}

/// What was taken, to be given back or settled.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Taken {
    pub(crate) claim: Claim,
    /// From the bucket of those without a place.
    crowded: bool,
    /// From what this worker holds.
    leased: bool,
}

/// What came of taking.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Took {
    Admitted {
        taken: Taken,
        tat: u64,
        crowded: bool,
        grown: i64,
    },
    Limited {
        tat: u64,
        retry_after: u64,
        crowded: bool,
    },
    TooLarge,
    /// Other workers changed the bucket at every attempt.
    Contended {
        tat: u64,
    },
    Failed,
}

impl Tier {
    /// The number of rows for this many clients.
    pub(crate) fn rows_for(slots: u32) -> u32 {
        slots.div_ceil(u32::try_from(WAYS).unwrap_or(1)).max(1)
    }

    fn row(&self, tag: u64) -> RowKey {
        // The upper half scaled to the number of rows: uniform, and below it by construction.
        let row = ((tag >> 32) * u64::from(self.rows)) >> 32;
        RowKey { rule: self.identity, row: u32::try_from(row).unwrap_or(0) }
    }

    /// Looks whether a request would be admitted; takes nothing.
    pub(crate) fn ask(
        &self,
        claim: Claim,
        moment: Moment,
        store: &mut dyn Store,
        leases: &Leases,
    ) -> Result<Attempt<'_>, StoreError> {
        let key = LeaseKey { tier: self.identity, tag: claim.tag };
        if let Some(tat) = leases.holds(key, claim.cost, moment.now) {
            let visit = Visit { take: Take::Admitted { tat }, tat, crowded: false, write: None, grown: 0 };
            return Ok(Attempt {
                tier: self,
                claim,
                row: self.row(claim.tag),
                held: true,
                version: None,
                visit,
            });
        }
        let row = self.row(claim.tag);
        let (visit, version) = self.visit(row, claim, moment, store)?;
        Ok(Attempt { tier: self, claim, row, held: false, version, visit })
    }

    /// With a lease, as much as a worker takes at once, where the bucket has it.
    fn visit(
        &self,
        row: RowKey,
        claim: Claim,
        moment: Moment,
        store: &mut dyn Store,
    ) -> Result<(Visit, Option<u32>), StoreError> {
        let (bytes, version) =
            store.read(row)?.map_or((None, None), |(bytes, version)| (Some(bytes), Some(version)));
        let read = || Row::parse(bytes.as_deref(), &self.gcra, moment.now);
        if self.limit.lease > claim.cost {
            let visit = read().visit(claim.tag, &self.gcra, moment.now, self.limit.lease);
            // What several clients share is handed out one by one.
            if matches!(visit.take, Take::Admitted { .. }) && !visit.crowded {
                return Ok((visit, version));
            }
        }
        Ok((read().visit(claim.tag, &self.gcra, moment.now, claim.cost), version))
    }

    /// Asks and takes in one go.
    pub(crate) fn take(
        &self,
        claim: Claim,
        moment: Moment,
        store: &mut dyn Store,
        leases: &mut Leases,
    ) -> (Took, u32) {
        match self.ask(claim, moment, store, leases) {
            Ok(attempt) => attempt.commit(moment, store, leases),
            Err(StoreError(_)) => (Took::Failed, 0),
        }
    }

    /// Gives back what was taken; by how much the number of places that are taken has changed.
    pub(crate) fn refund(
        &self,
        taken: Taken,
        moment: Moment,
        store: &mut dyn Store,
        leases: &mut Leases,
    ) -> i64 {
        let Claim { tag, cost } = taken.claim;
        if taken.leased && leases.give_back(LeaseKey { tier: self.identity, tag }, cost) {
            return 0;
        }
        self.correct(taken, moment, store, |tat| self.gcra.refund(tat, cost))
    }

    /// Makes what was taken what the response says that it costs; answers as [`Tier::refund`].
    pub(crate) fn settle(&self, taken: Taken, cost: u32, moment: Moment, store: &mut dyn Store) -> i64 {
        let before = taken.claim.cost;
        if cost >= before {
            self.correct(taken, moment, store, |tat| match cost - before {
                0 => tat,
                more => self.gcra.charge(tat, moment.now, more),
            })
        } else {
            self.correct(taken, moment, store, |tat| self.gcra.refund(tat, before - cost))
        }
    }

    /// Where other workers are faster at every attempt, what was taken stays as it is.
    fn correct(
        &self,
        taken: Taken,
        moment: Moment,
        store: &mut dyn Store,
        change: impl Fn(u64) -> u64,
    ) -> i64 {
        let tag = taken.claim.tag;
        let row = self.row(tag);
        for _ in 0..ATTEMPTS {
            let Ok(stored) = store.read(row) else { return 0 };
            let (bytes, version) =
                stored.map_or((None, None), |(bytes, version)| (Some(bytes), Some(version)));
            let parsed = Row::parse(bytes.as_deref(), &self.gcra, moment.now);
            let corrected = parsed.correct(tag, taken.crowded, moment.now, &change);
            let Some((bytes, grown)) = corrected else { return 0 };
            match store.write(row, &bytes, version) {
                Ok(true) => return grown,
                Ok(false) => {}
                Err(StoreError(_)) => return 0,
            }
        }
        0
    }

    /// The state of a client's bucket, for explanations.
    pub(crate) fn peek(&self, tag: u64, now: u64, store: &mut dyn Store) -> Result<(u64, bool), StoreError> {
        let stored = store.read(self.row(tag))?;
        Ok(Row::parse(stored.as_ref().map(|(bytes, _)| bytes.as_slice()), &self.gcra, now).peek(tag, now))
    }
}

/// A request that counts, with what its row said.
pub(crate) struct Attempt<'t> {
    tier: &'t Tier,
    claim: Claim,
    row: RowKey,
    /// From what this worker holds: the row was not read.
    held: bool,
    version: Option<u32>,
    visit: Visit,
}

impl Attempt<'_> {
    /// Why it would not be admitted, if so.
    pub(crate) fn over(&self) -> Option<Took> {
        let Visit { tat, crowded, .. } = self.visit;
        match self.visit.take {
            Take::Admitted { .. } => None,
            Take::Limited { retry_after } => Some(Took::Limited { tat, retry_after, crowded }),
            Take::TooLarge => Some(Took::TooLarge),
        }
    }

    /// Writes back a row that had to be mended, without taking from it. If it cannot be written, the next request
    /// tries again.
    pub(crate) fn mend(&self, store: &mut dyn Store) {
        if let Some(row) = &self.visit.write {
            let _ = store.write(self.row, row, self.version);
        }
    }

    /// Takes the request from its bucket; reads again when another worker was faster, and tells how often it was.
    pub(crate) fn commit(
        mut self,
        moment: Moment,
        store: &mut dyn Store,
        leases: &mut Leases,
    ) -> (Took, u32) {
        let key = LeaseKey { tier: self.tier.identity, tag: self.claim.tag };
        if self.held && leases.take(key, self.claim.cost) {
            return (self.admitted(self.visit.tat, true), 0);
        }
        for retries in 0..ATTEMPTS {
            // A lease that another rule of this request has used up leaves a row that was not read.
            if !self.held {
                let Take::Admitted { tat } = self.visit.take else {
                    return (self.over().unwrap_or(Took::Failed), retries);
                };
                let row = self.visit.write.as_deref().unwrap_or_default();
                match store.write(self.row, row, self.version) {
                    Ok(true) => return (self.written(tat, key, moment, leases), retries),
                    Ok(false) => {}
                    Err(StoreError(_)) => return (Took::Failed, retries),
                }
            }
            self.held = false;
            let Ok((visit, version)) = self.tier.visit(self.row, self.claim, moment, store) else {
                return (Took::Failed, retries);
            };
            (self.visit, self.version) = (visit, version);
        }
        (Took::Contended { tat: self.visit.tat }, ATTEMPTS)
    }

    fn written(&self, tat: u64, key: LeaseKey, moment: Moment, leases: &mut Leases) -> Took {
        let lease = self.tier.limit.lease;
        let leased = lease > self.claim.cost
            && !self.visit.crowded
            && self.tier.gcra.take(self.visit.tat, moment.now, lease) == Take::Admitted { tat };
        if leased {
            leases.put(key, lease - self.claim.cost, tat, moment.now);
        }
        self.admitted(tat, leased)
    }

    fn admitted(&self, tat: u64, leased: bool) -> Took {
        let Visit { crowded, grown, .. } = self.visit;
        Took::Admitted { taken: Taken { claim: self.claim, crowded, leased }, tat, crowded, grown }
    }
}
