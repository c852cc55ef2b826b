//! The native runner: the engine alone.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use sailcloth_core::config::{Problem, Severity};
use sailcloth_core::headers::HeaderBlock;

use crate::case::{Case, CaseFile, Headers};
use crate::facts::{self, CaseProperties};
use crate::judge;
use crate::report::Report;
use crate::subject::{Exchange, Subject};
use crate::template;

/// Runs the files of a filter.
#[must_use]
pub fn run(subject: &Subject, files: &[CaseFile]) -> Report {
    let mut report = Report::new(&format!("native {}", subject.name));
    files.iter().for_each(|file| run_file(subject, file, &mut report));
    report
}

fn run_file(subject: &Subject, file: &CaseFile, report: &mut Report) {
    let mut clock = Clock::new(file);
    let configuration = match template::expand_node(&file.configuration, clock.seconds()) {
        Ok(configuration) => configuration,
        Err(error) => return report.ran(&file.name, &[error]),
    };
    let loaded = (subject.load)(&configuration);
    if let Some(expected) = &file.refused {
        let found = match loaded {
            Ok(_) => Vec::new(),
            Err(problems) => errors(&problems),
        };
        return report.ran(&file.name, &refusal_differences(expected, &found));
    }
    let mut engine = match loaded {
        Ok((engine, _)) => engine,
        Err(problems) => return report.ran(&file.name, &errors(&problems)),
    };
    for case in &file.cases {
        clock.go_to(case);
        let row = format!("{}: {}", file.name, case.name);
        let mut arms = judge::Arms::default();
        let mut attributes = facts::attributes(case, &configuration);
        // A stream that ends well, for an engine that is asked at its end.
        for (name, value) in [("code", 200_i64), ("flags", 0)] {
            attributes.push((vec!["response", name], value.to_le_bytes().to_vec()));
        }
        let properties = CaseProperties(attributes);
        for repetition in 0..case.repeat {
            let headers = match headers(case, clock.seconds(), repetition) {
                Ok(headers) => headers,
                Err(error) => {
                    report.ran(&row, &[error]);
                    continue;
                }
            };
            let block = HeaderBlock::from_pairs(headers.iter().map(|(name, value)| (name, value)));
            let exchange = Exchange { headers: &block, properties: &properties, now_ns: clock.0 };
            let observed = engine.decide(&exchange);
            arms.count(&observed);
            report.ran(&row, &judge::differences(&case.expect, &observed));
        }
        report.judge_shares(&row, &arms.differences(&case.expect));
    }
}

/// The problems that a refused configuration must have, against those it has.
#[must_use]
pub fn refusal_differences(expected: &[String], found: &[String]) -> Vec<String> {
    if found.is_empty() {
        return vec!["expected to be refused, but the configuration was accepted".to_owned()];
    }
    let missing =
        expected.iter().filter(|problem| !found.contains(problem)).map(|p| format!("missing problem: {p}"));
    let surplus = found
        .iter()
        .filter(|problem| !expected.contains(problem))
        .map(|p| format!("unexpected problem: {p}"));
    missing.chain(surplus).collect()
}

/// The errors among problems, as text.
#[must_use]
pub fn errors(problems: &[Problem]) -> Vec<String> {
    problems.iter().filter(|problem| problem.severity == Severity::Error).map(ToString::to_string).collect()
}

/// The request's header block as filters get it, with its templates expanded, `{{repetition}}` too.
///
/// # Errors
/// What is wrong with a template.
pub fn headers(case: &Case, now: u64, repetition: u32) -> Result<Headers, String> {
    let request = &case.request;
    let expand = |text: &str| template::expand(&text.replace("{{repetition}}", &repetition.to_string()), now);
    let mut all: Headers = vec![
        (":method".to_owned(), request.method.clone().into()),
        (":path".to_owned(), expand(request.filter_path.as_ref().unwrap_or(&request.path))?.into()),
        (":authority".to_owned(), request.authority.clone().into()),
        (":scheme".to_owned(), b"http".to_vec()),
    ];
    for (name, value) in &request.headers {
        let value = match std::str::from_utf8(value) {
            Ok(text) => expand(text)?.into_bytes(),
            Err(_) => value.clone(),
        };
        all.push((name.clone(), value));
    }
    Ok(all)
}

/// The virtual clock of a file, in nanoseconds since the Unix epoch.
#[derive(Debug)]
pub struct Clock(pub u64);

impl Clock {
    /// The first case's time, or the real one.
    #[must_use]
    pub fn new(file: &CaseFile) -> Self {
        let stated = file.cases.iter().find_map(|case| case.now);
        Self(nanoseconds(Duration::from_secs(stated.unwrap_or_else(Self::now_seconds))))
    }

    /// The real time.
    #[must_use]
    pub fn now_seconds() -> u64 {
        SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs()
    }

    /// Goes to a case's time.
    pub fn go_to(&mut self, case: &Case) {
        if let Some(now) = case.now {
            self.0 = nanoseconds(Duration::from_secs(now));
        }
        self.0 = self.0.saturating_add(nanoseconds(case.at));
    }

    /// Whole seconds.
    #[must_use]
    pub fn seconds(&self) -> u64 {
        self.0 / 1_000_000_000
    }
}

fn nanoseconds(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}
