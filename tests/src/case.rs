//! The format of a case file: a filter's configuration and requests with what must come of them.
//!
//! ```yaml
//! resources: [...]          # the three keys of a filter's configuration
//! workload: {...}
//! settings: {...}
//! normalizePath: false                         # `normalize_path` of Envoy's connection manager; on unless written
//! cases:
//!   - name: a denied path is 403
//!     peer: spiffe://cluster.local/ns/a/sa/b   # the identity of the mTLS peer; absent: plaintext
//!     sourceIp: 10.0.0.1                       # the TCP peer
//!     destinationIp: 10.0.0.2                  # the address the connection was made to
//!     port: 8080                               # the port the connection was made to
//!     sni: api.example
//!     now: 1700000000                          # seconds since the epoch, for native and emulator; else the clock
//!     at: +3s                                  # later than the case before it, on the same engine
//!     repeat: 3                                # the request is sent so often; each time the same must come of it.
//!                                              # `{{repetition}}` in path and headers is 0, 1, 2
//!     request:
//!       method: GET                            # GET, /, api.example unless written
//!       path: /x
//!       filterPath: /y                         # what Envoy makes of that path, where it changes it: checked in Envoy, and
//!                                              # what native and emulator are given
//!       authority: api.example
//!       headers: {x-a: text, x-b: [twice, written], x-c: {hex: "636166e9"}}
//!       token: {iss: https://a, sub: b}        # an identity that was verified before; `missing: true`: no jwt filter ran
//!     expect:
//!       decision: deny                         # allow, deny, limit, route
//!       by: production/policy#0                # `none`: the absence of a rule
//!       reason: denied
//!       shadow: deny production/other#0 denied # what a policy in shadow mode would have done
//!       status: 403
//!       body: "RBAC: access denied"
//!       headers: {www-authenticate: text, x-b: null}   # of the response; null: must be absent
//!       upstream: {x-user: alice, authorization: null} # request headers as the upstream gets them
//!       route: {cluster: outbound|80|v1|api-service}
//!       arm: canary
//!       shares: {v1: 0.9, v2: 0.1}             # of the repetitions, by arm, in place of `arm`; no other arm. Where there
//!                                              # is none, by decision: {allow: 0.8, deny: 0.2}
//!       tolerance: 0.05                        # by how much each of them may differ
//!       metrics: {"name;.;label=.=value": 1}   # by how much counters and gauges must have changed
//! ```
//!
//! A file with `refused:` in place of `cases:` is a configuration that must be refused, with exactly these problems.

use std::net::IpAddr;
use std::path::Path;
use std::time::Duration;

use sailcloth_core::config::{Fields, Node, Problems, Value};

use crate::yaml;

/// One file of the corpus.
#[derive(Debug, Clone)]
pub struct CaseFile {
    /// `authz/deny.yaml`, for messages.
    pub name: String,
    /// `resources`, `workload` and `settings`, templates not yet expanded.
    pub configuration: Node,
    /// The cases, in order: they share one engine.
    pub cases: Vec<Case>,
    /// Whether Envoy normalizes paths before any filter.
    pub normalize_path: bool,
    /// The problems of a configuration that must be refused.
    pub refused: Option<Vec<String>>,
}

/// A request and what must come of it.
#[derive(Debug, Clone)]
pub struct Case {
    /// What it claims.
    pub name: String,
    /// The peer's SPIFFE ID.
    pub peer: Option<String>,
    /// The TCP peer's address.
    pub source_ip: Option<IpAddr>,
    /// The address connected to.
    pub destination_ip: Option<IpAddr>,
    /// The port connected to.
    pub port: Option<u16>,
    /// The server name that TLS asked for.
    pub sni: Option<String>,
    /// Seconds since the epoch.
    pub now: Option<u64>,
    /// How much later than the case before.
    pub at: Duration,
    /// How often the request is sent.
    pub repeat: u32,
    /// The request.
    pub request: RequestSpec,
    /// What must come of it.
    pub expect: Expect,
}

/// Header names and values; values are bytes.
pub type Headers = Vec<(String, Vec<u8>)>;

/// A request; header values may hold templates.
#[derive(Debug, Clone)]
pub struct RequestSpec {
    /// `GET`
    pub method: String,
    /// Path and query.
    pub path: String,
    /// What Envoy makes of it before any filter.
    pub filter_path: Option<String>,
    /// `:authority`
    pub authority: String,
    /// In the order sent.
    pub headers: Headers,
    /// An identity verified before.
    pub token: TokenSpec,
}

