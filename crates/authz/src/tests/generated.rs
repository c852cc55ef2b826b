//! Random policies and requests: what the index finds is what trying every rule finds, and order changes nothing.

use sailcloth_core::config::Node;
use sailcloth_core::facts::{Fact, Facts, Properties};
use sailcloth_core::headers::HeaderBlock;
use sailcloth_core::identity::Token;
use sailcloth_core::request::Request;
#[cfg(target_family = "wasm")]
use wasm_bindgen_test::wasm_bindgen_test as test;

use crate::Engine;

/// Small numbers from a fixed seed.
struct Dice(u64);

impl Dice {
    fn below(&mut self, limit: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        usize::try_from(self.0 % u64::try_from(limit).unwrap()).unwrap()
    }

    fn pick<'l>(&mut self, list: &[&'l str]) -> &'l str {
        list[self.below(list.len())]
    }

    fn list(&mut self, from: &[&str]) -> String {
        let items: Vec<String> = (0..1 + self.below(3)).map(|_| format!("{:?}", self.pick(from))).collect();
        format!("[{}]", items.join(","))
    }
}

const PATHS: [&str; 12] =
    ["/", "/a", "/a/b", "/a*", "/a/*", "*b", "*", "/a/{*}", "/{**}/b", "/b/{*}/c", "/c", "/b"];
const METHODS: [&str; 4] = ["GET", "POST", "P*", "*"];
const HOSTS: [&str; 5] = ["api", "API:80", "a*", "*:80", "*"];
const PRINCIPALS: [&str; 6] = ["cluster.local/ns/a/sa/x", "td/ns/a/*", "*/sa/x", "*", "td/ns/b/sa/y", "*y"];
const NAMESPACES: [&str; 4] = ["a", "b", "a*", "*"];
const BLOCKS: [&str; 5] = ["10.0.0.0/8", "10.1.0.0/16", "192.0.2.7", "2001:db8::/32", "0.0.0.0/0"];
const USERS: [&str; 6] = ["i/u", "i/*", "*/u", "i/u*", "*v", "*"];
const TEXTS: [&str; 5] = ["x", "x*", "*y", "*", "xy"];

const FIELDS: [(&str, &[&str]); 7] = [
    ("rincipals", &PRINCIPALS),
    ("amespaces", &NAMESPACES),
    ("pBlocks", &BLOCKS),
    ("emoteIpBlocks", &BLOCKS),
    ("equestPrincipals", &USERS),
    ("rustDomains", &["td", "cluster.local", "t*"]),
    ("erviceAccounts", &["a/x", "x", "b/y"]),
];
const FIRST: [(&str, &str); 7] =
    [("p", "P"), ("n", "N"), ("i", "I"), ("r", "R"), ("r", "R"), ("t", "T"), ("s", "S")];

