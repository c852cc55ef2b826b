//! Policies, and requests that nearly meet them.
//!
//! A request is aimed at a rule: each condition is given a value that satisfies it, then up to two of them are spoiled.
//! Requests chosen blindly would be denied by the first condition, and tell nothing about the others.

use std::net::IpAddr;

use sailcloth_core::config::Node;

use super::ask::Ask;
use super::words::{ALIASES, CLAIM_VALUES, CLAIMS, TRUST_DOMAINS, Words, texts};
use crate::differential::random::Random;
use crate::yaml::{self, at, items, map, text};

/// Which of the policy language to use.
#[derive(Debug, Clone, Default)]
pub struct Language {
    /// Keys of `when`, without what stands in brackets.
    pub when: Vec<&'static str>,
    /// Path templates.
    pub templates: bool,
    /// `trustDomains`.
    pub trust_domains: bool,
    /// `action: AUDIT`.
    pub audit: bool,
}

impl Language {
    /// All of it.
    #[must_use]
    pub fn full() -> Self {
        Self { when: KEYS.to_vec(), templates: true, trust_domains: true, audit: true }
    }
}

/// Every key of `when` but the experimental ones.
pub const KEYS: &[&str] = &[
    "request.headers",
    "source.ip",
    "remote.ip",
    "source.namespace",
    "source.serviceAccount",
    "source.trustDomain",
    "source.principal",
    "request.auth.principal",
    "request.auth.audiences",
    "request.auth.presenter",
    "request.auth.claims",
    "destination.ip",
    "destination.port",
    "connection.sni",
];

const SOURCE_FIELDS: [&str; 7] = [
    "principals",
    "namespaces",
    "serviceAccounts",
    "requestPrincipals",
    "ipBlocks",
    "remoteIpBlocks",
    "trustDomains",
];

const OPERATION_FIELDS: [&str; 4] = ["hosts", "ports", "methods", "paths"];

/// Makes configurations and requests.
#[derive(Debug)]
pub struct Generator<'w> {
    /// The words.
    pub words: &'w Words,
    /// The language.
    pub language: &'w Language,
    /// The choices.
    pub random: Random,
}

