//! What a worker keeps for itself: what it holds of shared buckets, and how the rate limit services fare.

use std::collections::BTreeMap;

use crate::breaker::Breakers;

/// Clients of which a worker holds something at a time.
const MAX_LEASES: usize = 4096;

/// What a worker keeps for itself. An empty one is always right: nothing is lost but what it had taken in advance.
#[derive(Debug, Default)]
pub struct Worker {
    pub(crate) leases: Leases,
    pub(crate) breakers: Breakers,
}

/// Whose lease it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct LeaseKey {
    pub(crate) tier: u64,
    pub(crate) tag: u64,
}

/// What this worker has taken from shared buckets in advance. It is gone for the others whether it is used or not, so it
/// never admits more than the buckets gave.
#[derive(Debug, Default)]
pub(crate) struct Leases {
    held: BTreeMap<LeaseKey, Lease>,
}

#[derive(Debug)]
struct Lease {
    left: u32,
    /// When the bucket would be full again: what is left by then would have overflowed.
    until: u64,
}

impl Leases {
    /// When the bucket is full again, if enough is held for this cost.
    pub(crate) fn holds(&self, key: LeaseKey, cost: u32, now: u64) -> Option<u64> {
        if self.held.is_empty() {
            return None;
        }
        self.held.get(&key).filter(|lease| lease.left >= cost && lease.until > now).map(|lease| lease.until)
    }

    pub(crate) fn take(&mut self, key: LeaseKey, cost: u32) -> bool {
        let Some(lease) = self.held.get_mut(&key) else { return false };
        let Some(left) = lease.left.checked_sub(cost) else { return false };
        lease.left = left;
        true
    }

    pub(crate) fn give_back(&mut self, key: LeaseKey, cost: u32) -> bool {
        let Some(lease) = self.held.get_mut(&key) else { return false };
        lease.left = lease.left.saturating_add(cost);
        true
    }

    /// Keeps what was taken in advance. Where too many clients have something, it is lost to its client, who has taken less
    /// than the limit then.
    pub(crate) fn put(&mut self, key: LeaseKey, left: u32, until: u64, now: u64) {
        if self.held.len() >= MAX_LEASES {
            self.held.retain(|_, lease| lease.until > now && lease.left > 0);
        }
        if self.held.len() < MAX_LEASES || self.held.contains_key(&key) {
            self.held.insert(key, Lease { left, until });
        }
    }
}
