//! Istio's translation tables (`cases/authorizationpolicy`), judged by meaning: a value goes into a policy, and the policy
//! must match what the table says it matches.

use sailcloth_core::config::Node;
use sailcloth_tests::conformance::judged::{self, quoted};
use sailcloth_tests::conformance::rbac::{self, Call};
use sailcloth_tests::conformance::{Table, Verdict, api_of, configuration, document, folder, load};
use sailcloth_tests::report::Report;
use sailcloth_tests::subject::{Engine, Subject};
use sailcloth_tests::yaml::{self, at, items, map, text};

#[test]
fn values_match_as_in_istio() {
    let Some(folder) = folder() else { return };
    let mut report = Report::new("istio/cases/authorizationpolicy");
    for table in Table::all(&folder.join("istio/cases/authorizationpolicy")) {
        for case in table.cases() {
            let row = table.row(case);
            match judge(&table, case) {
                Ok(differences) => report.ran(&row, &differences),
                Err(reason) => report.skip(reason),
            }
        }
    }
    report.finish();
}

/// Differences, or the property for which the case cannot run.
type Judged = Result<Vec<String>, String>;

/// What a table tests is said by its name; which field it concerns, by the Go function it is named after.
fn judge(table: &Table, case: &Node) -> Judged {
    match table.name.as_str() {
        "TestServiceAccount" => identity(case, "Input", "serviceAccounts"),
        "TestNamespaceMatcherRegex_Match" => match_and_not(case, "namespaces"),
        "TestStringMatcherRegex_Match" => match_and_not(case, "principals"),
        "TestHostMatcher" => matcher(case, "V", "Expect", "hosts"),
        "TestPathMatcher" => matcher(case, "V", "Expect", "paths"),
        "TestHeaderMatcher" => header_matcher(case),
        "TestGenerator" => generator(case),
        "TestRequestPrincipal" => request_principal(case),
        "TestReplaceTrustDomainAliases" => aliases(case, "trustDomainBundle", "principals", "expect"),
        "TestModel_MigrateTrustDomain" => migrated(case),
        "TestValidateCondition" => condition(case),
        "TestCheckValidPathTemplate" => validity(case, "{to: [{operation: {paths: VALUES}}]}"),
        "TestCheckTrustDomainValues" => validity(case, "{from: [{source: {trustDomains: VALUES}}]}"),
        "TestModel_Generate" => Err("the case expects words in Istio's output".to_owned()),
        "TestCheckWildcardValues" => validity(case, "{from: [{source: {trustDomains: VALUES}}]}"),
        "TestPathTemplateMatcher" => path_template(case),
        "TestIsValidLiteral" => literal(case),
        "TestExtractNameInBrackets" => brackets(case, "request.headers", false),
        "TestExtractNameInNestedBrackets" => brackets(case, "request.auth.claims", true),
        "TestConvertToPort" => convertible(case, "V", "Err", true, "{to: [{operation: {ports: [VALUE]}}]}"),
        "TestConvertAddressToCidr" => {
            convertible(case, "addr", "want", false, "{from: [{source: {ipBlocks: [VALUE]}}]}")
        }
        _ => Err(format!("{} tests a function inside Istio that no configuration reaches alone", table.name)),
    }
}

/// An engine with one ALLOW policy of one rule.
fn engine_of(
    rule: &str,
    workload: Node,
    settings: Node,
) -> Result<Result<Box<dyn Engine>, Vec<String>>, String> {
    let api = api_of("AuthorizationPolicy").unwrap();
    let policy = document(&api, "AuthorizationPolicy", "p", "my-ns", judged::spec(rule));
    let mut configuration = configuration(vec![policy]);
    if !matches!(workload, Node::Null) {
        yaml::set(&mut configuration, &["workload"], workload);
    }
    yaml::set(&mut configuration, &["settings"], settings);
    match load(Subject::named("authz"), &configuration) {
        Verdict::Accepted(engine) => Ok(Ok(engine)),
        Verdict::Refused(problems) => Ok(Err(problems)),
        Verdict::Unsupported(reason) | Verdict::NoFilter(reason) => Err(reason),
    }
}

fn engine(rule: &str) -> Result<Result<Box<dyn Engine>, Vec<String>>, String> {
    engine_of(rule, Node::Null, map(vec![]))
}

/// The engine, or the problems as differences of the case.
macro_rules! accepted {
    ($engine:expr) => {
        match $engine? {
            Ok(engine) => engine,
            Err(problems) => return Ok(problems),
        }
    };
}

