//! Routing: VirtualServices, their translation to Envoy's routes, and the comparison of both in one Envoy.

pub mod call;
pub mod generate;
pub mod translate;

use std::path::Path;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use sailcloth_core::config::Node;
use sailcloth_launch::http::{Request, Response};
use serde_json::{Value, json};

use super::Tally;
use super::client::{Runner, Way};
use super::side::{Bench, Plan, Side, wasm};
use crate::conformance::{Verdict, load};
use crate::echo::{self, Echo};
use crate::subject::Subject;
use crate::yaml::{self, map, text};

use call::Call;
use generate::{FEATURES, clusters};

/// Response header in which a route says its cluster.
const CLUSTER: &str = "x-test-cluster";

/// Documents in both forms, with the requests for them.
#[derive(Debug)]
pub struct World {
    documents: Vec<Node>,
    /// Whether Envoy normalizes paths before any filter.
    pub normalizes: bool,
    /// The requests.
    pub calls: Vec<Call>,
}

/// Our filter's configuration of these documents.
fn configuration(documents: &[Node]) -> Node {
    let all = clusters().into_iter().map(text).collect();
    map(vec![
        ("resources", Node::List(documents.to_vec())),
        ("settings", map(vec![("clusters", Node::List(all))])),
    ])
}

/// Which of [`FEATURES`] the filter carries out, and what it says of the others.
#[must_use]
pub fn features() -> (Vec<&'static str>, Vec<String>) {
    let route = format!("route: [{{destination: {{host: {}, subset: d0-r0-0}}}}]", generate::DESTINATION);
    let (mut landed, mut refused) = (Vec::new(), Vec::new());
    for feature in FEATURES {
        let rule = match *feature {
            "redirect" => "{redirect: {uri: /x}}".to_owned(),
            "directResponse" => "{directResponse: {status: 200}}".to_owned(),
            "rewrite" => format!("{{{route}, rewrite: {{uri: /x, authority: a}}}}"),
            "uriRegexRewrite" => {
                format!("{{{route}, rewrite: {{uriRegexRewrite: {{match: a, rewrite: b}}}}}}")
            }
            "headers" => format!("{{{route}, headers: {{request: {{set: {{x-a: b}}}}}}}}"),
            "route headers" => {
                route.replace("]", "").replace("route: [{", "{route: [{headers: {request: {set: {x-a: b}}}, ")
                    + "]}"
            }
            "corsPolicy" => format!("{{{route}, corsPolicy: {{allowOrigins: [{{exact: a}}]}}}}"),
            _ => format!("{{{route}, fault: {{abort: {{httpStatus: 503, percentage: {{value: 100}}}}}}}}"),
        };
        let document = format!(
            "{{apiVersion: networking.istio.io/v1, kind: VirtualService, metadata: {{name: a, namespace: b}}, \
             spec: {{hosts: [a.test], http: [{rule}]}}}}"
        );
        let document = yaml::parse(&document).unwrap_or_else(|error| panic!("{document}: {error}"));
        match load(Subject::named("routing"), &configuration(&[document])) {
            Verdict::Accepted(_) => landed.push(*feature),
            Verdict::Unsupported(reason) | Verdict::NoFilter(reason) => {
                refused.push(format!("{feature}: {reason}"))
            }
            Verdict::Refused(problems) => refused.push(format!("{feature}: {problems:?}")),
        }
    }
    (landed, refused)
}

impl World {
    /// These documents.
    #[must_use]
    pub fn new(documents: Vec<Node>) -> Self {
        Self { documents, normalizes: true, calls: Vec::new() }
    }

    /// What our filter says when it cannot carry the documents out.
    ///
    /// # Errors
    /// Why.
    pub fn check(&self) -> Result<(), String> {
        match load(Subject::named("routing"), &configuration(&self.documents)) {
            Verdict::Accepted(_) => Ok(()),
            Verdict::Unsupported(reason) | Verdict::NoFilter(reason) => Err(reason),
            Verdict::Refused(problems) => panic!("{problems:?}\n{}", self.shown()),
        }
    }

    fn shown(&self) -> String {
        yaml::json(&Node::List(self.documents.clone()))
    }

    /// Runs all worlds in one Envoy.
    ///
    /// # Panics
    /// When Envoy does not start or stops answering.
    #[must_use]
    pub fn run(binary: &Path, worlds: &[Self]) -> Tally {
        let (next, all) = (AtomicUsize::new(0), Mutex::new(Tally::default()));
        with_bench(binary, worlds, |bench| {
            std::thread::scope(|scope| {
                for _ in 0..2 {
                    scope.spawn(|| {
                        let mut runner = Runner::default();
                        loop {
                            let number = next.fetch_add(1, Ordering::SeqCst);
                            let Some(world) = worlds.get(number) else { return };
                            let ports = [bench.ports[2 * number], bench.ports[2 * number + 1]];
                            let tally = world.compare(ports, &mut runner);
                            all.lock().expect("no thread has panicked").add(tally);
                        }
                    });
                }
            });
        });
        all.into_inner().expect("no thread has panicked")
    }

