//! The life of fetched key sets: several workers, one memory, a clock and an issuer that the test moves.

use std::collections::BTreeMap;

use super::*;
use crate::{
    Answer, Call, Event, FetchError, FetchSettings, Jws, KeySource, Lease, Note, Surroundings, Url, Wait,
    Want,
};
#[cfg(target_family = "wasm")]
use wasm_bindgen_test::wasm_bindgen_test as test;

const SECOND: u64 = 1_000_000_000;
const MILLISECOND: u64 = 1_000_000;
const START: u64 = 3_600 * SECOND;
const TIMEOUT: u64 = 5 * SECOND;

/// What the workers share, and what they have asked for.
#[derive(Default)]
struct World {
    leases: BTreeMap<String, (usize, Lease)>,
    records: BTreeMap<String, Vec<u8>>,
    /// Worker, source, what was called and when.
    calls: Vec<(usize, usize, Call, u64)>,
    now: u64,
    random: u64,
    send_fails: Option<FetchError>,
    no_shared_data: bool,
    fetched: usize,
    failed: Vec<(&'static str, bool)>,
    warnings: usize,
}

struct Host<'w>(&'w mut World, usize);

impl Surroundings for Host<'_> {
    fn lease(&mut self, name: &str) -> Option<Lease> {
        if self.0.no_shared_data {
            return None;
        }
        Some(self.0.leases.get(name).map(|(_, lease)| lease.clone()).unwrap_or_default())
    }

    fn claim(&mut self, name: &str, now: u64, until: u64) -> bool {
        let (holder, lease) = self.0.leases.entry(name.to_owned()).or_default();
        let free = lease.until <= now;
        if free {
            (*holder, lease.until, lease.busy) = (self.1, until, true);
        }
        free
    }

    fn settle(&mut self, name: &str, until: u64, note: &[u8]) -> bool {
        let (holder, lease) = self.0.leases.entry(name.to_owned()).or_default();
        let held = *holder == self.1 && lease.busy;
        if held {
            *lease = Lease { until, busy: false, note: note.to_vec() };
        }
        held
    }

    fn keys(&mut self, name: &str) -> Option<Vec<u8>> {
        self.0.records.get(name).cloned()
    }

    fn publish(&mut self, name: &str, record: &[u8]) {
        self.0.records.insert(name.to_owned(), record.to_vec());
    }

    fn send(&mut self, source: usize, call: &Call) -> Result<(), FetchError> {
        let now = self.0.now;
        if let Some(error) = &self.0.send_fails {
            return Err(error.clone());
        }
        // The filter forgets the token of an older call of the same source.
        self.0.calls.retain(|(worker, of, ..)| (*worker, *of) != (self.1, source));
        self.0.calls.push((self.1, source, call.clone(), now));
        Ok(())
    }

    fn random(&mut self) -> u64 {
        self.0.random = self.0.random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        self.0.random
    }

    fn report(&mut self, _: usize, _: &KeySource, event: &Event<'_>) {
        match event {
            Event::Fetched { warnings, .. } => {
                self.0.fetched += 1;
                self.0.warnings += warnings.len();
            }
            Event::Failed { error, kept, .. } => self.0.failed.push((error.name(), *kept)),
        }
    }
}

/// Several workers of one process.
struct Process {
    world: World,
    workers: Vec<KeyStore<u32>>,
    settings: FetchSettings,
}

fn source(discovery: bool) -> KeySource {
    let issuer = "https://issuer.example";
    let path = if discovery { "/.well-known/openid-configuration" } else { "/jwks" };
    KeySource {
        path: "resources[0].spec.jwtRules[0].jwksUri".to_owned(),
        issuer: issuer.to_owned(),
        url: Url::parse(&format!("{issuer}{path}")).unwrap(),
        discovery,
        timeout: Duration::from_secs(5),
    }
}

fn process_with(workers: usize, discovery: bool, settings: FetchSettings) -> Process {
    let store = || KeyStore::new(&[source(discovery)], &settings, ENVIRONMENT);
    let workers = std::iter::repeat_with(store).take(workers).collect();
    Process { world: World { now: START, ..World::default() }, workers, settings }
}

fn process(workers: usize) -> Process {
    process_with(workers, false, FetchSettings::default())
}