fn word<'n>(case: &'n Node, key: &str) -> Result<&'n str, String> {
    case.field(key).and_then(Node::text).ok_or_else(|| format!("the case has no text `{key}`"))
}

fn source(field: &str, value: &str) -> String {
    format!("{{from: [{{source: {{{field}: [{}]}}}}]}}", quoted(value))
}

fn operation(field: &str, value: &str) -> String {
    format!("{{to: [{{operation: {{{field}: [{}]}}}}]}}", quoted(value))
}

fn by_peer(peer: &str) -> Call {
    Call { peer: Some(peer.to_owned()), ..Call::default() }
}

fn expect(engine: &mut dyn Engine, call: &Call, expected: bool) -> Option<String> {
    let found = judged::allows(engine, call);
    (found != expected).then(|| format!("expected {expected} for {call:?}"))
}

fn identity(case: &Node, input: &str, field: &str) -> Judged {
    let expected = matches!(case.field("Match"), Some(Node::Bool(true)));
    let mut engine = accepted!(engine(&source(field, word(case, input)?)));
    let call = by_peer(word(case, "Identity")?);
    Ok(expect(engine.as_mut(), &call, expected).into_iter().collect())
}

fn match_and_not(case: &Node, field: &str) -> Judged {
    let mut engine = accepted!(engine(&source(field, word(case, "v")?)));
    let rows = [(word(case, "match")?, true), (word(case, "noMatch")?, false)];
    Ok(rows
        .iter()
        .filter_map(|(peer, expected)| expect(engine.as_mut(), &by_peer(peer), *expected))
        .collect())
}

/// Texts around a value: itself, longer, shorter, in other case, empty.
fn around(value: &str) -> Vec<String> {
    let bare = value.trim_matches('*');
    let mut all = vec![
        bare.to_owned(),
        format!("{bare}x"),
        format!("x{bare}"),
        bare.to_ascii_uppercase(),
        String::new(),
        value.to_owned(),
    ];
    all.extend(bare.char_indices().last().map(|(end, _)| bare[..end].to_owned()));
    all
}

/// An Envoy matcher as the expectation, against an `operation` field.
fn matcher(case: &Node, value: &str, expected: &str, field: &str) -> Judged {
    let value = word(case, value)?;
    let wanted = case.field(expected).ok_or("the case expects nothing")?;
    compare_operation(field, value, &rule_of(wanted, field))
}

/// `{name, stringMatch}` is a header rule, `{path}` a path rule.
fn rule_of(wanted: &Node, field: &str) -> Node {
    map(vec![(if field == "paths" { "urlPath" } else { "header" }, wanted.clone())])
}

fn compare_operation(field: &str, value: &str, rule: &Node) -> Judged {
    let mut engine = accepted!(engine(&operation(field, value)));
    let mut differences = Vec::new();
    for text in around(value) {
        let mut call =
            Call { method: "GET".to_owned(), path: "/".to_owned(), host: "h".to_owned(), ..Call::default() };
        match field {
            "hosts" => call.host = text,
            "paths" => call.path = text,
            _ => call.method = text,
        }
        let expected =
            rbac::holds(rule, &call).map_err(|unknown| format!("the oracle does not know {unknown}"))?;
        differences.extend(expect(engine.as_mut(), &call, expected));
    }
    Ok(differences)
}

fn header_matcher(case: &Node) -> Judged {
    let rule = rule_of(case.field("Expect").ok_or("the case expects nothing")?, "headers");
    compare_when(&format!("request.headers[{}]", word(case, "K")?), word(case, "V")?, &rule)
}

/// The name of a case begins with the generator, which is the field.
fn generator(case: &Node) -> Judged {
    let value = word(case, "value")?;
    let rule = case.field("want").ok_or("the case expects an error inside Istio")?;
    let name = word(case, "name")?.split('-').next().unwrap_or_default();
    let field = match name {
        "hostGenerator" => "hosts",
        "pathGenerator" => "paths",
        "methodGenerator" => "methods",
        "srcPrincipalGenerator" => return compare_peers("principals", value, rule),
        "srcNamespaceGenerator" => return compare_peers("namespaces", value, rule),
        "srcTrustDomainGenerator" => return compare_peers("trustDomains", value, rule),
        "destPortGenerator" => return compare_ports(value, rule),
        "srcIPGenerator" => return compare_addresses("ipBlocks", value, rule),
        "remoteIPGenerator" => return compare_addresses("remoteIpBlocks", value, rule),
        "envoyFilterGenerator" => return Err("the key asks for another filter's metadata".to_owned()),
        _ => {
            let key = match (name, word(case, "key").unwrap_or_default()) {
                ("destIPGenerator", _) => "destination.ip",
                ("connSNIGenerator", _) => "connection.sni",
                ("requestPrincipalGenerator", _) => "request.auth.principal",
                ("requestAudiencesGenerator", _) => "request.auth.audiences",
                ("requestPresenterGenerator", _) => "request.auth.presenter",
                (_, key) if key.starts_with("request.") => key,
                (other, _) => return Err(format!("{other} makes nothing of a policy")),
            };
            return compare_when(key, value, rule);
        }
    };
    compare_operation(field, value, rule)
}

