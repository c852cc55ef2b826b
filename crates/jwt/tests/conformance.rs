//! Cases that nobody here wrote (`shared/conformance`): Envoy's `jwt_verify_lib` and `jwt_authn`, Wycheproof, the RFCs,
//! Istio's validation and integration tests. What cannot run is skipped by a property of the case, and counted.
//!
//! `SAILCLOTH_CONFORMANCE` names the folder; without it the tests say that they skipped, unless
//! `REQUIRE_CONFORMANCE=1`.
#![cfg(not(target_family = "wasm"))]
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test may panic; helpers of tests are not covered by clippy.toml"
)]

mod support;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use sailcloth_core::config::{Node, Problems, Value};
use sailcloth_core::facts::{Facts, NoProperties};
use sailcloth_core::headers::HeaderBlock;
use sailcloth_core::request::Request;
use sailcloth_jwt::{Claims, Edit, Engine, Jws, KeySet, Origin, Outcome, Refusal, bare_audience};
use sailcloth_resources::Config;
use sailcloth_resources::request_authentication::RequestAuthentication;
use support::{Both, ENVIRONMENT};

/// A day after every case was written and before any of their tokens ends.
const TODAY: u64 = 1_790_000_000;

const WEAK: &str = "RSA key below 2048 bits, which this build refuses: the key was refused";
const NOT_JWKS: &str = "keys that are no JWKS (X.509, PEM), which this build refuses: they were refused";

fn folder() -> Option<PathBuf> {
    let given = std::env::var_os("SAILCLOTH_CONFORMANCE").map(PathBuf::from);
    let default = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../../shared/conformance");
    let folder = given.unwrap_or(default);
    if folder.is_dir() {
        return Some(folder);
    }
    let required = std::env::var_os("REQUIRE_CONFORMANCE").is_some_and(|value| value == "1");
    assert!(!required, "{} is missing, and REQUIRE_CONFORMANCE=1", folder.display());
    println!("skipped: {} is missing; SAILCLOTH_CONFORMANCE names another place", folder.display());
    None
}

/// What ran and what did not, by reason.
#[derive(Default)]
struct Tally {
    run: usize,
    skipped: BTreeMap<String, usize>,
    failures: Vec<String>,
}

impl Tally {
    fn skip(&mut self, why: &str) {
        *self.skipped.entry(why.to_owned()).or_default() += 1;
    }

    fn check(&mut self, name: &str, right: bool, detail: impl FnOnce() -> String) {
        self.run += 1;
        if !right {
            self.failures.push(format!("{name}: {}", detail()));
        }
    }

    fn finish(self, what: &str) {
        println!("{what}: {} run, {} skipped", self.run, self.skipped.values().sum::<usize>());
        for (why, count) in &self.skipped {
            println!("  {count} skipped: {why}");
        }
        assert!(self.failures.is_empty(), "{what}:\n{}", self.failures.join("\n"));
        assert!(self.run > 0, "{what}: nothing ran");
    }
}

fn yaml(path: &Path) -> Node {
    let text = std::fs::read_to_string(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    serde_saphyr::from_str(&text).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

fn list<'n>(node: &'n Node, key: &str) -> &'n [Node] {
    match node.field(key) {
        Some(Node::List(items)) => items,
        _ => &[],
    }
}

fn text<'n>(node: &'n Node, key: &str) -> Option<&'n str> {
    node.field(key).and_then(Node::text)
}

fn number(node: &Node, key: &str) -> Option<u64> {
    match node.field(key)? {
        Node::Integer(number) => u64::try_from(*number).ok(),
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a date of a case")]
        Node::Float(number) => Some(*number as u64),
        _ => None,
    }
}

fn cases(path: &Path, mut each: impl FnMut(&str, &Node)) {
    let table = yaml(path);
    for case in list(&table, "cases") {
        each(text(case, "id").unwrap(), case);
    }
}

fn base64url(text: &str) -> String {
    use base64::Engine as _;
    base64::engine::general_purpose::URL_SAFE_NO_PAD.encode(text)
}

