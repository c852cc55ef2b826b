//! Processes that outlive their starter (`make up`) and are found again later (`make down`).
//!
//! Each has a file `<name>.pid` in the run directory with its process id, its start time and the id of the boot, so
//! that a recycled process id is never signalled.

use std::{
    fmt,
    fs::{self, File, TryLockError},
    io,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use nix::{
    errno::Errno,
    sys::signal::{Signal, killpg},
    unistd::Pid,
};
use serde_json::{Value, json};

use crate::{
    Envoy, Error, Process, Result, RunDir, envoy,
    process::{self, GRACE, Lifetime},
    wait,
};

/// How long another `up` or `down` on the same directory may hold it.
const LOCK_PATIENCE: Duration = Duration::from_secs(30);

/// Starts processes that are to be left running. Until [`Detached::leave_running`] is called, dropping it stops all of
/// them: a start that fails half-way, or is interrupted, leaves nothing behind.
#[derive(Debug)]
pub struct Detached {
    run: RunDir,
    started: Vec<String>,
    left: bool,
    // Held until drop: no other `up` or `down` meanwhile.
    _lock: File,
}

impl Detached {
    /// Begins to start processes in `dir`.
    ///
    /// # Errors
    /// [`Error::AlreadyUp`] when processes of an earlier start still run there.
    pub fn begin(dir: impl Into<PathBuf>) -> Result<Self> {
        let run = RunDir::at(dir)?;
        let lock = lock(run.path())?;
        let records = records(run.path())?;
        let running: Vec<_> =
            records.iter().filter(|record| record.is_running()).map(Record::label).collect();
        if !running.is_empty() {
            return Err(Error::AlreadyUp { dir: run.path().to_owned(), running });
        }
        records.iter().try_for_each(Record::forget)?;
        Ok(Self { run, started: Vec::new(), left: false, _lock: lock })
    }

    /// The run directory.
    pub fn run_dir(&self) -> &RunDir {
        &self.run
    }

    /// Starts a process. The returned handle is for waiting ([`Process::check`]); dropping it stops nothing.
    ///
    /// # Errors
    /// As [`process::Spec::start`].
    pub fn start(&mut self, spec: process::Spec) -> Result<Process> {
        let command = spec.command_line();
        let process = spec.start_as(&self.run, Lifetime::Detached)?;
        if let Err(error) = self.record(&process, &command) {
            // Without its file nobody would find it again.
            let _ = killpg(pid(process.id()), Signal::SIGKILL);
            return Err(error);
        }
        Ok(process)
    }

    /// Starts an Envoy and waits until it is ready.
    ///
    /// # Errors
    /// As [`envoy::Spec::start`].
    pub fn start_envoy(&mut self, spec: envoy::Spec) -> Result<Envoy> {
        let prepared = spec.prepare(&self.run)?;
        let process = self.start(prepared.process.clone())?;
        prepared.attach(process)
    }

    /// Ends the start: everything runs on until [`stop`]. Returns `name (pid …)` of each.
    pub fn leave_running(mut self) -> Vec<String> {
        self.left = true;
        std::mem::take(&mut self.started)
    }

    fn record(&mut self, process: &Process, command: &str) -> Result<()> {
        let record = Record {
            name: process.name().to_owned(),
            pid: process.id(),
            start_time: Stat::of(process.id()).map(|stat| stat.start_time).unwrap_or_default(),
            boot: boot_id(),
            order: self.started.len(),
            path: self.run.file(format!("{}.pid", process.name())),
        };
        record.write(command)?;
        self.started.push(record.label());
        Ok(())
    }
}

impl Drop for Detached {
    fn drop(&mut self) {
        if !self.left {
            // The error that brought us here is already on its way to the user.
            let _ = stop_recorded(self.run.path());
        }
    }
}

/// How a process of a run directory ended.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Outcome {
    /// It ended after SIGTERM.
    Stopped,
    /// It did not, and was ended by SIGKILL.
    Killed,
    /// It was not running any more.
    Gone,
}

/// What [`stop`] did about one process. `Display` is a line for the user.
#[derive(Clone, Debug)]
pub struct Stopped {
    /// The name it was started under.
    pub name: String,
    /// Its process id.
    pub pid: u32,
    /// What happened.
    pub outcome: Outcome,
}

