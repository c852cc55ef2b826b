//! Is a resource valid? `cases/validation`, `cases/schema`.

use std::path::Path;

use sailcloth_core::config::Node;
use sailcloth_tests::conformance::{Table, Verdict, api_of, ask, document, folder};
use sailcloth_tests::report::Report;
use sailcloth_tests::yaml::{self, entries};

#[test]
fn istio_and_we_agree_on_what_is_valid() {
    let Some(folder) = folder() else { return };
    let mut report = Report::new("istio/cases/validation");
    for table in Table::all(&folder.join("istio/cases/validation")) {
        table.cases().iter().for_each(|case| validate(&table, case, &mut report));
    }
    report.finish();
}

#[test]
fn istio_schemas_and_we_agree_on_what_is_valid() {
    let Some(folder) = folder() else { return };
    let mut report = Report::new("istio/cases/schema");
    for table in Table::all(&folder.join("istio/cases/schema")) {
        table.cases().iter().for_each(|case| schema(&table, case, &mut report));
    }
    report.finish();
}

/// `in` is a spec with `$kind`; `valid`, or an error text in `err` (`out` in some tables), says whether it is accepted.
fn validate(table: &Table, case: &Node, report: &mut Report) {
    let Some(input) = case.field("in") else {
        return report.skip("the case carries no resource");
    };
    let Some(kind) = input.field("$kind").and_then(Node::text) else {
        return report.skip("the case is about a part of a resource");
    };
    let Some(api) = api_of(kind) else {
        return report.skip(format!("no filter takes {kind}"));
    };
    let error_text =
        || case.field("err").or_else(|| case.field("out")).map(|text| text.text().is_none_or(str::is_empty));
    let valid = match case.field("valid") {
        Some(Node::Bool(valid)) => *valid,
        _ => match error_text() {
            Some(valid) => valid,
            None => return report.skip("the case does not say whether the resource is valid"),
        },
    };
    if input.field("http").is_none() && (input.field("tls").is_some() || input.field("tcp").is_some()) {
        return report.skip("the resource is about TLS or TCP alone, which an HTTP filter never sees");
    }
    let spec = entries(Some(input)).iter().filter(|(key, _)| key != "$kind").cloned().collect();
    let name = case.field("configName").and_then(Node::text).unwrap_or("a");
    let mut resource = document(&api, kind, name, "default", Node::Map(spec));
    if let Some(annotations) = case.field("annotations") {
        yaml::set(&mut resource, &["metadata", "annotations"], annotations.clone());
    }
    judge(table, case, kind, resource, valid, report);
}

fn schema(table: &Table, case: &Node, report: &mut Report) {
    let Some(resource) = case.field("resource") else {
        return report.skip("the case carries no resource");
    };
    let kind = resource.field("kind").and_then(Node::text).unwrap_or_default();
    let valid = matches!(case.field("valid"), Some(Node::Bool(true)));
    judge(table, case, kind, resource.clone(), valid, report);
}

fn judge(table: &Table, case: &Node, kind: &str, resource: Node, valid: bool, report: &mut Report) {
    let row = table.row(case);
    match ask(kind, resource) {
        Verdict::NoFilter(kind) => report.skip(format!("no filter takes {kind}")),
        Verdict::Unsupported(reason) => report.skip(reason),
        Verdict::Accepted(_) if !valid => {
            report.ran(&row, &["expected to be refused, but it was accepted".to_owned()])
        }
        Verdict::Refused(problems) if valid => {
            let first = "expected to be accepted, but it was refused:".to_owned();
            report.ran(&row, &[vec![first], problems].concat());
        }
        Verdict::Accepted(_) | Verdict::Refused(_) => report.ran(&row, &[]),
    }
}

/// `files/` without expectations are read by the command line tool; what a filter takes of them it must read.
#[test]
fn istio_samples_are_read_or_refused_for_a_reason() {
    let Some(folder) = folder() else { return };
    let mut report = Report::new("istio/files/samples and tests-testdata-config");
    for part in ["istio/files/samples", "istio/files/tests-testdata-config", "istio/files/telemetry-e2e"] {
        sailcloth_tests::corpus::yaml_files(&folder.join(part))
            .iter()
            .for_each(|path| sample(path, &mut report));
    }
    report.finish();
}

fn sample(path: &Path, report: &mut Report) {
    let text = std::fs::read_to_string(path).unwrap();
    // Templates of Istio's own tools are no YAML.
    let Ok(documents) = yaml::documents(&text) else {
        return report.skip("the file is not YAML as it stands (a template)");
    };
    for resource in documents {
        let kind = resource.field("kind").and_then(Node::text).unwrap_or_default().to_owned();
        let row = format!("{}: {kind}", path.display());
        match ask(&kind, resource) {
            Verdict::NoFilter(_) => report.skip("no filter takes this kind"),
            Verdict::Unsupported(reason) => report.skip(reason),
            // A sample carries no expectation, and some are older than Istio's schema: a refusal must say where and why.
            Verdict::Refused(problems) => {
                let lost: Vec<String> =
                    problems.into_iter().filter(|problem| !problem.starts_with("resources[0].")).collect();
                report.ran(&row, &lost);
            }
            Verdict::Accepted(_) => report.ran(&row, &[]),
        }
    }
}
