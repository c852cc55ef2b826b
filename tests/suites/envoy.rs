//! The corpus through a real Envoy.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::string_slice,
    reason = "helpers of tests"
)]

use sailcloth_launch::envoy;
use sailcloth_tests::envoy::Transport;
use sailcloth_tests::{case::CaseFile, certificates, corpus, envoy as runner, subject};

#[test]
fn the_corpus_holds_in_envoy() {
    let Some(binary) = envoy::find_or_skip() else { return };
    for subject in subject::modules() {
        runner::run(&binary, subject, &corpus::files(subject.name), &Transport::Plaintext).finish();
    }
}

#[test]
fn identities_hold_by_certificate() {
    let Some(binary) = envoy::find_or_skip() else { return };
    let subject = subject::Subject::named("authz");
    let has_peer = |file: &CaseFile| file.cases.iter().any(|case| case.peer.is_some());
    let by_certificate = |file: &CaseFile| {
        let text = sailcloth_tests::yaml::json(&file.configuration);
        !text.contains("peerPrincipal")
    };
    let files: Vec<CaseFile> = corpus::files(subject.name)
        .into_iter()
        .filter(|file| has_peer(file) && by_certificate(file))
        .collect();
    runner::run(&binary, subject, &files, &Transport::MutualTls(certificates::authority())).finish();
}
