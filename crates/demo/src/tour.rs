//! The tour: what the suite does, each line a real request through Envoy, expected and observed side by side.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::io::{IsTerminal, Write as _};
use std::time::Duration;

use sailcloth_launch::http::{Client, Request, Response};
use sailcloth_launch::{Result, interrupt, until};
use serde_json::Value;

use crate::mesh::Mesh;

/// Requests of the canary step: the share of v2 then lies within three points of 10 % but once in 100,000 tours.
const CANARY_REQUESTS: usize = 2000;
const CANARY_TOLERANCE: f64 = 0.03;

/// How late Envoy may write its access log or flush its histograms.
const LOG_PATIENCE: Duration = Duration::from_secs(10);

/// The tour of a running mesh.
pub struct Tour<'m> {
    mesh: &'m mut Mesh,
    colour: bool,
    step: usize,
    requests: u64,
    differences: usize,
}

/// One request and what should come of it.
struct Expectation<'e> {
    title: &'e str,
    caller: Caller,
    request: Request,
    shown: String,
    status: u16,
    /// What Envoy's response code details must begin with.
    details: &'e str,
    /// A response header that must have this value.
    header: Option<(&'e str, &'e str)>,
}

#[derive(Clone, Copy)]
enum Caller {
    WebService,
    BatchService,
}

impl Caller {
    fn name(self) -> &'static str {
        match self {
            Self::WebService => "web-service",
            Self::BatchService => "batch-service",
        }
    }
}

/// Details of a request that reached the upstream.
const UPSTREAM: &str = "via_upstream";

impl<'m> Tour<'m> {
    /// A tour of this mesh.
    pub fn new(mesh: &'m mut Mesh) -> Self {
        Self { mesh, colour: std::io::stdout().is_terminal(), step: 0, requests: 0, differences: 0 }
    }

    /// Plays the tour; returns how many steps differed from what was expected.
    ///
    /// # Errors
    /// When the tour itself cannot go on: a process has ended, Ctrl-C, a request without an answer.
    pub fn play(mut self) -> Result<usize> {
        self.callers()?;
        self.tokens()?;
        self.routing()?;
        self.limits()?;
        self.through_web_service()?;
        self.metrics()?;
        Ok(self.differences)
    }

    fn callers(&mut self) -> Result<()> {
        self.heading("Who may call what: AuthorizationPolicy over mutual TLS");
        self.get("web-service may read /api/v1", Caller::WebService, "/api/v1/users", &[], 200, UPSTREAM)?;
        let denied = "sailcloth_authz_no_rule_matched[none]";
        self.get("batch-service may not", Caller::BatchService, "/api/v1/users", &[], 403, denied)?;
        self.get("everybody may ask for the health", Caller::BatchService, "/health", &[], 200, UPSTREAM)?;
        self.expect(Expectation {
            title: "web-service may not delete",
            caller: Caller::WebService,
            request: Request::new("DELETE", "/api/v1/users"),
            shown: "DELETE /api/v1/users".to_owned(),
            status: 403,
            details: denied,
            header: None,
        })?;
        let plaintext = Client::local(self.mesh.addresses.inbound).send(&Request::get("/health"));
        let observed = plaintext.map_or("connection closed".to_owned(), |answer| answer.status.to_string());
        self.show(
            "without a certificate there is no connection",
            "GET /health in plaintext",
            "connection closed",
            &observed,
        );
        Ok(())
    }

    fn tokens(&mut self) -> Result<()> {
        self.heading("Who is asking: RequestAuthentication");
        let good = self.mesh.token("sub=alice&aud=api-service")?;
        let expired = self.mesh.token("sub=alice&aud=api-service&ttl=-3600")?;
        let foreign = self.mesh.token("sub=alice&aud=somebody-else")?;
        let path = "/api/v1/users";
        let web = Caller::WebService;
        self.get("no token is no offence", web, path, &[], 200, UPSTREAM)?;
        self.get("a good token passes", web, path, &[("authorization", &bearer(&good))], 200, UPSTREAM)?;
        self.get(
            "a tampered one does not",
            web,
            path,
            &[("authorization", &bearer(&tamper(&good)))],
            401,
            "sailcloth_jwt_bad_signature[production/api-service-authn#0]",
        )?;
        self.get(
            "nor an expired one",
            web,
            path,
            &[("authorization", &bearer(&expired))],
            401,
            "sailcloth_jwt_",
        )?;
        self.get(
            "nor one for somebody else",
            web,
            path,
            &[("authorization", &bearer(&foreign))],
            403,
            "sailcloth_jwt_",
        )?;
        let refused = "sailcloth_authz_denied[production/admin-needs-a-token#0]";
        self.get("the admin path asks for a token", web, "/api/v1/admin", &[], 403, refused)?;
        self.get("and gets one", web, "/api/v1/admin", &[("authorization", &bearer(&good))], 200, UPSTREAM)
    }

