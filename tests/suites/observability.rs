//! What is shipped in `observability/`, in a real Prometheus over real Envoys.
//!
//! Without Prometheus (scripts/setup.sh prometheus, or PROMETHEUS and PROMTOOL) the tests say that they were skipped;
//! `REQUIRE_PROMETHEUS=1` makes that a failure.
#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "helpers of tests")]

use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use sailcloth_launch::http::{Client, Request};
use sailcloth_launch::{Ports, RunDir, envoy, process, until};
use sailcloth_tests::corpus::root;
use sailcloth_tests::shipped::{Running, Shipped};
use serde_json::Value;

/// Panels that this traffic cannot fill, each with its reason.
const UNFILLED: [(&str, &str); 1] = [(
    "Age of key sets",
    "the example of jwt has its keys inline; key sets that are fetched: tests/suites/keys.rs",
)];

fn tool(name: &str, variable: &str) -> Option<PathBuf> {
    let named = std::env::var_os(variable).filter(|path| !path.is_empty()).map(PathBuf::from);
    let path = named.unwrap_or_else(|| root().join(".tools/prometheus").join(name));
    if path.is_file() {
        return Some(path);
    }
    let required = std::env::var("REQUIRE_PROMETHEUS").is_ok_and(|value| value == "1");
    let text = format!("{} is not there; scripts/setup.sh prometheus fetches it", path.display());
    assert!(!required, "{text}");
    sailcloth_tests::report::note(&format!("skipped: {text}"));
    None
}

#[test]
fn rules_and_alerts_pass_promtool() {
    let Some(promtool) = tool("promtool", "PROMTOOL") else { return };
    for arguments in [["check", "config", "prometheus.yml"], ["test", "rules", "alerts_test.yml"]] {
        let output = Command::new(&promtool)
            .args(arguments)
            .current_dir(root().join("observability"))
            .output()
            .unwrap();
        let text = String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned();
        assert!(output.status.success(), "{arguments:?}: {text}");
    }
}

/// Title and query of each target of each panel of each dashboard.
fn queries() -> Vec<(String, String)> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(root().join("observability/dashboards")).unwrap() {
        let text = std::fs::read_to_string(entry.unwrap().path()).unwrap();
        let dashboard: Value = serde_json::from_str(&text).unwrap();
        for panel in dashboard["panels"].as_array().unwrap() {
            for target in panel["targets"].as_array().unwrap() {
                let word = |value: &Value| value.as_str().unwrap().to_owned();
                found.push((word(&panel["title"]), word(&target["expr"])));
            }
        }
    }
    assert!(found.len() > 20, "{found:?}");
    found
}

/// One round of requests that are answered, refused and limited.
fn traffic(meshes: &[Running]) {
    let send = |index: usize, path: &str, header: (&str, &str)| {
        let _ = meshes[index]
            .send(&Request::new("GET", path).header("host", "api-service").header(header.0, header.1));
    };
    let none = ("x-none", "1");
    send(0, "/hello", none);
    send(0, "/broken", none);
    send(1, "/health", none);
    send(1, "/secret", none);
    send(2, "/orders", ("authorization", "Bearer not.a.token"));
    (0..30).for_each(|_| send(3, "/api/x", ("x-api-key", "one")));
    send(4, "/api/v1/x", none);
}

#[test]
fn every_panel_shows_data_after_real_traffic() {
    let Some(binary) = envoy::find_or_skip() else { return };
    let Some(prometheus) = tool("prometheus", "PROMETHEUS") else { return };
    let broken = r#""routes":[{"direct_response":{"status":503},"match":{"prefix":"/broken"}},"#;
    let meshes: Vec<Running> = ["metrics", "authz", "jwt", "ratelimit", "routing"]
        .iter()
        .map(|name| match *name {
            "metrics" => Shipped::new(&binary, name).replaced(r#""routes":["#, broken).start(2),
            name => Shipped::new(&binary, name).start(2),
        })
        .collect();
    let mut ports = Ports::new();
    let port = ports.free().unwrap();
    let run = RunDir::temp().unwrap();
    let targets: Vec<String> = meshes.iter().map(|mesh| mesh.envoy.admin_address().to_string()).collect();
    let folder = root().join("observability");
    let config = std::fs::read_to_string(folder.join("prometheus.yml")).unwrap();
    let config = config
        .replace("15s", "1s")
        .replace("[127.0.0.1:9901]", &serde_json::to_string(&targets).unwrap())
        .replace("rules.yml", folder.join("rules.yml").to_str().unwrap())
        .replace("alerts.yml", folder.join("alerts.yml").to_str().unwrap());
    std::fs::write(run.file("prometheus.yml"), config).unwrap();
    ports.release();
    let spec = process::Spec::new("prometheus", prometheus)
        .arg(format!("--config.file={}", run.file("prometheus.yml").display()))
        .arg(format!("--storage.tsdb.path={}", run.file("data").display()))
        .arg(format!("--web.listen-address=127.0.0.1:{port}"));
    let _prometheus = spec.start(&run).unwrap();
    let mut missing = queries();
    missing.retain(|(title, _)| !UNFILLED.iter().any(|(unfilled, _)| unfilled == title));
    let filled = until("data in every panel", Duration::from_secs(60), || {
        traffic(&meshes);
        std::thread::sleep(Duration::from_secs(1));
        missing.retain(|(_, query)| !has_data(port, query));
        Ok(missing.is_empty().then_some(()))
    });
    assert!(filled.is_ok(), "no data for {missing:#?}");
    for query in ["service:istio_requests:rate5m", "service:istio_errors:ratio5m > 0.1"] {
        assert!(has_data(port, query), "{query}");
    }
}

fn has_data(port: u16, query: &str) -> bool {
    let encoded: String = query.bytes().map(|byte| format!("%{byte:02X}")).collect();
    let request =
        Request::new("GET", format!("/api/v1/query?query={encoded}").as_str()).header("host", "prometheus");
    let Ok(response) = Client::local(port).send(&request) else { return false };
    let Ok(answer) = serde_json::from_slice::<Value>(&response.body) else { return false };
    let result = answer["data"]["result"].as_array();
    // Of nothing divided by nothing there is a sample, which says nothing.
    let number = |sample: &Value| sample["value"][1].as_str().is_some_and(|value| value != "NaN");
    result.is_some_and(|result| result.iter().any(number))
}
