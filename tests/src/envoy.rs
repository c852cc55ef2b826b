//! The Envoy runner: the built module in a stock Envoy, one Envoy per case file, each case one request.
//!
//! A case's facts come the way they come in production, as far as one machine can: the port and the original client by
//! the PROXY protocol, the peer's address and identity by the stock `set_filter_state` filter from headers that only the
//! test sends (and that are removed before the filter under test), or the identity by a real client certificate
//! ([`Transport::MutualTls`]). An identity verified before is written by the probe module in place of the `jwt` filter.

mod config;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use sailcloth_core::config::Node;
use sailcloth_launch::http::{Client, Request, Response};
use sailcloth_launch::{Envoy, Ports, RunDir, envoy};

pub use config::{Certificates, Issue, Transport};

use crate::case::{Case, CaseFile, Headers, TokenSpec};
use crate::echo::{self, Echo};
use crate::emulator::{changes, decide};
use crate::facts::{DEFAULT_PEER, DEFAULT_PORT, source_setting, token_state};
use crate::judge::{self, Observed, differences};
use crate::keys::hex;
use crate::native::{Clock, headers, refusal_differences};
use crate::report::Report;
use crate::subject::{Subject, filter_of};
use crate::{build, provider, template, yaml};

/// How many Envoys run at once.
const AT_ONCE: usize = 2;

/// How long a log line or a counter may take to show.
const SOON: Duration = Duration::from_secs(10);

/// Runs the files of a filter.
#[must_use]
pub fn run(binary: &Path, subject: &Subject, files: &[CaseFile], transport: &Transport) -> Report {
    let (next, all) = (
        AtomicUsize::new(0),
        Mutex::new(Report::new(&format!("envoy {}{}", subject.name, transport.suffix()))),
    );
    std::thread::scope(|scope| {
        for _ in 0..AT_ONCE {
            scope.spawn(|| {
                while let Some(file) = files.get(next.fetch_add(1, Ordering::SeqCst)) {
                    let mut report = Report::default();
                    run_file(binary, subject.name, file, transport, &mut report);
                    all.lock().unwrap().add(report);
                }
            });
        }
    });
    all.into_inner().unwrap()
}

fn run_file(binary: &Path, filter: &str, file: &CaseFile, transport: &Transport, report: &mut Report) {
    let now = Clock::now_seconds();
    let configuration = match template::expand_node(&file.configuration, now) {
        Ok(configuration) => configuration,
        Err(error) => return report.ran(&file.name, &[error]),
    };
    if let Some(expected) = &file.refused {
        return report.ran(&file.name, &refused(binary, filter, expected, &configuration));
    }
    let (mut cases, mut later) = (Vec::new(), false);
    for case in &file.cases {
        later |= !case.at.is_zero();
        match skip_reason(case, &configuration, later, transport) {
            None => cases.push(case),
            Some(reason) => report.skip(reason),
        }
    }
    if cases.is_empty() {
        return;
    }
    match Bench::start(binary, filter, &configuration, &cases, transport, file.normalize_path) {
        Ok(bench) => bench.run(&file.name, &cases, now, report),
        Err(error) => report.ran(&file.name, &[error]),
    }
}

/// Why a case cannot run here, by a property that it has.
fn skip_reason(
    case: &Case,
    configuration: &Node,
    later: bool,
    transport: &Transport,
) -> Option<&'static str> {
    if later {
        return Some("the case needs a clock that the test moves (`at`)");
    }
    if source_setting(configuration, "requestIdentity") == Some("jwt_authn")
        && matches!(case.request.token, TokenSpec::Verified(_))
    {
        return Some("the case needs a token verified by native jwt_authn");
    }
    match transport {
        Transport::Plaintext if case.sni.is_some() => Some("plaintext has no server name"),
        Transport::Plaintext
            if case.peer.is_some()
                && source_setting(configuration, "peerIdentity") == Some("certificate") =>
        {
            Some("plaintext has no certificate")
        }
        Transport::MutualTls(_) if case.port.is_some() => {
            Some("the port is the listener's own over mutual TLS")
        }
        _ => None,
    }
}

/// The problems of a refused configuration, as Envoy prints them when it refuses to start.
fn refused(binary: &Path, filter: &str, expected: &[String], configuration: &Node) -> Vec<String> {
    let mut ports = Ports::new();
    let (Ok(port), Ok(admin)) = (ports.free(), ports.free()) else { return vec!["no free port".to_owned()] };
    let plan = config::Plan {
        filter,
        configuration,
        port,
        admin,
        upstream: port,
        probe: false,
        clusters: &[],
        normalize_path: true,
    };
    let spec = envoy::Spec::new("refused", plan.plaintext()).binary(binary);
    let text = match spec.validate() {
        Ok(()) => return refusal_differences(expected, &[]),
        Err(error) => error.to_string(),
    };
    // Only "every expected problem is there": an unexpected one is the other runners' finding.
    let missing = expected.iter().filter(|problem| !text.contains(problem.as_str()));
    missing.map(|problem| format!("Envoy's log lacks `{problem}`:\n{text}")).collect()
}