/// Dates as JSON.
fn json_of(dates: &Node) -> String {
    let Node::Map(entries) = dates else { panic!("no map") };
    let pairs: Vec<String> = entries
        .iter()
        .map(|(name, date)| match date {
            Node::Integer(date) => format!("\"{name}\":{date}"),
            other => panic!("{name}: {other:?}"),
        })
        .collect();
    format!("{{{}}}", pairs.join(","))
}

fn map(entries: Vec<(&str, Node)>) -> Node {
    Node::Map(entries.into_iter().map(|(key, node)| (key.to_owned(), node)).collect())
}

fn string(text: &str) -> Node {
    Node::Text(text.to_owned())
}

/// An engine with these rules.
fn engine(rules: Vec<Node>) -> Result<Engine, String> {
    engine_of(vec![document(rules)])
}

fn document(rules: Vec<Node>) -> Node {
    map(vec![
        ("apiVersion", string("security.istio.io/v1")),
        ("kind", string("RequestAuthentication")),
        ("metadata", map(vec![("name", string("case"))])),
        ("spec", map(vec![("jwtRules", Node::List(rules))])),
    ])
}

fn engine_of(documents: Vec<Node>) -> Result<Engine, String> {
    load(map(vec![("resources", Node::List(documents))]))
}

fn engine_in_shadow(rule: Node) -> Result<Engine, String> {
    let issuers = map(vec![("*", map(vec![("mode", string("shadow"))]))]);
    let settings = map(vec![("issuers", issuers)]);
    load(map(vec![("resources", Node::List(vec![document(vec![rule])])), ("settings", settings)]))
}

fn load(configuration: Node) -> Result<Engine, String> {
    match Engine::load_node(&configuration, &ENVIRONMENT) {
        Ok((engine, _)) => Ok(engine),
        Err(problems) => Err(problems.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n")),
    }
}

fn decide<'e>(engine: &'e Engine, headers: &HeaderBlock) -> Outcome<'e> {
    let request = Request { headers, facts: Facts::new(&NoProperties, engine.sources()) };
    engine.decide(
        &request,
        Duration::from_secs(TODAY),
        &engine.key_store::<u32>(),
        &Both,
        &mut engine.cache([1, 2]),
    )
}

fn key_set(jwks: &Node) -> Result<KeySet, String> {
    let problems = Problems::default();
    let set = KeySet::read(&Value::root(jwks, &problems), Origin::Inline, &ENVIRONMENT);
    set.ok_or_else(|| [problems.warnings(), problems.errors()].concat().join("\n"))
}

/// Why a case that should be accepted is not, if the reason is a property of this build.
fn limit(token: &str, keys: &str) -> Option<&'static str> {
    let stray = |byte: u8| !(byte.is_ascii_alphanumeric() || b"-_.".contains(&byte));
    if keys.contains("too weak") {
        Some(WEAK)
    } else if keys.contains("KeyAlgMismatch") {
        Some("key whose `alg` is not the token's, which Envoy refuses too: it was refused")
    } else if keys.contains("is no signature algorithm") {
        Some("key whose `alg` does not exist (`ES521`), which Envoy refuses too: it was refused")
    } else if token.bytes().any(stray) {
        Some("letters that base64url has not: it was refused")
    } else if token.contains("..") {
        Some("empty payload, a JWS and no JWT: it was refused")
    } else {
        None
    }
}

