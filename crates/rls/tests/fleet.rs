//! Envoys, a rate limit service and its Redis, each a real process: what the filter does when they work and when they do
//! not. Needs `dist/ratelimit.wasm` (`make wasm`), Envoy and, for one test, Redis; skips what is not there.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::string_slice,
    reason = "a test fails by panicking"
)]

use std::path::PathBuf;
use std::time::{Duration, Instant};

use sailcloth_launch::http::{Client, Request, Response};
use sailcloth_launch::process::{Process, Spec};
use sailcloth_launch::{Envoy, PortMap, Ports, RunDir, envoy, repository_root, retarget, until};

const SOON: Duration = Duration::from_secs(10);

/// Some Envoys and the port of their service.
struct Fleet {
    envoys: Vec<(Envoy, u16)>,
    service: u16,
    run: RunDir,
    ports: Ports,
}

impl Fleet {
    /// So many Envoys of `envoy/ratelimit-global.yaml`, edited.
    fn start(count: usize, edit: impl Fn(String) -> String) -> Option<Self> {
        let binary = envoy::find_or_skip()?;
        let root = repository_root().unwrap();
        let text = edit(std::fs::read_to_string(root.join("envoy/ratelimit-global.yaml")).unwrap());
        let (mut ports, run) = (Ports::new(), RunDir::temp().unwrap());
        let service = ports.free().unwrap();
        let mut envoys = Vec::new();
        for number in 0..count {
            let (port, admin) = (ports.free().unwrap(), ports.free().unwrap());
            let config =
                retarget(&text, &PortMap::from([(10000, port), (9901, admin), (8083, service)])).unwrap();
            let spec = envoy::Spec::new(format!("envoy-{number}"), config).binary(&binary).current_dir(&root);
            envoys.push((spec.concurrency(2).start(&run).unwrap(), port));
        }
        Some(Self { envoys, service, run, ports })
    }

    fn service(&self, more: &[&str]) -> Process {
        let listen = format!("127.0.0.1:{}", self.service);
        let spec = Spec::new("rls", env!("CARGO_BIN_EXE_sailcloth-rls"))
            .args(["--listen", &listen, "--limit", "shop/api_key=5/60"])
            .args(more.iter().copied());
        let process = spec.start(&self.run).unwrap();
        wait("the service", || process.stdout().unwrap().contains("rls listens"));
        process
    }

    fn send(&self, envoy: usize, key: &str) -> Response {
        let request = Request::get("/api/x").header("x-api-key", key);
        let begin = Instant::now();
        let response = Client::local(self.envoys[envoy].1).send(&request).unwrap();
        assert!(begin.elapsed() < Duration::from_secs(2), "a request hung for {:?}", begin.elapsed());
        response
    }

    fn statuses(&self, key: &str, count: usize) -> Vec<u16> {
        (0..count).map(|number| self.send(number % self.envoys.len(), key).status).collect()
    }

    fn calls(&self, result: &str) -> u64 {
        let name = format!("calls_total.*result=.={result}$");
        self.envoys.iter().map(|(envoy, _)| envoy.stats(&name).unwrap().values().sum::<u64>()).sum()
    }
}

/// Each worker connects at its first call; on a busy machine that may take longer than the shipped timeout.
fn patient(text: String) -> String {
    text.replace("timeout: 100ms", "timeout: 1s")
}

fn wait(what: &str, mut done: impl FnMut() -> bool) {
    until(what, SOON, || Ok(done().then_some(()))).unwrap();
}

fn admitted(statuses: &[u16]) -> usize {
    assert!(statuses.iter().all(|status| [200, 429].contains(status)), "{statuses:?}");
    statuses.iter().filter(|status| **status == 200).count()
}

#[test]
fn several_envoys_share_one_limit_and_say_where_the_client_stands() {
    let Some(fleet) = Fleet::start(2, patient) else { return };
    let _service = fleet.service(&[]);
    // Envoy connects at the first call; what it cannot ask meanwhile meets the local limit.
    wait("a connection", || fleet.send(0, "warm-0").header("x-rls-remaining").is_some());
    wait("a connection", || fleet.send(1, "warm-1").header("x-rls-remaining").is_some());
    let first = fleet.send(0, "a");
    assert_eq!(first.status, 200);
    assert_eq!(first.header("x-rls-remaining").as_deref(), Some("4"), "the header of the service");
    assert_eq!(first.header("x-ratelimit-remaining").as_deref(), Some("4"));
    assert_eq!(first.header("x-ratelimit-limit").as_deref(), Some("5, 5;w=60"));
    assert_eq!(first.header("ratelimit-policy").as_deref(), Some("\"per-api-key\";q=5;w=60"));
    assert_eq!(admitted(&fleet.statuses("a", 10)), 4, "five for both");
    let limited = fleet.send(1, "a");
    assert_eq!(limited.status, 429);
    let seconds: u64 = limited.header("retry-after").unwrap().parse().unwrap();
    assert!((1..=60).contains(&seconds), "{seconds}");
    assert_eq!(limited.header("x-envoy-ratelimited").as_deref(), Some("true"));
    assert_eq!(admitted(&fleet.statuses("b", 5)), 5, "another key is not touched");
}

