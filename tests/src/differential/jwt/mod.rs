//! Tokens: RequestAuthentication through Envoy's `jwt_authn`, configured as Istio does, beside our filter.

pub mod token;

use std::path::Path;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use sailcloth_launch::http::{Request, Response};
use serde_json::{Map, Value, json};

use super::client::{Runner, Way};
use super::random::Random;
use super::side::{Bench, DETAILS, Plan, Side, wasm};
use super::{Tally, deviations};
use crate::echo::{self, Echo};
use crate::keys::TestKey;

use token::KEYS;

/// Some `jwtRules`, in Istio's form.
#[must_use]
pub fn rules(random: &mut Random) -> Vec<Value> {
    let mut issuers = vec!["https://issuer.example"];
    if random.percent(60) {
        issuers.push("https://other.example");
    }
    let mut made = Vec::new();
    for issuer in issuers {
        let keys = KEYS.iter().filter(|(_, _, of)| *of == issuer).map(|(key, _, _)| *key);
        let keys: Vec<String> = keys.map(|key| TestKey::named(key).expect("a fixture").jwk()).collect();
        let mut rule = json!({"issuer": issuer, "jwks": format!(r#"{{"keys":[{}]}}"#, keys.join(","))});
        if random.percent(50) {
            rule["audiences"] =
                json!(random.pick(&[vec!["api"], vec!["web", "https://api"], vec!["http://api/"]]));
        }
        if random.percent(50) {
            match random.below(4) {
                0 => rule["fromHeaders"] = json!([{"name": "x-token"}]),
                1 => {
                    rule["fromHeaders"] = json!([{"name": "x-token", "prefix": "Token "}, {"name": "authorization", "prefix": "Bearer "}])
                }
                2 => rule["fromParams"] = json!(["jwt"]),
                _ => rule["fromCookies"] = json!(["session"]),
            }
        }
        if random.percent(40) {
            rule["forwardOriginalToken"] = json!(true);
        }
        if random.percent(50) {
            rule["outputPayloadToHeader"] = json!("x-payload");
        }
        if random.percent(60) {
            let claims = [
                "sub",
                "level",
                "active",
                "realm.name",
                "realm.level",
                "scope",
                "nothing",
                "absent",
                "groups",
                "realm",
                "ratio",
            ];
            let chosen = claims.iter().filter(|_| random.percent(50));
            let output = chosen.map(
                |claim| json!({"header": format!("x-claim-{}", claim.replace('.', "-")), "claim": claim}),
            );
            let output: Vec<Value> = output.collect();
            if !output.is_empty() {
                rule["outputClaimToHeaders"] = json!(output);
            }
        }
        made.push(rule);
    }
    made
}

/// `jwt_authn` as Istio configures it for these rules (`istio-api.md` section 3; `TestConvertToEnvoyJwtConfig`).
fn native(rules: &[Value]) -> Value {
    let mut providers = Map::new();
    let mut names = Vec::new();
    for (index, rule) in rules.iter().enumerate() {
        let mut provider = json!({
            "issuer": rule["issuer"],
            "local_jwks": {"inline_string": rule["jwks"]},
            "forward": rule.get("forwardOriginalToken").cloned().unwrap_or(json!(false)),
            "payload_in_metadata": "payload",
            "normalize_payload_in_metadata": {"space_delimited_claims": ["permission", "scope"]},
        });
        for (ours, theirs) in [
            ("audiences", "audiences"),
            ("fromParams", "from_params"),
            ("fromCookies", "from_cookies"),
            ("outputPayloadToHeader", "forward_payload_header"),
        ] {
            if let Some(value) = rule.get(ours) {
                provider[theirs] = value.clone();
            }
        }
        let list = |name: &str| rule.get(name).and_then(Value::as_array).cloned().unwrap_or_default();
        let headers: Vec<Value> = list("fromHeaders")
            .iter()
            .map(|header| json!({"name": header["name"], "value_prefix": header.get("prefix").cloned().unwrap_or(json!(""))}))
            .collect();
        if !headers.is_empty() {
            provider["from_headers"] = json!(headers);
        }
        let claims: Vec<Value> = list("outputClaimToHeaders")
            .iter()
            .map(|output| json!({"header_name": output["header"], "claim_name": output["claim"]}))
            .collect();
        if !claims.is_empty() {
            provider["claim_to_headers"] = json!(claims);
        }
        let name = format!("origins-{index}");
        names.push(json!({"provider_name": name}));
        providers.insert(name, provider);
    }
    let or_missing = |name: &Value| json!({"requires_any": {"requirements": [name, {"allow_missing": {}}]}});
    let requires = match names.as_slice() {
        [one] => or_missing(one),
        several => {
            let all: Vec<Value> = several.iter().map(or_missing).collect();
            let mut any = several.to_vec();
            any.push(json!({"requires_all": {"requirements": all}}));
            json!({"requires_any": {"requirements": any}})
        }
    };
    json!({"name": "envoy.filters.http.jwt_authn", "typed_config": {
        "@type": "type.googleapis.com/envoy.extensions.filters.http.jwt_authn.v3.JwtAuthentication",
        "providers": providers,
        "rules": [{"match": {"prefix": "/"}, "requires": requires}],
        "bypass_cors_preflight": true,
    }})
}

/// A request with its tokens.
#[derive(Debug, Clone)]
pub struct Bearer {
    target: String,
    method: &'static str,
    headers: Vec<(&'static str, String)>,
    /// The defects of its tokens, and what is odd about their places.
    pub about: Vec<String>,
}

/// A request with a token or two somewhere.
#[must_use]
pub fn bearer(random: &mut Random, rules: &[Value]) -> Bearer {
    let mut made =
        Bearer { target: "/a?x=1".to_owned(), method: "GET", headers: Vec::new(), about: Vec::new() };
    let rule = random.pick(rules);
    let mut places = vec!["bearer"];
    for (field, place) in [("fromHeaders", "x-token"), ("fromParams", "jwt"), ("fromCookies", "cookie")] {
        if rule.get(field).is_some() {
            places = if rule[field].to_string().contains("authorization") {
                vec![place, "bearer"]
            } else {
                vec![place]
            };
        }
    }
    let count = match random.below(12) {
        0 => 0,
        1 | 2 => 2,
        _ => 1,
    };
    for _ in 0..count {
        let (token, defects) = token::token(random);
        made.about.push(if defects.is_empty() { "valid".to_owned() } else { defects.join(" + ") });
        let place = if random.percent(85) {
            *random.pick(&places)
        } else {
            *random.pick(&["bearer", "x-token", "jwt", "cookie", "access_token"])
        };
        made.put(&token, place, rule, random);
    }
    if random.percent(5) {
        made.method = "OPTIONS";
        made.headers.push(("origin", "https://a.example".to_owned()));
        made.headers.push(("access-control-request-method", "GET".to_owned()));
        made.about.push("preflight".to_owned());
    }
    if random.percent(15) {
        // What only the filter may write.
        made.headers.push(("x-payload", "forged".to_owned()));
        made.headers.push(("x-claim-sub", "forged".to_owned()));
        made.about.push("forged output".to_owned());
    }
    made
}

impl Bearer {
    fn put(&mut self, token: &str, place: &'static str, rule: &Value, random: &mut Random) {
        match place {
            "bearer" => {
                let odd = ["bearer ", "Bearer  ", "Bearer", "Basic ", "x Bearer ", ""];
                let prefix = if random.percent(80) { "Bearer " } else { *random.pick(&odd) };
                let suffix =
                    if random.percent(88) { "" } else { *random.pick(&[",more", " more", ", Bearer x"]) };
                self.note(prefix != "Bearer ", format!("prefix `{prefix}`"));
                self.note(!suffix.is_empty(), format!("suffix `{suffix}`"));
                self.headers.push(("authorization", format!("{prefix}{token}{suffix}")));
            }
            "x-token" => {
                let right = if rule.to_string().contains("Token ") { "Token " } else { "" };
                let prefix = if random.percent(80) {
                    right
                } else {
                    *random.pick(&["", "Token ", "token ", "a Token "])
                };
                self.note(!prefix.is_empty(), format!("prefix `{prefix}`"));
                self.headers.push(("x-token", format!("{prefix}{token}")));
            }
            "cookie" => {
                let text = match random.below(4) {
                    0 => format!("session=\"{token}\""),
                    1 => format!("a=b; session={token}; c=d"),
                    _ => format!("session={token}"),
                };
                self.headers.push(("cookie", text));
            }
            parameter => {
                let first = self.target.contains(&format!("{parameter}="));
                self.note(first, format!("`{parameter}` twice"));
                self.target = format!("{}&{parameter}={token}", self.target);
            }
        }
        self.about.push(format!("in {place}"));
    }

    fn tokens(&self) -> usize {
        self.about.iter().filter(|about| about.starts_with("in ")).count()
    }

    fn note(&mut self, is: bool, what: String) {
        if is {
            self.about.push(what);
        }
    }
}

/// Rules in both forms, with the requests for them.
#[derive(Debug)]
pub struct World {
    /// The rules.
    pub rules: Vec<Value>,
    /// The requests.
    pub bearers: Vec<Bearer>,
}

impl World {
    fn sides(&self) -> [Side; 2] {
        let ours = json!({"resources": [{
            "apiVersion": "security.istio.io/v1", "kind": "RequestAuthentication",
            "metadata": {"name": "authn", "namespace": "production"},
            "spec": {"jwtRules": self.rules},
        }]});
        let claim = |name: &str| format!("%DYNAMIC_METADATA(envoy.filters.http.jwt_authn:payload:{name})%");
        let principals = [
            format!("{}/{}", claim("iss"), claim("sub")),
            "%FILTER_STATE(wasm.sailcloth.jwt.principal:PLAIN)%".to_owned(),
        ];
        let filters = [native(&self.rules), wasm("jwt", &ours)];
        let mut sides = filters.into_iter().zip(principals).map(|(filter, principal)| {
            let routes = json!({
                "name": "upstream",
                "virtual_hosts": [{"name": "all", "domains": ["*"], "routes": [
                    {"match": {"prefix": ""}, "route": {"cluster": "upstream"}}]}],
                "request_headers_to_add": [{"header": {"key": "x-test-principal", "value": principal}}],
            });
            Side { proxied: false, ..Side::new(vec![filter], routes) }
        });
        [sides.next().expect("two"), sides.next().expect("two")]
    }

    /// Runs all worlds in one Envoy.
    ///
    /// # Panics
    /// When Envoy does not start or stops answering.
    #[must_use]
    pub fn run(binary: &Path, worlds: &[Self]) -> Tally {
        with_bench(binary, worlds, |bench| Self::run_on(bench, worlds))
    }

    fn run_on(bench: &Bench, worlds: &[Self]) -> Tally {
        let (next, all) = (AtomicUsize::new(0), Mutex::new(Tally::default()));
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
        all.into_inner().expect("no thread has panicked")
    }

    fn compare(&self, ports: [u16; 2], runner: &mut Runner) -> Tally {
        let mut tally = Tally::default();
        for bearer in &self.bearers {
            let start = Request::new(bearer.method, &bearer.target).header("host", "api.example");
            let request =
                bearer.headers.iter().fold(start, |request, (name, value)| request.header(name, value));
            let [native, ours] = ports.map(|port| Outcome::of(&runner.send(Way::Direct { port }, &request)));
            if native == ours {
                tally.agreed(match native.status {
                    200 if native.principal.is_some() => "accepted".to_owned(),
                    200 => "passed as nobody".to_owned(),
                    status => status.to_string(),
                });
            } else if let Some(deviation) =
                deviations::of_tokens(&bearer.about, native.status, ours.status, &ours.details)
            {
                tally.deviated(deviation);
            } else if let Some(deviation) = native.headers_deviate(&ours, bearer.tokens() > 1) {
                tally.deviated(deviation);
            } else {
                tally.differed(|| {
                    format!(
                        "{:?}: {}\n  {}",
                        bearer.about,
                        native.difference(&ours),
                        Value::from(self.told())
                    )
                });
            }
        }
        tally
    }

    /// The rules without their keys.
    fn told(&self) -> Vec<Value> {
        let mut rules = self.rules.clone();
        for rule in &mut rules {
            rule["jwks"] = json!("…");
        }
        rules
    }
}

/// An Envoy with all sides of these worlds.
pub fn with_bench<T>(binary: &Path, worlds: &[World], run: impl FnOnce(&Bench) -> T) -> T {
    let upstream = Echo::start();
    let plan = Plan {
        sides: worlds.iter().flat_map(World::sides).collect(),
        clusters: vec!["upstream".to_owned()],
        upstream: Some(upstream.port()),
        ..Plan::default()
    };
    run(&Bench::start(binary, &plan))
}

/// What came of a request.
#[derive(Debug)]
struct Outcome {
    status: u16,
    challenge: Option<String>,
    body: String,
    principal: Option<String>,
    upstream: Vec<(String, Vec<u8>)>,
    details: String,
}

impl PartialEq for Outcome {
    /// The details are each filter's own.
    fn eq(&self, other: &Self) -> bool {
        (self.status, &self.challenge, &self.body, &self.principal, &self.upstream)
            == (other.status, &other.challenge, &other.body, &other.principal, &other.upstream)
    }
}

impl Outcome {
    fn of(response: &Response) -> Self {
        let mut upstream = Vec::new();
        let mut principal = None;
        let echoed = response.header("x-echo").is_some();
        if echoed {
            for (name, value) in echo::read(&response.body) {
                match name.as_str() {
                    "x-request-id" => {}
                    "x-test-principal" => {
                        let text = String::from_utf8_lossy(&value).into_owned();
                        // Half a principal is none.
                        let whole = !text.starts_with("-/")
                            && !text.ends_with("/-")
                            && text != "-"
                            && !text.ends_with('/');
                        principal = whole.then_some(text).filter(|text| !text.is_empty());
                    }
                    _ => upstream.push((name, value)),
                }
            }
        }
        upstream.sort_by(|(one, _), (other, _)| one.cmp(other));
        let header = |name: &str| response.header(name).map(std::borrow::Cow::into_owned);
        Self {
            status: response.status,
            challenge: header("www-authenticate").map(|challenge| without_query(&challenge)),
            body: if echoed { String::new() } else { response.text().into_owned() },
            principal,
            upstream,
            details: header(DETAILS).unwrap_or_default(),
        }
    }

    /// Which deviation of accepted requests makes the headers differ; none where it is something else.
    fn headers_deviate(&self, ours: &Self, several: bool) -> Option<&'static str> {
        type Name = fn(&str) -> bool;
        let is_text: Name = |name| ["x-claim-ratio", "x-claim-realm"].contains(&name);
        let is_output: Name = |name| name.starts_with("x-claim-") || name == "x-payload";
        let accepted = self.status == 200 && ours.status == 200 && self.principal == ours.principal;
        // In this order: what is left out of the comparison grows.
        let steps: [(&'static str, bool, Name); 3] = [
            (deviations::QUERY_ORDER.name, true, |_| false),
            (deviations::CLAIM_TEXT.name, true, is_text),
            (deviations::TWO_OUTPUTS.name, several && self.has_more_than(ours), is_output),
        ];
        let rest = |headers: &[(String, Vec<u8>)], left_out: Name| -> Vec<(String, Vec<u8>)> {
            let is_empty = |name: &str, value: &[u8]| name == "x-claim-sub" && value.is_empty();
            let kept = headers.iter().filter(|(name, value)| !left_out(name) && !is_empty(name, value));
            kept.map(|(name, value)| {
                (name.clone(), if name == ":path" { sorted_query(value) } else { value.clone() })
            })
            .collect()
        };
        let found = steps.iter().find(|(_, may, left_out)| {
            *may && rest(&self.upstream, *left_out) == rest(&ours.upstream, *left_out)
        });
        found.filter(|_| accepted).map(|(name, _, _)| *name)
    }

    /// Whether each header name that ours wrote is there too.
    fn has_more_than(&self, ours: &Self) -> bool {
        self.upstream.len() > ours.upstream.len()
            && ours.upstream.iter().all(|(name, _)| self.upstream.iter().any(|(other, _)| other == name))
    }

    fn difference(&self, ours: &Self) -> String {
        let mut all = Vec::new();
        let mut say = |what: &str, native: String, ours: String| {
            if native != ours {
                all.push(format!("{what}: native {native}, ours {ours}"));
            }
        };
        say("status", self.status.to_string(), ours.status.to_string());
        say("challenge", format!("{:?}", self.challenge), format!("{:?}", ours.challenge));
        say("body", self.body.clone(), ours.body.clone());
        say("principal", format!("{:?}", self.principal), format!("{:?}", ours.principal));
        say("details", self.details.clone(), ours.details.clone());
        let only = |these: &[(String, Vec<u8>)], those: &[(String, Vec<u8>)]| {
            let texts = these.iter().filter(|header| !those.contains(header));
            let texts = texts.map(|(name, value)| format!("{name}: {}", String::from_utf8_lossy(value)));
            format!("[{}]", texts.collect::<Vec<_>>().join(", "))
        };
        say("upstream got", only(&self.upstream, &ours.upstream), only(&ours.upstream, &self.upstream));
        all.join("; ")
    }
}

/// The realm is the URL that was asked for; ours leaves out the query, in which a token may stand.
fn without_query(challenge: &str) -> String {
    let Some((before, rest)) = challenge.split_once('?') else { return challenge.to_owned() };
    format!("{before}{}", rest.find('"').map_or("", |end| &rest[end..]))
}

fn sorted_query(path: &[u8]) -> Vec<u8> {
    let text = String::from_utf8_lossy(path).into_owned();
    let Some((path, query)) = text.split_once('?') else { return text.into_bytes() };
    let mut parameters: Vec<&str> = query.split('&').collect();
    parameters.sort_unstable();
    format!("{path}?{}", parameters.join("&")).into_bytes()
}
