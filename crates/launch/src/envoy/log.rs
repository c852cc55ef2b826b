//! Reading Envoy's log: which lines tell a person why it ended.

use crate::process::last_lines;

/// How much of one entry is shown: an entry about an invalid configuration quotes the whole message.
const ENTRY_LINES: usize = 30;

/// The lines of a log (in Envoy's default format) that say what went wrong: entries of level error and critical, and
/// whatever the Wasm modules logged, without time stamp, thread and source place. The last lines when there is none.
pub fn meaningful_lines(log: &str) -> String {
    let mut shown: Vec<String> = Vec::new();
    let mut entry: Option<Vec<&str>> = None;
    for line in log.lines() {
        match parse(line) {
            Some(parsed) => {
                shown.extend(entry.take().map(|lines| whole(&lines)));
                entry = parsed.is_meaningful().then(|| vec![parsed.message]);
            }
            // A line without a prefix continues the entry before it.
            None => {
                if let Some(lines) = &mut entry {
                    lines.push(line);
                }
            }
        }
    }
    shown.extend(entry.map(|lines| whole(&lines)));
    // Each worker reports the same.
    let mut seen = std::collections::BTreeSet::new();
    shown.retain(|text| seen.insert(text.clone()));
    if shown.is_empty() { last_lines(log) } else { shown.join("\n") }
}

/// The lines of an entry, without those that repeat part of the first; of a long one the middle is left out, since the
/// reason stands at either end.
fn whole(lines: &[&str]) -> String {
    let mut lines = lines.iter().map(|line| squeeze(line));
    let first = lines.next().unwrap_or_default();
    let rest: Vec<String> =
        lines.filter(|line| !line.trim().is_empty() && !first.contains(line.trim())).collect();
    let mut text = vec![first];
    if rest.len() > ENTRY_LINES {
        text.push("  […]".to_owned());
    }
    text.extend(rest.iter().skip(rest.len().saturating_sub(ENTRY_LINES)).cloned());
    text.join("\n")
}

/// One space between words, indentation kept: protobuf's debug texts vary their spacing from run to run on purpose.
fn squeeze(line: &str) -> String {
    let indent: String = line.chars().take_while(|c| c.is_whitespace()).collect();
    indent + &line.split_whitespace().collect::<Vec<_>>().join(" ")
}

struct Entry<'a> {
    level: &'a str,
    message: &'a str,
}

impl Entry<'_> {
    fn is_meaningful(&self) -> bool {
        matches!(self.level, "error" | "critical") || self.message.starts_with("wasm log")
    }
}

/// `[2026-11-23 00:11:12.105][9512][critical][main] [source/server/server.cc:449] message`
fn parse(line: &str) -> Option<Entry<'_>> {
    let (time, rest) = bracketed(line)?;
    let (_thread, rest) = bracketed(rest)?;
    let (level, rest) = bracketed(rest)?;
    let (_logger, rest) = bracketed(rest)?;
    if !time.starts_with(|c: char| c.is_ascii_digit()) {
        return None;
    }
    let message = rest.trim_start();
    // The source place is left out by some levels and builds.
    let message = match bracketed(message) {
        Some((place, rest)) if place.contains(':') => rest.trim_start(),
        _ => message,
    };
    Some(Entry { level, message })
}

fn bracketed(text: &str) -> Option<(&str, &str)> {
    text.strip_prefix('[')?.split_once(']')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_and_words_of_modules_remain_once_and_without_time_stamps() {
        let log = "\
[2026-11-23 00:11:12.105][9512][info][main] [source/a.cc:1] starting
[2026-11-23 00:11:12.105][9512][warning][wasm] [external/x.cc:2] wasm log jwt jwt: resources[0]: bad
[2026-11-23 00:11:12.105][9513][warning][wasm] [external/x.cc:2] wasm log jwt jwt: resources[0]: bad
[2026-11-23 00:11:12.105][9512][critical][main] [source/b.cc:3] refused: why not
  because
[2026-11-23 00:11:12.106][9512][info][main] [source/c.cc:4] exiting
why not
";
        assert_eq!(meaningful_lines(log), "wasm log jwt jwt: resources[0]: bad\nrefused: why not\n  because");
    }

    #[test]
    fn the_end_of_a_long_entry_is_kept() {
        let quoted = "  x\n".repeat(100);
        let log =
            format!("[2026-11-23 00:11:12.105][9512][critical][main] [s:3] error in\n{quoted}: the reason\n");
        let shown = meaningful_lines(&log);
        assert!(shown.starts_with("error in\n  […]\n") && shown.ends_with("\n: the reason"), "{shown}");
        assert!(shown.lines().count() < 40);
    }

    #[test]
    fn without_an_error_the_last_lines_are_shown() {
        assert_eq!(meaningful_lines("one\n\ntwo\n"), "one\ntwo");
        assert_eq!(meaningful_lines(""), "");
    }
}