    fn routing(&mut self) -> Result<()> {
        self.heading("Where it goes: the seed's VirtualService");
        let mut versions: BTreeMap<String, usize> = BTreeMap::new();
        let mut connection = self.client(Caller::WebService).connect()?;
        for _ in 0..CANARY_REQUESTS {
            interrupt::check()?;
            let answer = connection.send(&host(Request::get("/api/v1/users")))?;
            *versions.entry(version(&answer)).or_default() += 1;
        }
        self.requests += CANARY_REQUESTS as u64;
        let share =
            |name: &str| versions.get(name).copied().unwrap_or_default() as f64 / CANARY_REQUESTS as f64;
        let fits = (share("v2") - 0.1).abs() <= CANARY_TOLERANCE && versions.len() == 2;
        let observed = format!("v1 {:.1} %, v2 {:.1} %", share("v1") * 100.0, share("v2") * 100.0);
        let shown = format!("{CANARY_REQUESTS} × GET /api/v1/users as web-service");
        self.show_judged(
            "a canary: 90 % to v1, 10 % to v2",
            &shown,
            "v1 90 %, v2 10 % (± 3)",
            &observed,
            fits,
        );

        let chrome = "Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 Chrome/149.0 Safari/537.36";
        let firefox = "Mozilla/5.0 (X11; Linux x86_64; rv:150.0) Gecko/20100101 Firefox/150.0";
        for (title, agent, version) in [("Chrome gets v2", chrome, "v2"), ("Firefox gets v1", firefox, "v1")]
        {
            self.expect(Expectation {
                title,
                caller: Caller::WebService,
                request: Request::get("/health").header("user-agent", agent),
                shown: format!(
                    "GET /health, user-agent: …{}…",
                    if version == "v2" { "Chrome" } else { "Firefox" }
                ),
                status: 200,
                details: UPSTREAM,
                header: Some(("x-version", version)),
            })?;
        }
        let forged = "outbound|80|v2|api-service.production.svc.cluster.local";
        self.expect(Expectation {
            title: "a client cannot choose the cluster itself",
            caller: Caller::WebService,
            request: Request::get("/health").header("x-sailcloth-cluster", forged),
            shown: "GET /health, x-sailcloth-cluster: …v2…".to_owned(),
            status: 200,
            details: UPSTREAM,
            header: Some(("x-version", "v1")),
        })
    }

    fn limits(&mut self) -> Result<()> {
        self.heading("How often: RateLimit, five a minute per API key, one truth for both workers");
        let mut observed: Vec<u16> = Vec::new();
        for _ in 0..6 {
            let request = host(Request::get("/api/v1/reports").header("x-api-key", "alpha"));
            observed.push(self.client(Caller::WebService).send(&request)?.status);
        }
        self.requests += 6;
        let observed: Vec<String> = observed.iter().map(u16::to_string).collect();
        let shown = "6 × GET /api/v1/reports, x-api-key: alpha";
        self.show("five pass, the sixth does not", shown, "200 200 200 200 200 429", &observed.join(" "));
        self.expect(Expectation {
            title: "the refusal says when to come back",
            caller: Caller::WebService,
            request: Request::get("/api/v1/reports").header("x-api-key", "alpha"),
            shown: "GET /api/v1/reports, x-api-key: alpha".to_owned(),
            status: 429,
            details: "sailcloth_ratelimit_limited[production/reports-per-key#0]",
            header: Some(("retry-after", "*")),
        })?;
        self.get(
            "another key has its own five",
            Caller::WebService,
            "/api/v1/reports",
            &[("x-api-key", "beta")],
            200,
            UPSTREAM,
        )
    }

    fn through_web_service(&mut self) -> Result<()> {
        self.heading("The whole way: client → web-service → its sidecar → api-service");
        let answer = Client::local(self.mesh.addresses.web_service).send(&Request::get("/users"))?;
        self.requests += 1;
        let body: Value = answer.json().unwrap_or_default();
        let version = body.pointer("/api/body/version").and_then(Value::as_str).unwrap_or("?");
        let observed = format!("{}, version {version}", answer.status);
        let fits = answer.status == 200 && matches!(version, "v1" | "v2");
        let title = "web-service shows what the API said";
        self.show_judged(title, "GET /users of web-service", "200, version v1 or v2", &observed, fits);
        Ok(())
    }

    fn metrics(&mut self) -> Result<()> {
        self.heading("What Prometheus sees");
        let expected = self.requests;
        let counted = until("the request counter", LOG_PATIENCE, || {
            let text = self.mesh.envoy.prometheus()?;
            let sum = sum_of(&text, "istio_requests_total");
            Ok((sum >= expected).then_some((sum, text)))
        });
        let (sum, text) = match counted {
            Ok(found) => found,
            Err(_) => {
                self.mesh.envoy.prometheus().map(|text| (sum_of(&text, "istio_requests_total"), text))?
            }
        };
        let title = "every request of this tour was counted once";
        self.show(title, "sum of istio_requests_total", &expected.to_string(), &sum.to_string());
        for (metric, title) in [
            ("istio_request_duration_milliseconds_count", "durations, with Istio's labels"),
            ("sailcloth_authz_decisions_total", "decisions, by policy and rule"),
            ("sailcloth_config_info", "the configuration in force"),
        ] {
            let line = text.lines().find(|line| line.starts_with(metric)).unwrap_or("nothing");
            let found = if line == "nothing" { "nothing" } else { "there" };
            self.show(title, metric, "there", found);
            self.detail(line);
        }
        Ok(())
    }

