//! One key set of one worker: when it is fetched, and by whom.

use std::collections::hash_map::DefaultHasher;
use std::hash::{Hash as _, Hasher as _};
use std::time::Duration;

use super::fetch::{self, Answer, Call, FetchError};
use super::note::{self, Note};
use super::settings::FetchSettings;
use super::{Event, Surroundings, Want, after, nanoseconds};
use crate::{Environment, KeySet, Url};

/// The first pause after a failed fetch; it doubles with each further one, less often while there are no keys and every
/// token is refused.
const BACKOFF: Duration = Duration::from_secs(1);
const MAX_DOUBLINGS: u32 = 6;
const MAX_DOUBLINGS_WITHOUT_KEYS: u32 = 3;
/// What a `cache-control: max-age` may not shorten the refresh interval below.
const LEAST_REFRESH: Duration = Duration::from_secs(60);
/// How much longer than its calls a fetch may take before another worker takes over: an event loop may be late.
const GRACE: Duration = Duration::from_secs(2);
/// How long a `kid` that no fetch found stays unknown without another fetch.
const ABSENT: Duration = Duration::from_secs(5);
/// How many of those are remembered.
const MAX_ABSENT: usize = 256;

/// A key set that is fetched, as configured.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeySource {
    /// Where it is written, for messages: `resources[0].spec.jwtRules[0].jwksUri`.
    pub path: String,
    /// The issuer, or the URL where there is none: a label value.
    pub issuer: String,
    /// The URL of the set, or of the discovery document.
    pub url: Url,
    /// Whether `url` is the discovery document of `issuer`.
    pub discovery: bool,
    /// How long a fetch may take, and how long a request waits for one.
    pub timeout: Duration,
}

impl KeySource {
    /// What tells it from other sources in the memory that all workers share.
    #[must_use]
    pub fn name(&self, settings: &FetchSettings) -> String {
        let issuer = if self.discovery { self.issuer.as_str() } else { "" };
        format!("{}/{issuer}/{}", settings.cluster(&self.url), self.url)
    }
}

/// A source, and what this worker knows of its keys.
pub(super) struct Source {
    pub(super) spec: KeySource,
    environment: Environment,
    /// Its name in the shared memory.
    name: String,
    keys: Option<KeySet>,
    /// The set in use; see [`Note::fetched`].
    installed: u64,
    /// Hash of its text.
    fingerprint: u64,
    /// Counts changes of the keys in use.
    version: u32,
    pub(super) note: Note,
    /// Until when nobody else fetches, and whether somebody is fetching until then.
    until: u64,
    busy: bool,
    fetch: Option<Fetch>,
    absent: Vec<(u64, u64)>,
}

/// A fetch of this worker under way.
struct Fetch {
    started: u64,
    deadline: u64,
    /// What was called last; the discovery document first.
    call: Call,
    discovering: bool,
}

impl Source {
    pub(super) fn new(spec: KeySource, settings: &FetchSettings, environment: Environment) -> Self {
        Self {
            name: spec.name(settings),
            spec,
            environment,
            keys: None,
            installed: 0,
            fingerprint: 0,
            version: 0,
            note: Note::default(),
            until: 0,
            busy: false,
            fetch: None,
            absent: Vec::new(),
        }
    }

    pub(super) fn keys(&self) -> Option<&KeySet> {
        self.keys.as_ref()
    }

    pub(super) fn version(&self) -> u32 {
        self.version
    }