#[test]
fn without_the_service_each_envoy_keeps_its_local_limit_and_comes_back() {
    let Some(fleet) = Fleet::start(2, |text| text) else { return };
    assert_eq!(admitted(&fleet.statuses("a", 20)), 6, "three a minute by each of two");
    let limited = fleet.send(0, "a");
    assert!(limited.status == 429 && limited.header("retry-after").is_some());
    wait("the breaker", || {
        let _ = fleet.statuses("x", 4);
        fleet.calls("breaker_open") > 0
    });
    let _service = fleet.service(&[]);
    wait("the service to be asked again", || fleet.send(0, "b").header("x-rls-remaining").is_some());
}

#[test]
fn a_service_that_is_slow_costs_a_request_no_more_than_its_timeout() {
    let Some(fleet) = Fleet::start(1, |text| text) else { return };
    let service = fleet.service(&[]);
    wait("a connection", || fleet.send(0, "warm").header("x-rls-remaining").is_some());
    signal(&service, "STOP");
    let begin = Instant::now();
    assert_eq!(admitted(&fleet.statuses("a", 10)), 3, "the local limit");
    // Five waited for 100 ms each; then the breaker opened.
    assert!(begin.elapsed() < Duration::from_millis(1500), "{:?}", begin.elapsed());
    signal(&service, "CONT");
    wait("the service to be asked again", || fleet.send(0, "b").header("x-rls-remaining").is_some());
}

#[test]
fn a_service_that_comes_and_goes_answers_every_request() {
    let Some(fleet) = Fleet::start(1, |text| text) else { return };
    for _ in 0..4 {
        let mut service = fleet.service(&[]);
        let _ = fleet.statuses("a", 5);
        service.kill().unwrap();
        assert!(admitted(&fleet.statuses("a", 5)) <= 5);
    }
    wait("a failure to be counted", || fleet.calls("unavailable") > 0);
}

#[test]
fn a_cluster_without_endpoints_answers_at_once() {
    let none = |text: String| {
        let from = text.find("        endpoints: [{lb_endpoints").unwrap();
        format!("{}        endpoints: []\n", &text[..from])
    };
    let Some(fleet) = Fleet::start(1, none) else { return };
    let begin = Instant::now();
    assert_eq!(admitted(&fleet.statuses("a", 20)), 3);
    assert!(begin.elapsed() < Duration::from_secs(2), "{:?}", begin.elapsed());
    assert!(fleet.calls("refused") > 0);
}

#[test]
fn a_cluster_that_does_not_exist_answers_at_once() {
    let Some(fleet) = Fleet::start(1, |text| text.replace("cluster: rls", "cluster: authz-rls")) else {
        return;
    };
    assert_eq!(admitted(&fleet.statuses("a", 20)), 3);
}

#[test]
fn when_redis_is_killed_the_fleet_stays_up_at_its_fallback_limit() {
    let Some(redis) = find_redis() else { return };
    let Some(mut fleet) = Fleet::start(2, patient) else { return };
    let port = fleet.ports.free().unwrap();
    let libraries = redis.parent().unwrap().join("../lib");
    let start = |fleet: &Fleet| {
        let spec = Spec::new("redis", &redis).env("LD_LIBRARY_PATH", libraries.as_os_str()).args([
            "--bind",
            "127.0.0.1",
            "--port",
            &port.to_string(),
            "--save",
            "",
            "--appendonly",
            "no",
        ]);
        let process = spec.start(&fleet.run).unwrap();
        wait("redis", || process.stdout().unwrap().contains("Ready to accept connections"));
        process
    };
    let mut server = start(&fleet);
    let _service = fleet.service(&["--redis", &format!("127.0.0.1:{port}")]);
    wait("a connection", || fleet.send(0, "warm-0").header("x-rls-remaining").is_some());
    wait("a connection", || fleet.send(1, "warm-1").header("x-rls-remaining").is_some());
    assert_eq!(admitted(&fleet.statuses("a", 10)), 5, "five for both, counted in Redis");
    server.kill().unwrap();
    assert_eq!(admitted(&fleet.statuses("b", 20)), 6, "three by each of two");
    assert!(fleet.calls("unavailable") + fleet.calls("error") > 0);
    let _server = start(&fleet);
    wait("Redis to be used again", || fleet.send(0, "c").header("x-rls-remaining").is_some());
}

/// `REDIS=`, or what `scripts/setup.sh` unpacked, or the system's.
fn find_redis() -> Option<PathBuf> {
    let own = repository_root().unwrap().join(".tools/redis/bin/redis-server");
    let given = std::env::var_os("REDIS").map(PathBuf::from);
    let found = given
        .or_else(|| [own, PathBuf::from("/usr/bin/redis-server")].into_iter().find(|path| path.exists()));
    if found.is_none() {
        assert!(
            std::env::var_os("REQUIRE_REDIS").is_none(),
            "REQUIRE_REDIS is set and there is no redis-server"
        );
        println!("skipped: no redis-server; run scripts/setup.sh redis or set REDIS=/path/to/redis-server");
    }
    found
}

fn signal(process: &Process, name: &str) {
    let status = std::process::Command::new("kill").args(["-s", name, &process.id().to_string()]).status();
    assert!(status.unwrap().success());
}
