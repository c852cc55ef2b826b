//! VirtualServices, and requests that nearly meet their matches.
//!
//! Every destination's subset says which rule it belongs to (`r2-a`), so that the chosen cluster tells the chosen rule.

use sailcloth_core::config::Node;

use super::call::Call;
use crate::differential::random::Random;
use crate::yaml::{entries, items, map, text};

/// What rules may do beside choosing a destination, by the name of the field.
pub const FEATURES: &[&str] = &[
    "redirect",
    "directResponse",
    "rewrite",
    "uriRegexRewrite",
    "headers",
    "route headers",
    "corsPolicy",
    "fault",
];

/// The rules of a document, at most.
pub const RULES: usize = 7;

/// The host of all destinations.
pub const DESTINATION: &str = "api.production.svc.cluster.local";

const PATHS: &[&str] = &[
    "/",
    "/api",
    "/api/",
    "/api/v1",
    "/api/v1/orders",
    "/api/v2/orders/7",
    "/apix",
    "/API/v1",
    "/shop/cart.json",
    "/a//b",
    "/a/b;c=1",
    "/a%2Fb",
    "/a%20b",
    "/login",
];

const REGEXES: &[&str] =
    &[".*", "/api/v[0-9]+/.*", "/(api|shop)/.*", "/[^/]+/v1", ".*\\.json", "/a.b", "(?i)/API/.*", "/api/?"];

const HEADERS: &[&str] = &["x-tenant", "User-Agent", "cookie", ":method", ":authority"];

const VALUES: &[&str] =
    &["acme", "acme-eu", "Mozilla Chrome/1", "Chrome", "user=7; theme=dark", "GET", "a", "A"];

const VALUE_REGEXES: &[&str] = &[".*Chrome.*", "acme(-eu)?", "[a-z]+", ".*user=[0-9]+.*", "a|A", ".+"];

const PARAMETERS: &[&str] = &["v", "user", "debug"];

/// Hosts of documents, with a request host that each takes.
const HOSTS: &[(&str, &str)] = &[
    ("shop.example.com", "shop.example.com"),
    ("*.example.com", "a.b.example.com"),
    ("*.shop.example.com", "x.shop.example.com"),
    ("api", "api.production"),
    ("other.test", "other.test"),
];

/// Makes documents and requests.
#[derive(Debug)]
pub struct Generator<'f> {
    /// Which of [`FEATURES`] to use.
    pub features: &'f [&'static str],
    /// The choices.
    pub random: Random,
}