/// What the `jwt` filter handed on.
#[derive(Debug, Clone, Default)]
pub enum TokenSpec {
    /// It ran, and there was no token.
    #[default]
    Anonymous,
    /// It verified a token with these claims.
    Verified(Node),
    /// It did not run.
    Missing,
}

/// What must come of a request; what is not written is not compared.
#[derive(Debug, Clone, Default)]
pub struct Expect {
    /// `allow`, `deny`, `limit`, `route`.
    pub decision: Option<String>,
    /// `ns/name#rule` or `none`.
    pub by: Option<String>,
    /// The reason's code.
    pub reason: Option<String>,
    /// What shadow policies would have done: `deny ns/name#0 denied`.
    pub shadow: Option<String>,
    /// Status the client gets.
    pub status: Option<u16>,
    /// Body the client gets.
    pub body: Option<String>,
    /// Response headers; `None`: absent.
    pub headers: Vec<(String, Option<String>)>,
    /// Request headers at the upstream; `None`: absent.
    pub upstream: Vec<(String, Option<String>)>,
    /// The cluster.
    pub cluster: Option<String>,
    /// The arm of an experiment.
    pub arm: Option<String>,
    /// The share of each arm in all repetitions.
    pub shares: Vec<(String, f64)>,
    /// By how much a share may differ.
    pub tolerance: f64,
    /// Changes of metrics by flat name.
    pub metrics: Vec<(String, i64)>,
}

impl CaseFile {
    /// Reads a file of `tests/cases`.
    ///
    /// # Errors
    /// Every problem of the file, each with the file's name.
    pub fn read(path: &Path, name: &str) -> Result<Self, Vec<String>> {
        let text = std::fs::read_to_string(path).map_err(|error| vec![format!("{name}: {error}")])?;
        Self::parse(&text, name)
    }

    /// Reads the text of a file.
    ///
    /// # Errors
    /// Every problem of the file, each with the file's name.
    pub fn parse(text: &str, name: &str) -> Result<Self, Vec<String>> {
        let node = yaml::parse(text).map_err(|error| vec![format!("{name}: {error}")])?;
        let problems = Problems::default();
        let file = read_file(&Value::root(&node, &problems), name);
        match file {
            Some(file) if !problems.refuse() => Ok(file),
            _ => Err(problems.list().iter().map(|problem| format!("{name}: {problem}")).collect()),
        }
    }
}

fn read_file(root: &Value<'_>, name: &str) -> Option<CaseFile> {
    let fields = root.fields()?;
    let parts = ["resources", "workload", "settings"];
    let configuration = parts
        .iter()
        .filter_map(|part| fields.get(part).map(|value| ((*part).to_owned(), value.node().clone())))
        .collect();
    let normalize_path = fields.get("normalizePath").and_then(|value| value.boolean()).unwrap_or(true);
    let refused = fields.get("refused").and_then(|list| list.strings());
    let cases: Vec<Case> =
        fields.get("cases").and_then(|list| list.list(|case| read_case(&case))).unwrap_or_default();
    if refused.is_none() && cases.is_empty() {
        root.error("a case file has `cases` or `refused`");
    }
    for (index, case) in cases.iter().enumerate() {
        if cases.iter().take(index).any(|other| other.name == case.name) {
            root.error(format!("two cases are named `{}`", case.name));
        }
    }
    Some(CaseFile {
        name: name.to_owned(),
        configuration: Node::Map(configuration),
        cases,
        normalize_path,
        refused,
    })
}

fn read_case(value: &Value<'_>) -> Option<Case> {
    let fields = value.fields()?;
    let text = |name| fields.get(name).and_then(|value| value.non_empty_text()).map(str::to_owned);
    let name = fields.required("name").and_then(|name| name.non_empty_text()).unwrap_or_default().to_owned();
    let port =
        fields.get("port").and_then(|port| port.integer(1, 65535)).and_then(|port| u16::try_from(port).ok());
    let now =
        fields.get("now").and_then(|now| now.integer(0, 1 << 40)).and_then(|now| u64::try_from(now).ok());
    let repeat = fields.get("repeat").and_then(|count| count.integer(1, 10_000)).unwrap_or(1);
    let request = fields.get("request").and_then(|request| read_request(&request));
    let expect = fields.required("expect").and_then(|expect| read_expect(&expect));
    Some(Case {
        peer: text("peer"),
        destination_ip: fields.get("destinationIp").and_then(|address| read_address(&address)),
        source_ip: fields.get("sourceIp").and_then(|address| read_address(&address)),
        port,
        sni: text("sni"),
        now,
        at: fields.get("at").and_then(|at| read_offset(&at)).unwrap_or_default(),
        repeat: u32::try_from(repeat).unwrap_or(1),
        request: request.unwrap_or_else(default_request),
        expect: expect?,
        name,
    })
}

