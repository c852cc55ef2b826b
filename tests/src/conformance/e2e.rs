//! Istio's integration tests (`istio/e2e`): policies, a workload and requests, turned into case files of our own format,
//! so that all three runners can have them.

use std::path::Path;

use sailcloth_core::config::Node;

use super::Table;
use crate::case::{Case, CaseFile, Expect, RequestSpec, TokenSpec};
use crate::yaml::{self, at, entries, map, text};

/// The scenery: who calls, and whom.
#[derive(Debug)]
pub struct World {
    document: Node,
    tokens: Node,
}

/// A case as one of ours, or the property for which it cannot be one.
pub type Converted = Result<(Node, Case), String>;

impl World {
    /// Reads `world.yaml` and `tokens.yaml`.
    ///
    /// # Panics
    /// When a file cannot be read.
    #[must_use]
    pub fn read(folder: &Path) -> Self {
        let read = |name: &str| {
            let path = folder.join(name);
            let text =
                std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
            yaml::parse(&text).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
        };
        Self { document: read("world.yaml"), tokens: read("tokens.yaml") }
    }

    /// The key set of the tokens.
    #[must_use]
    pub fn jwks(&self) -> &str {
        self.tokens.field("jwks").and_then(Node::text).unwrap_or_default()
    }

    /// Where Istio would fetch it.
    #[must_use]
    pub fn jwks_uri(&self) -> &str {
        self.document.field("jwksUri").and_then(Node::text).unwrap_or_default()
    }

    /// Replaces `$Name` by the token of that name.
    #[must_use]
    pub fn token(&self, value: &str) -> String {
        let mut out = value.to_owned();
        // Longer names first: some are the beginning of others.
        let mut tokens: Vec<(&str, &str)> = entries(self.tokens.field("tokens"))
            .iter()
            .filter_map(|(name, token)| Some((name.as_str(), token.field("jwt").and_then(Node::text)?)))
            .collect();
        tokens.sort_by_key(|(name, _)| std::cmp::Reverse(name.len()));
        for (name, jwt) in tokens {
            out = out.replace(&format!("${name}"), jwt);
        }
        out
    }

    /// `payload($Name)`: the middle part of a token; `$Name`: the token.
    #[must_use]
    pub fn expected_value(&self, value: &str) -> String {
        match value.strip_prefix("payload(").and_then(|rest| rest.strip_suffix(')')) {
            Some(name) => self.token(name).split('.').nth(1).unwrap_or_default().to_owned(),
            None => self.token(value),
        }
    }

    /// A case as a filter's workload and a request with its expectation.
    ///
    /// # Errors
    /// The property for which it cannot be one.
    pub fn convert(&self, table: &Table, case: &Node) -> Converted {
        let request = case.field("request").ok_or("the case carries no request")?;
        let word = |key| request.field(key).and_then(Node::text);
        if word("protocol") == Some("tcp") || word("port") == Some("tcp") {
            return Err("the case is a TCP connection, which an HTTP filter never sees".to_owned());
        }
        let via = at(case, &["expect", "via"]).or_else(|| case.field("via")).and_then(Node::text);
        let workload = self.workload(table, case, via)?;
        let source = case.field("source").and_then(Node::text);
        // Authentication cases that go through the gateway come from outside.
        let source =
            source.unwrap_or(if via.is_some_and(|via| via != "egress") { "client" } else { "a.echo1" });
        let caller = at(&self.document, &["sources", source])
            .ok_or_else(|| format!("source {source} is not in the world"))?;
        let plaintext = matches!(request.field("plaintext"), Some(Node::Bool(true)));
        let peer = caller.field("principal").and_then(Node::text).filter(|_| !plaintext);
        let default_host = at(&self.document, &["target", "host"]).and_then(Node::text).unwrap_or_default();
        let mut headers: Vec<(String, Vec<u8>)> = Vec::new();
        for (name, value) in entries(request.field("headers")) {
            let value = value.text().ok_or("a header value that is no text")?;
            headers.push((name.to_ascii_lowercase(), self.token(value).into_bytes()));
        }
        if word("port") == Some("grpc") {
            headers.push(("content-type".to_owned(), b"application/grpc".to_vec()));
        }
        let port = match (via, request.field("workloadPort")) {
            (None, Some(Node::Integer(port))) => u16::try_from(*port).ok(),
            _ => None,
        };
        let mut expect = expectation(case)?;
        if word("port") == Some("grpc") {
            // A gRPC client gets status 200 and the refusal in `grpc-status`.
            expect.status = None;
        }
        let case = Case {
            name: table.row(case),
            peer: peer.map(str::to_owned),
            destination_ip: at(&self.document, &["target", "ip"])
                .and_then(Node::text)
                .filter(|_| via.is_none())
                .and_then(|ip| ip.parse().ok()),
            source_ip: caller.field("ip").and_then(Node::text).and_then(|ip| ip.parse().ok()),
            port,
            sni: word("sni").map(str::to_owned),
            now: None,
            at: std::time::Duration::ZERO,
            repeat: 1,
            request: RequestSpec {
                method: word("method").unwrap_or("GET").to_owned(),
                path: word("path").unwrap_or("/").to_owned(),
                filter_path: None,
                authority: word("host").unwrap_or(default_host).to_owned(),
                headers,
                token: TokenSpec::Anonymous,
            },
            expect,
        };
        Ok((workload, case))
    }