impl fmt::Display for Stopped {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { name, pid, outcome } = self;
        match outcome {
            Outcome::Stopped => write!(f, "stopped {name} (pid {pid})"),
            Outcome::Killed => write!(f, "killed {name} (pid {pid}), which did not stop by itself"),
            Outcome::Gone => write!(f, "{name} (pid {pid}) was not running any more"),
        }
    }
}

/// Stops everything that was left running in `dir`, last started first. Nothing there is no error: the list is empty.
///
/// # Errors
/// When a pid file cannot be understood or a process survives SIGKILL; all others are stopped nevertheless.
pub fn stop(dir: &Path) -> Result<Vec<Stopped>> {
    if !dir.is_dir() {
        return Ok(Vec::new());
    }
    let _lock = lock(dir)?;
    stop_recorded(dir)
}

/// `name (pid …)` of what runs in `dir`.
///
/// # Errors
/// When a pid file cannot be understood.
pub fn running(dir: &Path) -> Result<Vec<String>> {
    if !dir.is_dir() {
        return Ok(Vec::new());
    }
    Ok(records(dir)?.iter().filter(|record| record.is_running()).map(Record::label).collect())
}

fn stop_recorded(dir: &Path) -> Result<Vec<Stopped>> {
    let (mut records, unreadable) = read_records(dir)?;
    records.sort_by_key(|record| std::cmp::Reverse(record.order));
    let outcomes = end(&records)?;
    let mut stopped = Vec::new();
    for (record, outcome) in records.iter().zip(outcomes) {
        let Some(outcome) = outcome else {
            return Err(Error::TimedOut {
                what: format!("the end of {} after SIGKILL", record.label()),
                after: GRACE,
            });
        };
        record.forget()?;
        stopped.push(Stopped { name: record.name.clone(), pid: record.pid, outcome });
    }
    unreadable.map_or(Ok(stopped), Err)
}

/// Signals all, then waits for all: a mesh takes as long as its slowest process. Not interruptible, as cleaning up
/// after Ctrl-C must not be. `None`: it survived.
fn end(records: &[Record]) -> Result<Vec<Option<Outcome>>> {
    let mut outcomes: Vec<Option<Outcome>> =
        records.iter().map(|record| (!record.is_running()).then_some(Outcome::Gone)).collect();
    for (signal, outcome) in [(Signal::SIGTERM, Outcome::Stopped), (Signal::SIGKILL, Outcome::Killed)] {
        for (record, _) in records.iter().zip(&outcomes).filter(|(_, outcome)| outcome.is_none()) {
            record.signal(signal)?;
        }
        let start = Instant::now();
        while outcomes.iter().any(Option::is_none) && start.elapsed() < GRACE {
            std::thread::sleep(Duration::from_millis(5));
            for (record, slot) in records.iter().zip(&mut outcomes).filter(|(_, slot)| slot.is_none()) {
                *slot = (!record.is_running()).then_some(outcome);
            }
        }
    }
    Ok(outcomes)
}

fn lock(dir: &Path) -> Result<File> {
    let path = dir.join("lock");
    let doing = || Error::io(format!("could not lock `{}`", path.display()));
    let file = File::create(&path).map_err(doing())?;
    let what = format!("the lock of `{}`, which another start or stop holds", dir.display());
    wait::until(&what, LOCK_PATIENCE, || match file.try_lock() {
        Ok(()) => Ok(Some(())),
        Err(TryLockError::WouldBlock) => Ok(None),
        Err(TryLockError::Error(error)) => Err(doing()(error)),
    })
    .or_else(|error| match error {
        // Stopping must work while the program is being interrupted.
        Error::Interrupted(_) => file.lock().map_err(doing()),
        other => Err(other),
    })?;
    Ok(file)
}

/// One pid file.
#[derive(Debug)]
struct Record {
    name: String,
    pid: u32,
    start_time: u64,
    boot: String,
    order: usize,
    path: PathBuf,
}

impl Record {
    fn label(&self) -> String {
        format!("{} (pid {})", self.name, self.pid)
    }