/// A condition of `when` against a rule of Envoy, on requests and callers around its value.
fn compare_when(key: &str, value: &str, rule: &Node) -> Judged {
    let condition = format!("{{when: [{{key: {}, values: [{}]}}]}}", quoted(key), quoted(value));
    let mut engine = accepted!(engine(&condition));
    let inner = key.split_once('[').map(|(_, rest)| rest.trim_end_matches(']'));
    let mut differences = Vec::new();
    let mut texts = around(value);
    texts.extend(value.split('/').flat_map(around));
    for text in texts {
        let base = Call { method: text.clone(), path: text.clone(), host: text.clone(), ..Call::default() };
        let address = text.parse().ok();
        let name = inner.unwrap_or_default().to_ascii_lowercase();
        let written = if name.starts_with(':') { Vec::new() } else { vec![(name, text.clone())] };
        let header = Call { headers: written, ..base.clone() };
        let nested = |leaf: Node| {
            let path = inner.unwrap_or("aud").split("][").map(str::to_owned);
            let mut names: Vec<String> = path.collect();
            let first = names.remove(0);
            let inside = names.into_iter().rev().fold(leaf, |node, name| Node::Map(vec![(name, node)]));
            (first, inside)
        };
        let claims = |claim: (String, Node)| Call {
            token: Some(("i".to_owned(), text.clone())),
            claims: vec![claim, ("azp".to_owned(), Node::Text(text.clone()))],
            ..Call::default()
        };
        let list = Node::List(vec![Node::Bool(true), Node::Text(text.clone())]);
        for call in [
            Call {
                sni: text.clone(),
                destination: address,
                source: address,
                remote: address,
                ..base.clone()
            },
            header,
            claims(nested(Node::Text(text.clone()))),
            claims(nested(list)),
            claims(nested(Node::Integer(7))),
            Call::default(),
        ] {
            let expected =
                rbac::holds(rule, &call).map_err(|unknown| format!("the oracle does not know {unknown}"))?;
            differences.extend(expect(engine.as_mut(), &call, expected));
        }
    }
    Ok(differences)
}

/// A template of Istio and the one of Envoy that it becomes, on paths around both.
fn path_template(case: &Node) -> Judged {
    let template = ["path", "in", "v", "V"].iter().find_map(|key| case.field(key)?.text());
    let wanted = case.field("want").ok_or("the case expects nothing")?;
    // Some tables leave the input to Istio's output, from which it follows.
    let made = wanted.field("pathTemplate").and_then(Node::text).ok_or("the case expects no template")?;
    let written = template
        .map_or_else(|| made.replace("**", "{+}").replace('*', "{*}").replace("{+}", "{**}"), str::to_owned);
    let rule = yaml::parse(&format!("{{uriTemplate: {{typedConfig: {{pathTemplate: {}}}}}}}", quoted(made)))?;
    let mut engine = accepted!(engine(&operation("paths", &written)));
    let mut differences = Vec::new();
    for (one, rest) in
        [("a", "b"), ("", "b"), ("a", ""), ("a/b", "c/d"), ("a*", "/"), ("a%2f", "x y"), ("é", "b")]
    {
        for tail in ["", "/", "x"] {
            let path = made.replace("**", "\u{1}").replace('*', one).replace('\u{1}', rest) + tail;
            let call = Call { path, ..Call::default() };
            let expected = rbac::holds(&rule, &call)?;
            differences.extend(expect(engine.as_mut(), &call, expected));
        }
    }
    Ok(differences)
}

/// A literal beside an operator.
fn literal(case: &Node) -> Judged {
    let valid = matches!(case.field("expected"), Some(Node::Bool(true)));
    verdict(&operation("paths", &format!("/{{*}}/{}", word(case, "glob")?)), valid)
}

