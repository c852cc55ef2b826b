//! Real Envoys: started, asked, stopped; nothing left.

#![expect(clippy::unwrap_used, reason = "helpers of tests")]

mod support;

use std::{net::TcpListener, path::PathBuf};

use sailcloth_launch::{
    Detached, Envoy, Error, PortMap, Ports, RunDir, detached, envoy,
    http::{Client, Request},
    retarget,
};
use support::{HELLO, SOON, assert_gone, is_free};

/// The binary, a run directory, two reserved ports and the configuration on them.
struct Bench {
    binary: PathBuf,
    run: RunDir,
    _ports: Ports,
    port: u16,
    admin: u16,
    config: String,
}

impl Bench {
    fn new() -> Option<Self> {
        let binary = envoy::find_or_skip()?;
        let mut ports = Ports::new();
        let (port, admin) = (ports.free().unwrap(), ports.free().unwrap());
        let config = retarget(HELLO, &PortMap::from([(10000, port), (9901, admin)])).unwrap();
        Some(Self { binary, run: RunDir::temp().unwrap(), _ports: ports, port, admin, config })
    }

    fn spec(&self) -> envoy::Spec {
        envoy::Spec::new("hello", self.config.clone()).binary(&self.binary)
    }

    fn start(&self) -> Envoy {
        self.spec().start(&self.run).unwrap()
    }
}

#[test]
fn an_envoy_answers_when_started_and_leaves_nothing_when_dropped() {
    let Some(bench) = Bench::new() else { return };
    let mut envoy = bench.start();
    let answer = Client::local(bench.port).send(&Request::get("/x")).unwrap();
    assert_eq!((answer.status, answer.text().as_ref()), (200, "hello"));
    assert_eq!(envoy.access_log_lines(1, SOON).unwrap(), ["/x 200"]);
    assert_eq!(
        envoy.stats("^http\\.hello\\.downstream_rq_2xx$").unwrap().into_values().collect::<Vec<_>>(),
        [1]
    );
    assert!(envoy.prometheus().unwrap().contains("envoy_http_downstream_rq_xx"));
    assert!(envoy.admin("GET", "/nonsense").unwrap_err().to_string().contains("404"));
    let pid = envoy.process().id();
    drop(envoy);
    assert_gone(pid);
    assert!(is_free(bench.port) && is_free(bench.admin));
}

#[test]
fn two_envoys_run_side_by_side() {
    let (Some(one), Some(two)) = (Bench::new(), Bench::new()) else { return };
    let (first, second) = (one.start(), two.start());
    for bench in [&one, &two] {
        assert_eq!(Client::local(bench.port).send(&Request::get("/")).unwrap().status, 200);
    }
    assert!(first.stop().unwrap().success(), "SIGTERM ends an Envoy with exit code 0");
    assert_eq!(Client::local(two.port).send(&Request::get("/")).unwrap().status, 200);
    drop(second);
}

#[test]
fn an_envoy_outlives_the_thread_that_started_it() {
    let Some(bench) = Bench::new() else { return };
    let (bench, mut envoy) = std::thread::spawn(move || {
        let envoy = bench.start();
        (bench, envoy)
    })
    .join()
    .unwrap();
    std::thread::sleep(std::time::Duration::from_millis(100)); // the parent-death signal would arrive at once
    envoy.check().unwrap();
    assert_eq!(Client::local(bench.port).send(&Request::get("/")).unwrap().status, 200);
}

#[test]
fn an_envoy_that_refuses_its_configuration_says_why() {
    let Some(bench) = Bench::new() else { return };
    let config = bench.config.replace("stat_prefix", "stat_prefux");
    let error = envoy::Spec::new("bad", config.clone()).binary(&bench.binary).start(&bench.run).unwrap_err();
    let text = error.to_string();
    assert!(matches!(error, Error::Exited { .. }), "{text}");
    assert!(text.starts_with("bad ended (exit status: 1); it said:\nerror"), "{text}");
    assert!(text.contains("no such field: 'stat_prefux'"), "{text}");
    assert!(!text.contains("[critical]"), "{text}");

    let error = envoy::Spec::new("bad", config).binary(&bench.binary).validate().unwrap_err();
    assert_eq!(error.exit_code(), 3);
    assert!(error.to_string().contains("stat_prefux"), "{error}");
}

#[test]
fn a_valid_configuration_validates_while_its_ports_are_in_use() {
    let Some(bench) = Bench::new() else { return };
    let _envoy = bench.start();
    bench.spec().validate().unwrap();
}

#[test]
fn a_port_in_use_is_named_before_envoy_starts() {
    let Some(bench) = Bench::new() else { return };
    // Envoy would share the port with an Envoy (SO_REUSEPORT), so somebody's answers would be taken for ours.
    let _envoy = bench.start();
    let error = bench.spec().start(&RunDir::temp().unwrap()).unwrap_err();
    assert!(matches!(error, Error::PortInUse { .. }), "{error}");
    let Some(other) = Bench::new() else { return };
    let _taken = TcpListener::bind(("127.0.0.1", other.admin)).unwrap();
    let text = other.spec().start(&other.run).unwrap_err().to_string();
    assert!(text.starts_with(&format!("port {} on 127.0.0.1 is in use", other.admin)), "{text}");
}

#[test]
fn a_killed_envoy_is_noticed_and_can_be_started_again() {
    let Some(bench) = Bench::new() else { return };
    let mut envoy = bench.start();
    envoy.process().kill().unwrap();
    envoy.process().wait(SOON).unwrap();
    let text = envoy.check().unwrap_err().to_string();
    assert!(text.starts_with("hello ended (signal: 9 (SIGKILL))"), "{text}");
    bench.start();
}

#[test]
fn an_admin_interface_that_others_can_reach_is_refused() {
    let Some(bench) = Bench::new() else { return };
    for (from, to) in [("\"address\":\"127.0.0.1\"", "\"address\":\"0.0.0.0\""), ("\"admin\"", "\"node\"")] {
        let config = bench.config.replacen(from, to, 1);
        assert_ne!(config, bench.config);
        let error = envoy::Spec::new("open", config).binary(&bench.binary).start(&bench.run).unwrap_err();
        assert!(error.to_string().contains("admin.address"), "{error}");
    }
}

#[test]
fn a_detached_envoy_outlives_its_starter_until_it_is_stopped() {
    let Some(bench) = Bench::new() else { return };
    let mut up = Detached::begin(bench.run.path()).unwrap();
    let mut envoy = up.start_envoy(bench.spec()).unwrap();
    let pid = envoy.process().id();
    drop(envoy);
    assert_eq!(up.leave_running(), [format!("hello (pid {pid})")]);
    assert_eq!(Client::local(bench.port).send(&Request::get("/")).unwrap().status, 200);
    let again = Detached::begin(bench.run.path()).unwrap_err().to_string();
    assert!(again.starts_with(&format!("already up: hello (pid {pid})")), "{again}");

    let stopped: Vec<_> = detached::stop(bench.run.path()).unwrap().iter().map(ToString::to_string).collect();
    assert_eq!(stopped, [format!("stopped hello (pid {pid})")]);
    assert_gone(pid);
    assert!(is_free(bench.port) && is_free(bench.admin));
    assert!(detached::stop(bench.run.path()).unwrap().is_empty(), "stopping twice is no error");
}

#[test]
fn the_version_is_read() {
    let Some(binary) = envoy::find_or_skip() else { return };
    let version = envoy::version(&binary).unwrap();
    assert_eq!(version.split('.').count(), 3, "{version}");
    assert!(envoy::version(&PathBuf::from("/bin/true")).is_err());
}
