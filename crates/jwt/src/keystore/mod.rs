//! Key sets that are fetched: one fetch at a time for the whole process, and requests that wait for a key.
//!
//! Every worker has a [`KeyStore`]; together they keep, for each source, one lease and one record in a memory that they
//! share ([`Surroundings`]). Whoever holds the lease fetches; the others read the record. The lease stays taken for a
//! pause after each fetch, so neither many workers nor many unknown keys make a burst.
//!
//! What a request may wait for: the first set of a source, or a fetch that began after its token came, if the token's
//! key is not in the set. It waits once, until that fetch has ended or `timeout` has passed, and is then decided by the
//! keys that are there. A fetch that fails leaves the old keys in use, until [`FetchSettings::max_age`].

mod fetch;
mod note;
mod settings;
mod source;

use std::collections::hash_map::DefaultHasher;
use std::hash::{Hash as _, Hasher as _};
use std::time::Duration;

pub use fetch::{Answer, Call, FetchError};
pub use note::Note;
pub use settings::FetchSettings;
pub use source::KeySource;
use source::Source;

use crate::{Environment, Jws, Refusal, Verifier};

/// How often to look after the store while nothing waits, and while something does.
const IDLE: Duration = Duration::from_secs(1);
const WAITING: Duration = Duration::from_millis(20);

/// What a store needs of the process around it. Names are those of [`KeySource::name`], times monotonic nanoseconds.
pub trait Surroundings {
    /// The lease of a source; `None` when it cannot be read.
    fn lease(&mut self, name: &str) -> Option<Lease>;
    /// Takes a lease that has ended, until a time, keeping its note. `false` when somebody else holds it.
    fn claim(&mut self, name: &str, now: u64, until: u64) -> bool;
    /// Ends this worker's hold on a lease: nobody takes it before `until`. `false`, and nothing is done, when it is no
    /// longer held.
    fn settle(&mut self, name: &str, until: u64, note: &[u8]) -> bool;
    /// The record of a source.
    fn keys(&mut self, name: &str) -> Option<Vec<u8>>;
    /// Writes the record of a source.
    fn publish(&mut self, name: &str, record: &[u8]);
    /// Sends a call for a source; its answer goes to [`KeyStore::answer`].
    ///
    /// # Errors
    /// At once, and then no answer comes.
    fn send(&mut self, source: usize, call: &Call) -> Result<(), FetchError>;
    /// A number uniform over all of `u64`.
    fn random(&mut self) -> u64;
    /// Something to count and log, about a source and its number.
    fn report(&mut self, number: usize, source: &KeySource, event: &Event<'_>);
}

/// A lease as it was read.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Lease {
    /// Nobody may take it before this time.
    pub until: u64,
    /// Whether somebody is at work until then, rather than that nobody may.
    pub busy: bool,
    /// What stands beside it.
    pub note: Vec<u8>,
}

/// What became of a fetch.
#[derive(Debug)]
pub enum Event<'a> {
    /// It succeeded.
    Fetched {
        /// How many keys can be used now.
        keys: usize,
        /// About keys that are left out; empty when the set is as before.
        warnings: Vec<String>,
    },
    /// It failed.
    Failed {
        /// Why.
        error: FetchError,
        /// What was called.
        call: &'a Call,
        /// How many have failed in a row.
        failures: u32,
        /// Whether older keys stay in use.
        kept: bool,
    },
}

/// A key that was not there, and that a fetch may bring.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Want {
    source: usize,
    /// Hash of the `kid`, or of a token without one: what nobody can tell apart must not answer for each other.
    key: u64,
    /// The keys that were looked at.
    version: u32,
}

/// What a request that misses a key does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Wait {
    /// Decide again: the keys have changed.
    Again,
    /// It is decided as it stands.
    No,
    /// It is decided as it stands: too many wait for these sets already.
    Full,
    /// Stop until [`KeyStore::ready`] names it.
    Until,
}

/// The fetched key sets of one worker; `W` names a request that waits.
pub struct KeyStore<W = u32> {
    settings: FetchSettings,
    sources: Vec<Source>,
    waiting: Vec<Waiter<W>>,
}

struct Waiter<W> {
    id: W,
    since: u64,
    wants: Vec<Want>,
    report_only: bool,
}

impl Want {
    /// The number of the source that was asked.
    #[must_use]
    pub fn source(&self) -> usize {
        self.source
    }
}

impl<W: Copy + PartialEq> KeyStore<W> {
    /// A store without keys.
    #[must_use]
    pub fn new(sources: &[KeySource], settings: &FetchSettings, environment: Environment) -> Self {
        let source = |spec: &KeySource| Source::new(spec.clone(), settings, environment);
        Self {
            settings: settings.clone(),
            sources: sources.iter().map(source).collect(),
            waiting: Vec::new(),
        }
    }