    fn workload(&self, table: &Table, case: &Node, via: Option<&str>) -> Result<Node, String> {
        if let Some(name) = via.and_then(|via| via.strip_prefix("gateway ")) {
            return gateway(table, name);
        }
        let place = match via {
            None => "target",
            Some("ingress") => "ingress",
            Some("egress") => "egress",
            Some(other) => return Err(format!("the request goes via {other}")),
        };
        let found = self.document.field(place).ok_or_else(|| format!("the world has no {place}"))?;
        let namespace = found.field("namespace").and_then(Node::text).unwrap_or_default();
        let labels = case.field("targetLabels").filter(|_| via.is_none()).or_else(|| found.field("labels"));
        Ok(map(vec![
            ("namespace", text(namespace)),
            ("labels", labels.cloned().unwrap_or(Node::Map(Vec::new()))),
        ]))
    }
}

/// The proxy of a Gateway that stands among the table's documents.
fn gateway(table: &Table, name: &str) -> Result<Node, String> {
    let gateways = of_kind(&documents(table), "Gateway");
    let named = |gateway: &&Node| at(gateway, &["metadata", "name"]).and_then(Node::text) == Some(name);
    let found = gateways.iter().find(named).ok_or_else(|| format!("the case has no Gateway {name}"))?;
    let namespace = at(found, &["metadata", "namespace"]).and_then(Node::text).unwrap_or("default");
    let labels = map(vec![("gateway.networking.k8s.io/gateway-name", text(name))]);
    Ok(map(vec![("namespace", text(namespace)), ("labels", labels), ("gateway", text(name))]))
}

fn expectation(case: &Node) -> Result<Expect, String> {
    let expect = case.field("expect").ok_or("the case expects nothing")?;
    let mut wanted = Expect::default();
    match (expect.field("allow"), expect.field("status")) {
        (Some(Node::Bool(allow)), _) => {
            wanted.decision = Some(if *allow { "allow" } else { "deny" }.to_owned());
            wanted.status = Some(if *allow { 200 } else { 403 });
        }
        (_, Some(Node::Integer(status))) => wanted.status = u16::try_from(*status).ok(),
        _ => return Err("an expectation of a form that is not known".to_owned()),
    }
    Ok(wanted)
}

/// The documents of a table's `config`, by kind.
///
/// # Panics
/// When it is not YAML.
#[must_use]
pub fn documents(table: &Table) -> Vec<Node> {
    let config = table.document.field("config").and_then(Node::text).unwrap_or_default();
    yaml::documents(config).unwrap_or_else(|error| panic!("{}: {error}", table.path.display()))
}

/// Those of one kind.
#[must_use]
pub fn of_kind(documents: &[Node], kind: &str) -> Vec<Node> {
    documents.iter().filter(|node| node.field("kind").and_then(Node::text) == Some(kind)).cloned().collect()
}

/// Groups converted cases of a table by workload: one case file each, since the workload is part of the configuration.
#[must_use]
pub fn files(table: &Table, resources: &[Node], settings: &Node, cases: Vec<(Node, Case)>) -> Vec<CaseFile> {
    let mut files: Vec<CaseFile> = Vec::new();
    for (workload, case) in cases {
        let configuration = map(vec![
            ("resources", Node::List(resources.to_vec())),
            ("workload", workload),
            ("settings", settings.clone()),
        ]);
        match files.iter_mut().find(|file| file.configuration == configuration) {
            Some(file) => file.cases.push(case),
            None => files.push(CaseFile {
                name: table.name.clone(),
                configuration,
                cases: vec![case],
                normalize_path: true,
                refused: None,
            }),
        }
    }
    files
}
