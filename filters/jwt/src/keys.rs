//! Carries out what the key store asks for: shared data, calls, metrics, log lines.

use sailcloth_host::callout::{self, Token};
use sailcloth_host::lease::Leases;
use sailcloth_host::metrics::{Counters, Gauge, name};
use sailcloth_host::{Status, clock, log, random, shared};
use sailcloth_jwt::{Call, Event, FetchError, KeySource, Lease, Note, Surroundings};

/// This worker's part in fetching keys.
#[derive(Default)]
pub(crate) struct Fetches {
    leases: Option<Leases>,
    /// Calls under way, with the number of their source; at most one for each.
    calls: Vec<(Token, usize)>,
    /// By source, metric and outcome: keys of the type that [`DecisionCounters`] has, whose table is in the module anyway.
    ///
    /// [`DecisionCounters`]: sailcloth_host::metrics::DecisionCounters
    counters: Counters<(Option<usize>, &'static str, &'static str)>,
    gauges: Vec<Option<Gauges>>,
}

#[derive(Clone, Copy)]
struct Gauges {
    age: Gauge,
    success: Gauge,
    keys: Gauge,
}

impl Fetches {
    /// The source whose call this is.
    pub(crate) fn answered(&mut self, token: Token) -> Option<usize> {
        let index = self.calls.iter().position(|(waiting, _)| *waiting == token)?;
        Some(self.calls.swap_remove(index).1)
    }

    /// Counts what became of a request that missed a key.
    pub(crate) fn count_wait(&mut self, number: usize, source: &KeySource, outcome: &'static str) {
        self.count("sailcloth_jwt_key_waits_total", number, source, outcome);
    }

    fn count(&mut self, metric: &'static str, number: usize, source: &KeySource, outcome: &'static str) {
        self.counters.count((Some(number), metric, outcome), || {
            name(metric, &[("issuer", &source.issuer), ("outcome", outcome)])
        });
    }

    /// Shows how old the keys of a source are. Each worker shows the same: the note is everybody's.
    pub(crate) fn show_age(&mut self, number: usize, source: &KeySource, note: Note, now: u64) {
        if note.fetched > 0
            && let Some(gauges) = self.gauges(number, source)
        {
            gauges.age.set(now.saturating_sub(note.fetched) / 1_000_000_000);
        }
    }

    fn gauges(&mut self, number: usize, source: &KeySource) -> Option<Gauges> {
        if self.gauges.len() <= number {
            self.gauges.resize(number + 1, None);
        }
        let slot = self.gauges.get_mut(number)?;
        if slot.is_none() {
            let define = |metric| Gauge::define(&name(metric, &[("issuer", &source.issuer)])).ok();
            *slot = define("sailcloth_jwt_key_age_seconds").and_then(|age| {
                let success = define("sailcloth_jwt_key_fetch_success_time_seconds")?;
                Some(Gauges { age, success, keys: define("sailcloth_jwt_keys")? })
            });
        }
        *slot
    }

    fn leases(&mut self) -> Result<Leases, Status> {
        match self.leases {
            Some(leases) => Ok(leases),
            None => Ok(*self.leases.insert(Leases::new()?)),
        }
    }
}

fn key(name: &str, what: &str) -> Vec<u8> {
    format!("sailcloth/jwt/{what}/{name}").into_bytes()
}

/// `None` with a line in the log: without shared data nothing is fetched, and nobody would know why.
fn worked<T>(what: &str, result: Result<T, Status>) -> Option<T> {
    result
        .map_err(|status| {
            log::error(&format!("sailcloth jwt: keys cannot be {what}, shared data: {}", status.name()));
        })
        .ok()
}

impl Surroundings for Fetches {
    fn lease(&mut self, name: &str) -> Option<Lease> {
        let read = |leases: Leases| leases.read(&key(name, "lease"), clock::monotonic_nanoseconds()?);
        let lease = worked("fetched or found", self.leases().and_then(read))?;
        Some(Lease { until: lease.until, busy: lease.is_held(), note: lease.note })
    }

    fn claim(&mut self, name: &str, now: u64, until: u64) -> bool {
        let claim = |leases: Leases| leases.claim(&key(name, "lease"), now, until);
        worked("fetched", self.leases().and_then(claim)).unwrap_or(false)
    }

    fn settle(&mut self, name: &str, until: u64, note: &[u8]) -> bool {
        let settle =
            |leases: Leases| leases.settle(&key(name, "lease"), clock::monotonic_nanoseconds()?, until, note);
        worked("announced to other workers", self.leases().and_then(settle)).unwrap_or(false)
    }

    fn keys(&mut self, name: &str) -> Option<Vec<u8>> {
        worked("read", shared::read(&key(name, "keys")))?.map(|(record, _)| record)
    }

    fn publish(&mut self, name: &str, record: &[u8]) {
        worked("given to other workers", shared::overwrite(&key(name, "keys"), record));
    }

    fn send(&mut self, source: usize, call: &Call) -> Result<(), FetchError> {
        let scheme: &[u8] = if call.url.https { b"https" } else { b"http" };
        let headers: [(&str, &[u8]); 6] = [
            (":method", b"GET"),
            (":scheme", scheme),
            (":authority", call.url.authority.as_bytes()),
            (":path", call.url.path.as_bytes()),
            ("accept", b"application/json"),
            ("user-agent", b"sailcloth"),
        ];
        let token =
            callout::send(&call.cluster, &headers, b"", call.timeout).map_err(|status| match status {
                Status::BadArgument => FetchError::NoCluster,
                _ => FetchError::NoEndpoints,
            })?;
        self.calls.retain(|(_, other)| *other != source);
        self.calls.push((token, source));
        Ok(())
    }

    fn random(&mut self) -> u64 {
        // Without it all wait equally long, and nothing else depends on it.
        random::next().unwrap_or(0)
    }

    fn report(&mut self, number: usize, source: &KeySource, event: &Event<'_>) {
        let outcome = match event {
            Event::Fetched { keys, warnings } => {
                for warning in warnings {
                    log::warn(&format!("sailcloth jwt: {}: {warning}", source.path));
                }
                log::info(&format!("sailcloth jwt: {}: fetched {keys} key(s)", source.path));
                if let (Some(gauges), Ok(now)) = (self.gauges(number, source), clock::system_time()) {
                    gauges.keys.set(u64::try_from(*keys).unwrap_or(u64::MAX));
                    gauges.success.set(now.as_secs());
                }
                "success"
            }
            Event::Failed { error, call, failures, kept } => {
                let effect = if *kept {
                    "the keys fetched before stay in use"
                } else {
                    "there are no keys, and every token that needs them is refused"
                };
                let why = error.message(call);
                log::error(&format!(
                    "sailcloth jwt: {}: keys could not be fetched, {failures} time(s) in a row: {why}; {effect}",
                    source.path
                ));
                error.name()
            }
        };
        self.count("sailcloth_jwt_key_fetches_total", number, source, outcome);
    }
}