fn set(keys: &[u8]) -> String {
    jwks(keys).replace("\\\"", "\"")
}

fn ok(body: &str) -> Answer<'_> {
    Answer::Response { status: 200, cache_control: None, body: body.as_bytes() }
}

fn status(status: u16) -> Answer<'static> {
    Answer::Response { status, cache_control: None, body: b"" }
}

impl Process {
    fn advance(&mut self, by: u64) {
        self.world.now += by;
    }

    fn poll(&mut self, worker: usize) {
        let now = self.world.now;
        self.workers[worker].poll(now, &mut Host(&mut self.world, worker));
    }

    fn poll_all(&mut self) {
        (0..self.workers.len()).for_each(|worker| self.poll(worker));
    }

    /// Answers the oldest call.
    fn answer(&mut self, answer: &Answer<'_>) -> Call {
        let (worker, source, call, _) = self.world.calls.remove(0);
        let now = self.world.now;
        self.workers[worker].answer(source, answer, now, &mut Host(&mut self.world, worker));
        call
    }

    /// What a worker says of a token signed by a key, and what it misses.
    fn verify(&self, worker: usize, token: &str) -> (Result<(), Refusal>, Vec<Want>) {
        let jws = Jws::parse(token.as_bytes()).unwrap();
        let mut wants = Vec::new();
        let result = self.workers[worker].verify(0, &jws, &Toy::default(), &mut wants);
        (result, wants)
    }

    fn knows(&self, worker: usize, key: u8) -> bool {
        self.verify(worker, &token(key, "{}")).0.is_ok()
    }

    /// A request with a token of a key comes in.
    fn ask(&mut self, worker: usize, id: u32, key: u8) -> Wait {
        let (now, wants) = (self.world.now, self.verify(worker, &token(key, "{}")).1);
        assert!(!wants.is_empty(), "nothing is missing");
        self.wait(worker, id, now, &wants)
    }

    fn wait(&mut self, worker: usize, id: u32, since: u64, wants: &[Want]) -> Wait {
        let now = self.world.now;
        self.workers[worker].wait(id, since, wants, false, now, &mut Host(&mut self.world, worker))
    }

    fn ready(&mut self, worker: usize) -> Vec<u32> {
        let now = self.world.now;
        self.workers[worker].ready(now).into_iter().map(|(id, _)| id).collect()
    }

    /// Has a set in every worker, and stands long after.
    fn settled(mut self, keys: &[u8]) -> Self {
        self.poll_all();
        self.answer(&ok(&set(keys)));
        self.poll_all();
        self.advance(60 * SECOND);
        self.poll_all();
        assert!(self.world.calls.is_empty());
        self
    }

    fn note(&self) -> Note {
        Note::decode(&self.world.leases.values().next().unwrap().1.note)
    }
}

#[test]
fn of_many_workers_one_fetches_and_all_get_the_keys() {
    let mut process = process(5);
    process.poll_all();
    assert_eq!(process.world.calls.len(), 1);
    let call = process.answer(&ok(&set(&[1])));
    assert_eq!((call.cluster.as_str(), call.url.path.as_str()), ("outbound|443||issuer.example", "/jwks"));
    assert!(process.knows(0, 1) && !process.knows(1, 1));
    process.poll_all();
    assert!((0..5).all(|worker| process.knows(worker, 1)));
    assert!(process.world.calls.is_empty());
    assert_eq!(process.world.fetched, 1);
}

#[test]
fn before_the_first_set_a_request_waits_and_is_woken_by_it() {
    let mut process = process(2);
    assert_eq!(process.verify(1, &token(1, "{}")).0, Err(Refusal::KeysUnavailable));
    assert_eq!(process.ask(1, 7, 1), Wait::Until);
    assert_eq!(process.workers[1].period(), Duration::from_millis(20));
    assert_eq!(process.world.calls.len(), 1, "it does not wait for a tick");
    assert_eq!(process.ask(0, 8, 1), Wait::Until);
    assert_eq!(process.world.calls.len(), 1, "and the other worker does not ask too");
    process.answer(&ok(&set(&[1])));
    assert_eq!(process.ready(1), [7]);
    assert!(process.ready(0).is_empty());
    process.poll(0);
    assert_eq!(process.ready(0), [8]);
    assert_eq!(process.workers[0].period(), Duration::from_secs(1));
}