#[test]
fn envoys_verification_cases() {
    let Some(folder) = folder() else { return };
    let mut tally = Tally::default();
    cases(&folder.join("envoy/jwt_verify_lib/verify.yaml"), |id, case| {
        let token = text(case, "jwt").unwrap();
        let keys = text(case, "keys").unwrap_or(r#"{"keys":[{"kty":"EC","x":"AQ","y":"AQ"}]}"#);
        let audiences = Node::List(list(case, "audiences").to_vec());
        let rule = map(vec![("jwks", string(keys)), ("audiences", audiences)]);
        let accepted = text(case, "status") == Some("Ok");
        let engine = match engine(vec![rule]) {
            Ok(engine) => engine,
            Err(problems)
                if text(case, "key_format") != Some("JWKS") || problems.contains("needs `keys`") =>
            {
                return tally.skip(NOT_JWKS);
            }
            Err(problems) => {
                return match limit(token, &problems) {
                    Some(why) if accepted => tally.skip(why),
                    _ => tally.check(id, !accepted, || problems),
                };
            }
        };
        let now = Duration::from_secs(number(case, "now").unwrap_or(TODAY));
        let found = engine.verify_token(token.as_bytes(), now, &Both);
        if accepted
            && found.is_err()
            && let Some(why) = limit(token, "")
        {
            return tally.skip(why);
        }
        tally.check(id, found.is_ok() == accepted, || {
            format!("expected {:?}, found {found:?}", text(case, "status"))
        });
        if let Some(at) = token.rfind('.').filter(|_| case.field("mutations").is_some()) {
            for mutated in mutations(token.as_bytes(), at + 1) {
                let found = engine.verify_token(&mutated, now, &Both);
                tally.check(id, found.is_err(), || "a changed signature was accepted".to_owned());
            }
        }
    });
    tally.finish("envoy/jwt_verify_lib/verify");
}

/// Every letter of the signature replaced, and every truncation.
fn mutations(token: &[u8], start: usize) -> Vec<Vec<u8>> {
    let replaced = (start..token.len()).map(|at| {
        let mut changed = token.to_vec();
        changed[at] = if changed[at] == b'A' { b'B' } else { b'A' };
        changed
    });
    let cut = (start..token.len()).map(|at| token[..at].to_vec());
    replaced.chain(cut).collect()
}

#[test]
fn envoys_parser_cases() {
    let Some(folder) = folder() else { return };
    let mut tally = Tally::default();
    let texts = yaml(&folder.join("envoy/jwt_authn/status_texts.yaml"));
    cases(&folder.join("envoy/jwt_verify_lib/parse.yaml"), |id, case| {
        let Some(token) = text(case, "jwt") else {
            return tally.skip("token given as a recipe, not as text");
        };
        let found = Jws::parse(token.as_bytes()).and_then(|jws| Claims::parse(jws.raw_payload));
        let status = text(case, "status").unwrap();
        match found {
            Ok(_) => tally.check(id, status == "Ok", || format!("expected {status}, was read")),
            Err(refusal) => {
                let expected = texts.field("texts").and_then(|texts| text(texts, status));
                tally.check(id, expected == Some(refusal.reason().body), || {
                    format!("expected {status}, found {refusal:?}")
                });
            }
        }
    });
    tally.finish("envoy/jwt_verify_lib/parse");
}

#[test]
fn envoys_dates_and_audiences() {
    let Some(folder) = folder() else { return };
    let mut tally = Tally::default();
    cases(&folder.join("envoy/jwt_verify_lib/time.yaml"), |id, case| {
        let date =
            |name| case.field(name).filter(|date| **date != Node::Null).map(|date| (name, date.clone()));
        let dates = map(["nbf", "exp"].into_iter().filter_map(date).collect());
        let claims = Claims::parse(base64url(&json_of(&dates)).as_bytes()).unwrap();
        let found = claims
            .validity(number(case, "clock_skew").unwrap())
            .check(Duration::from_secs(number(case, "now").unwrap()));
        let expected = match text(case, "status").unwrap() {
            "Ok" => None,
            "JwtExpired" => Some("token_expired"),
            _ => Some("token_not_yet_valid"),
        };
        let code = found.err().map(|refusal| refusal.reason().code);
        tally.check(id, code == expected, || format!("expected {expected:?}, found {code:?}"));
    });
    cases(&folder.join("envoy/jwt_verify_lib/audience.yaml"), |id, case| {
        let texts = |key| list(case, key).iter().filter_map(Node::text);
        let allowed = list(case, "configured").is_empty()
            || texts("token_audiences").any(|audience| {
                texts("configured").any(|configured| {
                    bare_audience(configured.as_bytes()) == bare_audience(audience.as_bytes())
                })
            });
        let expected = case.field("allowed") == Some(&Node::Bool(true));
        tally.check(id, allowed == expected, || format!("expected {expected}"));
    });
    tally.finish("envoy/jwt_verify_lib/time and audience");
}

#[test]
fn envoys_key_set_cases() {
    let Some(folder) = folder() else { return };
    let mut tally = Tally::default();
    cases(&folder.join("envoy/jwt_verify_lib/jwks.yaml"), |id, case| {
        let keys = text(case, "keys").unwrap();
        let accepted = text(case, "status") == Some("Ok");
        let found = match Node::from_json(keys.as_bytes()) {
            Ok(node) => key_set(&node),
            Err(error) => Err(error.to_string()),
        };
        match found {
            Err(why) if accepted && why.contains("needs `keys`") => tally.skip(NOT_JWKS),
            Err(why) if accepted && why.contains("too weak") => tally.skip(WEAK),
            Err(why) if accepted && why.contains("is no public key of Ed25519") => {
                tally.skip(
                    "key that is no point of its curve, which Envoy sees at the first token: it was left out",
                );
            }
            found => {
                tally.check(id, found.is_ok() == accepted, || format!("expected {accepted}, found {found:?}"))
            }
        }
    });
    tally.finish("envoy/jwt_verify_lib/jwks");
}

/// Tokens by name, `$Name` in the cases.
fn filled(template: &str, values: &Node) -> String {
    let Node::Map(entries) = values else { return template.to_owned() };
    let mut names: Vec<&str> = entries.iter().map(|(name, _)| name.as_str()).collect();
    // Longer names first: $GoodTokenWithSpaces is not $GoodToken.
    names.sort_by_key(|name| std::cmp::Reverse(name.len()));
    names.into_iter().fold(template.to_owned(), |text, name| {
        let value = values.field(name).and_then(|node| node.text().or_else(|| node.field("jwt")?.text()));
        text.replace(&format!("${name}"), value.unwrap_or_default().trim())
    })
}

/// Envoy's JSON parser forgives a comma before a closing bracket; these cases have some.
fn without_trailing_commas(json: &str) -> String {
    let compact: String = json.split_whitespace().collect();
    compact.replace(",]", "]").replace(",}", "}")
}

fn headers_of(case: &Node, values: &Node) -> HeaderBlock {
    let pair = |name: &str, value: &str| (name.to_owned(), filled(value, values));
    let mut pairs: Vec<(String, String)> = match case.field("headers") {
        Some(Node::Map(entries)) => {
            entries.iter().map(|(name, value)| pair(name, value.text().unwrap_or_default())).collect()
        }
        Some(Node::List(items)) => {
            items.iter().map(|item| pair(text(item, "name").unwrap(), text(item, "value").unwrap())).collect()
        }
        _ => Vec::new(),
    };
    for (name, value) in [(":method", "GET"), (":path", "/"), (":authority", "host"), (":scheme", "http")] {
        if !pairs.iter().any(|(other, _)| other == name) {
            pairs.push(pair(name, value));
        }
    }
    HeaderBlock::from_pairs(pairs)
}

/// A provider of `jwt_authn` as a rule.
fn rule_of(provider: &Node, jwks: &str, required: bool) -> Node {
    let renamed = [
        ("issuer", "issuer"),
        ("audiences", "audiences"),
        ("forward", "forwardOriginalToken"),
        ("from_params", "fromParams"),
        ("from_cookies", "fromCookies"),
        ("forward_payload_header", "outputPayloadToHeader"),
    ];
    let mut rule = vec![("jwks", string(jwks))];
    rule.push(("presence", string(if required { "REQUIRED" } else { "OPTIONAL" })));
    for (theirs, ours) in renamed {
        rule.extend(provider.field(theirs).map(|value| (ours, value.clone())));
    }
    let headers = list(provider, "from_headers").iter().map(|from| {
        let prefix = text(from, "value_prefix").unwrap_or_default();
        map(vec![("name", from.field("name").unwrap().clone()), ("prefix", string(prefix))])
    });
    let headers: Vec<Node> = headers.collect();
    if !headers.is_empty() {
        rule.push(("fromHeaders", Node::List(headers)));
    }
    map(rule)
}

fn check_status(tally: &mut Tally, id: &str, outcome: &Outcome<'_>, status: &str, texts: &Node) {
    let reason = outcome.decision.reason;
    let allowed = !outcome.decision.refuses();
    let right = if status == "Ok" { allowed } else { !allowed && text(texts, status) == Some(reason.body) };
    tally.check(id, right, || format!("expected {status}, found {}", reason.code));
}

#[test]
fn envoys_filter_cases() {
    let Some(folder) = folder() else { return };
    let mut tally = Tally::default();
    let folder = folder.join("envoy/jwt_authn");
    let tokens = yaml(&folder.join("tokens.yaml"));
    let values = tokens.field("values").unwrap();
    let texts = yaml(&folder.join("status_texts.yaml"));
    let texts = texts.field("texts").unwrap();
    let jwks = |name: &str| without_trailing_commas(text(values, name).unwrap());

    let table = yaml(&folder.join("authenticator.yaml"));
    for case in list(&table, "cases") {
        let id = text(case, "id").unwrap();
        let Some(Node::Map(mut provider)) =
            table.field("providers").and_then(|all| all.field("example_provider")).cloned()
        else {
            panic!("no provider")
        };
        let mut keys = jwks("PublicKey");
        if let Some(Node::Map(changes)) = case.field("provider_change") {
            for (name, value) in changes {
                provider.retain(|(known, _)| known != name);
                match value {
                    Node::Text(reference) if name == "jwks" => keys = jwks(reference.trim_start_matches('$')),
                    Node::Null => {}
                    value => provider.push((name.clone(), value.clone())),
                }
            }
        }
        let required = case.field("allow_missing") != Some(&Node::Bool(true));
        let mut rule = rule_of(&Node::Map(provider), &keys, required);
        if let (Some("fails"), Node::Map(fields)) = (text(case, "key_fetch"), &mut rule) {
            // No set has been fetched, and the request has waited for one.
            fields.retain(|(name, _)| name != "jwks");
            fields.push(("jwksUri".to_owned(), string("https://www.pubkey-server.com/pubkey-path")));
        }
        let engine = engine(vec![rule]).unwrap();
        let outcome = decide(&engine, &headers_of(case, values));
        check_status(&mut tally, id, &outcome, text(case, "status").unwrap(), texts);
    }

    let table = yaml(&folder.join("requirements.yaml"));
    for case in list(&table, "cases") {
        let requirements = list(case.field("requires").unwrap(), "requires_any");
        let requirements = if requirements.is_empty() {
            list(case.field("requires").unwrap().field("requires_any").unwrap_or(&Node::Null), "requirements")
        } else {
            requirements
        };
        let providers: Vec<&str> = requirements.iter().filter_map(|one| text(one, "provider_name")).collect();
        let allows = |name| requirements.iter().any(|one| one.field(name).is_some());
        // For one rule Istio writes any{rule, allow_missing}; allow_missing_or_failed is our report-only mode.
        let reported = allows("allow_missing_or_failed");
        if !(requirements.len() == 2 && providers.len() == 1 && (reported || allows("allow_missing"))) {
            tally.skip("requirement tree that Istio does not generate");
            continue;
        }
        let provider = table.field("providers").and_then(|all| all.field(providers[0])).unwrap();
        let rule = rule_of(provider, &jwks("PublicKey"), false);
        let engine = if reported { engine_in_shadow(rule) } else { engine(vec![rule]) }.unwrap();
        let outcome = decide(&engine, &headers_of(case, values));
        let id = text(case, "id").unwrap();
        check_status(&mut tally, id, &outcome, text(case, "status").unwrap(), texts);
        if let Some(Node::Map(payloads)) = case.field("payload_header_present") {
            for (header, present) in payloads {
                let set = |edit: &Edit<'_>| matches!(edit, Edit::Set(name, _) if name == header);
                let found = outcome.edits.iter().any(set);
                tally.check(id, *present == Node::Bool(found), || format!("{header}: {found}"));
            }
        }
    }

    let table = yaml(&folder.join("extractor.yaml"));
    for case in list(&table, "cases") {
        let Some(Node::Map(providers)) = case.field("providers").or(table.field("providers")) else {
            panic!("none")
        };
        let keys = jwks("ES256PublicKey");
        let rules = providers.iter().map(|(_, provider)| rule_of(provider, &keys, false)).collect();
        let engine = engine(rules).unwrap();
        let headers = headers_of(case, values);
        let mut found: Vec<String> =
            engine.tokens(&headers).iter().map(|token| String::from_utf8_lossy(token).into_owned()).collect();
        let mut expected: Vec<String> =
            list(case, "tokens").iter().map(|token| filled(text(token, "token").unwrap(), values)).collect();
        found.sort();
        expected.sort();
        tally.check(text(case, "id").unwrap(), found == expected, || {
            format!("expected {expected:?}, found {found:?}")
        });
    }
    tally.finish("envoy/jwt_authn");
}

#[test]
fn wycheproof_and_rfc_signatures() {
    let Some(folder) = folder() else { return };
    let mut tally = Tally::default();
    for file in ["json_web_signature_test", "json_web_key_test", "json_web_crypto_test"] {
        let table = std::fs::read(folder.join(format!("jose/wycheproof/{file}.json"))).unwrap();
        let table = Node::from_json(&table).unwrap();
        for group in list(&table, "testGroups") {
            let keys = group.field("public").or(group.field("private")).cloned().unwrap_or(Node::Null);
            let keys =
                if keys.field("keys").is_some() { keys } else { map(vec![("keys", Node::List(vec![keys]))]) };
            for case in list(group, "tests") {
                let id = format!("{file} {:?} {:?}", case.field("tcId"), text(case, "comment"));
                // A JWE is valid as such, and no token that this filter takes.
                let valid = text(case, "result") == Some("valid") && case.field("jws").is_some();
                let token = match case.field("jws").or(case.field("jwe")) {
                    Some(Node::Text(token)) => token.clone(),
                    _ => {
                        tally.skip("JSON serialization, which is no bearer token");
                        continue;
                    }
                };
                check_signature(&mut tally, &id, &token, &keys, valid);
            }
        }
    }
    cases(&folder.join("jose/rfc/jws_examples.yaml"), |id, case| {
        let valid = case.field("signature_valid") == Some(&Node::Bool(true));
        let key = case.field("key").cloned().unwrap_or(Node::Null);
        let keys = map(vec![("keys", Node::List(vec![key]))]);
        check_signature(&mut tally, id, text(case, "jws").unwrap(), &keys, valid);
    });
    tally.finish("jose");
}

fn check_signature(tally: &mut Tally, id: &str, token: &str, keys: &Node, valid: bool) {
    let set = key_set(keys);
    let found = match (&set, Jws::parse(token.as_bytes())) {
        // Payloads are not JSON here, but must be base64url.
        (Ok(_), Ok(jws)) if Claims::parse(jws.raw_payload).err() == Some(Refusal::PayloadNotBase64) => {
            Err("PayloadNotBase64".to_owned())
        }
        (Ok(set), Ok(jws)) => set.verify(&jws, &Both).map_err(|refusal| format!("{refusal:?}")),
        (Ok(_), Err(refusal)) => Err(format!("{refusal:?}")),
        (Err(why), _) => Err(why.clone()),
    };
    if let (true, Err(why)) = (valid, &found)
        && let Some(limit) = limit(token, why)
    {
        return tally.skip(limit);
    }
    tally.check(id, found.is_ok() == valid, || format!("expected {valid}, found {found:?}"));
}

#[test]
fn istios_validation_cases() {
    let Some(folder) = folder() else { return };
    let mut tally = Tally::default();
    let mut check = |id: &str, document: Node, case: &Node| {
        let resources = map(vec![("resources", Node::List(vec![document]))]);
        let found = Config::<RequestAuthentication, ()>::load_node(&resources, |_| (), |_, _| ());
        let valid = case.field("valid") == Some(&Node::Bool(true));
        tally.check(id, found.is_ok() == valid, || format!("expected {valid}, found {found:?}"));
    };
    cases(&folder.join("istio/cases/validation/TestValidateRequestAuthentication.yaml"), |id, case| {
        let Some(Node::Map(spec)) = case.field("in") else { panic!("{id}: no spec") };
        let spec = spec.iter().filter(|(key, _)| key != "$kind").cloned().collect();
        let document = map(vec![
            ("apiVersion", string("security.istio.io/v1")),
            ("kind", string("RequestAuthentication")),
            ("metadata", map(vec![("name", string("case"))])),
            ("spec", Node::Map(spec)),
        ]);
        check(id, document, case);
    });
    for file in ["reqauth-valid", "reqauth-invalid"] {
        cases(&folder.join(format!("istio/cases/schema/{file}.yaml")), |id, case| {
            check(id, case.field("resource").unwrap().clone(), case);
        });
    }
    tally.finish("istio/cases for RequestAuthentication");
}

#[test]
fn istios_integration_cases() {
    let Some(folder) = folder() else { return };
    let mut tally = Tally::default();
    let tokens = yaml(&folder.join("istio/e2e/tokens.yaml"));
    let values = tokens.field("tokens").unwrap();
    let jwks = text(&tokens, "jwks").unwrap();
    let mut files: Vec<PathBuf> = std::fs::read_dir(folder.join("istio/e2e/authentication"))
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .collect();
    files.sort();
    for file in files {
        let table = yaml(&file);
        let config = text(&table, "config").unwrap_or_default();
        let fetched =
            config.contains("invalid") || text(&table, "what").is_some_and(|what| what.contains("404"));
        for case in list(&table, "cases") {
            if !config.contains("kind: RequestAuthentication")
                || config.contains("kind: AuthorizationPolicy")
                || fetched
            {
                tally.skip(
                    "needs authorization, a gateway or a key server, which the whole chain's tests have",
                );
                continue;
            }
            let documents =
                config.split("\n---\n").map(|text| inline(serde_saphyr::from_str(text).unwrap(), jwks));
            let engine = engine_of(documents.collect()).unwrap();
            run_integration(&mut tally, &engine, case, values);
        }
    }
    tally.finish("istio/e2e/authentication");
}

/// The keys that Istio's test server would have served.
fn inline(document: Node, jwks: &str) -> Node {
    match document {
        Node::Map(entries) => Node::Map(
            entries
                .into_iter()
                .map(|(key, node)| match key.as_str() {
                    "jwksUri" => ("jwks".to_owned(), string(jwks)),
                    _ => (key, inline(node, jwks)),
                })
                .collect(),
        ),
        Node::List(items) => Node::List(items.into_iter().map(|item| inline(item, jwks)).collect()),
        other => other,
    }
}

fn run_integration(tally: &mut Tally, engine: &Engine, case: &Node, values: &Node) {
    let id = text(case, "id").unwrap();
    let (request, expect) = (case.field("request").unwrap(), case.field("expect").unwrap());
    let mut pairs: Vec<(String, String)> = vec![
        (":method".into(), text(request, "method").unwrap().into()),
        (":path".into(), filled(text(request, "path").unwrap(), values)),
    ];
    if let Some(Node::Map(headers)) = request.field("headers") {
        pairs.extend(
            headers.iter().map(|(name, value)| (name.clone(), filled(value.text().unwrap(), values))),
        );
    }
    let outcome = decide(engine, &HeaderBlock::from_pairs(pairs.iter().cloned()));
    let status = if outcome.decision.refuses() { outcome.reply().status } else { 200 };
    tally.check(id, number(expect, "status") == Some(u64::from(status)), || {
        format!("expected {:?}, found {status}: {:?}", expect.field("status"), outcome.decision)
    });
    let Some(Node::Map(upstream)) = expect.field("upstream_headers") else { return };
    for edit in &outcome.edits {
        match edit {
            Edit::Remove(name) => pairs.retain(|(known, _)| known != name),
            Edit::Set(name, value) => {
                pairs.retain(|(known, _)| known != name.as_ref());
                pairs.push((name.to_string(), String::from_utf8(value.clone()).unwrap()));
            }
        }
    }
    for (name, expected) in upstream {
        let expected = expected.text().unwrap_or_default();
        let expected = match expected.strip_prefix("payload(").and_then(|rest| rest.strip_suffix(')')) {
            Some(token) => filled(token, values).split('.').nth(1).unwrap().to_owned(),
            None => filled(expected, values),
        };
        let found = pairs.iter().find(|(known, _)| known == name).map_or("", |(_, value)| value.as_str());
        tally.check(id, found == expected, || format!("{name}: expected {expected}, found {found}"));
    }
}
