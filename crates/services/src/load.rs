//! A bounded load generator: a fixed number of requests over a fixed number of connections, and what came back.

use std::{
    collections::BTreeMap,
    fmt,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use http_body_util::BodyExt as _;
use hyper::{
    HeaderMap, Method, Request, Uri,
    client::conn::http1::SendRequest,
    header::{HOST, HeaderName, HeaderValue},
};
use serde_json::{Value, json};
use tokio::{sync::watch, task::JoinSet, time::Instant};

use crate::{
    Error, Result,
    client::{self, Body},
    duration, serve,
};

/// More distinct values of the counted header are counted together: a server must not fill our memory.
const MAX_VALUES: usize = 100;

/// What counts such values.
const OTHER: &str = "(other)";

/// What to send.
#[derive(Clone, Debug, clap::Args)]
pub struct Args {
    /// Where to: an `http://` URL
    #[arg(long)]
    pub url: Uri,
    /// How many requests
    #[arg(long, default_value_t = 100, value_parser = clap::value_parser!(u64).range(1..=1_000_000_000))]
    pub requests: u64,
    /// Over how many connections; each has one request under way at most
    #[arg(long, default_value_t = 4, value_parser = clap::value_parser!(u16).range(1..=1024))]
    pub connections: u16,
    /// How many requests per second in all; latency then counts from when a request was due. Without: as fast as the
    /// answers come
    #[arg(long, value_parser = rate)]
    pub rate: Option<f64>,
    /// Sends no more after this time, e.g. `30s`
    #[arg(long, value_parser = duration::parse)]
    pub duration: Option<Duration>,
    /// How long one request may take
    #[arg(long, default_value = "10s", value_parser = duration::parse)]
    pub timeout: Duration,
    /// The method
    #[arg(long, default_value = "GET")]
    pub method: Method,
    /// A request header, `name:value`; may be repeated
    #[arg(long = "header", value_name = "NAME:VALUE", value_parser = header)]
    pub headers: Vec<(HeaderName, HeaderValue)>,
    /// The request body
    #[arg(long, default_value = "")]
    pub body: String,
    /// The response header whose values are counted
    #[arg(long, default_value = "x-version")]
    pub count: HeaderName,
    /// Prints JSON
    #[arg(long)]
    pub json: bool,
}

fn rate(text: &str) -> Result<f64, String> {
    let rate = text.parse::<f64>().ok().filter(|rate| (0.001..=1e6).contains(rate));
    rate.ok_or_else(|| format!("`{text}` is not a number of requests per second from 0.001 to 1000000"))
}

fn header(text: &str) -> Result<(HeaderName, HeaderValue), String> {
    let (name, value) = text.split_once(':').ok_or_else(|| format!("`{text}` has no `:`"))?;
    let name = name.trim().parse().map_err(|_| format!("`{name}` is not a header name"))?;
    let value = value.trim().parse().map_err(|_| format!("the value of `{name}` cannot be sent"))?;
    Ok((name, value))
}

/// Sends the load, or the part that fits before SIGINT or SIGTERM: then the tally's `signal` is set.
///
/// # Errors
/// When the URL cannot be used or the server cannot be reached at all.
pub async fn run(args: Args) -> Result<Tally> {
    let mut signals = serve::Signals::new()?;
    let load = Arc::new(Load::new(args)?);
    drop(client::connect(&load.address).await?);
    let mut workers = JoinSet::new();
    for _ in 0..load.args.connections {
        workers.spawn(Arc::clone(&load).work());
    }
    let mut tally = Tally::default();
    loop {
        tokio::select! {
            done = workers.join_next() => match done {
                Some(Ok(part)) => tally.add(part),
                Some(Err(error)) => return Err(Error::Request(format!("a connection's task failed: {error}"))),
                None => break,
            },
            code = signals.next(), if tally.signal.is_none() => {
                tally.signal = Some(code);
                load.stop.send_replace(true);
            }
        }
    }
    tally.elapsed = load.start.elapsed();
    Ok(tally)
}

struct Load {
    args: Args,
    address: String,
    start: Instant,
    next: AtomicU64,
    stop: watch::Sender<bool>,
}

impl Load {
    fn new(args: Args) -> Result<Self> {
        let address = client::authority("url", &args.url)?;
        Ok(Self {
            args,
            address,
            start: Instant::now(),
            next: AtomicU64::new(0),
            stop: watch::Sender::new(false),
        })
    }

    /// One connection's part: takes a ticket, waits until it is due, sends.
    async fn work(self: Arc<Self>) -> Tally {
        let mut tally = Tally::default();
        let mut connection = None;
        let mut stop = self.stop.subscribe();
        while let Some(due) = self.ticket() {
            tokio::select! {
                () = self.one(due, &mut connection, &mut tally) => {}
                // What is under way then is counted nowhere.
                _ = stop.wait_for(|&stop| stop) => break,
            }
        }
        tally
    }

    async fn one(&self, due: Instant, connection: &mut Option<SendRequest<Body>>, tally: &mut Tally) {
        // tokio's timer counts whole milliseconds: even a wait that is over would cost up to one.
        if due > Instant::now() {
            tokio::time::sleep_until(due).await;
        }
        let from = if self.args.rate.is_some() { due } else { Instant::now() };
        match tokio::time::timeout(self.args.timeout, self.exchange(connection)).await {
            Ok(Ok((status, headers))) => {
                tally.answered(status, headers.get(&self.args.count), from.elapsed())
            }
            // A failed exchange has taken its connection with it.
            Ok(Err(error)) => tally.failed(error.to_string()),
            Err(_) => tally.failed(format!("no answer within {:.1} s", self.args.timeout.as_secs_f64())),
        }
    }

    fn ticket(&self) -> Option<Instant> {
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        let over = self.args.duration.is_some_and(|limit| self.start.elapsed() >= limit);
        if number >= self.args.requests || over {
            return None;
        }
        #[expect(clippy::cast_precision_loss, reason = "at most 10^9 requests")]
        let due = self.args.rate.map(|rate| self.start + Duration::from_secs_f64(number as f64 / rate));
        let due = due.unwrap_or_else(Instant::now);
        // A ticket that is due after the end is not waited for.
        self.args.duration.is_none_or(|limit| due < self.start + limit).then_some(due)
    }

    async fn exchange(&self, connection: &mut Option<SendRequest<Body>>) -> Result<(u16, HeaderMap)> {
        let mut reused = true;
        loop {
            let mut sender = match connection.take().filter(|open| open.is_ready()) {
                Some(open) => open,
                None => {
                    reused = false;
                    client::connect(&self.address).await?
                }
            };
            match sender.send_request(self.request()?).await {
                Ok(answer) => {
                    let (parts, mut body) = answer.into_parts();
                    while let Some(frame) = body.frame().await {
                        frame.map_err(|error| client::describe(&self.address, &error))?;
                    }
                    // Not an error: the next request opens a new connection.
                    *connection = sender.ready().await.is_ok().then_some(sender);
                    return Ok((parts.status.as_u16(), parts.headers));
                }
                // The server closed the idle connection before it saw the request.
                Err(error) if reused && error.is_canceled() => {}
                Err(error) => return Err(client::describe(&self.address, &error)),
            }
        }
    }

    fn request(&self) -> Result<Request<Body>> {
        let target = self.args.url.path_and_query().map_or("/", |path| path.as_str());
        let mut request = Request::builder().method(&self.args.method).uri(target);
        if !self.args.headers.iter().any(|(name, _)| name == HOST) {
            request = request.header(HOST, &self.address);
        }
        for (name, value) in &self.args.headers {
            request = request.header(name, value);
        }
        let body = Body::from(self.args.body.clone());
        request.body(body).map_err(|error| Error::invalid("url", error.to_string()))
    }
}

/// What came back.
#[derive(Clone, Debug, Default)]
pub struct Tally {
    /// How many answers had which status.
    pub statuses: BTreeMap<u16, u64>,
    /// How many answers had which value of the counted header.
    pub values: BTreeMap<String, u64>,
    /// How many requests got no answer, by cause.
    pub errors: BTreeMap<String, u64>,
    /// How long the answers took.
    pub latencies: Latencies,
    /// How long all of it took.
    pub elapsed: Duration,
    /// The exit code of the signal that ended it early.
    pub signal: Option<u8>,
}

impl Tally {
    /// How many requests were answered.
    pub fn answers(&self) -> u64 {
        self.statuses.values().sum()
    }

    /// How many were not.
    pub fn failures(&self) -> u64 {
        self.errors.values().sum()
    }

    /// 0: every request was answered; 2: some were not; 128 + signal: interrupted.
    pub fn exit_code(&self) -> u8 {
        self.signal.unwrap_or(if self.errors.is_empty() { 0 } else { 2 })
    }

    fn answered(&mut self, status: u16, value: Option<&HeaderValue>, latency: Duration) {
        *self.statuses.entry(status).or_default() += 1;
        self.latencies.record(latency);
        if let Some(value) = value {
            count(&mut self.values, String::from_utf8_lossy(value.as_bytes()).into_owned(), 1);
        }
    }

    fn failed(&mut self, cause: String) {
        count(&mut self.errors, cause, 1);
    }

    fn add(&mut self, part: Self) {
        for (status, n) in part.statuses {
            *self.statuses.entry(status).or_default() += n;
        }
        for (value, n) in part.values {
            count(&mut self.values, value, n);
        }
        for (cause, n) in part.errors {
            count(&mut self.errors, cause, n);
        }
        self.latencies.add(&part.latencies);
    }

    fn per_second(&self) -> f64 {
        #[expect(clippy::cast_precision_loss, reason = "at most 10^9 requests")]
        let answers = self.answers() as f64;
        answers / self.elapsed.as_secs_f64().max(1e-9)
    }

    /// As JSON; the keys are those of the human form.
    pub fn to_json(&self) -> Value {
        let ms = |share| self.latencies.quantile(share).as_secs_f64() * 1000.0;
        json!({
            "answers": self.answers(),
            "failures": self.failures(),
            "seconds": self.elapsed.as_secs_f64(),
            "perSecond": self.per_second(),
            "statuses": self.statuses,
            "values": self.values,
            "errors": self.errors,
            "latencyMs": {"p50": ms(0.5), "p90": ms(0.9), "p99": ms(0.99), "max": ms(1.0)},
        })
    }
}

fn count(counts: &mut BTreeMap<String, u64>, key: String, n: u64) {
    let full = counts.len() >= MAX_VALUES && !counts.contains_key(&key);
    *counts.entry(if full { OTHER.to_owned() } else { key }).or_default() += n;
}

impl fmt::Display for Tally {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let seconds = self.elapsed.as_secs_f64();
        writeln!(f, "{} answers in {seconds:.2} s, {:.0} per second", self.answers(), self.per_second())?;
        for (status, n) in &self.statuses {
            writeln!(f, "  status {status}: {n}")?;
        }
        for (value, n) in &self.values {
            writeln!(f, "  from {value}: {n}")?;
        }
        for (cause, n) in &self.errors {
            writeln!(f, "  no answer: {n} ({cause})")?;
        }
        let ms = |share| self.latencies.quantile(share).as_secs_f64() * 1000.0;
        write!(f, "  latency: p50 {:.2} ms, p99 {:.2} ms, max {:.2} ms", ms(0.5), ms(0.99), ms(1.0))
    }
}