    fn read(path: PathBuf) -> Result<Self> {
        let text =
            fs::read_to_string(&path).map_err(Error::io(format!("could not read `{}`", path.display())))?;
        let value: Value = serde_json::from_str(&text).unwrap_or_default();
        let number = |key| value.get(key).and_then(Value::as_u64);
        let text = |key| value.get(key).and_then(Value::as_str).map(str::to_owned);
        let parsed = (|| {
            Some(Self {
                name: text("name")?,
                pid: number("pid")?.try_into().ok()?,
                start_time: number("startTime")?,
                boot: text("boot")?,
                order: number("order")?.try_into().ok()?,
                path: path.clone(),
            })
        })();
        parsed.ok_or_else(|| Error::Missing {
            what: format!("`{}` is not a pid file of ours", path.display()),
            fix: "see which process it names, stop that, and remove the file".to_owned(),
        })
    }

    /// Renamed into place, so that nobody reads half of it.
    fn write(&self, command: &str) -> Result<()> {
        let value = json!({
            "name": self.name, "pid": self.pid, "startTime": self.start_time, "boot": self.boot,
            "order": self.order, "command": command,
        });
        let doing = || Error::io(format!("could not write `{}`", self.path.display()));
        let partial = self.path.with_extension("pid.partial");
        fs::write(&partial, format!("{value}\n")).map_err(doing())?;
        fs::rename(&partial, &self.path).map_err(doing())
    }

    fn forget(&self) -> Result<()> {
        fs::remove_file(&self.path).map_err(Error::io(format!("could not remove `{}`", self.path.display())))
    }

    /// Whether the process that was started is there: same boot, same id, same start time, and not a zombie.
    fn is_running(&self) -> bool {
        let same = |stat: Stat| stat.start_time == self.start_time && !stat.ended;
        self.boot == boot_id() && Stat::of(self.pid).is_ok_and(same)
    }

    fn signal(&self, signal: Signal) -> Result<()> {
        if !self.is_running() {
            return Ok(());
        }
        match killpg(pid(self.pid), signal) {
            Ok(()) | Err(Errno::ESRCH) => Ok(()),
            Err(errno) => {
                Err(Error::Io { doing: format!("could not signal {}", self.label()), source: errno.into() })
            }
        }
    }
}

fn records(dir: &Path) -> Result<Vec<Record>> {
    match read_records(dir)? {
        (records, None) => Ok(records),
        (_, Some(error)) => Err(error),
    }
}

/// All records that can be read, and the error of the last that cannot.
fn read_records(dir: &Path) -> Result<(Vec<Record>, Option<Error>)> {
    let doing = || Error::io(format!("could not read the run directory `{}`", dir.display()));
    let (mut records, mut unreadable) = (Vec::new(), None);
    for entry in fs::read_dir(dir).map_err(doing())? {
        let path = entry.map_err(doing())?.path();
        if path.extension().is_some_and(|extension| extension == "pid") {
            match Record::read(path) {
                Ok(record) => records.push(record),
                Err(error) => unreadable = Some(error),
            }
        }
    }
    Ok((records, unreadable))
}

fn pid(id: u32) -> Pid {
    Pid::from_raw(id.cast_signed())
}

/// Differs after every boot; start times count from it.
fn boot_id() -> String {
    fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default().trim().to_owned()
}

/// What `/proc/<pid>/stat` tells.
struct Stat {
    /// Clock ticks since boot (field 22).
    start_time: u64,
    /// A zombie, or being removed.
    ended: bool,
}

impl Stat {
    fn of(id: u32) -> io::Result<Self> {
        let text = fs::read_to_string(format!("/proc/{id}/stat"))?;
        Self::parse(&text).ok_or_else(|| io::Error::other(format!("/proc/{id}/stat has no known form")))
    }

    /// The program's name (field 2) may hold spaces and parentheses, so fields are counted after the last `)`.
    fn parse(text: &str) -> Option<Self> {
        let (_, rest) = text.rsplit_once(')')?;
        let mut fields = rest.split_ascii_whitespace();
        let state = fields.next()?;
        Some(Self { ended: matches!(state, "Z" | "X" | "x"), start_time: fields.nth(18)?.parse().ok()? })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_start_time_is_found_behind_a_name_with_parentheses() {
        let text = "7 (a) b (c)) Z 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 19 20 21 4711 23 24";
        let stat = Stat::parse(text).unwrap();
        assert_eq!((stat.start_time, stat.ended), (4711, true));
        assert!(Stat::parse("7 (a) S 1").is_none());
        assert!(!Stat::of(std::process::id()).unwrap().ended);
    }
}
