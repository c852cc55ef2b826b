//! The words that generated policies and requests are made of: few, and close to each other, so that they meet often.

use std::net::IpAddr;

use sailcloth_core::config::Node;

use crate::yaml;

/// What values there are to choose from.
#[derive(Debug, Clone)]
pub struct Words {
    /// Methods.
    pub methods: &'static [&'static str],
    /// Paths without query.
    pub paths: &'static [&'static str],
    /// Hosts, some with a port.
    pub hosts: &'static [&'static str],
    /// Header names.
    pub header_names: &'static [&'static str],
    /// Header values.
    pub header_values: &'static [&'static str],
    /// Identities without `spiffe://`.
    pub identities: &'static [&'static str],
    /// Server names.
    pub server_names: &'static [&'static str],
    /// Ports.
    pub ports: &'static [u16],
    /// TCP peers.
    pub sources: Vec<IpAddr>,
    /// Original clients.
    pub remotes: Vec<IpAddr>,
    /// Addresses connected to.
    pub destinations: Vec<IpAddr>,
    /// Claims of tokens.
    pub tokens: Vec<Node>,
}

/// Trust domains that configurations call their own.
pub const TRUST_DOMAINS: &[&str] = &["cluster.local", "td1", "prod.example"];

/// Further names of them.
pub const ALIASES: &[&[&str]] = &[&[], &[], &["old-td"], &["cluster.local"], &["old-td", "td1"]];

impl Words {
    /// All of them, for requests that exist only in memory.
    #[must_use]
    pub fn wide() -> Self {
        Self {
            methods: &["GET", "POST", "PUT", "DELETE", "OPTIONS", "HEAD", "PATCH", "get", "GETS"],
            paths: &[
                "/",
                "/api",
                "/api/",
                "/api/v1",
                "/api/v1/orders",
                "/api/v1/orders/7",
                "/api/v1/orders/7/items",
                "/apix",
                "/API/v1",
                "/health",
                "/admin",
                "/admin/",
                "/admin/users",
                "/store/x/cart",
                "/store/x/y/cart",
                "/store//cart",
                "/store/cart",
                "/a/b",
                "/a//b",
                "/a/b;c=1",
                "/a%2Fb",
                "/a/b%20c",
                "/a/{x}",
                "/a/b|c",
                "/a/*",
                "/package.Service/Method",
                "/a/é",
            ],
            hosts: &[
                "api.example.com",
                "api.example.com:8080",
                "API.example.com",
                "example.com",
                "xample.com",
                "api.example.com.evil.test",
                "api",
                "10.0.0.1",
                "[::1]:8080",
                "",
            ],
            header_names: &["x-tenant", "X-Tenant", "x-role", "user-agent", ":method", ":authority"],
            header_values: &[
                "",
                "a",
                "acme",
                "acme-eu",
                "eu-acme",
                "ACME",
                "a,b",
                "a*b",
                "*",
                "acme,acme-eu",
                "GET",
            ],
            identities: IDENTITIES,
            server_names: &["", "api.example.com", "outbound_.80_._.api.production.svc.cluster.local", "x"],
            ports: &[80, 443, 8080, 9090, 0, 65535],
            sources: addresses(&[
                "10.0.0.1",
                "10.0.0.2",
                "10.0.1.1",
                "10.1.0.0",
                "10.255.255.255",
                "11.0.0.0",
                "127.0.0.1",
                "192.0.2.7",
                "2001:db8::1",
                "2001:db8:1::1",
                "::1",
                "::ffff:10.0.0.1",
                "0.0.0.0",
            ]),
            remotes: addresses(&[
                "10.0.0.1",
                "10.0.1.200",
                "203.0.113.9",
                "203.0.113.10",
                "2001:db8::2",
                "::1",
            ]),
            destinations: addresses(&["10.2.0.1", "10.2.0.2", "127.0.0.1", "::1", "fd00::1"]),
            tokens: tokens(),
        }
    }