struct Bench<'b> {
    filter: &'b str,
    envoy: Envoy,
    port: u16,
    /// The client listener of each peer, over mutual TLS.
    clients: BTreeMap<(Option<String>, Option<String>), u16>,
    _echo: Echo,
    _ports: Ports,
    _run: RunDir,
}

impl<'b> Bench<'b> {
    fn start(
        binary: &Path,
        filter: &'b str,
        configuration: &Node,
        cases: &[&Case],
        transport: &Transport,
        normalize_path: bool,
    ) -> Result<Self, String> {
        let text = |error: sailcloth_launch::Error| error.to_string();
        // Also builds what is not there yet.
        let _: PathBuf = build::path(filter);
        let echo = Echo::start();
        let (mut ports, run) = (Ports::new(), RunDir::temp().map_err(text)?);
        let (port, admin) = (ports.free().map_err(text)?, ports.free().map_err(text)?);
        let mut configuration = configuration.clone();
        let providers = provider::clusters(&configuration);
        // Those that the routing filter was told of; all of them are the one upstream.
        let known = configuration.clone();
        let routed = yaml::items(yaml::at(&known, &["settings", "clusters"])).iter().filter_map(Node::text);
        let clusters: Vec<&str> = routed.chain(providers.iter().map(String::as_str)).collect();
        let plan = config::Plan {
            filter,
            configuration: &Node::Null,
            port,
            admin,
            upstream: echo.port(),
            probe: cases.iter().any(|case| matches!(case.request.token, TokenSpec::Verified(_)))
                || source_setting(&configuration, "requestIdentity") != Some("none"),
            clusters: &clusters,
            normalize_path,
        };
        let mut clients = BTreeMap::new();
        let config = match transport {
            Transport::Plaintext => {
                if cases.iter().any(|case| case.peer.is_some()) {
                    yaml::set(&mut configuration, &["settings", "peerIdentity"], yaml::text("peerPrincipal"));
                }
                config::Plan { configuration: &configuration, ..plan }.plaintext()
            }
            Transport::MutualTls(certificates) => {
                for case in cases {
                    let peer = (case.peer.clone(), case.sni.clone());
                    if let std::collections::btree_map::Entry::Vacant(entry) = clients.entry(peer) {
                        entry.insert(ports.free().map_err(text)?);
                    }
                }
                config::Plan { configuration: &configuration, ..plan }.mutual_tls(
                    certificates,
                    &clients,
                    &run,
                )
            }
        };
        let envoy = envoy::Spec::new(filter, config).binary(binary).start(&run).map_err(text)?;
        Ok(Self { filter, envoy, port, clients, _echo: echo, _ports: ports, _run: run })
    }

    fn run(&self, file: &str, cases: &[&Case], now: u64, report: &mut Report) {
        let mut rows = Vec::new();
        for case in cases {
            let row = format!("{file}: {}", case.name);
            for repetition in 0..case.repeat {
                match self.exchange(case, now, repetition) {
                    Ok(seen) => rows.push((row.clone(), case, seen)),
                    Err(error) => report.ran(&row, &[error]),
                }
            }
        }
        let lines = match self.envoy.access_log_lines(rows.len(), SOON) {
            Ok(lines) if lines.len() == rows.len() => lines,
            Ok(lines) => {
                return report.ran(file, &[format!("{} requests, {} log lines", rows.len(), lines.len())]);
            }
            Err(error) => {
                let answers = rows.iter().map(|(row, _, seen)| {
                    format!(
                        "{row}: {:?} {}",
                        seen.status,
                        String::from_utf8_lossy(seen.body.as_deref().unwrap_or_default())
                    )
                });
                return report
                    .ran(file, &std::iter::once(error.to_string()).chain(answers).collect::<Vec<_>>());
            }
        };
        let mut arms: BTreeMap<String, (&Case, judge::Arms)> = BTreeMap::new();
        for ((row, case, mut observed), line) in rows.into_iter().zip(lines) {
            self.read_log_line(&line, case, &mut observed);
            report.ran(&row, &differences(&case.expect, &observed));
            arms.entry(row).or_insert_with(|| (case, judge::Arms::default())).1.count(&observed);
        }
        for (row, (case, arms)) in arms {
            report.judge_shares(&row, &arms.differences(&case.expect));
        }
    }