/// What stands in brackets behind a key.
fn brackets(case: &Node, key: &str, nested: bool) -> Judged {
    let suffix = word(case, "s")?;
    let valid = !matches!(case.field("err"), Some(Node::Bool(true)));
    let rule = format!("{{when: [{{key: {}, values: [v]}}]}}", quoted(&format!("{key}{suffix}")));
    if !valid || !nested {
        return verdict(&rule, valid);
    }
    let mut engine = accepted!(engine(&rule));
    let names: Vec<&str> = items(case.field("want")).iter().filter_map(Node::text).collect();
    let (first, rest) = names.split_first().ok_or("the case expects no names")?;
    let inside = rest.iter().rev().fold(text("v"), |node, name| Node::Map(vec![((*name).to_owned(), node)]));
    let call = Call {
        token: Some(("i".to_owned(), "s".to_owned())),
        claims: vec![((*first).to_owned(), inside)],
        ..Call::default()
    };
    Ok(expect(engine.as_mut(), &call, true).into_iter().collect())
}

fn compare_peers(field: &str, value: &str, rule: &Node) -> Judged {
    let mut engine = accepted!(engine(&source(field, value)));
    let mut differences = Vec::new();
    let peers = around(value).into_iter().flat_map(|text| {
        [
            format!("spiffe://{text}"),
            format!("spiffe://cluster.local/ns/{text}/sa/any"),
            format!("spiffe://{text}/ns/a/sa/b"),
            format!("spiffe://a/{text}/b"),
        ]
    });
    for call in peers.map(|peer| by_peer(&peer)).chain([Call::default()]) {
        let expected =
            rbac::holds(rule, &call).map_err(|unknown| format!("the oracle does not know {unknown}"))?;
        differences.extend(expect(engine.as_mut(), &call, expected));
    }
    Ok(differences)
}

fn compare_ports(value: &str, rule: &Node) -> Judged {
    let mut engine = accepted!(engine(&operation("ports", value)));
    let mut differences = Vec::new();
    for port in [value.parse().unwrap_or(0), 1, 80, 65535] {
        let call = Call { port, ..Call::default() };
        let expected =
            rbac::holds(rule, &call).map_err(|unknown| format!("the oracle does not know {unknown}"))?;
        differences.extend(expect(engine.as_mut(), &call, expected));
    }
    Ok(differences)
}

fn compare_addresses(field: &str, value: &str, rule: &Node) -> Judged {
    let mut engine = accepted!(engine(&source(field, value)));
    let mut differences = Vec::new();
    let own = value.split('/').next().and_then(|address| address.parse().ok());
    for address in
        own.into_iter().chain(["192.0.2.1", "2001:db8::9"].iter().filter_map(|text| text.parse().ok()))
    {
        let call = Call { source: Some(address), remote: Some(address), ..Call::default() };
        let expected =
            rbac::holds(rule, &call).map_err(|unknown| format!("the oracle does not know {unknown}"))?;
        differences.extend(expect(engine.as_mut(), &call, expected));
    }
    Ok(differences)
}

fn request_principal(case: &Node) -> Judged {
    let value = word(case, "in")?;
    let rule = yaml::parse(word(case, "want")?)?;
    let mut engine = accepted!(engine(&source("requestPrincipals", value)));
    let mut texts = around(value);
    texts.extend(value.split('/').flat_map(around));
    let mut differences = Vec::new();
    for issuer in &texts {
        for subject in &texts {
            let call = Call { token: Some((issuer.clone(), subject.clone())), ..Call::default() };
            let expected =
                rbac::holds(&rule, &call).map_err(|unknown| format!("the oracle does not know {unknown}"))?;
            differences.extend(expect(engine.as_mut(), &call, expected));
        }
    }
    differences.extend(expect(engine.as_mut(), &Call::default(), false));
    Ok(differences)
}

fn trust(bundle: Option<&Node>) -> (Node, Node) {
    let domain =
        bundle.and_then(|bundle| bundle.field("trustDomain")).and_then(Node::text).unwrap_or("cluster.local");
    let workload = map(vec![("namespace", text("my-ns")), ("trustDomain", text(domain))]);
    let aliases =
        bundle.and_then(|bundle| bundle.field("aliases")).filter(|list| matches!(list, Node::List(_)));
    (workload, map(vec![("trustDomainAliases", aliases.cloned().unwrap_or(Node::List(Vec::new())))]))
}