    /// Takes over what other workers have fetched; fetches where that is due and nobody else does. `wanted`: a request
    /// that came then waits for a key.
    pub(super) fn poll(
        &mut self,
        number: usize,
        wanted: Option<u64>,
        now: u64,
        settings: &FetchSettings,
        host: &mut impl Surroundings,
    ) {
        let Some(lease) = host.lease(&self.name) else { return };
        (self.until, self.busy) = (lease.until, lease.busy);
        self.note = Note::decode(&lease.note).plausible(now);
        self.take_shared(host);
        if now.saturating_sub(self.installed) > nanoseconds(settings.max_age) {
            self.drop_keys();
        }
        // An answer always comes, and is not waited for longer than the others wait for this worker.
        self.fetch.take_if(|fetch| now > after(fetch.deadline, GRACE));
        let due = self.keys.is_none()
            || now >= self.note.refresh
            || wanted.is_some_and(|since| self.note.started < since);
        if !due || self.fetch.is_some() || lease.until > now {
            return;
        }
        let timeout = self.spec.timeout;
        let until = after(now, timeout + GRACE);
        if host.claim(&self.name, now, until) {
            (self.until, self.busy) = (until, true);
            let call =
                Call { cluster: settings.cluster(&self.spec.url), url: self.spec.url.clone(), timeout };
            let discovering = self.spec.discovery;
            self.send(
                number,
                Fetch { started: now, deadline: after(now, timeout), call, discovering },
                now,
                settings,
                host,
            );
        }
    }

    /// The answer of this worker's call.
    pub(super) fn answer(
        &mut self,
        number: usize,
        answer: &Answer<'_>,
        now: u64,
        settings: &FetchSettings,
        host: &mut impl Surroundings,
    ) {
        let Some(mut fetch) = self.fetch.take() else { return };
        let body = fetch::body(answer, settings.max_bytes);
        if !fetch.discovering {
            return self.finish(number, &fetch, body, now, settings, host);
        }
        match body.and_then(|(body, _)| fetch::jwks_uri(body, &self.spec.issuer, &self.spec.url)) {
            Ok(url) => {
                let timeout = Duration::from_nanos(fetch.deadline.saturating_sub(now));
                fetch.call = Call { cluster: settings.cluster(&url), url, timeout };
                fetch.discovering = false;
                self.send(number, fetch, now, settings, host);
            }
            Err(error) => self.finish(number, &fetch, Err(error), now, settings, host),
        }
    }

    fn send(
        &mut self,
        number: usize,
        fetch: Fetch,
        now: u64,
        settings: &FetchSettings,
        host: &mut impl Surroundings,
    ) {
        match host.send(number, &fetch.call) {
            Ok(()) => self.fetch = Some(fetch),
            Err(error) => self.finish(number, &fetch, Err(error), now, settings, host),
        }
    }

    /// A fetch has ended: what came of it is for all workers, and so is when the next one may begin.
    fn finish(
        &mut self,
        number: usize,
        fetch: &Fetch,
        body: Result<(&[u8], Option<u64>), FetchError>,
        now: u64,
        settings: &FetchSettings,
        host: &mut impl Surroundings,
    ) {
        let result = body.and_then(|(body, max_age)| Ok((self.read(body)?, body, max_age)));
        let before = self.note.fetched;
        (self.note.started, self.note.ended) = (fetch.started, now);
        let pause = match &result {
            Ok((.., max_age)) => {
                self.note.fetched = now;
                self.note.refresh = after(now, refresh(settings, *max_age, host.random()));
                self.note.failures = 0;
                settings.refetch_interval
            }
            Err(_) => {
                self.note.failures = self.note.failures.saturating_add(1);
                let most = if self.keys.is_some() { MAX_DOUBLINGS } else { MAX_DOUBLINGS_WITHOUT_KEYS };
                let doublings = self.note.failures.saturating_sub(1).min(most);
                backoff(doublings, host.random()).max(settings.refetch_interval.min(BACKOFF))
            }
        };
        (self.until, self.busy) = (after(now, pause), false);
        let held = host.settle(&self.name, self.until, &self.note.encode());
        match result {
            Ok((set, text, _)) => {
                if held {
                    host.publish(&self.name, &note::record(now, text));
                }
                // What came after the lease had gone to another worker is no newer than what that one fetched.
                let warnings = self.install(if held { now } else { before }, text, set);
                let keys = self.keys.as_ref().map_or(0, KeySet::len);
                host.report(number, &self.spec, &Event::Fetched { keys, warnings });
            }
            Err(error) => {
                let (failures, kept) = (self.note.failures, self.keys.is_some());
                host.report(number, &self.spec, &Event::Failed { error, call: &fetch.call, failures, kept });
            }
        }
    }