    fn get(
        &mut self,
        title: &str,
        caller: Caller,
        path: &str,
        headers: &[(&str, &str)],
        status: u16,
        details: &str,
    ) -> Result<()> {
        let request =
            headers.iter().fold(Request::get(path), |request, (name, value)| request.header(name, value));
        let mut shown = format!("GET {path}");
        for (name, value) in headers {
            // A token is long, and a secret.
            let value = if *name == "authorization" { "Bearer …" } else { value };
            let _ = write!(shown, ", {name}: {value}");
        }
        self.expect(Expectation { title, caller, request, shown, status, details, header: None })
    }

    fn expect(&mut self, expectation: Expectation<'_>) -> Result<()> {
        interrupt::check()?;
        self.mesh.check()?;
        let Expectation { title, caller, request, shown, status, details, header } = expectation;
        let answer = self.client(caller).send(&host(request))?;
        self.requests += 1;
        let reason = self.reason()?;
        let header_fits = header.is_none_or(|(name, value)| {
            answer.header(name).is_some_and(|found| value == "*" || found == value)
        });
        let fits = answer.status == status && reason.starts_with(details) && header_fits;
        let with = |status: u16, reason: &str, value: Option<String>| {
            let header =
                header.map_or(String::new(), |(name, _)| format!(", {name}: {}", value.unwrap_or_default()));
            format!("{status} {reason}{header}")
        };
        let expected = with(
            status,
            details,
            header.map(|(_, value)| if value == "*" { "…".into() } else { value.into() }),
        );
        let observed = with(
            answer.status,
            &reason,
            header.map(|(name, _)| answer.header(name).unwrap_or_default().into_owned()),
        );
        self.show_judged(title, &format!("{shown} as {}", caller.name()), &expected, &observed, fits);
        Ok(())
    }

    /// Response code details of the latest request: the inbound listener logs one line for each, in their order.
    fn reason(&self) -> Result<String> {
        let latest = usize::try_from(self.requests).unwrap_or(usize::MAX);
        let lines = self.mesh.envoy.access_log_lines(latest, LOG_PATIENCE)?;
        let entry =
            lines.last().and_then(|line| serde_json::from_str::<Value>(line).ok()).unwrap_or_default();
        Ok(entry.get("details").and_then(Value::as_str).unwrap_or("(no access log)").to_owned())
    }

    fn client(&self, caller: Caller) -> Client {
        Client::local(match caller {
            Caller::WebService => self.mesh.addresses.as_web_service,
            Caller::BatchService => self.mesh.addresses.as_batch_service,
        })
    }

    fn heading(&self, text: &str) {
        print(&format!("\n{}\n", self.paint("1", text)));
    }

    fn show(&mut self, title: &str, request: &str, expected: &str, observed: &str) {
        self.show_judged(title, request, expected, observed, expected == observed);
    }

    fn show_judged(&mut self, title: &str, request: &str, expected: &str, observed: &str, fits: bool) {
        self.step += 1;
        let mark = if fits { self.paint("32", "as expected") } else { self.paint("31", "DIFFERENT") };
        self.differences += usize::from(!fits);
        print(&format!(
            "{:2}. {title}\n      request   {request}\n      expected  {expected}\n      observed  {observed}   {mark}\n",
            self.step
        ));
    }

    fn detail(&self, line: &str) {
        print(&format!("      {}\n", self.paint("2", line)));
    }

    fn paint(&self, code: &str, text: &str) -> String {
        if self.colour { format!("\x1b[{code}m{text}\x1b[0m") } else { text.to_owned() }
    }
}

/// A reader that went away (`| head`) is no reason to fail.
fn print(text: &str) {
    let _ = std::io::stdout().write_all(text.as_bytes());
}

fn host(request: Request) -> Request {
    request.without_host().header("host", "api-service")
}

fn bearer(token: &str) -> String {
    format!("Bearer {token}")
}

/// The token with one character of its signature changed.
fn tamper(token: &str) -> String {
    let mut letters: Vec<char> = token.chars().collect();
    let middle_of_signature = letters.len().saturating_sub(20);
    if let Some(letter) = letters.get_mut(middle_of_signature) {
        *letter = if *letter == 'A' { 'B' } else { 'A' };
    }
    letters.into_iter().collect()
}

fn version(answer: &Response) -> String {
    answer
        .header("x-version")
        .map_or_else(|| format!("status {}", answer.status), std::borrow::Cow::into_owned)
}

fn sum_of(text: &str, metric: &str) -> u64 {
    let values =
        text.lines().filter(|line| line.strip_prefix(metric).is_some_and(|rest| rest.starts_with('{')));
    values.filter_map(|line| line.rsplit_once(' ')?.1.parse::<u64>().ok()).sum()
}
