//! What each module asks of its host, offers to it, and weighs.

use std::collections::BTreeSet;

use sailcloth_emulator::Hostcall;
use sailcloth_tests::subject::Subject;
use sailcloth_tests::{build, subject};

/// Compiling costs Envoy about a millisecond per kilobyte, on its main thread.
const MAX_BYTES: u64 = 300_000;

/// Modules that may be larger, each for a reason.
const LARGER: &[(&str, u64)] = &[
    // EdDSA and HS* must be in the module, since the host has neither: 45 kB of curve and hash. Fetching, sharing and
    // waiting for keys, with every error told in words: 45 kB.
    ("jwt", 385_000),
    // Every field of VirtualService is read, checked and carried out here: redirects, rewrites, faults, CORS, delegates.
    ("routing", 400_000),
    // Local limits, tables, costs, and the protocol of rate limit services with its breaker and fallback; path templates and
    // the sets of AuthorizationPolicy's operations.
    ("ratelimit", 400_000),
    // RSA and three curves in Rust: only where somebody asked for them.
    ("jwt-full", 790_000),
    // Every condition of AuthorizationPolicy, our own kind's with their regular expressions, and the ext_authz protocol.
    ("authz", 400_000),
];

/// What every module exports (`crates/host`, `export!`).
const BASE: [&str; 7] = [
    "_initialize",
    "memory",
    "proxy_abi_version_0_2_1",
    "proxy_on_configure",
    "proxy_on_context_create",
    "proxy_on_delete",
    "proxy_on_memory_allocate",
];

fn each(check: impl Fn(&Subject)) {
    assert_eq!(build::filters().len(), subject::ALL.len(), "every folder of filters/ is a subject");
    subject::modules().for_each(check);
}

#[test]
fn modules_import_only_what_envoy_1_36_links() {
    let env: BTreeSet<String> = Hostcall::ALL
        .iter()
        .map(|call| {
            let module = if call.is_wasi() { "wasi_snapshot_preview1" } else { "env" };
            format!("{module}.{call}")
        })
        .collect();
    assert_eq!(Hostcall::ALL.iter().filter(|call| call.is_wasi()).count(), 18);
    each(|subject| {
        let module = build::module(subject.name);
        assert!(!module.imports().is_empty(), "{}", subject.name);
        for import in module.imports() {
            assert!(env.contains(import), "{} imports {import}", subject.name);
        }
    });
}

#[test]
fn modules_export_the_base_set_and_the_callbacks_they_use() {
    each(|subject| {
        let module = build::module(subject.name);
        let found: BTreeSet<&str> = module.exports().iter().map(String::as_str).collect();
        let expected: BTreeSet<&str> = BASE.iter().chain(subject.callbacks).copied().collect();
        assert_eq!(found, expected, "{}", subject.name);
    });
}

#[test]
fn modules_are_small() {
    each(|subject| {
        let bytes = std::fs::metadata(build::path(subject.name)).unwrap().len();
        let most = LARGER.iter().find(|(name, _)| *name == subject.name).map_or(MAX_BYTES, |(_, most)| *most);
        assert!(bytes <= most, "dist/{}.wasm has {bytes} bytes, more than {most}", subject.name);
    });
}
