//! A lease in shared data: at most one holder in the whole process, for a time.
//!
//! Every worker and the main thread run the same filter, and some work is for one of them. A lease ends by itself, so
//! that the death of its holder (a crash, a new configuration) stops nothing. Its times are
//! [`clock::monotonic_nanoseconds`](crate::clock::monotonic_nanoseconds), which never go back and are the same for all
//! VMs; an end further ahead than any lease may last is none of ours, and as good as past.

use std::time::Duration;

use crate::shared::{self, Write};
use crate::{Status, random};

/// The longest that a lease may last; what is asked beyond is cut to it.
const MAX: Duration = Duration::from_secs(24 * 3600);
const VERSION: u8 = 1;
/// Version, holder, end.
const HEAD: usize = 17;

/// What a lease is at the moment.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Lease {
    /// Whose it is; 0: nobody may have it until it ends.
    holder: u64,
    /// When it ends.
    pub until: u64,
    /// What its holders have left beside it for all to read.
    pub note: Vec<u8>,
}

/// A lease of a worker, by its key in shared data.
#[derive(Debug, Clone, Copy)]
pub struct Leases {
    me: u64,
}

impl Leases {
    /// Names this VM, by a random number.
    ///
    /// # Errors
    /// The status of the host that has no randomness.
    pub fn new() -> Result<Self, Status> {
        random::next().map(|number| Self { me: number.max(1) })
    }

    /// What a lease is; an absent or unreadable one has ended long ago.
    ///
    /// # Errors
    /// The status of the host.
    pub fn read(&self, key: &[u8], now: u64) -> Result<Lease, Status> {
        Ok(shared::read(key)?.map(|(bytes, _)| Lease::decode(&bytes, now)).unwrap_or_default())
    }

    /// Takes a lease that has ended, until a time; its note stays. `false` when somebody else has it, or was faster.
    ///
    /// # Errors
    /// The status of the host.
    pub fn claim(&self, key: &[u8], now: u64, until: u64) -> Result<bool, Status> {
        let found = shared::read(key)?;
        let (bytes, version) = found.map_or((Vec::new(), None), |(bytes, version)| (bytes, Some(version)));
        let lease = Lease::decode(&bytes, now);
        if lease.until > now {
            return Ok(false);
        }
        let lease = Lease { holder: self.me, until, note: lease.note };
        Ok(shared::write(key, &lease.encode(now), version)? == Write::Done)
    }

    /// Gives a lease back: nobody takes it before `until`, and `note` stands beside it. `false` when it is no longer
    /// this VM's.
    ///
    /// # Errors
    /// The status of the host.
    pub fn settle(&self, key: &[u8], now: u64, until: u64, note: &[u8]) -> Result<bool, Status> {
        let Some((bytes, version)) = shared::read(key)? else { return Ok(false) };
        if Lease::decode(&bytes, now).holder != self.me {
            return Ok(false);
        }
        let lease = Lease { holder: 0, until, note: note.to_vec() };
        Ok(shared::write(key, &lease.encode(now), Some(version))? == Write::Done)
    }
}

impl Lease {
    /// Whether somebody holds it, rather than that nobody may.
    #[must_use]
    pub fn is_held(&self) -> bool {
        self.holder != 0
    }

    fn encode(&self, now: u64) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(HEAD + self.note.len());
        bytes.push(VERSION);
        bytes.extend_from_slice(&self.holder.to_le_bytes());
        bytes.extend_from_slice(&self.until.min(latest(now)).to_le_bytes());
        bytes.extend_from_slice(&self.note);
        bytes
    }

    fn decode(bytes: &[u8], now: u64) -> Self {
        let read = || {
            let (&VERSION, rest) = bytes.split_first()? else { return None };
            let (holder, rest) = rest.split_first_chunk()?;
            let (until, note) = rest.split_first_chunk()?;
            let until = u64::from_le_bytes(*until);
            let until = if until > latest(now) { 0 } else { until };
            Some(Self { holder: u64::from_le_bytes(*holder), until, note: note.to_vec() })
        };
        read().unwrap_or_default()
    }
}

fn latest(now: u64) -> u64 {
    now.saturating_add(u64::try_from(MAX.as_nanos()).unwrap_or(u64::MAX))
}