#[test]
fn a_failed_first_fetch_ends_the_wait() {
    let mut process = process(2);
    assert_eq!(process.ask(0, 7, 1), Wait::Until);
    assert_eq!(process.ask(1, 8, 1), Wait::Until);
    process.answer(&status(503));
    assert_eq!(process.ready(0), [7]);
    process.poll(1);
    assert_eq!(process.ready(1), [8]);
    let wants = process.verify(0, &token(1, "{}")).1;
    let since = process.world.now;
    assert_eq!(process.wait(0, 7, since, &wants), Wait::No);
    assert_eq!(process.world.failed, [("unavailable", false)]);
}

#[test]
fn a_call_that_cannot_be_sent_is_answered_at_once() {
    let mut process = process(1);
    process.world.send_fails = Some(FetchError::NoCluster);
    assert_eq!(process.ask(0, 7, 1), Wait::No);
    assert_eq!(process.world.failed, [("no_cluster", false)]);
}

#[test]
fn an_unknown_key_is_looked_for_once_and_found() {
    let mut process = process(3).settled(&[1]);
    for worker in 0..3 {
        assert_eq!(process.ask(worker, 9, 2), Wait::Until);
    }
    assert_eq!(process.world.calls.len(), 1);
    process.answer(&ok(&set(&[1, 2])));
    for worker in 0..3 {
        process.poll(worker);
        assert_eq!(process.ready(worker), [9]);
        assert!(process.knows(worker, 1) && process.knows(worker, 2));
    }
}

#[test]
fn a_key_that_is_not_found_is_refused_and_remembered_for_a_while() {
    let mut process = process(1).settled(&[1]);
    let since = process.world.now;
    assert_eq!(process.ask(0, 9, 2), Wait::Until);
    process.advance(MILLISECOND);
    process.answer(&ok(&set(&[1])));
    assert_eq!(process.ready(0), [9]);
    let wants = process.verify(0, &token(2, "{}")).1;
    assert_eq!(process.wait(0, 9, since, &wants), Wait::No);
    process.advance(3 * SECOND);
    assert_eq!(process.ask(0, 10, 2), Wait::No, "known to be absent");
    assert_eq!(process.ask(0, 11, 3), Wait::Until, "another key is not");
    process.answer(&ok(&set(&[1, 2])));
    assert!(process.knows(0, 2));
}