    /// Whether nothing is ever fetched.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.sources.is_empty()
    }

    /// Its sources, by number.
    pub fn sources(&self) -> impl Iterator<Item = (&KeySource, Note)> {
        self.sources.iter().map(|source| (&source.spec, source.note))
    }

    /// The source of a number.
    #[must_use]
    pub fn source(&self, number: usize) -> Option<&KeySource> {
        self.sources.get(number).map(|source| &source.spec)
    }

    /// How long until [`Self::poll`] should be called again.
    #[must_use]
    pub fn period(&self) -> Duration {
        if self.waiting.is_empty() { IDLE } else { WAITING }
    }

    /// How many requests wait.
    #[must_use]
    pub fn waiting(&self) -> usize {
        self.waiting.len()
    }

    /// Looks after all sources: takes over what others fetched, fetches what is due.
    pub fn poll(&mut self, now: u64, host: &mut impl Surroundings) {
        for number in 0..self.sources.len() {
            self.poll_source(number, None, now, host);
        }
    }

    fn poll_source(&mut self, number: usize, wanted: Option<u64>, now: u64, host: &mut impl Surroundings) {
        let wanted = self.waiting_for(number).map(|one| one.since).chain(wanted).max();
        if let Some(source) = self.sources.get_mut(number) {
            source.poll(number, wanted, now, &self.settings, host);
        }
    }

    /// The answer of a call that was sent for a source.
    pub fn answer(&mut self, source: usize, answer: &Answer<'_>, now: u64, host: &mut impl Surroundings) {
        if let Some(one) = self.sources.get_mut(source) {
            one.answer(source, answer, now, &self.settings, host);
        }
    }

    /// A request that came at `since` misses keys. `report_only`: it will pass whatever they say, and is not to suffer
    /// from an issuer whose fetches fail.
    pub fn wait(
        &mut self,
        id: W,
        since: u64,
        wants: &[Want],
        report_only: bool,
        now: u64,
        host: &mut impl Surroundings,
    ) -> Wait {
        let known = wants.iter().all(|want| self.is_settled(want, since, now));
        if !known {
            for want in wants {
                self.poll_source(want.source, Some(since), now, host);
            }
        }
        if wants.iter().any(|want| self.version(want.source) != want.version) {
            return Wait::Again;
        }
        if wants.iter().all(|want| self.is_settled(want, since, now)) {
            for want in wants {
                if let Some(source) = self.sources.get_mut(want.source) {
                    source.remember_absent(want, since, now);
                }
            }
            return Wait::No;
        }
        if report_only && self.any_failing(wants) {
            return Wait::No;
        }
        if wants.iter().all(|want| self.waiting_for(want.source).count() >= self.settings.max_waiting) {
            return Wait::Full;
        }
        self.waiting.push(Waiter { id, since, wants: wants.to_vec(), report_only });
        Wait::Until
    }

    /// The requests that wait no longer, each with the time it came; decide them anew.
    pub fn ready(&mut self, now: u64) -> Vec<(W, u64)> {
        let (ready, waiting) = std::mem::take(&mut self.waiting).into_iter().partition(|one: &Waiter<W>| {
            one.wants.iter().any(|want| self.version(want.source) != want.version)
                || one.wants.iter().all(|want| self.is_settled(want, one.since, now))
                || one.report_only && self.any_failing(&one.wants)
        });
        self.waiting = waiting;
        let ready: Vec<Waiter<W>> = ready;
        ready.into_iter().map(|one| (one.id, one.since)).collect()
    }

    /// A request is gone.
    pub fn forget(&mut self, id: W) {
        self.waiting.retain(|one| one.id != id);
    }

    fn waiting_for(&self, source: usize) -> impl Iterator<Item = &Waiter<W>> {
        self.waiting.iter().filter(move |one| one.wants.iter().any(|want| want.source == source))
    }

    fn any_failing(&self, wants: &[Want]) -> bool {
        wants.iter().filter_map(|want| self.sources.get(want.source)).any(|source| source.note.failures > 0)
    }

    fn is_settled(&self, want: &Want, since: u64, now: u64) -> bool {
        self.sources.get(want.source).is_none_or(|source| source.settled(want, since, now))
    }
}

impl<W> KeyStore<W> {
    /// Counts the changes of a source's keys: what was verified under another number is to be verified again.
    #[must_use]
    pub fn version(&self, source: usize) -> u32 {
        self.sources.get(source).map_or(0, Source::version)
    }

    /// Verifies a token's signature with the keys of a source. What a fetch may change is added to `wants`.
    pub(crate) fn verify(
        &self,
        source: usize,
        jws: &Jws<'_>,
        verifier: &impl Verifier,
        wants: &mut Vec<Want>,
    ) -> Result<(), Refusal> {
        let keys = self.sources.get(source).and_then(Source::keys);
        let result = keys.map_or(Err(Refusal::KeysUnavailable), |keys| keys.verify(jws, verifier));
        let missing = match result {
            Err(Refusal::KeysUnavailable | Refusal::UnknownKid) => true,
            // Where no `kid` agrees nothing tells a wrong signature from the signature of a new key.
            Err(Refusal::BadSignature | Refusal::KeyAlgMismatch) => {
                !jws.key_id.as_deref().is_some_and(|id| keys.is_some_and(|keys| keys.names(id)))
            }
            _ => false,
        };
        if missing {
            let mut hasher = DefaultHasher::new();
            match &jws.key_id {
                Some(id) => id.hash(&mut hasher),
                None => (jws.signed, &jws.signature).hash(&mut hasher),
            }
            wants.push(Want { source, key: hasher.finish(), version: self.version(source) });
        }
        result
    }
}

impl<W> std::fmt::Debug for KeyStore<W> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("KeyStore").field("sources", &self.sources.len()).finish_non_exhaustive()
    }
}

fn nanoseconds(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

fn after(time: u64, by: Duration) -> u64 {
    time.saturating_add(nanoseconds(by))
}