    /// One request on a connection of its own; what the access log says comes later. Expected changes of metrics are
    /// waited for: what counts when a stream ends may come after the response.
    fn exchange(&self, case: &Case, now: u64, repetition: u32) -> Result<Observed, String> {
        let before = self.metrics()?;
        // Native and emulator begin with the path that Envoy makes of the one sent.
        let mut sent = case.clone();
        sent.request.filter_path = None;
        let request = headers(&sent, now, repetition)?;
        let response = self.send(case, &request).map_err(|error| error.to_string())?;
        let mut observed = observe(&response);
        let mut changed = changes(&before, &self.metrics()?);
        let waited = sailcloth_launch::until("the metrics", Duration::from_secs(2), || {
            let there = |wanted: &(String, i64)| changed.contains(wanted);
            if case.expect.metrics.iter().all(there) {
                return Ok(Some(()));
            }
            changed = changes(&before, &self.metrics().unwrap_or_default());
            Ok(None)
        });
        // What never came the judge reports by its name.
        drop(waited);
        observed.metrics = Some(changed);
        Ok(observed)
    }

    fn metrics(&self) -> Result<BTreeMap<String, u64>, String> {
        let all = self.envoy.stats("^wasmcustom").map_err(|error| error.to_string())?;
        let name = |name: String| name.strip_prefix("wasmcustom.").map(str::to_owned).unwrap_or(name);
        Ok(all.into_iter().map(|(flat, value)| (name(flat), value)).collect())
    }

    fn send(&self, case: &Case, request: &Headers) -> sailcloth_launch::Result<Response> {
        let pseudo = |wanted: &str| {
            request
                .iter()
                .find(|(name, _)| name == wanted)
                .map(|(_, value)| value.as_slice())
                .unwrap_or_default()
        };
        let mut message =
            Request::new(pseudo(":method"), pseudo(":path")).header("host", pseudo(":authority"));
        let plain = request.iter().filter(|(name, _)| !name.starts_with(':'));
        message = plain.fold(message, |message, (name, value)| message.header(name, value));
        if let Some(address) = case.source_ip {
            message = message.header("x-test-source-ip", address.to_string());
        }
        if let Some(state) = token_state(case) {
            message = message.header("x-probe-token", hex(&state));
        }
        if let Some(port) = self.clients.get(&(case.peer.clone(), case.sni.clone())) {
            return Client::local(*port).send(&message);
        }
        if let Some(peer) = &case.peer {
            message = message.header("x-test-peer", peer);
        }
        let mut connection = Client::local(self.port).connect()?;
        let (source, port) = (case.source_ip.unwrap_or(DEFAULT_PEER), case.port.unwrap_or(DEFAULT_PORT));
        let (family, default) = if source.is_ipv4() { ("TCP4", "127.0.0.1") } else { ("TCP6", "::1") };
        // Both addresses of a PROXY line are of one family.
        let local = case.destination_ip.filter(|address| address.is_ipv4() == source.is_ipv4());
        let local = local.map_or_else(|| default.to_owned(), |address| address.to_string());
        connection.send_raw(format!("PROXY {family} {source} {local} 50000 {port}\r\n").as_bytes())?;
        connection.send(&message)
    }

    /// `code TAB details TAB cluster TAB path TAB filter state`
    fn read_log_line(&self, line: &str, case: &Case, observed: &mut Observed) {
        let mut parts = line.splitn(5, '\t').map(|part| Some(part).filter(|part| *part != "-"));
        let (_, details, cluster) = (parts.next(), parts.next(), parts.next());
        let (path, state) = (parts.next().flatten(), parts.next());
        if let Some(expected) = &case.request.filter_path
            && path != Some(expected)
        {
            let seen = path.unwrap_or("nothing");
            observed.faults.push(format!("filterPath: expected `{expected}`, observed `{seen}`"));
        }
        observed.cluster = cluster.flatten().map(str::to_owned);
        let state = state.flatten().map(|state| state.as_bytes().to_vec());
        let changed = observed.metrics.clone().unwrap_or_default();
        decide(filter_of(self.filter), observed, state, details.flatten(), &changed);
    }
}

fn observe(response: &Response) -> Observed {
    let name = |name: &[u8]| String::from_utf8_lossy(name).into_owned();
    let mut observed = Observed {
        status: Some(response.status),
        headers: Some(response.headers.iter().map(|(n, value)| (name(n), value.clone())).collect()),
        ..Observed::default()
    };
    if response.header("x-echo").is_some() {
        observed.upstream = Some(echo::read(&response.body));
    } else {
        observed.body = Some(response.body.clone());
    }
    observed
}

/// The judge, for suites that send their own requests.
#[must_use]
pub fn judge_response(expect: &crate::case::Expect, response: &Response) -> Vec<String> {
    judge::differences(expect, &observe(response))
}