    /// Reads a set; `None` when it is the one in use.
    fn read(&self, text: &[u8]) -> Result<Option<(KeySet, Vec<String>)>, FetchError> {
        if self.keys.is_some() && fingerprint(text) == self.fingerprint {
            return Ok(None);
        }
        fetch::key_set(text, &self.environment).map(Some)
    }

    /// Puts a set in use; what its keys are warned about.
    fn install(&mut self, fetched: u64, text: &[u8], set: Option<(KeySet, Vec<String>)>) -> Vec<String> {
        self.installed = fetched;
        let Some((keys, warnings)) = set else { return Vec::new() };
        self.fingerprint = fingerprint(text);
        self.keys = Some(keys);
        self.version = self.version.wrapping_add(1);
        self.absent.clear();
        warnings
    }

    fn drop_keys(&mut self) {
        if self.keys.take().is_some() {
            self.version = self.version.wrapping_add(1);
        }
    }

    /// The set that the note names, when it is newer than the one in use. A record that does not fit is being written.
    fn take_shared(&mut self, host: &mut impl Surroundings) {
        let fetched = self.note.fetched;
        if fetched <= self.installed {
            return;
        }
        let Some(record) = host.keys(&self.name) else { return };
        let Some(text) = note::text_of(&record, fetched) else { return };
        if let Ok(set) = self.read(text) {
            // Whoever fetched it has told the warnings.
            let _ = self.install(fetched, text, set);
        }
    }

    /// Whether a request that came at `since` need not wait any longer for a key: it will not come, or not in time.
    pub(super) fn settled(&self, want: &Want, since: u64, now: u64) -> bool {
        let deadline = after(since, self.spec.timeout);
        let tried = if self.keys.is_some() {
            // A fetch under way when the token came may have missed its key.
            self.note.started >= since || self.is_absent(want.key, now)
        } else {
            self.note.ended >= since
        };
        tried || now >= deadline || (!self.busy && self.until >= deadline)
    }

    fn is_absent(&self, key: u64, now: u64) -> bool {
        self.absent.iter().any(|(known, until)| *known == key && now < *until)
    }

    /// A fetch that began after the token came did not find its key: the next ones of this key need not wait.
    pub(super) fn remember_absent(&mut self, want: &Want, since: u64, now: u64) {
        if self.keys.is_none() || self.note.started < since {
            return;
        }
        self.absent.retain(|(known, until)| *known != want.key && now < *until);
        if self.absent.len() >= MAX_ABSENT {
            self.absent.remove(0);
        }
        self.absent.push((want.key, after(now, ABSENT)));
    }
}

fn fingerprint(text: &[u8]) -> u64 {
    let mut hasher = DefaultHasher::new();
    text.hash(&mut hasher);
    hasher.finish()
}

/// When to fetch anew: the interval, or what the server says if that is less, each made shorter by up to a tenth, so
/// that many proxies that start together do not stay together.
fn refresh(settings: &FetchSettings, max_age: Option<u64>, random: u64) -> Duration {
    let asked = max_age.filter(|seconds| *seconds > 0).map(Duration::from_secs);
    let interval = settings.refresh_interval;
    let interval = asked.map_or(interval, |asked| asked.max(LEAST_REFRESH).min(interval));
    interval.saturating_sub(part(interval / 10, random))
}

/// From half to the whole of a time that doubles with each failure.
fn backoff(doublings: u32, random: u64) -> Duration {
    let whole = BACKOFF * (1 << doublings);
    whole - part(whole / 2, random)
}

/// A random part of a time.
fn part(whole: Duration, random: u64) -> Duration {
    Duration::from_nanos(random.checked_rem(nanoseconds(whole)).unwrap_or(0))
}