#[test]
fn absent_keys_are_forgotten_after_a_while_and_when_they_are_many() {
    let mut process = process(1).settled(&[1]);
    let miss = |process: &Process, id: u32| {
        let header = format!(r#"{{"alg":"RS256","kid":"x{id}"}}"#);
        process.verify(0, &format!("{}.e30.AAAA", URL_SAFE_NO_PAD.encode(header))).1
    };
    let since = process.world.now;
    for id in 0..300 {
        let wants = miss(&process, id);
        assert_eq!(process.wait(0, id, since, &wants), Wait::Until);
    }
    process.answer(&ok(&set(&[1])));
    for id in process.ready(0) {
        let wants = miss(&process, id);
        assert_eq!(process.wait(0, id, since, &wants), Wait::No);
    }
    process.advance(MILLISECOND);
    let since = process.world.now;
    let ask = |process: &mut Process, id| {
        let wants = miss(process, id);
        process.wait(0, id, since, &wants)
    };
    assert_eq!(ask(&mut process, 299), Wait::No);
    assert_eq!(ask(&mut process, 0), Wait::Until, "the oldest made room");
    process.advance(6 * SECOND);
    process.ready(0);
    let since = process.world.now;
    let wants = miss(&process, 299);
    assert_eq!(process.wait(0, 299, since, &wants), Wait::Until, "time has passed");
}

#[test]
fn a_fetch_that_began_before_the_token_came_does_not_decide_it() {
    let mut process = process(1).settled(&[1]);
    assert_eq!(process.ask(0, 1, 2), Wait::Until);
    process.advance(10 * MILLISECOND);
    assert_eq!(process.ask(0, 2, 3), Wait::Until);
    process.advance(10 * MILLISECOND);
    process.answer(&ok(&set(&[1])));
    assert_eq!(process.ready(0), [1]);
    // The next fetch begins when the pause is over, not before.
    process.poll(0);
    assert!(process.world.calls.is_empty());
    process.advance(2 * SECOND);
    process.poll(0);
    process.answer(&ok(&set(&[1, 3])));
    assert_eq!(process.ready(0), [2]);
    assert!(process.knows(0, 3));
}

/// A token without `kid` may be signed by a key that is not here yet; one with a `kid` that is here may not.
#[test]
fn a_wrong_signature_is_a_missing_key_only_without_kid() {
    let process = process(1).settled(&[1]);
    let signed = |header: &str| format!("{}.e30.AAAA", URL_SAFE_NO_PAD.encode(header));
    let (result, wants) = process.verify(0, &signed(r#"{"alg":"RS256"}"#));
    assert_eq!((result, wants.len()), (Err(Refusal::BadSignature), 1));
    let (result, wants) = process.verify(0, &signed(r#"{"alg":"RS256","kid":"k1"}"#));
    assert_eq!((result, wants.len()), (Err(Refusal::BadSignature), 0));
    let (result, wants) = process.verify(0, &signed(r#"{"alg":"ES256","kid":"k1"}"#));
    assert_eq!((result, wants.len()), (Err(Refusal::KeyAlgMismatch), 0));
}

#[test]
fn old_keys_stay_when_a_refresh_fails_and_go_at_their_greatest_age() {
    let mut process = process(2).settled(&[1]);
    let version = process.workers[0].version(0);
    process.advance(300 * SECOND);
    for answer in
        [status(500), status(302), Answer::Failed, Answer::TooLarge, ok(""), ok("{}"), ok(r#"{"keys":[]}"#)]
    {
        process.advance(64 * SECOND);
        process.poll_all();
        process.answer(&answer);
        assert!(process.knows(0, 1) && process.knows(1, 1));
    }
    let names = process.world.failed.iter().map(|(name, _)| *name);
    let expected = ["status", "redirect", "reset", "too_large", "not_json", "no_keys", "no_keys"];
    assert_eq!(names.collect::<Vec<_>>(), expected);
    assert!(process.world.failed.iter().all(|(_, kept)| *kept));
    assert_eq!(process.workers[0].version(0), version, "nothing is verified anew");
    process.advance(24 * 3600 * SECOND);
    process.poll_all();
    assert!(!process.knows(0, 1) && !process.knows(1, 1));
    assert_ne!(process.workers[0].version(0), version);
    process.answer(&ok(&set(&[1])));
    process.poll_all();
    assert!(process.knows(0, 1) && process.knows(1, 1));
}

#[test]
fn a_withdrawn_key_is_gone_at_the_next_refresh() {
    let mut process = process(2).settled(&[1, 2]);
    let version = process.workers[1].version(0);
    process.advance(240 * SECOND);
    process.poll_all();
    process.answer(&ok(&set(&[2])));
    process.poll_all();
    assert!((0..2).all(|worker| !process.knows(worker, 1) && process.knows(worker, 2)));
    assert_ne!(process.workers[1].version(0), version, "tokens that it verified are verified anew");
}

/// Within a tenth of the interval, and each fetch anew.
#[test]
fn refreshes_are_spread_over_a_tenth_of_the_interval() {
    let mut seen = std::collections::BTreeSet::new();
    let mut process = process(1);
    for _ in 0..50 {
        process.poll(0);
        process.answer(&ok(&set(&[1])));
        let wait = process.note().refresh - process.world.now;
        assert!((270 * SECOND..=300 * SECOND).contains(&wait), "{wait}");
        seen.insert(wait);
        process.advance(wait - 1);
        process.poll(0);
        assert!(process.world.calls.is_empty(), "not before");
        process.advance(1);
    }
    assert!(seen.len() > 40, "{seen:?}");
}

#[test]
fn cache_control_shortens_the_interval_within_bounds() {
    for (header, seconds) in [
        ("max-age=120", 120),
        ("max-age=5", 60),
        ("max-age=0", 300),
        ("max-age=9999", 300),
        ("no-store", 300),
    ] {
        let mut process = process(1);
        process.poll(0);
        let body = set(&[1]);
        let cache_control = Some(header.as_bytes());
        process.answer(&Answer::Response { status: 200, cache_control, body: body.as_bytes() });
        let wait = (process.note().refresh - process.world.now) / SECOND;
        assert!((seconds * 9 / 10..=seconds).contains(&wait), "{header}: {wait}");
    }
}

#[test]
fn pauses_double_with_each_failure_up_to_a_minute() {
    let mut process = process(1).settled(&[1]);
    process.advance(300 * SECOND);
    for failures in 0..12_u32 {
        process.poll(0);
        assert_eq!(process.world.calls.len(), 1, "{failures}");
        process.answer(&status(500));
        let lease = process.world.leases.values().next().unwrap().1.clone();
        let wait = lease.until - process.world.now;
        let whole = SECOND << failures.min(6);
        assert!((whole / 2..=whole).contains(&wait), "{failures}: {wait}");
        process.advance(wait - 1);
        process.poll(0);
        assert!(process.world.calls.is_empty(), "not before");
        process.advance(1);
    }
    assert_eq!(process.note().failures, 12);
    assert_eq!(process.ask(0, 1, 2), Wait::Until, "the pause is over");
    process.answer(&status(500));
    assert_eq!(process.ready(0), [1]);
    assert_eq!(process.ask(0, 2, 2), Wait::No, "the next fetch would come too late for this request");
}

#[test]
fn without_keys_a_fetch_is_tried_every_eight_seconds_at_least() {
    let mut process = process(1);
    for failures in 0..12_u32 {
        process.poll(0);
        process.answer(&status(500));
        let wait = process.world.leases.values().next().unwrap().1.until - process.world.now;
        let whole = SECOND << failures.min(3);
        assert!((whole / 2..=whole).contains(&wait), "{failures}: {wait}");
        process.advance(wait);
    }
}

#[test]
fn when_the_worker_that_fetches_dies_another_takes_over() {
    let mut process = process(2);
    process.poll(0);
    assert_eq!(process.world.calls.len(), 1);
    process.world.calls.clear();
    process.workers[0] = KeyStore::new(&[source(false)], &process.settings, ENVIRONMENT);
    assert_eq!(process.ask(1, 7, 1), Wait::Until);
    process.advance(TIMEOUT);
    process.poll(1);
    assert!(process.world.calls.is_empty(), "it may still be at work");
    assert_eq!(process.ready(1), [7], "no request waits longer than its timeout");
    process.advance(2 * SECOND);
    process.poll_all();
    assert_eq!(process.world.calls.len(), 1);
    process.answer(&ok(&set(&[1])));
    assert!(process.knows(0, 1), "the new instance was first");
}

#[test]
fn a_worker_that_lost_its_lease_does_not_undo_newer_keys() {
    let mut process = process(2);
    process.poll(0);
    process.advance(TIMEOUT + 2 * SECOND);
    process.poll(1);
    assert_eq!(process.world.calls.len(), 2);
    let late = process.world.calls.remove(0);
    process.advance(MILLISECOND);
    process.answer(&ok(&set(&[2])));
    process.world.calls.push(late);
    let (note, records) = (process.note(), process.world.records.clone());
    process.advance(MILLISECOND);
    process.answer(&ok(&set(&[1])));
    assert_eq!((process.note(), &process.world.records), (note, &records));
    process.poll_all();
    assert!((0..2).all(|worker| process.knows(worker, 2) && !process.knows(worker, 1)));
}

#[test]
fn keys_are_discovered_at_the_issuer() {
    let mut process = process_with(2, true, FetchSettings::default());
    assert_eq!(process.ask(0, 7, 1), Wait::Until);
    process.advance(SECOND);
    let document = r#"{"issuer":"https://issuer.example","jwks_uri":"https://keys.example:8443/k?v=1"}"#;
    let call = process.answer(&ok(document));
    assert_eq!(call.url.path, "/.well-known/openid-configuration");
    process.poll_all();
    assert_eq!(process.world.calls.len(), 1);
    let call = process.answer(&ok(&set(&[1])));
    assert_eq!(call.cluster, "outbound|8443||keys.example");
    assert_eq!((call.url.path.as_str(), call.timeout), ("/k?v=1", Duration::from_secs(4)));
    assert_eq!(process.ready(0), [7]);
    process.poll(1);
    assert!(process.knows(1, 1));
}

#[test]
fn a_discovery_document_of_another_issuer_is_a_failed_fetch() {
    let mut process = process_with(1, true, FetchSettings::default());
    assert_eq!(process.ask(0, 7, 1), Wait::Until);
    process.answer(&ok(r#"{"issuer":"https://evil.example","jwks_uri":"https://evil.example/k"}"#));
    assert!(process.world.calls.is_empty());
    assert_eq!(process.world.failed, [("discovery", false)]);
    assert_eq!(process.ready(0), [7]);
}

#[test]
fn too_many_waiting_requests_are_decided_at_once() {
    let settings = FetchSettings { max_waiting: 3, ..FetchSettings::default() };
    let mut process = process_with(1, false, settings);
    for id in 0..3 {
        assert_eq!(process.ask(0, id, 1), Wait::Until);
    }
    assert_eq!(process.ask(0, 3, 1), Wait::Full);
    process.workers[0].forget(1);
    assert_eq!(process.workers[0].waiting(), 2);
    assert_eq!(process.ask(0, 4, 1), Wait::Until);
}

#[test]
fn the_outage_of_one_issuer_leaves_room_for_another() {
    let settings = FetchSettings { max_waiting: 3, ..FetchSettings::default() };
    let other = KeySource { url: Url::parse("https://other.example/jwks").unwrap(), ..source(false) };
    let mut process = process_with(0, false, settings.clone());
    process.workers.push(KeyStore::new(&[source(false), other], &settings, ENVIRONMENT));
    for id in 0..3 {
        assert_eq!(process.ask(0, id, 1), Wait::Until);
    }
    let wants = process.verify(0, &token(1, "{}")).1;
    let of_other = {
        let (token, mut wants) = (token(1, "{}"), Vec::new());
        let _ =
            process.workers[0].verify(1, &Jws::parse(token.as_bytes()).unwrap(), &Toy::default(), &mut wants);
        wants[0]
    };
    let since = process.world.now;
    assert_eq!(process.wait(0, 3, since, &wants), Wait::Full);
    assert_eq!(process.wait(0, 4, since, &[of_other]), Wait::Until);
    assert_eq!(process.wait(0, 5, since, &[wants[0], of_other]), Wait::Until);
    assert_eq!(process.wait(0, 6, since, &[of_other]), Wait::Until);
    assert_eq!(process.wait(0, 7, since, &[wants[0], of_other]), Wait::Full);
}

#[test]
fn what_is_only_reported_does_not_wait_for_an_issuer_that_fails() {
    let mut process = process(1).settled(&[1]);
    let report = |process: &mut Process, id| {
        let (now, wants) = (process.world.now, process.verify(0, &token(2, "{}")).1);
        process.workers[0].wait(id, now, &wants, true, now, &mut Host(&mut process.world, 0))
    };
    assert_eq!(report(&mut process, 1), Wait::Until, "a new key is waited for");
    process.advance(MILLISECOND);
    assert_eq!(report(&mut process, 2), Wait::Until);
    assert_eq!(process.ask(0, 3, 2), Wait::Until);
    process.answer(&status(500));
    assert_eq!(process.ready(0), [1, 2], "the other one waits for the next fetch");
    assert_eq!(report(&mut process, 4), Wait::No);
    process.advance(SECOND);
    assert_eq!(report(&mut process, 5), Wait::No);
    process.answer(&ok(&set(&[1])));
    process.advance(10 * SECOND);
    assert_eq!(report(&mut process, 6), Wait::Until, "it works again");
}

#[test]
fn a_forged_token_without_kid_makes_no_other_one_unknown() {
    let mut process = process(1).settled(&[1]);
    let miss = |process: &Process, payload: &str| {
        let header = URL_SAFE_NO_PAD.encode(r#"{"alg":"RS256"}"#);
        process.verify(0, &format!("{header}.{}.AAAA", URL_SAFE_NO_PAD.encode(payload))).1
    };
    let since = process.world.now;
    let forged = miss(&process, "{}");
    assert_eq!(process.wait(0, 1, since, &forged), Wait::Until);
    process.answer(&ok(&set(&[1])));
    assert_eq!(process.ready(0), [1]);
    assert_eq!(process.wait(0, 1, since, &forged), Wait::No);
    process.advance(3 * SECOND);
    let since = process.world.now;
    assert_eq!(process.wait(0, 2, since, &forged), Wait::No, "the same token is known");
    let other = miss(&process, r#"{"sub":"alice"}"#);
    assert_eq!(process.wait(0, 3, since, &other), Wait::Until, "another may be of a new key");
}

#[test]
fn a_note_from_the_future_stops_nothing() {
    let mut process = process(1).settled(&[1]);
    let never =
        Note { fetched: u64::MAX, refresh: u64::MAX, started: u64::MAX, ended: u64::MAX, failures: 0 };
    for note in [
        never,
        Note { refresh: u64::MAX, ..process.note() },
        Note { started: u64::MAX, ..process.note() },
        Note { fetched: u64::MAX, ..process.note() },
    ] {
        for (_, lease) in process.world.leases.values_mut() {
            lease.note = note.encode();
        }
        process.poll(0);
        assert_eq!(process.world.calls.len(), 1, "{note:?}");
        process.answer(&ok(&set(&[1])));
        process.advance(60 * SECOND);
    }
}

#[test]
fn without_shared_data_nothing_is_fetched_and_no_request_waits_longer_than_its_timeout() {
    let mut process = process(1);
    process.world.no_shared_data = true;
    process.poll(0);
    assert_eq!(process.ask(0, 7, 1), Wait::Until);
    process.advance(TIMEOUT - 1);
    assert!(process.ready(0).is_empty());
    process.advance(1);
    assert_eq!(process.ready(0), [7]);
    assert!(process.world.calls.is_empty());
}

/// In Istio all plugins share one key space.
#[test]
fn garbage_in_the_shared_memory_is_as_good_as_nothing() {
    let mut process = process(2).settled(&[1]);
    for garbage in [&b""[..], b"\x01", &[0xff; 64], &[1; 64]] {
        for record in process.world.records.values_mut() {
            *record = garbage.to_vec();
        }
        for (_, lease) in process.world.leases.values_mut() {
            *lease = Lease { until: 0, busy: false, note: garbage.to_vec() };
        }
        process.poll_all();
        assert!(process.knows(0, 1) && process.knows(1, 1), "{garbage:?}");
        if !process.world.calls.is_empty() {
            process.answer(&ok(&set(&[1])));
        }
        process.poll_all();
        process.advance(60 * SECOND);
    }
}

#[test]
fn an_answer_nobody_asked_for_does_nothing() {
    let mut process = process(1);
    let body = set(&[1]);
    let now = process.world.now;
    process.workers[0].answer(0, &ok(&body), now, &mut Host(&mut process.world, 0));
    process.workers[0].answer(9, &ok(&body), now, &mut Host(&mut process.world, 0));
    assert!(!process.knows(0, 1) && process.world.records.is_empty());
}

/// Only what a fetch may change waits for one.
#[test]
fn a_request_misses_keys_only_when_they_would_decide_it() {
    let fetched = r#"{"issuer":"a","jwksUri":"https://issuer.example/jwks","audiences":["api"]}"#;
    let inline = rule("a", r#","fromHeaders":[{"name":"x-inline"}]"#);
    let engine = engine(&[fetched, &inline]);
    let toy = Toy::default();
    let keys = engine.key_store();
    let mut cache = engine.cache([1, 2]);
    let mut wants = |name: &str, token: &str| {
        let bearer = if name == "authorization" { bearer(token) } else { token.to_owned() };
        let outcome = decide_by(&engine, &[(name, &bearer)], &mut cache, NOW, &keys, &toy);
        (outcome.decision.reason.code, outcome.wants.len())
    };
    let claims = r#"{"iss":"a","aud":"api","exp":1000600}"#;
    assert_eq!(wants("authorization", &token(1, claims)), ("keys_unavailable", 1));
    assert_eq!(wants("x-inline", &token(1, claims)), ("valid_token", 0));
    assert_eq!(wants("x-inline", &token(9, claims)), ("unknown_kid", 0), "inline keys do not change");
    for (claims, reason) in [
        (r#"{"iss":"a","aud":"api","exp":1}"#, "token_expired"),
        (r#"{"iss":"a","aud":"other"}"#, "wrong_audience"),
        (r#"{"iss":"b","aud":"api"}"#, "unknown_issuer"),
    ] {
        assert_eq!(wants("authorization", &token(1, claims)), (reason, 0));
    }
    assert_eq!(wants("authorization", "a.b"), ("token_malformed", 0));
    assert_eq!(decide_by(&engine, &[], &mut cache, NOW, &keys, &toy).wants.len(), 0, "no token");
}

#[test]
fn a_withdrawn_key_vouches_for_no_cached_token() {
    let engine = engine(&[r#"{"issuer":"a","jwksUri":"https://issuer.example/jwks"}"#]);
    let (toy, mut cache) = (Toy::default(), engine.cache([1, 2]));
    let mut process = process(1);
    process.workers[0] = engine.key_store();
    process.poll(0);
    process.answer(&ok(&set(&[1, 2])));
    let bearer = bearer(&of("a"));
    let mut code = |process: &Process| {
        let keys = &process.workers[0];
        let outcome = decide_by(&engine, &[("authorization", &bearer)], &mut cache, NOW, keys, &toy);
        outcome.decision.reason.code
    };
    assert_eq!([code(&process), code(&process)], ["valid_token"; 2]);
    assert_eq!(toy.calls.get(), 1, "the second comes from the cache");
    for (keys, expected, calls) in
        [(&[1_u8, 2][..], "valid_token", 1), (&[1], "valid_token", 2), (&[2], "unknown_kid", 2)]
    {
        process.advance(300 * SECOND);
        process.poll(0);
        process.answer(&ok(&set(keys)));
        assert_eq!((code(&process), toy.calls.get()), (expected, calls), "{keys:?}");
    }
}

/// Random interleavings of workers, requests, answers, deaths and time against what must always hold.
#[test]
fn whatever_happens_fetches_are_few_and_waits_end() {
    for seed in 0..300_u64 {
        let mut random = seed;
        let mut next = |below: u64| {
            random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (random >> 33) % below
        };
        let mut process = process(3);
        let mut waiting: BTreeMap<u32, (usize, u64)> = BTreeMap::new();
        let mut published = vec![1_u8];
        let mut starts: Vec<u64> = Vec::new();
        for id in 0..400_u32 {
            let worker = usize::try_from(next(3)).unwrap();
            match next(10) {
                0..4 => process.advance(next(400) * MILLISECOND),
                4 => process.advance(next(40) * SECOND),
                5 => {
                    // Calls end at their timeout; Envoy says so itself.
                    let now = process.world.now;
                    let expired = |call: &(usize, usize, Call, u64)| now - call.3 >= TIMEOUT;
                    if let Some(late) = process.world.calls.iter().position(expired) {
                        process.world.calls.swap(0, late);
                        process.answer(&status(504));
                    } else if !process.world.calls.is_empty() {
                        match next(5) {
                            0 => process.answer(&status(503)),
                            1 => process.answer(&ok("<html>")),
                            _ => process.answer(&ok(&set(&published))),
                        };
                    }
                }
                6 => published = (1..=u8::try_from(next(4) + 1).unwrap()).collect(),
                7 if next(8) == 0 => {
                    // A crash: its requests are gone with it.
                    process.workers[worker] = KeyStore::new(&[source(false)], &process.settings, ENVIRONMENT);
                    process.world.calls.retain(|(of, ..)| *of != worker);
                    waiting.retain(|_, (of, _)| *of != worker);
                }
                _ => {
                    let key = u8::try_from(next(6) + 1).unwrap();
                    let wants = process.verify(worker, &token(key, "{}")).1;
                    let now = process.world.now;
                    if !wants.is_empty() && process.wait(worker, id, now, &wants) == Wait::Until {
                        waiting.insert(id, (worker, now));
                    }
                }
            }
            process.poll(worker);
            for (id, _) in {
                let now = process.world.now;
                process.workers[worker].ready(now)
            } {
                assert!(waiting.remove(&id).is_some(), "seed {seed}: woken twice");
            }
            let now = process.world.now;
            for (of, since) in waiting.values() {
                assert!(*of != worker || now < since + TIMEOUT, "seed {seed}: waits too long");
            }
            for (.., at) in &process.world.calls {
                if !starts.contains(at) {
                    starts.push(*at);
                }
            }
            for pair in starts.windows(2) {
                assert!(pair[1] - pair[0] >= SECOND / 2, "seed {seed}: a burst: {pair:?}");
            }
            let live = process.world.calls.iter().filter(|call| now - call.3 < TIMEOUT).count();
            assert!(live <= 1, "seed {seed}: {live} fetches at a time");
        }
    }
}