    fn sides(&self) -> [Side; 2] {
        let cors = json!({"name": "envoy.filters.http.cors", "typed_config": {
            "@type": "type.googleapis.com/envoy.extensions.filters.http.cors.v3.Cors"}});
        let fault = json!({"name": "envoy.filters.http.fault", "typed_config": {
            "@type": "type.googleapis.com/envoy.extensions.filters.http.fault.v3.HTTPFault"}});
        let json: Value =
            serde_json::from_str(&yaml::json(&configuration(&self.documents))).expect("valid JSON");
        let header = sailcloth_routing::CLUSTER_HEADER;
        let one = json!({"name": "sailcloth", "virtual_hosts": [{"name": "any", "domains": ["*"], "routes": [{
            "match": {"prefix": ""},
            "route": {"cluster_header": header, "retry_policy": {"num_retries": 0}},
            "request_headers_to_remove": [header],
        }]}]});
        let sides = [
            Side::new(vec![fault, cors], translate::routes(&self.documents)),
            Side::new(vec![wasm("routing", &json)], one),
        ];
        sides.map(|mut side| {
            side.proxied = false;
            side.manager = json!({"normalize_path": self.normalizes});
            side.routes["response_headers_to_add"] =
                json!([{"header": {"key": CLUSTER, "value": "%UPSTREAM_CLUSTER_RAW%"}}]);
            side
        })
    }

    fn compare(&self, ports: [u16; 2], runner: &mut Runner) -> Tally {
        let mut tally = Tally::default();
        for call in &self.calls {
            let [native, ours] = ports.map(|port| {
                let response = runner.send(Way::Direct { port }, &request(call));
                Outcome::of(&response)
            });
            if native == ours {
                tally.agreed(native.class());
            } else {
                tally.differed(|| format!("{}\n  {call:?}\n  {}", native.difference(&ours), self.shown()));
            }
        }
        tally
    }
}

/// An Envoy with all sides of these worlds, and an upstream for their clusters.
pub fn with_bench<T>(binary: &Path, worlds: &[World], run: impl FnOnce(&Bench) -> T) -> T {
    let upstream = Echo::start();
    let plan = Plan {
        sides: worlds.iter().flat_map(World::sides).collect(),
        clusters: clusters(),
        upstream: Some(upstream.port()),
        ..Plan::default()
    };
    run(&Bench::start(binary, &plan))
}

/// The call as bytes.
#[must_use]
pub fn request(call: &Call) -> Request {
    let start = Request::new(&call.method, &call.target).header("host", &call.host);
    call.headers.iter().fold(start, |request, (name, value)| request.header(name, value))
}

/// The cluster that answered a response.
#[must_use]
pub fn chosen(response: &Response) -> Option<String> {
    let cluster = response.header(CLUSTER)?.into_owned();
    (cluster != "-" && !cluster.is_empty()).then_some(cluster)
}

type Headers = Vec<(String, Vec<u8>)>;

/// What came of a request, without what chance or time decides.
#[derive(Debug, PartialEq, Eq)]
struct Outcome {
    status: u16,
    /// Which rule's cluster; which of a rule's several is chance.
    rule: Option<String>,
    /// The request headers at the upstream.
    upstream: Option<Headers>,
    /// The response headers.
    headers: Headers,
    /// The body, where the upstream did not write it.
    body: Vec<u8>,
}

/// Response headers that depend on time or on the comparison itself.
const IGNORED: [&str; 7] = [
    "date",
    "server",
    "x-envoy-upstream-service-time",
    "content-length",
    "x-echo",
    CLUSTER,
    super::side::DETAILS,
];

impl Outcome {
    fn of(response: &Response) -> Self {
        let echoed = response.header("x-echo").is_some();
        let upstream = echoed.then(|| {
            let all = echo::read(&response.body).into_iter();
            sorted(all.filter(|(name, _)| name != "x-request-id").collect())
        });
        let name = |name: &[u8]| String::from_utf8_lossy(name).to_ascii_lowercase();
        let headers = response.headers.iter().map(|(n, value)| (name(n), value.clone()));
        let rule = chosen(response).filter(|_| echoed).map(|cluster| {
            // outbound|80|d0-r1-2|host
            let subset = cluster.split('|').nth(2).unwrap_or(&cluster);
            subset.rsplit_once('-').map_or(subset, |(rule, _)| rule).to_owned()
        });
        Self {
            status: response.status,
            rule,
            upstream,
            headers: sorted(headers.filter(|(name, _)| !IGNORED.contains(&name.as_str())).collect()),
            body: if echoed { Vec::new() } else { response.body.clone() },
        }
    }

    fn class(&self) -> String {
        match (&self.rule, self.status) {
            (Some(_), _) => "routed".to_owned(),
            (None, 301..=308) => "redirected".to_owned(),
            (None, status) => format!("answered {status}"),
        }
    }

    /// Only what differs.
    fn difference(&self, ours: &Self) -> String {
        let mut all = Vec::new();
        let mut say = |what: &str, native: String, ours: String| {
            if native != ours {
                all.push(format!("{what}: native {native}, ours {ours}"));
            }
        };
        say("status", self.status.to_string(), ours.status.to_string());
        say("rule", format!("{:?}", self.rule), format!("{:?}", ours.rule));
        let only = |these: &Headers, those: &Headers| {
            let texts = these.iter().filter(|header| !those.contains(header));
            texts
                .map(|(name, value)| format!("{name}: {}", String::from_utf8_lossy(value)))
                .collect::<Vec<_>>()
                .join(", ")
        };
        let none = Headers::new();
        let (native_up, ours_up) =
            (self.upstream.as_ref().unwrap_or(&none), ours.upstream.as_ref().unwrap_or(&none));
        say(
            "upstream got",
            format!("[{}]", only(native_up, ours_up)),
            format!("[{}]", only(ours_up, native_up)),
        );
        say(
            "client got",
            format!("[{}]", only(&self.headers, &ours.headers)),
            format!("[{}]", only(&ours.headers, &self.headers)),
        );
        let body = |body: &[u8]| String::from_utf8_lossy(body).into_owned();
        say("body", body(&self.body), body(&ours.body));
        all.join("; ")
    }
}

/// By name; the values of one name keep their order.
fn sorted(mut headers: Headers) -> Headers {
    headers.sort_by(|(one, _), (other, _)| one.cmp(other));
    headers
}
