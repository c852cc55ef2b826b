//! Istio's translation of RequestAuthentication (`cases/requestauthentication`), judged by what becomes of a request: a
//! token of each rule is sent, and what its provider says of forwarding, headers and lists must hold.

use sailcloth_core::config::Node;
use sailcloth_core::headers::HeaderBlock;
use sailcloth_core::identity::{Claim, Token, TokenState};
use sailcloth_tests::conformance::{Table, Verdict, configuration, document, folder, load};
use sailcloth_tests::facts::CaseProperties;
use sailcloth_tests::judge::Observed;
use sailcloth_tests::native::Clock;
use sailcloth_tests::report::Report;
use sailcloth_tests::subject::{Engine, Exchange, Subject};
use sailcloth_tests::template;
use sailcloth_tests::yaml::{at, items, map, text};

#[test]
fn rules_do_what_istio_translates_them_to() {
    let Some(folder) = folder() else { return };
    let mut report = Report::new("istio/cases/requestauthentication");
    for table in Table::all(&folder.join("istio/cases/requestauthentication")) {
        for case in table.cases() {
            let row = table.row(case);
            match table.name.as_str() {
                "TestJwtFilter" => {
                    let rules: Vec<Node> = items(case.field("in"))
                        .iter()
                        .flat_map(|one| items(at(one, &["spec", "jwtRules"])).to_vec())
                        .collect();
                    let expected = at(case, &["expected", "typedConfig"]);
                    judge(&row, &rules, expected, &mut report);
                }
                "TestConvertToEnvoyJwtConfig" => {
                    judge(&row, items(case.field("in")), case.field("expected"), &mut report);
                }
                "TestBuildSpaceDelimitedClaims" => lists(&row, case, &mut report),
                _ => {
                    report.skip("the case is about where keys are fetched, which the key store's tests have")
                }
            }
        }
    }
    report.finish();
}

fn judge(row: &str, rules: &[Node], expected: Option<&Node>, report: &mut Report) {
    let providers = expected.and_then(|expected| expected.field("providers"));
    let Some(Node::Map(providers)) = providers else {
        let engine = engine(rules);
        return report.ran(row, &if engine.is_ok() { vec![] } else { vec!["was refused".to_owned()] });
    };
    for (_, provider) in providers {
        report.ran(row, &differences(rules, provider));
    }
}

/// An engine of these rules whose keys are the test key's: where keys come from is not the question here.
fn engine(rules: &[Node]) -> Result<Box<dyn Engine>, String> {
    let jwks = template::expand("{{jwks rsa1}}", 0)?;
    let with_keys = |rule: &Node| {
        let Node::Map(fields) = rule else { return rule.clone() };
        let fields = fields.iter().filter(|(name, _)| name != "jwksUri" && name != "jwks").cloned();
        Node::Map(fields.chain([("jwks".to_owned(), text(jwks.as_str()))]).collect())
    };
    let rules = rules.iter().map(with_keys).collect();
    let spec = map(vec![("jwtRules", Node::List(rules))]);
    let resource = document("security.istio.io/v1", "RequestAuthentication", "a", "default", spec);
    match load(Subject::named("jwt"), &configuration(vec![resource])) {
        Verdict::Accepted(engine) => Ok(engine),
        Verdict::Refused(problems) => Err(problems.join("; ")),
        Verdict::Unsupported(why) | Verdict::NoFilter(why) => Err(why),
    }
}

fn send(engine: &mut dyn Engine, authorization: &str) -> Observed {
    let headers = HeaderBlock::from_pairs([
        (":method", "GET"),
        (":path", "/"),
        (":authority", "api"),
        ("authorization", authorization),
    ]);
    let properties = CaseProperties(Vec::new());
    let now_ns = Clock::now_seconds() * 1_000_000_000;
    engine.decide(&Exchange { headers: &headers, properties: &properties, now_ns })
}

fn differences(rules: &[Node], provider: &Node) -> Vec<String> {
    let word = |key: &str| provider.field(key).and_then(Node::text);
    let mut engine = match engine(rules) {
        Ok(engine) => engine,
        Err(why) => return vec![why],
    };
    let issuer = word("issuer").unwrap_or_default();
    let claims =
        items(provider.field("claimToHeaders")).iter().filter_map(|one| one.field("claimName")?.text());
    let claims: Vec<String> = claims.map(|claim| format!("\"{claim}\":\"of {claim}\"")).collect();
    let token = format!("{{{{token key=rsa1 iss=\"{issuer}\" sub=a claims={{{}}}}}}}", claims.join(","));
    let token = match template::expand(&token, Clock::now_seconds()) {
        Ok(token) => token,
        Err(why) => return vec![why],
    };
    let observed = send(engine.as_mut(), &format!("Bearer {token}"));
    let Some(upstream) = observed.upstream else { return vec![format!("refused: {:?}", observed.decided)] };
    let header = |name: &str| {
        let found = upstream.iter().find(|(other, _)| *other == name.to_ascii_lowercase());
        found.map(|(_, value)| String::from_utf8_lossy(value).into_owned())
    };
    let mut differences = Vec::new();
    let mut expect = |what: &str, found: Option<String>, wanted: Option<String>| {
        if found != wanted {
            differences.push(format!("{what}: expected {wanted:?}, found {found:?}"));
        }
    };
    let forwarded = provider.field("forward") == Some(&Node::Bool(true));
    expect("authorization", header("authorization"), forwarded.then(|| format!("Bearer {token}")));
    if let Some(name) = word("forwardPayloadHeader") {
        expect(name, header(name), token.split('.').nth(1).map(str::to_owned));
    }
    for output in items(provider.field("claimToHeaders")) {
        let part = |key: &str| output.field(key).and_then(Node::text).unwrap_or_default();
        expect(part("headerName"), header(part("headerName")), Some(format!("of {}", part("claimName"))));
    }
    let listed = items(at(provider, &["normalizePayloadInMetadata", "spaceDelimitedClaims"]));
    for name in listed.iter().filter_map(Node::text) {
        expect(name, Some(is_list(rules, issuer, name).to_string()), Some("true".to_owned()));
    }
    differences
}

/// Whether a claim of that name is handed on as a list of its words.
fn is_list(rules: &[Node], issuer: &str, name: &str) -> bool {
    let Ok(mut engine) = engine(rules) else { return false };
    let token = format!("{{{{token key=rsa1 iss=\"{issuer}\" sub=a claims={{\"{name}\":\"one two\"}}}}}}");
    let Ok(token) = template::expand(&token, Clock::now_seconds()) else { return false };
    send(engine.as_mut(), &format!("Bearer {token}"));
    match Token::decode(engine.handed_on().to_vec()) {
        TokenState::Verified(token) => matches!(token.claim(&[name]), Some(Claim::List(_))),
        _ => false,
    }
}

/// The names in `expected` are lists, another is not.
fn lists(row: &str, case: &Node, report: &mut Report) {
    let mut rule = vec![("issuer", text("a"))];
    rule.extend(
        case.field("input")
            .filter(|input| !items(Some(input)).is_empty())
            .map(|input| ("spaceDelimitedClaims", input.clone())),
    );
    let rules = [map(rule)];
    let names: Vec<&str> = items(case.field("expected")).iter().filter_map(Node::text).collect();
    let wrong: Vec<String> = names
        .iter()
        .filter(|name| !is_list(&rules, "a", name))
        .map(|name| format!("`{name}` is no list"))
        .collect();
    let other = is_list(&rules, "a", "another").then(|| "another claim is a list".to_owned());
    report.ran(row, &wrong.into_iter().chain(other).collect::<Vec<_>>());
}
