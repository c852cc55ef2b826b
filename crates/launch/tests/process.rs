//! Processes end with their owner, however it ends.

#![expect(clippy::unwrap_used, reason = "helpers of tests")]

mod support;

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::Duration,
};

use sailcloth_launch::{Detached, Error, Process, RunDir, detached, interrupt, process::Spec, until};
use support::{SOON, assert_gone, is_alive};

fn shell(name: &str, script: &str) -> Spec {
    Spec::new(name, "/bin/sh").args(["-c", script])
}

fn pid_in(file: &Path) -> u32 {
    let read = || Ok(fs::read_to_string(file).ok().and_then(|text| text.trim().parse().ok()));
    until("a process id", SOON, read).unwrap()
}

#[test]
fn dropping_a_process_ends_its_whole_group() {
    let run = RunDir::temp().unwrap();
    let grandchild = run.file("grandchild");
    let script = format!("sleep 1000 & echo $! > {}; wait", grandchild.display());
    let process = shell("group", &script).start(&run).unwrap();
    let (leader, grandchild) = (process.id(), pid_in(&grandchild));
    assert!(is_alive(leader) && is_alive(grandchild));
    drop(process);
    assert_gone(leader);
    assert_gone(grandchild);
}

#[test]
fn what_a_leader_leaves_behind_ends_too() {
    let run = RunDir::temp().unwrap();
    let grandchild = run.file("grandchild");
    let script = format!("sleep 1000 & echo $! > {}", grandchild.display());
    let mut process = shell("leader", &script).start(&run).unwrap();
    assert!(process.wait(SOON).unwrap().success());
    assert_gone(pid_in(&grandchild));
}

#[test]
fn a_process_that_ignores_sigterm_is_killed() {
    let run = RunDir::temp().unwrap();
    let ready = run.file("ready");
    let script = format!("trap '' TERM; echo 1 > {}; while :; do sleep 0.1; done", ready.display());
    let mut process = shell("stubborn", &script).start(&run).unwrap();
    pid_in(&ready);
    let status = process.stop().unwrap();
    assert_eq!(std::os::unix::process::ExitStatusExt::signal(&status), Some(9));
}

#[test]
fn a_dead_process_is_reported_with_its_last_words() {
    let run = RunDir::temp().unwrap();
    let mut process =
        shell("failing", "echo out; echo first >&2; echo last >&2; exit 7").start(&run).unwrap();
    process.wait(SOON).unwrap();
    assert_eq!(
        process.check().unwrap_err().to_string(),
        "failing ended (exit status: 7); it said:\nfirst\nlast"
    );
    assert_eq!(process.stdout().unwrap(), "out\n");
}

#[test]
fn a_restart_does_not_show_the_words_of_the_first_run() {
    let run = RunDir::temp().unwrap();
    let started = |word: &str| -> Process {
        let mut process = shell("twice", &format!("echo {word} >&2")).start(&run).unwrap();
        process.wait(SOON).unwrap();
        process
    };
    let (first, second) = (started("one"), started("two"));
    assert_eq!(second.stderr().unwrap(), "two\n");
    drop(first);
}

#[test]
fn a_missing_program_is_named_with_what_to_do() {
    let run = RunDir::temp().unwrap();
    let error = Spec::new("ghost", "/nonexistent/ghost").start(&run).unwrap_err().to_string();
    assert_eq!(error, "`/nonexistent/ghost` does not exist, so ghost cannot be started; build or install it");
    let error = shell("lost", "true").current_dir("/nonexistent").start(&run).unwrap_err().to_string();
    assert!(error.starts_with("could not start lost (`/bin/sh` in `/nonexistent`)"), "{error}");
}

#[test]
fn a_wait_ends_with_a_sentence_at_its_deadline() {
    let error = until("the end of days", Duration::from_millis(20), || Ok(None::<()>)).unwrap_err();
    assert_eq!(error.to_string(), "the end of days: not within 0.0 s");
    assert_eq!(error.exit_code(), 1);
}

#[test]
fn a_detached_start_that_is_not_finished_leaves_nothing() {
    let run = RunDir::temp().unwrap();
    let mut up = Detached::begin(run.path()).unwrap();
    let (one, two) = (
        up.start(shell("one", "exec sleep 1000")).unwrap().id(),
        up.start(shell("two", "exec sleep 1000")).unwrap().id(),
    );
    assert!(is_alive(one) && is_alive(two));
    drop(up);
    assert_gone(one);
    assert_gone(two);
    assert!(detached::running(run.path()).unwrap().is_empty());
}