fn default_request() -> RequestSpec {
    RequestSpec {
        method: "GET".to_owned(),
        path: "/".to_owned(),
        filter_path: None,
        authority: "api.example".to_owned(),
        headers: Vec::new(),
        token: TokenSpec::Anonymous,
    }
}

fn read_address(value: &Value<'_>) -> Option<IpAddr> {
    let text = value.text()?;
    let address = text.parse().ok();
    if address.is_none() {
        value.error(format!("`{text}` is not an IP address"));
    }
    address
}

/// `+3s`
fn read_offset(value: &Value<'_>) -> Option<Duration> {
    let text = value.text()?;
    let Some(rest) = text.strip_prefix('+') else {
        value.error(format!("`{text}` is not a time after the case before; expected a form like `+3s`"));
        return None;
    };
    let node = Node::Text(rest.to_owned());
    Value::at(&node, value.path().clone(), value.problems()).duration()
}

fn read_request(value: &Value<'_>) -> Option<RequestSpec> {
    let fields = value.fields()?;
    let defaults = default_request();
    let text = |name, default| fields.get(name).and_then(|value| value.text()).map_or(default, str::to_owned);
    Some(RequestSpec {
        method: text("method", defaults.method),
        path: text("path", defaults.path),
        filter_path: fields.get("filterPath").and_then(|value| value.text()).map(str::to_owned),
        authority: text("authority", defaults.authority),
        headers: fields.get("headers").and_then(|headers| read_headers(&headers)).unwrap_or_default(),
        token: fields.get("token").map_or(TokenSpec::Anonymous, |token| read_token(&token)),
    })
}

fn read_headers(value: &Value<'_>) -> Option<Headers> {
    let mut headers = Vec::new();
    for (name, value) in value.entries()? {
        let values = match value.node() {
            Node::List(_) => value.items()?,
            _ => vec![value],
        };
        headers.extend(values.iter().filter_map(|value| Some((name.to_owned(), read_bytes(value)?))));
    }
    Some(headers)
}

/// Text, or `{hex: …}` for bytes that are no text.
fn read_bytes(value: &Value<'_>) -> Option<Vec<u8>> {
    if !matches!(value.node(), Node::Map(_)) {
        return value.text().map(|text| text.as_bytes().to_vec());
    }
    let fields = value.fields()?;
    let digits = fields.required("hex")?;
    let bytes = digits.text().and_then(crate::keys::unhex);
    if bytes.is_none() {
        digits.error("expected pairs of hexadecimal digits");
    }
    bytes
}

fn read_token(value: &Value<'_>) -> TokenSpec {
    match value.node().field("missing") {
        Some(Node::Bool(true)) => TokenSpec::Missing,
        _ => {
            let _ = value.entries();
            TokenSpec::Verified(value.node().clone())
        }
    }
}

fn read_expect(value: &Value<'_>) -> Option<Expect> {
    let fields = value.fields()?;
    let text = |name| fields.get(name).and_then(|value| value.text()).map(str::to_owned);
    let shares = fields.get("shares").and_then(|shares| read_shares(&shares)).unwrap_or_default();
    let tolerance = fields.get("tolerance").and_then(|value| read_share(&value));
    if shares.is_empty() != tolerance.is_none() {
        value.error("`shares` and `tolerance` need each other");
    }
    let expect = Expect {
        shares,
        tolerance: tolerance.unwrap_or_default(),
        decision: fields.get("decision").and_then(|value| read_decision(&value)),
        by: text("by"),
        reason: text("reason"),
        shadow: text("shadow"),
        status: fields
            .get("status")
            .and_then(|status| status.integer(100, 599))
            .and_then(|s| u16::try_from(s).ok()),
        body: text("body"),
        headers: optional_texts(&fields, "headers"),
        upstream: optional_texts(&fields, "upstream"),
        cluster: fields.get("route").and_then(|route| read_route(&route)),
        arm: text("arm"),
        metrics: fields.get("metrics").and_then(|metrics| read_metrics(&metrics)).unwrap_or_default(),
    };
    if fields.is_empty() {
        value.error("a case that expects nothing cannot fail");
    }
    Some(expect)
}