fn source(dice: &mut Dice) -> String {
    let at = dice.below(FIELDS.len());
    let ((rest, values), (plain, upper)) = (FIELDS[at], FIRST[at]);
    let name = if dice.below(3) == 0 { format!("not{upper}{rest}") } else { format!("{plain}{rest}") };
    format!(r#"{{"source":{{"{name}":{}}}}}"#, dice.list(values))
}

fn operation(dice: &mut Dice) -> String {
    let mut fields = vec![format!(r#""paths":{}"#, dice.list(&PATHS))];
    if dice.below(4) == 0 {
        fields = vec![format!(r#""notPaths":{}"#, dice.list(&PATHS))];
    }
    if dice.below(2) == 0 {
        fields.push(format!(r#""methods":{}"#, dice.list(&METHODS)));
    }
    if dice.below(3) == 0 {
        fields.push(format!(r#""hosts":{}"#, dice.list(&HOSTS)));
    }
    if dice.below(5) == 0 {
        fields.push(format!(r#""ports":{}"#, dice.list(&["80", "8080"])));
    }
    format!(r#"{{"operation":{{{}}}}}"#, fields.join(","))
}

fn condition(dice: &mut Dice) -> String {
    let (key, values): (&str, &[&str]) = match dice.below(7) {
        0 => ("request.headers[x-a]", &TEXTS),
        1 => ("request.auth.claims[group]", &TEXTS),
        2 => ("source.ip", &BLOCKS),
        3 => ("source.namespace", &NAMESPACES),
        4 => ("request.auth.principal", &USERS),
        5 => ("request.query[q]", &TEXTS),
        _ => ("connection.sni", &TEXTS),
    };
    let name = if dice.below(3) == 0 { "notValues" } else { "values" };
    format!(r#"{{"key":"{key}","{name}":{}}}"#, dice.list(values))
}

fn rule(dice: &mut Dice) -> String {
    let mut parts = Vec::new();
    let mut part = |name: &str, items: Vec<String>| {
        if !items.is_empty() {
            parts.push(format!(r#""{name}":[{}]"#, items.join(",")));
        }
    };
    part("from", (0..dice.below(3)).map(|_| source(dice)).collect());
    part("to", (0..dice.below(3)).map(|_| operation(dice)).collect());
    part("when", (0..dice.below(3)).map(|_| condition(dice)).collect());
    format!("{{{}}}", parts.join(","))
}

fn engine(policies: &[String]) -> Engine {
    let text = format!(r#"{{"resources":[{}]}}"#, policies.join(","));
    match Engine::load(text.as_bytes()) {
        Ok((engine, _)) => engine,
        Err(problems) => panic!("{text}: {problems:?}"),
    }
}

fn policy(name: usize, action: &str, rules: &[String]) -> String {
    format!(
        r#"{{"apiVersion":"sailcloth.dev/v1alpha1","kind":"AuthorizationPolicy","metadata":{{"name":"p{name}","namespace":"n"}},
            "spec":{{"action":"{action}","rules":[{}]}}}}"#,
        rules.join(",")
    )
}

struct Connection(Vec<(&'static [&'static str], Vec<u8>)>);

impl Properties for Connection {
    fn property(&self, path: &[&str]) -> Fact<Vec<u8>> {
        let found = self.0.iter().find(|(known, _)| *known == path);
        found.map_or(Fact::Absent, |(_, value)| Fact::Known(value.clone()))
    }
}

fn connection(dice: &mut Dice) -> Connection {
    let mut all: Vec<(&'static [&'static str], Vec<u8>)> = Vec::new();
    let peers = ["", "cluster.local/ns/a/sa/x", "td/ns/a/sa/z", "td/ns/b/sa/y", "td/k/ns/ab/sa/x"];
    let peer = dice.pick(&peers);
    if !peer.is_empty() {
        all.push((&["connection", "uri_san_peer_certificate"], format!("spiffe://{peer}").into()));
    }
    // Now and then something cannot be known.
    let addresses = ["10.1.2.3", "10.9.9.9", "192.0.2.7", "192.0.2.8", "2001:db8::1"];
    if dice.below(12) > 0 {
        all.push((&["filter_state", "sailcloth.source_ip"], dice.pick(&addresses).into()));
    }
    all.push((&["source", "address"], format!("{}:1", dice.pick(&addresses[..4])).into()));
    all.push((&["destination", "port"], if dice.below(2) == 0 { 80_i64 } else { 9 }.to_le_bytes().to_vec()));
    all.push((&["connection", "requested_server_name"], dice.pick(&["", "x", "xy", "zy"]).into()));
    if dice.below(12) > 0 {
        let claims = match dice.below(4) {
            0 => String::new(),
            _ => format!(
                r#"{{"iss":"{}","sub":"{}","group":{}}}"#,
                dice.pick(&["i", "j", ""]),
                dice.pick(&["u", "uv", "w", ""]),
                dice.pick(&["\"x\"", "[\"zy\",7]", "true", "[]"]),
            ),
        };
        let state = match Node::from_json(claims.as_bytes()) {
            Ok(claims) => Token::of_claims(&claims).state().to_vec(),
            Err(_) => Token::anonymous_state().to_vec(),
        };
        all.push((&["sailcloth.jwt"], state));
    }
    Connection(all)
}

fn request(dice: &mut Dice) -> HeaderBlock {
    let path = dice.pick(&["/", "/a", "/a/b", "/a/b/", "/b/x/c", "/c?q=x", "/b?q=xy&q=z", "/a//b", "*"]);
    let mut pairs = vec![
        (":method", dice.pick(&["GET", "POST", "PUT"])),
        (":path", path),
        (":authority", dice.pick(&["api", "Api:80", "other"])),
    ];
    (0..dice.below(3)).for_each(|_| pairs.push(("x-a", dice.pick(&["x", "xy", "", "zy"]))));
    HeaderBlock::from_pairs(pairs)
}

#[test]
fn the_index_finds_what_trying_every_rule_finds() {
    let mut dice = Dice(0x5eed);
    let (mut allowed, mut denied) = (0, 0);
    for _ in 0..150 {
        let policies: Vec<String> = (0..1 + dice.below(6))
            .map(|name| {
                let rules: Vec<String> = (0..1 + dice.below(12)).map(|_| rule(&mut dice)).collect();
                policy(name, dice.pick(&["ALLOW", "DENY", "AUDIT"]), &rules)
            })
            .collect();
        let indexed = engine(&policies);
        let mut linear = engine(&policies);
        for rules in [&mut linear.audit, &mut linear.enforced.deny, &mut linear.enforced.allow] {
            rules.forget_index();
        }
        let mut turned = policies.clone();
        turned.reverse();
        let turned = engine(&turned);
        for _ in 0..60 {
            let (headers, connection) = (request(&mut dice), connection(&mut dice));
            let ask = |engine: &Engine| -> (String, Vec<String>, bool) {
                let request = Request { headers: &headers, facts: Facts::new(&connection, engine.sources()) };
                let outcome = engine.decide(request, &|| 0);
                let audits = outcome.audits.iter().map(|audit| audit.state()).collect();
                (outcome.enforced.state(), audits, outcome.enforced.refuses())
            };
            let (found, expected) = (ask(&indexed), ask(&linear));
            assert_eq!(found, expected, "{policies:#?}\n{headers:?}");
            assert_eq!(ask(&turned).2, found.2, "in another order: {policies:#?}\n{headers:?}");
            if found.2 { denied += 1 } else { allowed += 1 }
        }
    }
    assert!(allowed > 1000 && denied > 1000, "{allowed} allowed, {denied} denied");
}
