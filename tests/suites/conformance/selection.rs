//! Which policies apply to a workload: `cases/selection`.

use sailcloth_core::config::Node;
use sailcloth_resources::Config;
use sailcloth_resources::authorization_policy::AuthorizationPolicy;
use sailcloth_tests::conformance::{Table, api_of, document, folder};
use sailcloth_tests::report::Report;
use sailcloth_tests::yaml::{entries, items, map, text};

/// The label by which Istio knows the proxy of a Gateway.
const GATEWAY_LABEL: &str = "gateway.networking.k8s.io/gateway-name";

#[test]
fn the_same_policies_apply_as_in_istio() {
    let Some(folder) = folder() else { return };
    let mut report = Report::new("istio/cases/selection");
    for table in Table::all(&folder.join("istio/cases/selection")) {
        table.cases().iter().for_each(|case| select(&table, case, &mut report));
    }
    report.finish();
}

fn select(table: &Table, case: &Node, report: &mut Report) {
    let (Some(options), Some(_)) = (case.field("selectionOpts"), case.field("configs")) else {
        return report.skip("the case carries no policies, only what is expected of them");
    };
    let configs = items(case.field("configs"));
    let name = case.field("name").and_then(Node::text).unwrap_or_default();
    let has = |field| {
        configs.iter().any(|config| config.field("spec").is_some_and(|spec| spec.field(field).is_some()))
    };
    let waypoint = matches!(options.field("isWaypoint"), Some(Node::Bool(true)));
    let by_target = name.contains("targetRef") || waypoint;
    if (by_target && !has("targetRef") && !has("targetRefs"))
        || (name.contains("selector") && !has("selector"))
    {
        return report.skip("the case is about a selector or targetRef that its policies do not carry");
    }
    let api = api_of("AuthorizationPolicy").unwrap();
    let field = |config: &Node, key| config.field(key).and_then(Node::text).unwrap_or_default().to_owned();
    let resources = configs.iter().map(|config| {
        let spec = config.field("spec").cloned().unwrap_or(Node::Map(Vec::new()));
        document(&api, "AuthorizationPolicy", &field(config, "name"), &field(config, "namespace"), spec)
    });
    let configuration = map(vec![
        ("resources", Node::List(resources.collect())),
        ("workload", workload(options)),
        ("settings", map(vec![("rootNamespace", text(field_or(options, "rootNamespace", "istio-config")))])),
    ]);
    let mut expected: Vec<String> = Vec::new();
    for (key, list) in entries(Some(case)) {
        if key.starts_with("want") {
            expected.extend(
                items(Some(list)).iter().map(|p| format!("{}/{}", field(p, "Namespace"), field(p, "Name"))),
            );
        }
    }
    expected.sort();
    let mut found = match applicable(&configuration) {
        Ok(found) => found,
        Err(problems) => return report.ran(&table.row(case), &problems),
    };
    found.sort();
    let difference = (found != expected).then(|| format!("expected {expected:?} to apply, found {found:?}"));
    report.ran(&table.row(case), difference.as_slice());
}

fn field_or(node: &Node, key: &str, default: &str) -> String {
    node.field(key).and_then(Node::text).unwrap_or(default).to_owned()
}

fn workload(options: &Node) -> Node {
    let mut labels = Vec::new();
    let mut gateway = None;
    for (name, value) in entries(options.field("workloadLabels")) {
        // The table's keys are Go expressions: a quoted text, or a constant of Istio's API.
        match name.strip_prefix('"').and_then(|name| name.strip_suffix('"')) {
            Some(name) => labels.push((name.to_owned(), value.clone())),
            None => {
                labels.push((GATEWAY_LABEL.to_owned(), value.clone()));
                gateway = Some(value.clone());
            }
        }
    }
    let mut all = vec![
        ("namespace", text(field_or(options, "workloadNamespace", "default"))),
        ("labels", Node::Map(labels)),
    ];
    all.extend(gateway.map(|gateway| ("gateway", gateway)));
    map(all)
}

fn applicable(configuration: &Node) -> Result<Vec<String>, Vec<String>> {
    let names = |config: Config<AuthorizationPolicy, ()>, _: &_| -> Vec<String> {
        config.applicable().iter().map(|loaded| loaded.metadata.id()).collect()
    };
    Config::load_node(configuration, |_| (), names)
        .map(|(names, _)| names)
        .map_err(|problems| problems.iter().map(ToString::to_string).collect())
}