fn read_decision(value: &Value<'_>) -> Option<String> {
    let words = ["allow", "deny", "limit", "route"].map(|word| (word, word));
    value.word(&words).map(str::to_owned)
}

fn read_route(value: &Value<'_>) -> Option<String> {
    value.fields()?.required("cluster")?.text().map(str::to_owned)
}

/// A map of texts in which `null` means absence.
fn optional_texts(fields: &Fields<'_>, name: &'static str) -> Vec<(String, Option<String>)> {
    let entries = fields.get(name).and_then(|value| value.entries()).unwrap_or_default();
    let text = |value: &Value<'_>| match value.node() {
        Node::Null => Some(None),
        _ => value.text().map(|text| Some(text.to_owned())),
    };
    entries.iter().filter_map(|(key, value)| Some(((*key).to_owned(), text(value)?))).collect()
}

fn read_shares(value: &Value<'_>) -> Option<Vec<(String, f64)>> {
    let entries = value.entries()?;
    Some(entries.iter().filter_map(|(arm, value)| Some(((*arm).to_owned(), read_share(value)?))).collect())
}

/// From 0 to 1.
fn read_share(value: &Value<'_>) -> Option<f64> {
    let share = match value.node() {
        Node::Float(share) => Some(*share),
        Node::Integer(0) => Some(0.0),
        Node::Integer(1) => Some(1.0),
        _ => None,
    };
    let share = share.filter(|share| (0.0..=1.0).contains(share));
    if share.is_none() {
        value.error("expected a share from 0 to 1");
    }
    share
}

fn read_metrics(value: &Value<'_>) -> Option<Vec<(String, i64)>> {
    let entries = value.entries()?;
    Some(
        entries
            .iter()
            .filter_map(|(name, value)| Some(((*name).to_owned(), value.integer(i64::MIN, i64::MAX)?)))
            .collect(),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_case_file_does_not_know_is_refused() {
        let text = r#"
resources: []
case: []
cases:
  - {name: one, expct: {}, expect: {decison: allow}}
  - {name: one, expect: {decision: maybe}, request: {headers: {a: {hex: "x"}}}, sourceIp: here, at: 3s}
"#;
        let problems = CaseFile::parse(text, "f.yaml").unwrap_err();
        for part in [
            "f.yaml: case: unknown field; did you mean `cases`?",
            "f.yaml: cases[0].expct: unknown field; did you mean `expect`?",
            "f.yaml: cases[0].expect.decison: unknown field; did you mean `decision`?",
            "f.yaml: cases[1].expect.decision: unknown value `maybe`; expected `allow`, `deny`, `limit`, `route`",
            "f.yaml: cases[1].request.headers.a.hex: expected pairs of hexadecimal digits",
            "f.yaml: cases[1].sourceIp: `here` is not an IP address",
            "f.yaml: two cases are named `one`",
        ] {
            assert!(problems.iter().any(|problem| problem == part), "{part}\n{problems:#?}");
        }
        assert!(
            problems.iter().any(|problem| problem.contains("expected a form like `+3s`")),
            "{problems:#?}"
        );
    }

    #[test]
    fn a_case_reads_whole() {
        let text = r#"
resources: [{kind: X}]
cases:
  - name: one
    at: +2s
    request: {path: "/x?y", headers: {a: [b, c], d: {hex: "e9"}}, token: {sub: s}}
    expect: {decision: deny, headers: {x: null, y: z}, route: {cluster: c}, metrics: {m: 1}}
"#;
        let file = CaseFile::parse(text, "f").unwrap();
        let case = &file.cases[0];
        assert_eq!(case.at, Duration::from_secs(2));
        let pairs: Vec<(&str, &[u8])> =
            case.request.headers.iter().map(|(name, value)| (name.as_str(), value.as_slice())).collect();
        assert_eq!(pairs, [("a", b"b".as_slice()), ("a", b"c"), ("d", b"\xe9")]);
        assert_eq!(case.expect.headers, [("x".to_owned(), None), ("y".to_owned(), Some("z".to_owned()))]);
        assert!(matches!(case.request.token, TokenSpec::Verified(_)));
        assert_eq!(yaml::json(&file.configuration), r#"{"resources":[{"kind":"X"}]}"#);
    }
}
