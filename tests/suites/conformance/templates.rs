//! Envoy's tables about paths: its URI templates, which Istio's `{*}` and `{**}` are translated to, and what of a path is
//! compared.

use sailcloth_core::config::Node;
use sailcloth_core::facts::{Facts, NoProperties, Sources};
use sailcloth_core::headers::HeaderBlock;
use sailcloth_core::path_template::PathTemplate;
use sailcloth_core::request::Request;
use sailcloth_tests::conformance::{Table, folder};
use sailcloth_tests::report::Report;

#[test]
fn templates_match_as_in_envoy() {
    let Some(folder) = folder() else { return };
    let mut report = Report::new("envoy/path");
    for table in Table::all(&folder.join("envoy/path")) {
        for case in table.cases() {
            match judge(case) {
                Ok(differences) => report.ran(&format!("{}: {}", table.name, table.row(case)), &differences),
                Err(reason) => report.skip(reason),
            }
        }
    }
    report.finish();
}

fn judge(case: &Node) -> Result<Vec<String>, String> {
    let word = |name| case.field(name).and_then(Node::text).unwrap_or_default();
    let expected = |name| matches!(case.field(name), Some(Node::Bool(true)));
    match word("op") {
        "match_pattern" => {
            let template = as_istio(word("pattern"))?;
            let parsed = PathTemplate::parse(&template).map_err(|error| error.to_string())?;
            let found = parsed.matches(word("path").as_bytes());
            Ok(differs(&template, found, expected("match")))
        }
        "match_operator" => {
            let template = as_istio(&format!("/{}", word("operator")))?;
            let parsed = PathTemplate::parse(&template).map_err(|error| error.to_string())?;
            let found = parsed.matches(format!("/{}", word("in")).as_bytes());
            Ok(differs(&template, found, expected("match")))
        }
        "parsePathPattern" | "isValidMatchPattern" => {
            // Whether a pattern is valid may depend on its names: how many there are, and of which letters.
            if word("in").contains('{') {
                return Err("the operators have names, which Istio's have not".to_owned());
            }
            let template = as_istio(word("in"))?;
            Ok(differs(&template, PathTemplate::parse(&template).is_ok(), expected("valid")))
        }
        "remove_query_and_fragment" => {
            let headers = HeaderBlock::from_pairs([(":path", word("in"))]);
            let sources = Sources::default();
            let request = Request { headers: &headers, facts: Facts::new(&NoProperties, &sources) };
            let found = String::from_utf8_lossy(request.path()).into_owned();
            let same = found == word("out");
            Ok(if same { vec![] } else { vec![format!("expected `{}`, found `{found}`", word("out"))] })
        }
        "normalize" | "merge_slashes" | "unescape_slashes" => {
            Err("Envoy does it before any filter sees the path".to_owned())
        }
        op => Err(format!("`{op}` is about a part of a template")),
    }
}

/// Envoy's pattern as Istio writes it, captures without their names.
fn as_istio(pattern: &str) -> Result<String, String> {
    let segment = |segment: &str| {
        let inner = segment.strip_prefix('{').and_then(|rest| rest.strip_suffix('}'));
        match inner.map_or(segment, |inner| inner.split_once('=').map_or("*", |(_, glob)| glob)) {
            glob @ ("*" | "**") => Ok(format!("{{{glob}}}")),
            text if text.contains(['*', '{', '}']) => {
                Err("Istio knows operators only as whole segments".to_owned())
            }
            text => Ok(text.to_owned()),
        }
    };
    let segments: Vec<String> = pattern.split('/').map(segment).collect::<Result<_, _>>()?;
    let template = segments.join("/");
    if PathTemplate::is_template(&template) {
        Ok(template)
    } else {
        Err("there is no operator in it: Istio takes it for plain text".to_owned())
    }
}

fn differs(template: &str, found: bool, expected: bool) -> Vec<String> {
    if found == expected { vec![] } else { vec![format!("{template}: expected {expected}, found {found}")] }
}
