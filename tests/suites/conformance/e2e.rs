//! Istio's integration tests through our runners: `e2e/authorization`, `e2e/authentication`.

use std::path::Path;

use sailcloth_core::config::Node;
use sailcloth_launch::envoy::find_or_skip;
use sailcloth_tests::case::{Case, CaseFile};
use sailcloth_tests::conformance::e2e::{World, documents, files, of_kind};
use sailcloth_tests::conformance::{Table, Verdict, folder, load};
use sailcloth_tests::envoy::Transport;
use sailcloth_tests::provider;
use sailcloth_tests::report::Report;
use sailcloth_tests::subject::Subject;
use sailcloth_tests::yaml::{map, text};
use sailcloth_tests::{emulator, envoy, native};

#[test]
fn authorization_decides_as_in_istio() {
    let Some(folder) = folder() else { return };
    let collected = collect(&folder.join("istio/e2e"), "authorization");
    let authz = Subject::named("authz");
    let plain: Vec<CaseFile> = collected.files.iter().filter_map(without_normalization).collect();
    let mut report = native::run(authz, &plain);
    report.add(emulator::run(authz, &plain));
    report.add(collected.skipped);
    match find_or_skip() {
        Some(binary) => report.add(envoy::run(&binary, authz, &collected.files, &Transport::Plaintext)),
        None => report.skip("there is no Envoy"),
    }
    report.named("istio/e2e/authorization (native, emulator, Envoy)").finish();
}

struct Collected {
    files: Vec<CaseFile>,
    skipped: Report,
}

fn collect(folder: &Path, part: &str) -> Collected {
    let world = World::read(folder);
    let mut collected = Collected { files: Vec::new(), skipped: Report::default() };
    for table in Table::all(&folder.join(part)) {
        let policies = of_kind(&documents(&table), "AuthorizationPolicy");
        // Workload certificates are Istio's own here, on gateways too; tokens are handed on by the jwt filter.
        let settings = map(vec![
            ("peerIdentity", text("peerPrincipal")),
            ("extensionProviders", provider::settings(&provider::named(&policies))),
        ]);
        let probe = map(vec![("resources", Node::List(policies.clone())), ("settings", settings.clone())]);
        let refused = match load(Subject::named("authz"), &probe) {
            Verdict::Accepted(_) => None,
            Verdict::Unsupported(reason) | Verdict::NoFilter(reason) => Some(reason),
            Verdict::Refused(problems) => {
                collected.skipped.ran(&table.name, &problems);
                continue;
            }
        };
        let mut cases: Vec<(Node, Case)> = Vec::new();
        for case in table.cases() {
            match (&refused, world.convert(&table, case)) {
                (Some(reason), _) => collected.skipped.skip(reason.clone()),
                (None, Err(reason)) => collected.skipped.skip(reason),
                (None, Ok((_, case))) if has_token(&case) => {
                    collected.skipped.skip("the request carries a token: it runs with the jwt engine")
                }
                (None, Ok(found)) => cases.push(found),
            }
        }
        collected.files.extend(files(&table, &policies, &settings, cases));
    }
    collected
}

fn has_token(case: &Case) -> bool {
    case.request.headers.iter().any(|(name, _)| name == "authorization")
}

/// Envoy normalizes a path before any filter; the engine and the emulator get it as it is.
fn without_normalization(file: &CaseFile) -> Option<CaseFile> {
    let normal = |case: &&Case| {
        let path = case.request.path.split('?').next().unwrap_or_default();
        !(path.contains("//") || path.contains("/.") || path.contains(['%', '\\', '#']))
    };
    let cases: Vec<Case> = file.cases.iter().filter(normal).cloned().collect();
    (!cases.is_empty()).then(|| CaseFile { cases, ..file.clone() })
}
