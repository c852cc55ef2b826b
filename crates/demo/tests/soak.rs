//! `make test-full`: many requests that differ in everything a client can choose, and memory and series that stay flat.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]

use sailcloth_demo::mesh::Mesh;
use sailcloth_launch::http::{Client, Request};
use sailcloth_launch::{RunDir, envoy};

const CONNECTIONS: usize = 4;
const WARM_UP: usize = 5_000;
const REQUESTS: usize = 100_000;

/// What Envoy may grow by after the warm-up: the limiter's slots fill, and nothing else should.
const GROWTH_KIB: u64 = 24 * 1024;

fn resident_kib(pid: u32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    line.trim().trim_end_matches(" kB").trim().parse().unwrap()
}

fn series(mesh: &Mesh) -> usize {
    let text = mesh.envoy.prometheus().unwrap();
    text.lines().filter(|line| line.starts_with("istio_") || line.starts_with("sailcloth_")).count()
}

/// Sends requests whose path, key, agent and parameters are all new.
fn send(port: u16, count: usize, start: usize) {
    std::thread::scope(|scope| {
        for worker in 0..CONNECTIONS {
            scope.spawn(move || {
                let mut connection = Client::local(port).connect().unwrap();
                for number in (worker..count).step_by(CONNECTIONS).map(|number| number + start) {
                    let request = Request::get(format!("/api/v1/reports/{number}?q={number}"))
                        .without_host()
                        .header("host", "api-service")
                        .header("x-api-key", format!("key-{number}"))
                        .header("user-agent", format!("agent/{number}"));
                    let answer = connection.send(&request).unwrap();
                    assert!(matches!(answer.status, 200 | 429), "request {number}: {}", answer.status);
                }
            });
        }
    });
}

#[test]
#[ignore = "takes a minute; run by make test-full"]
fn a_hundred_thousand_different_requests_leave_memory_and_series_flat() {
    if envoy::find_or_skip().is_none() {
        return;
    }
    let run = RunDir::temp().unwrap();
    let mut mesh = Mesh::start(&run).unwrap();
    let port = mesh.addresses.as_web_service;
    send(port, WARM_UP, 0);
    let (memory, known) = (resident_kib(mesh.envoy.process().id()), series(&mesh));
    send(port, REQUESTS, WARM_UP);
    let grown = resident_kib(mesh.envoy.process().id()).saturating_sub(memory);
    println!(
        "{REQUESTS} requests: resident memory +{grown} KiB after {memory} KiB, series {known} → {}",
        series(&mesh)
    );
    assert!(grown <= GROWTH_KIB, "Envoy grew by {grown} KiB");
    // A status or flag that the warm-up did not see may still come.
    assert!(series(&mesh) <= known + known / 2, "series grew from {known} to {}", series(&mesh));
}