#[test]
fn detached_processes_are_stopped_last_first_and_each_end_is_told() {
    let run = RunDir::temp().unwrap();
    let mut up = Detached::begin(run.path()).unwrap();
    let mut gone = up.start(shell("gone", "exit 0")).unwrap();
    gone.wait(SOON).unwrap();
    let ready = run.file("ready");
    let stubborn = format!("trap '' TERM; echo 1 > {}; while :; do sleep 0.1; done", ready.display());
    up.start(shell("stubborn", &stubborn)).unwrap();
    up.start(shell("willing", "exec sleep 1000")).unwrap();
    pid_in(&ready);
    up.leave_running();
    assert_eq!(detached::running(run.path()).unwrap().len(), 2);
    let stopped = detached::stop(run.path()).unwrap();
    let told: Vec<_> = stopped.iter().map(|stopped| (stopped.name.as_str(), stopped.outcome)).collect();
    use detached::Outcome::{Gone, Killed, Stopped};
    assert_eq!(told, [("willing", Stopped), ("stubborn", Killed), ("gone", Gone)]);
}

#[test]
fn a_recycled_process_id_is_never_signalled() {
    let run = RunDir::temp().unwrap();
    let mut bystander = shell("bystander", "exec sleep 1000").start(&run).unwrap();
    std::thread::sleep(Duration::from_millis(50)); // start times count in ticks of 10 ms
    let mut up = Detached::begin(run.path()).unwrap();
    up.start(shell("ours", "exec sleep 1000")).unwrap();
    let ours = run.file("ours.pid");
    let mut record: serde_json::Value = serde_json::from_slice(&fs::read(&ours).unwrap()).unwrap();
    up.leave_running();
    detached::stop(run.path()).unwrap();
    // The file of a dead process whose id now belongs to the bystander.
    record["pid"] = bystander.id().into();
    fs::write(&ours, record.to_string()).unwrap();
    assert_eq!(detached::stop(run.path()).unwrap()[0].outcome, detached::Outcome::Gone);
    bystander.check().unwrap();
}

#[test]
fn a_strange_pid_file_is_named_and_does_not_keep_the_others_running() {
    let run = RunDir::temp().unwrap();
    let mut up = Detached::begin(run.path()).unwrap();
    let pid = up.start(shell("ours", "exec sleep 1000")).unwrap().id();
    up.leave_running();
    fs::write(run.file("strange.pid"), "4711").unwrap();
    let error = detached::stop(run.path()).unwrap_err().to_string();
    assert!(error.contains("strange.pid` is not a pid file of ours"), "{error}");
    assert_gone(pid);
}

/// Runs the named test of this very binary as another program, with `OWNER_DIR` set: its body plays the owner then.
fn owner(test: &str, dir: &RunDir) -> Child {
    Command::new(std::env::current_exe().unwrap())
        .args(["--exact", test, "--nocapture"])
        .env("OWNER_DIR", dir.path())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap()
}

fn owner_role() -> Option<PathBuf> {
    std::env::var_os("OWNER_DIR").map(PathBuf::from)
}

/// What an owner does: handles signals, starts a child, waits for something that never comes.
fn own(dir: &Path) -> sailcloth_launch::Result<()> {
    interrupt::install()?;
    let run = RunDir::at(dir)?;
    let child = shell("child", "exec sleep 1000").start(&run)?;
    fs::write(run.file("child-pid"), child.id().to_string()).unwrap();
    until("a thing that never comes", Duration::from_secs(60), || Ok(None))
}

fn send(signal: &str, pid: u32) {
    assert!(Command::new("kill").args([signal, &pid.to_string()]).status().unwrap().success());
}

#[test]
fn a_child_dies_when_its_owner_is_killed() {
    if let Some(dir) = owner_role() {
        own(&dir).unwrap();
    }
    let dir = RunDir::temp().unwrap();
    let mut owner = owner("a_child_dies_when_its_owner_is_killed", &dir);
    let child = pid_in(&dir.file("child-pid"));
    assert!(is_alive(child));
    owner.kill().unwrap();
    owner.wait().unwrap();
    assert_gone(child);
}

#[test]
fn an_interrupted_owner_cleans_up_and_knows_its_exit_code() {
    if let Some(dir) = owner_role() {
        let error = own(&dir).unwrap_err();
        assert!(matches!(error, Error::Interrupted(_)), "{error}");
        fs::write(dir.join("exit-code"), error.exit_code().to_string()).unwrap();
        return;
    }
    for (signal, code) in [("-INT", 130), ("-TERM", 143), ("-HUP", 129)] {
        let dir = RunDir::temp().unwrap();
        let mut owner = owner("an_interrupted_owner_cleans_up_and_knows_its_exit_code", &dir);
        let child = pid_in(&dir.file("child-pid"));
        send(signal, owner.id());
        assert!(owner.wait().unwrap().success(), "{signal}");
        assert_gone(child);
        assert_eq!(pid_in(&dir.file("exit-code")), code, "{signal}");
    }
}
