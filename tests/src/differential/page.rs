//! `docs/differential.md`, written from what a full run counted.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs;
use std::path::PathBuf;

use super::{Deviation, Tally, deviations, seed};
use crate::corpus::root;

/// Where the rows of a full run lie until the page is written.
fn rows() -> PathBuf {
    root().join("target/differential")
}

/// The page.
#[must_use]
pub fn path() -> PathBuf {
    root().join("docs/differential.md")
}

/// Keeps the row of one comparison.
pub(super) fn keep(tally: &Tally) {
    let slug: String =
        tally.name().chars().map(|c| if c.is_ascii_alphanumeric() { c } else { '-' }).collect();
    fs::create_dir_all(rows()).expect("the target directory can be written");
    fs::write(rows().join(slug), tally.row()).expect("the target directory can be written");
}

/// Writes the page: the rows of the last full run, and where it had none, those that the page has.
///
/// # Panics
/// When files cannot be read or written.
pub fn write(envoy: &str) {
    let old = fs::read_to_string(path()).unwrap_or_default();
    let is_row = |line: &&str| line.starts_with("| ") && line.matches(" | ").count() == 4;
    let name = |row: &str| row.split(" | ").next().unwrap_or_default().to_owned();
    let mut all: BTreeMap<String, String> =
        old.lines().filter(is_row).skip(1).map(|row| (name(row), format!("{row}\n"))).collect();
    for file in fs::read_dir(rows()).into_iter().flatten().flatten() {
        let row = fs::read_to_string(file.path()).expect("a row is text");
        all.insert(name(&row), row);
    }
    let text = format!(
        "{}\n{}\n{}",
        HEAD.replace("{envoy}", envoy).replace("{seed}", &seed().to_string()),
        all.into_values().collect::<String>(),
        deviations_text(deviations::ALL)
    );
    fs::write(path(), text).expect("docs can be written");
    drop(fs::remove_dir_all(rows()));
}

/// The part of the page about deviations; a test holds the page to it.
#[must_use]
pub fn deviations_text(all: &[Deviation]) -> String {
    let mut text = String::from(
        "## Named deviations\n\nWhere ours answers otherwise on purpose. Each has a test that the difference is still there; any other \
         difference fails the suite.\n\n| Deviation | What differs, and why |\n|---|---|\n",
    );
    for deviation in all {
        let _ = writeln!(text, "| {} | {} |", deviation.name, deviation.reason);
    }
    text
}

const HEAD: &str = "\
# Differential report

Written by `make differential`; not edited by hand. Envoy {envoy}, seed {seed}.

Each row is one comparison in which the same input went to both, and any difference fails. Native and ours stand side by
side as listeners of one stock Envoy; requests go to both over kept-open connections. Inputs come from a seed, so a
failure can be run again (`SAILCLOTH_SEED`). `make test` runs the same comparisons on fewer inputs.

- **Authorization**: policies are generated over the whole language, and requests are aimed at their rules and then spoiled, so
  that each condition decides now and then. Native is Envoy's `rbac` with Istio's translation of the policy. A third voice
  is an evaluator written from the semantics page alone, which shares nothing with the engine. Compared are the decision, the
  status (for gRPC the gRPC status), whether a rule denied or none allowed, and that the rule named is one that matches.
- **Routing**: VirtualServices are generated over all kinds of matches and, as far as this version carries them out, actions; requests
  are aimed at their matches and spoiled. Native is Envoy's router with Istio's translation of the documents. Compared are the
  rule (by its cluster), the status, every header at the upstream (so rewrites, timeouts and header operations too), every
  response header and the body. Which of several weighted destinations is chance, so their shares are compared.
- **Tokens**: valid ones, each with one of some eighty defects, and pairs of defects; in all places, two at a time, with odd
  prefixes. Native is `jwt_authn`, configured as Istio does. Compared are status, challenge, body, principal, and every header at the
  upstream: the token taken out, payload and claims put in, forged ones gone.

| Comparison | Compared | Different | Agreed on | Named deviations |
|---|---|---|---|---|";
