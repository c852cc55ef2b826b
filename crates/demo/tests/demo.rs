//! `sailcloth-demo` as a user meets it: the tour passes, nothing is left behind, failures end in a sentence.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]

use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use sailcloth_launch::{envoy, repository_root};

fn demo(command: &str) -> Command {
    let mut program = Command::new(env!("CARGO_BIN_EXE_sailcloth-demo"));
    program.arg(command).current_dir(repository_root().unwrap());
    program
}

fn text(output: &Output) -> String {
    format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}

/// The processes that a program started, by their parent.
fn children_of(pid: u32) -> Vec<u32> {
    let tasks = std::fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).unwrap_or_default();
    let mut all: Vec<u32> = tasks.split_whitespace().filter_map(|pid| pid.parse().ok()).collect();
    // launch starts processes from a thread of its own; the kernel lists children by thread.
    for entry in std::fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().flatten() {
        let text = std::fs::read_to_string(entry.path().join("children")).unwrap_or_default();
        all.extend(text.split_whitespace().filter_map(|pid| pid.parse::<u32>().ok()));
    }
    all.sort_unstable();
    all.dedup();
    all
}

fn command_line(pid: u32) -> String {
    String::from_utf8_lossy(&std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default())
        .replace('\0', " ")
}

fn is_alive(pid: u32) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    !stat.is_empty() && !stat.contains(") Z ")
}

fn wait_for<T>(what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    let end = Instant::now() + Duration::from_secs(60);
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(Instant::now() < end, "waited in vain for {what}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

fn start_tour() -> Child {
    demo("tour").stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
}

fn envoy_of(tour: &Child) -> u32 {
    let is_envoy = |pid: &u32| command_line(*pid).contains("envoy.yaml");
    wait_for("the tour's Envoy", || children_of(tour.id()).into_iter().find(is_envoy))
}

#[test]
fn the_tour_goes_as_expected() {
    if envoy::find_or_skip().is_none() {
        return;
    }
    let output = demo("tour").output().unwrap();
    assert!(output.status.success(), "{}", text(&output));
    assert!(text(&output).contains("The tour went as expected"), "{}", text(&output));
    assert!(text(&output).matches("as expected\n").count() >= 24, "{}", text(&output));
}

#[test]
fn ctrl_c_ends_the_tour_and_all_it_started() {
    if envoy::find_or_skip().is_none() {
        return;
    }
    let tour = start_tour();
    envoy_of(&tour);
    let children = children_of(tour.id());
    let interrupted = Command::new("kill").args(["-INT", &tour.id().to_string()]).status().unwrap();
    assert!(interrupted.success());
    let output = tour.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(130), "{}", text(&output));
    let left: Vec<_> = children.into_iter().filter(|pid| is_alive(*pid)).map(command_line).collect();
    assert!(left.is_empty(), "left behind: {left:?}");
}

#[test]
fn a_killed_envoy_ends_the_tour_with_a_sentence() {
    if envoy::find_or_skip().is_none() {
        return;
    }
    let tour = start_tour();
    let envoy = envoy_of(&tour);
    assert!(Command::new("kill").args(["-KILL", &envoy.to_string()]).status().unwrap().success());
    let output = tour.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(1), "{}", text(&output));
    let error = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(error.starts_with("error: ") && !error.contains("panicked"), "{error}");
}

#[test]
fn up_runs_until_down_and_both_may_be_repeated() {
    if envoy::find_or_skip().is_none() {
        return;
    }
    let down = || text(&demo("down").output().unwrap());
    down();
    let up = demo("up").output().unwrap();
    assert!(up.status.success(), "{}", text(&up));
    assert!(text(&up).contains("Stop it with `make down`"), "{}", text(&up));
    let again = demo("up").output().unwrap();
    assert_eq!(again.status.code(), Some(1), "{}", text(&again));
    assert!(text(&again).contains("already"), "{}", text(&again));
    let stopped = down();
    assert!(stopped.contains("stopped envoy"), "{stopped}");
    assert!(down().contains("nothing is running"));
}

#[test]
fn a_port_in_use_is_named_with_the_way_out() {
    if envoy::find_or_skip().is_none() {
        return;
    }
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = taken.local_addr().unwrap().port();
    let output = demo("tour").env("SAILCLOTH_ADMIN_PORT", port.to_string()).output().unwrap();
    assert_eq!(output.status.code(), Some(1), "{}", text(&output));
    let error = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(error.contains(&port.to_string()) && error.contains("SAILCLOTH_ADMIN_PORT"), "{error}");
}