    /// Those that a client on this machine can bring about through a real Envoy.
    #[must_use]
    pub fn loopback() -> Self {
        Self {
            methods: &["GET", "POST", "PUT", "DELETE", "OPTIONS", "HEAD", "PATCH"],
            header_names: &["x-tenant", "X-Tenant", "x-role", "user-agent", ":method", ":authority"],
            server_names: &["api.example.com", "outbound_.80_._.api.production.svc.cluster.local", "x"],
            ports: &[80, 443, 8080, 9090, 65535],
            sources: addresses(&["127.0.0.1", "127.0.0.2", "127.0.1.1", "127.1.0.0", "127.8.0.9"]),
            remotes: addresses(&[
                "10.0.0.1",
                "10.0.1.200",
                "203.0.113.9",
                "203.0.113.10",
                "2001:db8::2",
                "127.0.0.1",
            ]),
            destinations: addresses(&["127.0.0.1", "10.2.0.1", "10.2.0.2"]),
            ..Self::wide()
        }
    }
}

/// Of all shapes: in a mesh, in another one, with more segments, of something else.
pub const IDENTITIES: &[&str] = &[
    "cluster.local/ns/production/sa/web",
    "cluster.local/ns/production/sa/web-admin",
    "cluster.local/ns/production/sa/admin",
    "cluster.local/ns/staging/sa/web",
    "cluster.local/ns/prod.x/sa/a.b",
    "td1/ns/production/sa/web",
    "old-td/ns/production/sa/web",
    "prod.example/ns/production/sa/web",
    "evil.example/ns/production/sa/web",
    "cluster.local/k/v/ns/production/k2/sa/web/k3",
    "cluster.local/ns/production/sa/web/more",
    "cluster.local/sa/web",
    "example.org/workload/7",
];

fn addresses(texts: &[&str]) -> Vec<IpAddr> {
    texts.iter().map(|text| text.parse().expect("an address")).collect()
}

fn tokens() -> Vec<Node> {
    let claims = [
        r#"{"iss":"https://issuer.example","sub":"user-1","aud":"api","azp":"web","role":"admin"}"#,
        r#"{"iss":"https://issuer.example","sub":"user-2","aud":["api","web"],"groups":["admin","dev"]}"#,
        r#"{"iss":"https://issuer.example","sub":"user-10","scope":"read write","permission":"read"}"#,
        r#"{"iss":"https://issuer.example","sub":"user-1","realm":{"roles":["admin","ops"],"name":"main"}}"#,
        r#"{"iss":"https://issuer.example","sub":"user-1","role":7,"admin":true,"groups":[1,"dev",true,["x"]]}"#,
        r#"{"iss":"https://issuer.example","sub":"service/api","a.b":"dotted","a":{"b":"nested"},"scope":["read"]}"#,
        r#"{"iss":"https://issuer.example","aud":[]}"#,
        r#"{"iss":"https://issuer.example","sub":"","role":""}"#,
        r#"{"iss":"https://issuer.example","sub":"user-1","role":"super-admin","groups":"dev","scope":""}"#,
    ];
    claims.iter().map(|json| Node::from_json(json.as_bytes()).expect("valid JSON")).collect()
}

/// Claim paths that policies ask for, as they stand behind `request.auth.claims`.
pub const CLAIMS: &[&str] = &[
    "[role]",
    "[groups]",
    "[scope]",
    "[permission]",
    "[realm][roles]",
    "[realm][name]",
    "[realm]",
    "[admin]",
    "[a.b]",
    "[a][b]",
    "[sub]",
    "[Role]",
    "[absent]",
];

/// Values of claims.
pub const CLAIM_VALUES: &[&str] = &[
    "admin",
    "dev",
    "read",
    "write",
    "ops",
    "main",
    "dotted",
    "nested",
    "7",
    "true",
    "user-1",
    "read write",
];

/// A text of a policy as a document's value.
#[must_use]
pub fn texts(values: Vec<String>) -> Node {
    Node::List(values.into_iter().map(yaml::text).collect())
}