/// Latencies in buckets no wider than 1/32 of their value: 3 % precision in 15 kB, however many are recorded.
#[derive(Clone, Debug, Default)]
pub struct Latencies {
    buckets: Vec<u64>,
    count: u64,
}

impl Latencies {
    /// Adds one.
    pub fn record(&mut self, latency: Duration) {
        let index = bucket(u64::try_from(latency.as_micros()).unwrap_or(u64::MAX));
        if self.buckets.len() <= index {
            self.buckets.resize(index + 1, 0);
        }
        if let Some(bucket) = self.buckets.get_mut(index) {
            *bucket += 1;
            self.count += 1;
        }
    }

    /// The latency that the given share (0 to 1) of all did not exceed; zero when there are none.
    pub fn quantile(&self, share: f64) -> Duration {
        #[expect(
            clippy::cast_precision_loss,
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "counts are below 2^52, shares within 0 and 1"
        )]
        let wanted = ((self.count as f64 * share).ceil() as u64).max(1);
        let mut seen = 0;
        for (index, n) in self.buckets.iter().enumerate() {
            seen += n;
            if seen >= wanted {
                return Duration::from_micros(upper_bound(index));
            }
        }
        Duration::ZERO
    }

    fn add(&mut self, other: &Self) {
        if self.buckets.len() < other.buckets.len() {
            self.buckets.resize(other.buckets.len(), 0);
        }
        for (mine, theirs) in self.buckets.iter_mut().zip(&other.buckets) {
            *mine += theirs;
        }
        self.count += other.count;
    }
}