/// Principals and the principals they stand for: whoever one of the latter names is let in, and nobody else.
fn aliases(case: &Node, bundle: &str, principals: &str, expected: &str) -> Judged {
    let bundle = case.field(bundle);
    let (workload, settings) = trust(bundle);
    let values = case.field(principals).map(yaml::json).ok_or("the case carries no principals")?;
    let in_when = matches!(case.field("in_when"), Some(Node::Bool(true)));
    let rule = match in_when {
        true => format!("{{when: [{{key: source.principal, values: {values}}}]}}"),
        false => format!("{{from: [{{source: {{principals: {values}}}}}]}}"),
    };
    let mut engine = accepted!(engine_of(&rule, workload, settings));
    let expected: Vec<&str> = items(case.field(expected)).iter().filter_map(Node::text).collect();
    let named = |principal: &str| expected.iter().any(|pattern| glob(pattern, principal));
    let mut differences = Vec::new();
    for principal in candidates(bundle, &expected) {
        differences.extend(expect(
            engine.as_mut(),
            &by_peer(&format!("spiffe://{principal}")),
            named(&principal),
        ));
    }
    Ok(differences)
}

/// Every trust domain of the case and some others, with every rest of the expected principals.
fn candidates(bundle: Option<&Node>, expected: &[&str]) -> Vec<String> {
    let mut domains: Vec<String> = ["cluster.local", "other", "x-td1", "foo-td1"].map(str::to_owned).to_vec();
    if let Some(bundle) = bundle {
        let own = bundle.field("trustDomain").into_iter().chain(items(bundle.field("aliases")));
        domains.extend(own.filter_map(Node::text).map(str::to_owned));
    }
    let mut all = Vec::new();
    for principal in expected {
        let (domain, rest) = principal.split_once('/').unwrap_or((principal, ""));
        let concrete = domain.replace('*', "x");
        let rest = rest.replace('*', "x");
        all.extend(domains.iter().chain([&concrete]).map(|domain| format!("{domain}/{rest}")));
        all.push(format!("other/{rest}y"));
    }
    all
}

/// Istio's string forms: `*`, a leading or a trailing star, else exact.
fn glob(pattern: &str, text: &str) -> bool {
    match (pattern, pattern.strip_prefix('*'), pattern.strip_suffix('*')) {
        ("*", ..) => !text.is_empty(),
        (_, Some(suffix), _) => text.ends_with(suffix),
        (_, _, Some(prefix)) => text.starts_with(prefix),
        _ => pattern == text,
    }
}

fn migrated(case: &Node) -> Judged {
    let rule = case.field("rule").ok_or("the case carries no rule")?;
    let in_source = items(rule.field("from")).first().and_then(|from| at(from, &["source", "principals"]));
    let in_when = || {
        let of_principal = |when: &&Node| when.field("key").and_then(Node::text) == Some("source.principal");
        items(rule.field("when")).iter().find(of_principal)?.field("values")
    };
    let source = in_source.or_else(in_when).cloned();
    let mut flat = case.clone();
    yaml::set(&mut flat, &["principals"], source.ok_or("the rule has no principals")?);
    yaml::set(&mut flat, &["in_when"], Node::Bool(in_source.is_none()));
    let (wanted, not_wanted) = (items(case.field("want")).len(), items(case.field("notWant")).len());
    if wanted == 0 || not_wanted > 0 {
        return Err("the case expects words in Istio's output, not principals".to_owned());
    }
    aliases(&flat, "tdBundle", "principals", "want")
}

fn is_error(case: &Node) -> bool {
    ["wantError", "wantErr"].iter().any(|key| matches!(case.field(key), Some(Node::Bool(true))))
}

fn verdict(rule: &str, valid: bool) -> Judged {
    Ok(match engine(rule)? {
        Ok(_) if !valid => vec!["expected to be refused, but it was accepted".to_owned()],
        Err(problems) if valid => problems,
        _ => Vec::new(),
    })
}

fn condition(case: &Node) -> Judged {
    let key = quoted(word(case, "key")?);
    let list =
        |name| case.field(name).map(|values| format!(", {name}: {}", yaml::json(values))).unwrap_or_default();
    verdict(&format!("{{when: [{{key: {key}{}{}}}]}}", list("values"), list("notValues")), !is_error(case))
}

fn validity(case: &Node, rule: &str) -> Judged {
    let values = case.field("values").map(yaml::json).ok_or("the case carries no values")?;
    verdict(&rule.replace("VALUES", &values), !is_error(case))
}

/// A value that converts or does not: `present` is the sign of an error, or of success.
fn convertible(case: &Node, value: &str, sign: &str, sign_is_error: bool, rule: &str) -> Judged {
    let value = word(case, value)?;
    let present = case.field(sign).is_some_and(|sign| sign.text() != Some(""));
    verdict(&rule.replace("VALUE", &quoted(value)), present != sign_is_error)
}