impl Generator<'_> {
    /// A whole configuration: some policies, a workload, settings.
    pub fn configuration(&mut self, settings: &[(&str, &str)]) -> Node {
        let policies: Vec<Node> = (0..=self.random.below(4)).map(|index| self.policy(index)).collect();
        let mut workload = vec![("namespace", text("production"))];
        let labels = map(vec![("app", text("api")), ("version", text("v1"))]);
        workload.push(("labels", labels));
        let domain = *self.random.pick(TRUST_DOMAINS);
        if domain != "cluster.local" || self.random.percent(50) {
            workload.push(("trustDomain", text(domain)));
        }
        let mut all: Vec<(&str, Node)> = settings.iter().map(|(key, value)| (*key, text(*value))).collect();
        let aliases = *self.random.pick(ALIASES);
        if !aliases.is_empty() {
            all.push((
                "trustDomainAliases",
                texts(aliases.iter().map(|alias| (*alias).to_owned()).collect()),
            ));
        }
        map(vec![("resources", Node::List(policies)), ("workload", map(workload)), ("settings", map(all))])
    }

    fn policy(&mut self, index: usize) -> Node {
        let action = match self.random.below(10) {
            0 if self.language.audit => "AUDIT",
            0..=4 => "DENY",
            _ => "ALLOW",
        };
        let namespace = match self.random.below(12) {
            0 => "istio-system",
            1 => "staging",
            _ => "production",
        };
        let mut metadata = vec![("name", text(format!("p{index}"))), ("namespace", text(namespace))];
        if action != "AUDIT" && self.random.percent(5) {
            metadata.push(("annotations", map(vec![("istio.io/dry-run", text("true"))])));
        }
        let mut spec = Vec::new();
        if self.random.percent(20) {
            let version = if self.random.percent(70) { "v1" } else { "v2" };
            let labels = map(vec![("app", text("api")), ("version", text(version))]);
            spec.push(("selector", map(vec![("matchLabels", labels)])));
        }
        if action != "ALLOW" || self.random.percent(70) {
            spec.push(("action", text(action)));
        }
        // An ALLOW without rules denies everything: rarely, or nothing else would be tested.
        if action != "ALLOW" || self.random.percent(98) {
            let rules = self.random_several(1, 4, Self::rule);
            spec.push(("rules", Node::List(rules)));
        }
        map(vec![
            ("apiVersion", text("security.istio.io/v1")),
            ("kind", text("AuthorizationPolicy")),
            ("metadata", map(metadata)),
            ("spec", map(spec)),
        ])
    }

    fn random_several<T>(&mut self, from: usize, to: usize, make: impl Fn(&mut Self) -> T) -> Vec<T> {
        let count = from + self.random.below(to - from + 1);
        (0..count).map(|_| make(self)).collect()
    }

    fn rule(&mut self) -> Node {
        let mut rule = Vec::new();
        if self.random.percent(55) {
            let from = self.random_several(1, 2, |this| map(vec![("source", this.source())]));
            rule.push(("from", Node::List(from)));
        }
        if self.random.percent(65) {
            let to = self.random_several(1, 2, |this| map(vec![("operation", this.operation())]));
            rule.push(("to", Node::List(to)));
        }
        if !self.language.when.is_empty() && self.random.percent(45) {
            rule.push(("when", Node::List(self.random_several(1, 2, Self::condition))));
        }
        map(rule)
    }

    fn source(&mut self) -> Node {
        let mut fields: Vec<&str> =
            (0..=self.random.below(2)).map(|_| *self.random.pick(&SOURCE_FIELDS)).collect();
        if !self.language.trust_domains {
            fields.retain(|field| *field != "trustDomains");
        }
        // Istio: service accounts stand alone among the words about the peer's certificate.
        if fields.contains(&"serviceAccounts") {
            fields.retain(|field| !["principals", "namespaces", "trustDomains"].contains(field));
        }
        if fields.is_empty() {
            fields.push("principals");
        }
        self.fields(fields)
    }

    fn operation(&mut self) -> Node {
        let fields = (0..=self.random.below(3)).map(|_| *self.random.pick(&OPERATION_FIELDS)).collect();
        self.fields(fields)
    }

    fn fields(&mut self, mut names: Vec<&str>) -> Node {
        names.sort_unstable();
        names.dedup();
        let mut all = Vec::new();
        for name in names {
            let values = |this: &mut Self| texts(this.random_several(1, 3, |this| this.value(name)));
            let negated = || format!("not{}{}", name[..1].to_ascii_uppercase(), &name[1..]);
            match self.random.below(10) {
                0..=6 => all.push((name.to_owned(), values(self))),
                7 | 8 => all.push((negated(), values(self))),
                _ => all.extend([(name.to_owned(), values(self)), (negated(), values(self))]),
            }
        }
        Node::Map(all)
    }

    fn condition(&mut self) -> Node {
        let kind = *self.random.pick(&self.language.when);
        let key = match kind {
            "request.headers" => format!("request.headers[{}]", self.random.pick(self.words.header_names)),
            "request.auth.claims" => format!("request.auth.claims{}", self.random.pick(CLAIMS)),
            _ => kind.to_owned(),
        };
        let values = |this: &mut Self| texts(this.random_several(1, 3, |this| this.value(kind)));
        let mut all = vec![("key", text(key))];
        match self.random.below(10) {
            0..=5 => all.push(("values", values(self))),
            6..=8 => all.push(("notValues", values(self))),
            _ => all.extend([("values", values(self)), ("notValues", values(self))]),
        }
        map(all)
    }

    /// A value of a field or of a `when` key.
    fn value(&mut self, of: &str) -> String {
        let words = self.words;
        match of {
            "principals" | "source.principal" => {
                let identity = *self.random.pick(words.identities);
                self.pattern(identity)
            }
            "namespaces" | "source.namespace" => {
                self.choice(&["production", "staging", "prod.x", "prod*", "*tion", "p*n", "*", "prodXx"])
            }
            "serviceAccounts" | "source.serviceAccount" => self.choice(&[
                "web",
                "production/web",
                "staging/web",
                "prod.x/a.b",
                "admin",
                "production/web-admin",
            ]),
            "trustDomains" | "source.trustDomain" => {
                self.choice(&["cluster.local", "cluster.*", "*.local", "td1", "td*", "evil.example", "*"])
            }
            "requestPrincipals" | "request.auth.principal" => self.choice(&[
                "*",
                "https://issuer.example/user-1",
                "https://issuer.example/user-2",
                "https://issuer.example/user-1*",
                "https://issuer.example/*",
                "*/user-1",
                "*example/user-1",
                "*-1",
                "https*",
                "https://other.example/user-1",
                "https://issuer.example/service/api",
            ]),
            "ipBlocks" | "source.ip" => self.block(&words.sources),
            "remoteIpBlocks" | "remote.ip" => self.block(&words.remotes),
            "destination.ip" => self.block(&words.destinations),
            "ports" | "destination.port" => self.random.pick(words.ports).to_string(),
            "methods" => {
                let method = *self.random.pick(words.methods);
                if self.random.percent(70) { method.to_owned() } else { self.pattern(method) }
            }
            "hosts" => {
                let host = *self.random.pick(&words.hosts[..words.hosts.len() - 1]);
                self.pattern(host)
            }
            "paths" => self.path(),
            "connection.sni" => {
                let name = *self.random.pick(&words.server_names[1..]);
                self.pattern(name)
            }
            "request.headers" => {
                let value = *self.random.pick(&words.header_values[1..]);
                self.pattern(value)
            }
            "request.auth.audiences" => self.choice(&["api", "web", "a*", "*b", "*", "apix"]),
            "request.auth.presenter" => self.choice(&["web", "w*", "*", "other"]),
            "request.auth.claims" => {
                let value = *self.random.pick(CLAIM_VALUES);
                self.pattern(value)
            }
            other => panic!("no values for `{other}`"),
        }
    }

    fn choice(&mut self, of: &[&str]) -> String {
        (*self.random.pick(of)).to_owned()
    }

    /// The text itself, a prefix, a suffix, or anything.
    fn pattern(&mut self, of: &str) -> String {
        let cut =
            (0..).find_map(|_| Some(self.random.below(of.len() + 1)).filter(|cut| of.is_char_boundary(*cut)));
        let cut = cut.unwrap_or_default();
        let made = match self.random.below(10) {
            0..=4 => of.to_owned(),
            5 | 6 => format!("{}*", &of[..cut]),
            7 | 8 => format!("*{}", &of[cut..]),
            _ => "*".to_owned(),
        };
        // `{` and `}` belong to templates, and `*` elsewhere than at an end is refused in some fields.
        let middle = made.trim_start_matches('*').trim_end_matches('*');
        if made.is_empty()
            || middle.contains('*')
            || made.starts_with('*') && made.ends_with('*') && made.len() > 1
        {
            return "*".to_owned();
        }
        made
    }

    fn path(&mut self) -> String {
        let plain = loop {
            let path = *self.random.pick(self.words.paths);
            if !path.contains(['{', '}', '*']) {
                break path;
            }
        };
        if !self.language.templates || !self.random.percent(25) {
            return self.pattern(plain);
        }
        self.template(plain)
    }

    /// Some segments of a path become operators; at most one `{**}`, after which there is no other.
    fn template(&mut self, path: &str) -> String {
        let allowed = |c: char| c.is_ascii_alphanumeric() || "-._~%!$&'()+,;:@=".contains(c);
        // Envoy does not start with a template that has an empty segment in its middle.
        let path = path.replace("//", "/");
        let mut parts: Vec<String> = path.split('/').skip(1).map(str::to_owned).collect();
        let mut operators = 0;
        for index in 0..parts.len() {
            let must = !parts[index].chars().all(allowed) || index + 1 == parts.len() && operators == 0;
            if !must && !self.random.percent(40) {
                continue;
            }
            operators += 1;
            if self.random.percent(35) {
                parts[index] = "{**}".to_owned();
                if self.random.percent(50) {
                    parts.truncate(index + 1);
                }
                for part in &mut parts[index + 1..] {
                    *part = part.chars().filter(|c| allowed(*c)).collect();
                }
                break;
            }
            parts[index] = "{*}".to_owned();
        }
        format!("/{}", parts.join("/"))
    }

    fn block(&mut self, of: &[IpAddr]) -> String {
        let address = *self.random.pick(of);
        let widths: &[u8] =
            if address.is_ipv4() { &[0, 7, 8, 16, 24, 31, 32] } else { &[0, 16, 32, 64, 127, 128] };
        if self.random.percent(35) {
            return address.to_string();
        }
        format!("{address}/{}", self.random.pick(widths))
    }

    /// A request aimed at some rule of a configuration.
    pub fn ask(&mut self, configuration: &Node) -> Ask {
        let mut ask = self.any_ask();
        let policies = items(configuration.field("resources"));
        let rules: Vec<&Node> =
            policies.iter().flat_map(|policy| items(at(policy, &["spec", "rules"]))).collect();
        if rules.is_empty() || self.random.percent(10) {
            return ask;
        }
        let rule = *self.random.pick(&rules);
        self.aim(rule, &mut ask);
        for _ in 0..[0, 0, 1, 1, 2][self.random.below(5)] {
            self.spoil(&mut ask);
        }
        ask
    }

    fn any_ask(&mut self) -> Ask {
        let words = self.words;
        let random = &mut self.random;
        let mut headers = Vec::new();
        for name in ["x-tenant", "x-role"] {
            while random.percent(30) && headers.len() < 4 {
                headers.push((name.to_owned(), random.pick(words.header_values).as_bytes().to_vec()));
            }
        }
        if random.percent(4) {
            headers.push(("x-tenant".to_owned(), b"acm\xe9".to_vec()));
        }
        if random.percent(5) {
            headers.push(("content-type".to_owned(), b"application/grpc".to_vec()));
        }
        Ask {
            method: (*random.pick(words.methods)).to_owned(),
            target: format!("{}{}", random.pick(words.paths), random.pick(&["", "", "?", "?a=/api/v1"])),
            host: (*random.pick(words.hosts)).to_owned(),
            headers,
            peer: random.percent(75).then(|| format!("spiffe://{}", random.pick(words.identities))),
            source: *random.pick(&words.sources),
            forwarded: random.percent(50).then(|| *random.pick(&words.remotes)),
            destination: *random.pick(&words.destinations),
            port: *random.pick(words.ports),
            sni: random.percent(70).then(|| (*random.pick(words.server_names)).to_owned()),
            token: random.percent(60).then(|| random.pick(&words.tokens).clone()),
        }
    }

    fn aim(&mut self, rule: &Node, ask: &mut Ask) {
        for (list, inner) in [("from", "source"), ("to", "operation")] {
            let alternatives = items(rule.field(list));
            if alternatives.is_empty() {
                continue;
            }
            let chosen = self.random.pick(alternatives).clone();
            for (field, values) in yaml::entries(chosen.field(inner)) {
                self.satisfy(field, items(Some(values)), ask);
            }
        }
        for condition in items(rule.field("when")) {
            let key = condition.field("key").and_then(Node::text).unwrap_or_default().to_owned();
            self.satisfy(&key, items(condition.field("values")), ask);
        }
    }

    /// Gives the request a value that one of these matches. Negated fields are left to chance.
    fn satisfy(&mut self, field: &str, values: &[Node], ask: &mut Ask) {
        if values.is_empty() || field.starts_with("not") {
            return;
        }
        let value = self.random.pick(values).text().unwrap_or_default().to_owned();
        match field {
            "methods" => ask.method = self.fill(&value, "GET"),
            "hosts" => ask.host = self.fill(&value, "api"),
            "paths" => ask.target = self.fill_path(&value),
            "ports" | "destination.port" => ask.port = value.parse().unwrap_or(80),
            "principals" | "source.principal" => {
                ask.peer = Some(format!("spiffe://{}", self.fill(&value, "cluster.local/ns/a/sa/b")));
            }
            "ipBlocks" | "source.ip" => ask.source = self.inside(&value, &self.words.sources),
            "remoteIpBlocks" | "remote.ip" => {
                ask.forwarded = Some(self.inside(&value, &self.words.remotes));
            }
            "destination.ip" => ask.destination = self.inside(&value, &self.words.destinations),
            "connection.sni" => ask.sni = Some(self.fill(&value, "x")),
            _ => {
                if let Some(name) =
                    field.strip_prefix("request.headers[").and_then(|rest| rest.strip_suffix(']'))
                {
                    let name = name.to_ascii_lowercase();
                    if !name.starts_with(':') {
                        let value = self.fill(&value, "a");
                        ask.headers.retain(|(other, _)| *other != name);
                        ask.headers.push((name, value.into_bytes()));
                    }
                } else if ask.token.is_none()
                    && (field.starts_with("request") || field == "requestPrincipals")
                {
                    ask.token = Some(self.random.pick(&self.words.tokens).clone());
                } else if ask.peer.is_none() {
                    ask.peer = Some(format!("spiffe://{}", self.random.pick(self.words.identities)));
                }
            }
        }
    }

    /// A text that a pattern matches.
    fn fill(&mut self, pattern: &str, any: &str) -> String {
        let more = *self.random.pick(&["", "x", "-y"]);
        if pattern == "*" {
            any.to_owned()
        } else if let Some(prefix) = pattern.strip_suffix('*') {
            format!("{prefix}{more}")
        } else if let Some(suffix) = pattern.strip_prefix('*') {
            format!("{more}{suffix}")
        } else {
            pattern.to_owned()
        }
    }

    fn fill_path(&mut self, pattern: &str) -> String {
        let path = if pattern.contains("{*") {
            let many = *self.random.pick(&["", "x", "x/y", "/", "x/"]);
            let one = *self.random.pick(&["x", "7", "a;b", "%41", ""]);
            pattern.replace("{**}", many).replace("{*}", one)
        } else if pattern == "*" {
            (*self.random.pick(self.words.paths)).to_owned()
        } else if let Some(suffix) = pattern.strip_prefix('*') {
            format!("/x{}{suffix}", if self.random.percent(50) { "/" } else { "" })
        } else {
            self.fill(pattern, "/")
        };
        let path = if path.starts_with('/') { path } else { format!("/{path}") };
        format!("{path}{}", self.random.pick(&["", "", "?q=1"]))
    }

    /// An address of the words inside a block, if there is one, else the block's own.
    fn inside(&mut self, block: &str, of: &[IpAddr]) -> IpAddr {
        let own: IpAddr = block.split('/').next().and_then(|text| text.parse().ok()).expect("a block");
        if self.random.percent(50) { own } else { *self.random.pick(of) }
    }

    /// Changes one thing about a request, by a little or entirely.
    fn spoil(&mut self, ask: &mut Ask) {
        let other = self.any_ask();
        match self.random.below(13) {
            0 => ask.method = other.method,
            1 | 2 => ask.target = self.nearly_path(&ask.target),
            3 => ask.host = self.nearly(&ask.host),
            4 => ask.peer = other.peer,
            5 => {
                if let Some(identity) = ask.peer.as_deref().and_then(|uri| uri.strip_prefix("spiffe://")) {
                    ask.peer = Some(format!("spiffe://{}", self.nearly(identity)));
                }
            }
            6 => ask.source = other.source,
            7 => ask.forwarded = other.forwarded,
            8 => ask.port = other.port,
            9 => ask.token = other.token,
            10 => (ask.destination, ask.sni) = (other.destination, other.sni),
            11 => ask.headers = other.headers,
            _ => {
                if !ask.headers.is_empty() {
                    let index = self.random.below(ask.headers.len());
                    let value = String::from_utf8_lossy(&ask.headers[index].1).into_owned();
                    ask.headers[index].1 = self.nearly(&value).into_bytes();
                }
            }
        }
    }

    /// One character more, less, or in other case.
    fn nearly(&mut self, text: &str) -> String {
        match self.random.below(5) {
            0 => format!("{text}x"),
            1 => format!("x{text}"),
            2 => text.chars().take(text.chars().count().saturating_sub(1)).collect(),
            3 => text.to_ascii_uppercase(),
            _ => text.chars().skip(1).collect(),
        }
    }

    fn nearly_path(&mut self, target: &str) -> String {
        let (path, query) = target.split_once('?').unwrap_or((target, "q"));
        let path = match self.random.below(13) {
            0 => format!("{path}/"),
            1 => format!("{path}x"),
            2 => format!("{path}/more"),
            3 => path.to_ascii_uppercase(),
            4 => path.replacen('/', "//", 1),
            5 => format!("{path};v=1"),
            6 => path.trim_end_matches('/').to_owned(),
            7 => path.replacen("/a", "/%61", 1),
            8 => format!("/x/..{path}"),
            9 => path.replacen('/', "/./", 1),
            10 => path.replacen("/v1", "%2Fv1", 1),
            11 => format!("/x/%2e%2E{path}"),
            _ => path.replacen('/', "\\", 1),
        };
        let path = if path.starts_with('/') { path } else { format!("/{path}") };
        format!("{path}?{query}")
    }
}