impl Generator<'_> {
    /// Some documents, each with hosts of its own.
    pub fn documents(&mut self) -> Vec<Node> {
        let mut hosts: Vec<&str> = HOSTS.iter().map(|(host, _)| *host).collect();
        let count = 1 + self.random.below(3);
        (0..count)
            .map(|index| {
                let mut own = vec![text(hosts.remove(self.random.below(hosts.len())))];
                if self.random.percent(20) {
                    own.push(text(format!("extra-{index}.test")));
                }
                let rules = 1 + self.random.below(RULES - 1);
                let http = (0..rules).map(|rule| self.rule(index, rule, rule + 1 == rules)).collect();
                let spec = map(vec![("hosts", Node::List(own)), ("http", Node::List(http))]);
                map(vec![
                    ("apiVersion", text("networking.istio.io/v1")),
                    ("kind", text("VirtualService")),
                    (
                        "metadata",
                        map(vec![("name", text(format!("vs{index}"))), ("namespace", text("production"))]),
                    ),
                    ("spec", spec),
                ])
            })
            .collect()
    }

    fn has(&self, feature: &str) -> bool {
        self.features.contains(&feature)
    }

    fn rule(&mut self, document: usize, rule: usize, last: bool) -> Node {
        let mut fields = Vec::new();
        // A rule that matches everything hides the rest: at the end only.
        let catches_all = last && self.random.percent(60);
        let matches: Vec<Node> =
            if catches_all { Vec::new() } else { self.several(1, 3, |this| this.matching()) };
        let by_prefix = !matches.is_empty()
            && matches
                .iter()
                .all(|entry| entry.field("uri").is_some_and(|uri| uri.field("prefix").is_some()));
        if !catches_all {
            fields.push(("match", Node::List(matches)));
        }
        if self.has("redirect") && self.random.percent(10) {
            fields.push(("redirect", self.redirect(by_prefix)));
            return map(fields);
        }
        if self.has("directResponse") && self.random.percent(10) {
            let status = *self.random.pick(&[200, 204, 403, 418, 503]);
            let mut response = vec![("status", Node::Integer(status))];
            if self.random.percent(60) && status != 204 {
                response.push(("body", map(vec![("string", text("a body"))])));
            }
            fields.push(("directResponse", map(response)));
            if self.has("headers") && self.random.percent(30) {
                fields.push(("headers", map(vec![("response", self.operations("x-out"))])));
            }
            return map(fields);
        }
        let arms = if self.random.percent(70) { 1 } else { 2 + self.random.below(2) };
        // The same for all, since which of them is chosen is chance.
        let headers = (self.has("route headers") && self.random.percent(20))
            .then(|| map(vec![("request", self.operations("x-in"))]));
        let arm = |arm| {
            let mut route = self.destination(document, rule, arm, arms);
            if let (Node::Map(fields), Some(headers)) = (&mut route, &headers) {
                fields.push(("headers".to_owned(), headers.clone()));
            }
            route
        };
        let route = (0..arms).map(arm).collect();
        fields.push(("route", Node::List(route)));
        if self.random.percent(40) {
            fields.push(("timeout", text(*self.random.pick(&["30s", "0s", "1m30s", "250ms"]))));
        }
        if self.random.percent(30) {
            fields.push(("retries", self.retries()));
        }
        if self.has("rewrite") && self.random.percent(20) {
            fields.push(("rewrite", self.rewrite()));
        }
        if self.has("headers") && self.random.percent(25) {
            let mut headers = Vec::new();
            if self.random.percent(70) {
                headers.push(("request", self.operations("x-in")));
            }
            if self.random.percent(50) || headers.is_empty() {
                headers.push(("response", self.operations("x-out")));
            }
            fields.push(("headers", map(headers)));
        }
        if self.has("corsPolicy") && self.random.percent(15) {
            fields.push(("corsPolicy", self.cors()));
        }
        if self.has("fault") && self.random.percent(8) {
            let value = Node::Integer(if self.random.percent(70) { 100 } else { 0 });
            let abort = map(vec![
                ("httpStatus", Node::Integer(*self.random.pick(&[400, 500, 503]))),
                ("percentage", map(vec![("value", value)])),
            ]);
            fields.push(("fault", map(vec![("abort", abort)])));
        }
        map(fields)
    }

    fn several<T>(&mut self, from: usize, to: usize, make: impl Fn(&mut Self) -> T) -> Vec<T> {
        let count = from + self.random.below(to - from + 1);
        (0..count).map(|_| make(self)).collect()
    }

    fn destination(&mut self, document: usize, rule: usize, arm: usize, arms: usize) -> Node {
        let subset = subset(document, rule, arm);
        let destination = map(vec![("host", text(DESTINATION)), ("subset", text(subset))]);
        let mut route = vec![("destination", destination)];
        if arms > 1 {
            // The first is never without weight, so the sum is not 0.
            let weight = if arm == 0 { 50 } else { *self.random.pick(&[0, 1, 50, 150]) };
            route.push(("weight", Node::Integer(weight)));
        } else if self.random.percent(20) {
            route.push(("weight", Node::Integer(*self.random.pick(&[0, 7, 100]))));
        }
        map(route)
    }

    fn matching(&mut self) -> Node {
        let mut fields = Vec::new();
        if self.random.percent(70) {
            fields.push(("uri", self.uri()));
            if self.random.percent(15) {
                fields.push(("ignoreUriCase", Node::Bool(true)));
            }
        }
        if self.random.percent(20) {
            fields.push(("method", self.string(&["GET", "POST", "PUT"], &["GET|POST", "P.*"])));
        }
        if self.random.percent(10) {
            let hosts = &["shop.example.com", "shop.example.com:8080", "api.production"];
            fields.push(("authority", self.string(hosts, &[".*example.*", "[a-z.]+"])));
        }
        if self.random.percent(8) {
            fields.push(("scheme", self.string(&["http", "https"], &["https?"])));
        }
        for (name, percent) in [("headers", 30), ("withoutHeaders", 15)] {
            if self.random.percent(percent) {
                let mut all: Vec<(String, Node)> = Vec::new();
                for name in self.several(1, 2, |this| *this.random.pick(HEADERS)) {
                    if all.iter().all(|(other, _)| other != name) {
                        all.push((name.to_owned(), self.presence_or(VALUES, VALUE_REGEXES)));
                    }
                }
                fields.push((name, Node::Map(all)));
            }
        }
        if self.random.percent(20) {
            let name = (*self.random.pick(PARAMETERS)).to_owned();
            let value = self.presence_or(&["", "1", "on", "a%20b", "a b"], &["[0-9]+", "on|off", ".*"]);
            fields.push(("queryParams", Node::Map(vec![(name, value)])));
        }
        if fields.is_empty() {
            fields.push(("uri", self.uri()));
        }
        map(fields)
    }

    fn uri(&mut self) -> Node {
        let path = *self.random.pick(PATHS);
        match self.random.below(10) {
            0..=3 => map(vec![("exact", text(path))]),
            4..=7 => {
                let cut = 1 + self.random.below(path.len());
                map(vec![("prefix", text(path.get(..cut).unwrap_or(path)))])
            }
            _ => map(vec![("regex", text(*self.random.pick(REGEXES)))]),
        }
    }

    fn string(&mut self, values: &[&str], regexes: &[&str]) -> Node {
        let value = *self.random.pick(values);
        match self.random.below(10) {
            0..=4 => map(vec![("exact", text(value))]),
            5..=7 if !value.is_empty() => {
                map(vec![("prefix", text(&value[..1 + self.random.below(value.len())]))])
            }
            _ => map(vec![("regex", text(*self.random.pick(regexes)))]),
        }
    }

    fn presence_or(&mut self, values: &[&str], regexes: &[&str]) -> Node {
        match self.random.below(10) {
            0 => map(vec![]),
            1 => map(vec![("regex", text("*"))]),
            _ => self.string(values, regexes),
        }
    }

    fn redirect(&mut self, by_prefix: bool) -> Node {
        let mut fields = Vec::new();
        match self.random.below(4) {
            0 => fields.push(("uri", text("/moved"))),
            1 if by_prefix => fields.push(("prefixRewrite", text("/new"))),
            _ => {}
        }
        if self.random.percent(50) {
            fields.push(("authority", text(*self.random.pick(&["new.example.com", "new.example.com:8443"]))));
        }
        if self.random.percent(30) {
            fields.push(("scheme", text(*self.random.pick(&["https", "http"]))));
        }
        if self.random.percent(20) {
            fields.push(("port", Node::Integer(*self.random.pick(&[80, 443, 8443]))));
        }
        if self.random.percent(50) {
            fields.push(("redirectCode", Node::Integer(*self.random.pick(&[301, 302, 303, 307, 308]))));
        }
        if fields.iter().all(|(name, _)| *name == "redirectCode") {
            fields.push(("uri", text("/elsewhere")));
        }
        map(fields)
    }

    fn rewrite(&mut self) -> Node {
        let mut fields = Vec::new();
        match self.random.below(5) {
            0 | 1 => fields.push(("uri", text(*self.random.pick(&["/", "/new", "/new/"])))),
            2 if self.has("uriRegexRewrite") => {
                let (from, to) = *self.random.pick(&[
                    ("^/api/(v[0-9]+)", "/\\1/api"),
                    ("/", "//"),
                    ("[aeiou]", "_"),
                    ("^/([^/]*)(.*)$", "\\2/\\1"),
                ]);
                fields.push(("uriRegexRewrite", map(vec![("match", text(from)), ("rewrite", text(to))])));
            }
            _ => {}
        }
        if self.random.percent(40) || fields.is_empty() {
            fields.push(("authority", text("rewritten.example.com")));
        }
        map(fields)
    }

    fn operations(&mut self, name: &str) -> Node {
        let mut fields = Vec::new();
        let names = [format!("{name}-a"), format!("{name}-b"), "x-tenant".to_owned()];
        for operation in ["set", "add"] {
            if self.random.percent(50) {
                let name = self.random.pick(&names).clone();
                let value = text(*self.random.pick(&["one", "two", "100%%"]));
                fields.push((operation, Node::Map(vec![(name, value)])));
            }
        }
        if self.random.percent(40) || fields.is_empty() {
            fields.push(("remove", Node::List(vec![text(self.random.pick(&names).clone())])));
        }
        map(fields)
    }

    fn cors(&mut self) -> Node {
        let origin = match self.random.below(4) {
            0 => map(vec![("exact", text("https://a.example"))]),
            1 => map(vec![("prefix", text("https://a"))]),
            2 => map(vec![("regex", text("https://[a-z]+\\.example"))]),
            _ => map(vec![("exact", text("*"))]),
        };
        let mut fields = vec![("allowOrigins", Node::List(vec![origin]))];
        if self.random.percent(60) {
            fields.push(("allowMethods", Node::List(vec![text("GET"), text("POST")])));
        }
        if self.random.percent(40) {
            fields.push(("allowHeaders", Node::List(vec![text("x-tenant")])));
        }
        if self.random.percent(40) {
            fields.push(("exposeHeaders", Node::List(vec![text("x-out-a")])));
        }
        if self.random.percent(40) {
            fields.push(("maxAge", text("24h")));
        }
        if self.random.percent(40) {
            fields.push(("allowCredentials", Node::Bool(self.random.percent(70))));
        }
        map(fields)
    }

    fn retries(&mut self) -> Node {
        let attempts = self.random.below(4);
        let mut fields = vec![("attempts", Node::Integer(i64::try_from(attempts).unwrap_or(0)))];
        if attempts > 0 {
            if self.random.percent(50) {
                fields.push(("perTryTimeout", text("10s")));
            }
            if self.random.percent(50) {
                fields.push((
                    "retryOn",
                    text(*self.random.pick(&["5xx", "gateway-error,reset", "503,connect-failure"])),
                ));
            }
        }
        map(fields)
    }

    /// A request aimed at some match of these documents.
    pub fn call(&mut self, documents: &[Node]) -> Call {
        let mut call = self.any_call();
        let document = self.random.pick(documents);
        let spec = document.field("spec");
        if self.random.percent(92) {
            let hosts = items(spec.and_then(|spec| spec.field("hosts")));
            let host = self.random.pick(hosts).text().unwrap_or_default();
            call.host = HOSTS
                .iter()
                .find(|(known, _)| *known == host)
                .map_or_else(|| host.to_owned(), |(_, call)| (*call).to_owned());
            if host == "api" {
                call.host = (*self.random.pick(&[
                    "api",
                    "api.production",
                    "api.production.svc",
                    "api.production.svc.cluster.local",
                ]))
                .to_owned();
            }
            match self.random.below(10) {
                0 => call.host.push_str(":8080"),
                1 => call.host = call.host.to_ascii_uppercase(),
                _ => {}
            }
        }
        let rules = items(spec.and_then(|spec| spec.field("http")));
        let matches: Vec<&Node> = rules.iter().flat_map(|rule| items(rule.field("match"))).collect();
        if matches.is_empty() || self.random.percent(15) {
            return call;
        }
        let chosen = *self.random.pick(&matches);
        self.aim(chosen, &mut call);
        for _ in 0..[0, 0, 1, 1, 2][self.random.below(5)] {
            self.spoil(&mut call);
        }
        call
    }

    fn any_call(&mut self) -> Call {
        let random = &mut self.random;
        let mut headers = Vec::new();
        for name in ["x-tenant", "user-agent", "cookie"] {
            while random.percent(30) && headers.len() < 4 {
                headers.push((name.to_owned(), random.pick(VALUES).as_bytes().to_vec()));
            }
        }
        if random.percent(4) {
            headers.push(("x-tenant".to_owned(), b"acm\xe9".to_vec()));
        }
        if random.percent(15) {
            headers.push((
                "origin".to_owned(),
                random.pick(&["https://a.example", "https://evil.test"]).as_bytes().to_vec(),
            ));
            if random.percent(60) {
                headers.push(("access-control-request-method".to_owned(), b"GET".to_vec()));
            }
        }
        let query =
            *random.pick(&["", "", "?", "?v=1", "?v=1&v=on", "?debug", "?user=a%20b&debug=on", "?x=v"]);
        let method = if headers.iter().any(|(name, _)| name == "access-control-request-method") {
            "OPTIONS"
        } else {
            *random.pick(&["GET", "GET", "POST", "PUT", "DELETE", "HEAD"])
        };
        Call {
            method: method.to_owned(),
            target: format!("{}{query}", random.pick(PATHS)),
            host: (*random.pick(&["shop.example.com", "unknown.test", "example.com", "api", "10.0.0.1"]))
                .to_owned(),
            headers,
        }
    }

    fn aim(&mut self, entry: &Node, call: &mut Call) {
        if let Some(uri) = entry.field("uri") {
            let path = self.fill(uri, &["/api/v1/orders", "/shop/cart.json", "/api/v1", "/a.b"]);
            let query = call.target.split_once('?').map(|(_, query)| query.to_owned());
            call.target = if path.starts_with('/') { path } else { format!("/{path}") };
            if let Some(query) = query {
                call.target = format!("{}?{query}", call.target);
            }
        }
        if let Some(method) = entry.field("method") {
            call.method = self.fill(method, &["GET", "POST"]);
        }
        if let Some(authority) = entry.field("authority").filter(|value| value.field("exact").is_some())
            && self.random.percent(70)
        {
            call.host = self.fill(authority, &[""]);
        }
        for (name, value) in entries(entry.field("headers")) {
            let name = name.to_ascii_lowercase();
            if !name.starts_with(':') {
                let value = self.fill(value, &["Chrome", "acme", "a", "user=7"]);
                call.headers.retain(|(other, _)| *other != name);
                call.headers.push((name, value.into_bytes()));
            }
        }
        for (name, _) in entries(entry.field("withoutHeaders")) {
            if self.random.percent(60) {
                call.headers.retain(|(other, _)| !other.eq_ignore_ascii_case(name));
            }
        }
        for (name, value) in entries(entry.field("queryParams")) {
            let value = self.fill(value, &["1", "on", ""]).replace(' ', "+");
            let path = call.target.split('?').next().unwrap_or_default().to_owned();
            call.target = match self.random.below(4) {
                0 => format!("{path}?{name}={value}&{name}=x"),
                1 => format!("{path}?z&{name}={value}"),
                _ => format!("{path}?{name}={value}"),
            };
        }
    }

    fn fill(&mut self, matcher: &Node, any: &[&str]) -> String {
        let word = |key| matcher.field(key).and_then(Node::text);
        if let Some(exact) = word("exact") {
            exact.to_owned()
        } else if let Some(prefix) = word("prefix") {
            format!("{prefix}{}", self.random.pick(&["", "x", "/y"]))
        } else {
            (*self.random.pick(any)).to_owned()
        }
    }

    fn spoil(&mut self, call: &mut Call) {
        let other = self.any_call();
        match self.random.below(9) {
            0 => call.method = other.method,
            1 | 2 => call.target = self.nearly(&call.target),
            3 => call.target = other.target,
            4 => call.headers = other.headers,
            5 if !call.headers.is_empty() => {
                let index = self.random.below(call.headers.len());
                call.headers[index].1.push(b'x');
            }
            6 if !call.headers.is_empty() => {
                let index = self.random.below(call.headers.len());
                let header = call.headers[index].clone();
                call.headers.push((header.0, b"second".to_vec()));
            }
            7 => call.headers.retain(|(name, _)| name != "x-tenant"),
            _ => call.host = other.host,
        }
    }

    fn nearly(&mut self, target: &str) -> String {
        let (path, query) = target.split_once('?').unwrap_or((target, "q"));
        let path = match self.random.below(10) {
            0 => format!("{path}/"),
            1 => format!("{path}x"),
            2 => path.to_ascii_uppercase(),
            3 => path.replacen('/', "//", 1),
            4 => format!("{path};v=1"),
            5 => path.replacen("/a", "/%61", 1),
            6 => format!("/x/..{path}"),
            7 => path.replacen("/v1", "%2Fv1", 1),
            8 => path.replacen('/', "/./", 1),
            _ => path.trim_end_matches('/').to_owned(),
        };
        let path = if path.starts_with('/') { path } else { format!("/{path}") };
        format!("{path}?{query}")
    }
}

/// The subset of a destination.
#[must_use]
pub fn subset(document: usize, rule: usize, arm: usize) -> String {
    format!("d{document}-r{rule}-{arm}")
}

/// The name of a destination's cluster.
#[must_use]
pub fn cluster(subset: &str) -> String {
    format!("outbound|80|{subset}|{DESTINATION}")
}

/// All clusters that generated documents may name.
#[must_use]
pub fn clusters() -> Vec<String> {
    let all = (0..3)
        .flat_map(|document| (0..RULES).flat_map(move |rule| (0..3).map(move |arm| (document, rule, arm))));
    all.map(|(document, rule, arm)| cluster(&subset(document, rule, arm))).collect()
}