/// Values below 64 have their own bucket; above, every power of two has 32.
fn bucket(value: u64) -> usize {
    let shift = (u64::BITS - value.leading_zeros()).saturating_sub(6);
    usize::try_from(u64::from(shift) * 32 + (value >> shift)).unwrap_or(usize::MAX)
}

/// The largest value of a bucket.
fn upper_bound(index: usize) -> u64 {
    let index = u64::try_from(index).unwrap_or(u64::MAX);
    let shift = (index / 32).saturating_sub(1);
    let mantissa = u128::from(index - shift * 32);
    u64::try_from(((mantissa + 1) << shift) - 1).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bucket_is_no_wider_than_a_32nd_of_its_values() {
        for value in (0..2000).chain([1 << 20, (1 << 20) + 1, 123_456_789, u64::MAX]) {
            let bound = upper_bound(bucket(value));
            assert!(bound >= value && bound - value <= value / 32, "{value}: {bound}");
        }
    }

    #[test]
    fn quantiles_are_those_of_what_was_recorded() {
        let mut latencies = Latencies::default();
        assert_eq!(latencies.quantile(0.5), Duration::ZERO);
        (1..=100).for_each(|ms| latencies.record(Duration::from_millis(ms)));
        for (share, ms) in [(0.5, 50.0), (0.99, 99.0), (1.0, 100.0), (0.0, 1.0)] {
            let found = latencies.quantile(share).as_secs_f64() * 1000.0;
            assert!((found - ms).abs() <= ms / 32.0, "{share}: {found}");
        }
    }

    #[test]
    fn a_server_cannot_fill_the_memory_with_values() {
        let mut counts = BTreeMap::new();
        (0..1000).for_each(|n| count(&mut counts, n.to_string(), 1));
        assert_eq!((counts.len(), counts[OTHER]), (MAX_VALUES + 1, 900));
    }

    #[test]
    fn headers_are_read_as_typed() {
        let (name, value) = header("X-A: b:c").unwrap();
        assert_eq!((name.as_str(), value.to_str().unwrap()), ("x-a", "b:c"));
        assert!(header("no colon").is_err() && header(": x").is_err());
    }
}
