//! A child process that does not outlive its owner, whatever happens to the owner.

use std::{
    ffi::{OsStr, OsString},
    fs::{File, OpenOptions},
    io::{self, Read as _, Seek as _, SeekFrom},
    os::unix::process::CommandExt as _,
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Stdio},
    sync::{OnceLock, mpsc},
    time::{Duration, Instant},
};

use nix::{
    errno::Errno,
    sys::{
        prctl,
        signal::{Signal, kill, killpg},
        wait::{Id, WaitPidFlag, WaitStatus, waitid},
    },
    unistd::{Pid, getppid, setsid},
};

use crate::{Error, Result, RunDir, wait};

/// How long a process may take to end after SIGTERM before it gets SIGKILL.
pub const GRACE: Duration = Duration::from_secs(5);

/// How much of a log is read at most, from its end.
const LOG_BOUND: u64 = 8 << 20;

/// How many log lines an error shows when none stands out.
const LAST_LINES: usize = 12;

/// What to start.
#[derive(Clone, Debug)]
pub struct Spec {
    pub(crate) name: String,
    program: PathBuf,
    args: Vec<OsString>,
    env: Vec<(OsString, OsString)>,
    dir: Option<PathBuf>,
}

impl Spec {
    /// `program` under a `name` that is unique among the running processes of a run directory: its files there are
    /// `<name>.out` and `<name>.log`.
    pub fn new(name: impl Into<String>, program: impl Into<PathBuf>) -> Self {
        Self { name: name.into(), program: program.into(), args: Vec::new(), env: Vec::new(), dir: None }
    }

    /// Adds an argument.
    #[must_use]
    pub fn arg(mut self, arg: impl Into<OsString>) -> Self {
        self.args.push(arg.into());
        self
    }

    /// Adds arguments.
    #[must_use]
    pub fn args<T: Into<OsString>>(mut self, args: impl IntoIterator<Item = T>) -> Self {
        self.args.extend(args.into_iter().map(Into::into));
        self
    }

    /// Sets a variable beside the inherited environment.
    #[must_use]
    pub fn env(mut self, name: impl Into<OsString>, value: impl Into<OsString>) -> Self {
        self.env.push((name.into(), value.into()));
        self
    }

    /// Sets the working directory; otherwise it is the owner's.
    #[must_use]
    pub fn current_dir(mut self, dir: impl Into<PathBuf>) -> Self {
        self.dir = Some(dir.into());
        self
    }

    /// Starts it with its output in files of `run`.
    ///
    /// # Errors
    /// [`Error::Missing`] when the program does not exist, [`Error::Io`] otherwise.
    pub fn start(self, run: &RunDir) -> Result<Process> {
        self.start_as(run, Lifetime::Owned)
    }

    pub(crate) fn start_as(self, run: &RunDir, lifetime: Lifetime) -> Result<Process> {
        let out = Log::open(run.file(format!("{}.out", self.name)), lifetime)?;
        let log = Log::open(run.file(format!("{}.log", self.name)), lifetime)?;
        let mut command = Command::new(&self.program);
        command.args(&self.args).envs(self.env.iter().map(|(name, value)| (name, value)));
        command.stdin(Stdio::null()).stdout(out.writer()?).stderr(log.writer()?);
        if let Some(dir) = &self.dir {
            command.current_dir(dir);
        }
        let spawned = match lifetime {
            Lifetime::Owned => spawn_owned(command),
            Lifetime::Detached => spawn_detached(command),
        };
        let child = spawned.map_err(|source| self.not_started(source))?;
        Ok(Process { name: self.name, child, status: None, out, log, lifetime })
    }

    fn not_started(&self, source: io::Error) -> Error {
        let program = self.program.display();
        if source.kind() == io::ErrorKind::NotFound && self.dir.as_ref().is_none_or(|dir| dir.is_dir()) {
            let what = format!("`{program}` does not exist, so {} cannot be started", self.name);
            return Error::Missing { what, fix: "build or install it".to_owned() };
        }
        let dir = self.dir.as_ref().map(|dir| format!(" in `{}`", dir.display())).unwrap_or_default();
        Error::Io { doing: format!("could not start {} (`{program}`{dir})", self.name), source }
    }

    /// The command line, for people.
    pub(crate) fn command_line(&self) -> String {
        let words =
            std::iter::once(self.program.as_os_str()).chain(self.args.iter().map(OsString::as_os_str));
        words.map(OsStr::to_string_lossy).collect::<Vec<_>>().join(" ")
    }
}

/// Who ends the process.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Lifetime {
    /// It ends with its [`Process`], at the latest with this program.
    Owned,
    /// It runs on until [`crate::detached::stop`].
    Detached,
}

/// A running process, leader of its own process group. Dropping it ends the whole group (SIGTERM, [`GRACE`], SIGKILL)
/// and reaps it; should this program die without running destructors, even by SIGKILL, the kernel ends the leader.
#[derive(Debug)]
pub struct Process {
    name: String,
    child: Child,
    status: Option<ExitStatus>,
    out: Log,
    log: Log,
    lifetime: Lifetime,
}

impl Process {
    /// The name it was started under.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Its process id.
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// An error with the last log lines if it has ended.
    ///
    /// # Errors
    /// [`Error::Exited`].
    pub fn check(&mut self) -> Result<()> {
        self.check_with(last_lines)
    }

    pub(crate) fn check_with(&mut self, meaningful: impl Fn(&str) -> String) -> Result<()> {
        let Some(status) = self.poll()? else { return Ok(()) };
        let mut text = self.stderr()?;
        if text.trim().is_empty() {
            text = self.stdout()?;
        }
        Err(Error::Exited { name: self.name.clone(), status: status.to_string(), log: meaningful(&text) })
    }

    /// Waits until it ends by itself.
    ///
    /// # Errors
    /// As [`crate::until`].
    pub fn wait(&mut self, timeout: Duration) -> Result<ExitStatus> {
        let what = format!("the end of {}", self.name);
        wait::until(&what, timeout, || self.poll())
    }

    /// What it wrote to standard output since it was started (the last 8 MiB), invalid UTF-8 replaced.
    ///
    /// # Errors
    /// When the file cannot be read.
    pub fn stdout(&self) -> Result<String> {
        self.out.read()
    }

    /// What it wrote to standard error, as [`Process::stdout`].
    ///
    /// # Errors
    /// When the file cannot be read.
    pub fn stderr(&self) -> Result<String> {
        self.log.read()
    }

    /// Sends SIGTERM to the process (not its group) and returns at once: for tests of shutting down.
    ///
    /// # Errors
    /// When it has ended.
    pub fn terminate(&mut self) -> Result<()> {
        self.signal(Signal::SIGTERM)
    }

    /// Sends SIGKILL to the process and returns at once: for tests of crashes.
    ///
    /// # Errors
    /// When it has ended.
    pub fn kill(&mut self) -> Result<()> {
        self.signal(Signal::SIGKILL)
    }

    fn signal(&mut self, signal: Signal) -> Result<()> {
        self.check()?;
        kill(self.pid(), signal).map_err(|errno| self.os_error("could not signal", errno))
    }

    /// Ends its process group and reaps it. Does not look at [`crate::interrupt`]: cleaning up after Ctrl-C must not
    /// be cut short by it.
    ///
    /// # Errors
    /// When it survives SIGKILL (a process stuck in the kernel).
    pub fn stop(&mut self) -> Result<ExitStatus> {
        for signal in [Signal::SIGTERM, Signal::SIGKILL] {
            // Looked at before signalling: a reaped process has no id any more.
            if let Some(status) = self.poll()? {
                return Ok(status);
            }
            self.signal_group(signal)?;
            let start = Instant::now();
            while start.elapsed() < GRACE {
                if let Some(status) = self.poll()? {
                    return Ok(status);
                }
                std::thread::sleep(Duration::from_millis(2));
            }
        }
        Err(Error::TimedOut { what: format!("the end of {} after SIGKILL", self.name), after: GRACE })
    }

    /// The exit status once it has ended. What is left of its group is killed *before* the leader is reaped: until
    /// then the id cannot belong to anybody else.
    fn poll(&mut self) -> Result<Option<ExitStatus>> {
        if self.status.is_some() {
            return Ok(self.status);
        }
        let flags = WaitPidFlag::WEXITED | WaitPidFlag::WNOHANG | WaitPidFlag::WNOWAIT;
        match waitid(Id::Pid(self.pid()), flags) {
            Ok(WaitStatus::StillAlive) => return Ok(None),
            Ok(_) => self.signal_group(Signal::SIGKILL)?,
            Err(Errno::EINTR) => return Ok(None),
            Err(errno) => return Err(self.os_error("could not wait for", errno)),
        }
        let doing = format!("could not reap {}", self.name);
        self.status = Some(self.child.wait().map_err(Error::io(doing))?);
        Ok(self.status)
    }

    fn signal_group(&self, signal: Signal) -> Result<()> {
        match killpg(self.pid(), signal) {
            // EPERM: the kernel's word for a group of which only zombies are left is ESRCH, on some kernels EPERM.
            Ok(()) | Err(Errno::ESRCH | Errno::EPERM) => Ok(()),
            Err(errno) => Err(self.os_error("could not signal", errno)),
        }
    }

    fn pid(&self) -> Pid {
        Pid::from_raw(self.child.id().cast_signed())
    }

    fn os_error(&self, doing: &str, errno: Errno) -> Error {
        Error::Io { doing: format!("{doing} {}", self.name), source: errno.into() }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        if self.lifetime == Lifetime::Owned {
            // Nobody is left to tell; the kernel ends the process with this program.
            let _ = self.stop();
        }
    }
}

/// The last lines of a log.
pub(crate) fn last_lines(text: &str) -> String {
    let lines: Vec<&str> = text.lines().filter(|line| !line.trim().is_empty()).collect();
    lines.iter().skip(lines.len().saturating_sub(LAST_LINES)).copied().collect::<Vec<_>>().join("\n")
}

/// A file that a process appends to. A restart under the same name appends too; only what came since counts.
#[derive(Debug)]
struct Log {
    path: PathBuf,
    start: u64,
}

impl Log {
    fn open(path: PathBuf, lifetime: Lifetime) -> Result<Self> {
        let doing = || Error::io(format!("could not write the log `{}`", path.display()));
        let file = OpenOptions::new().create(true).append(true).open(&path).map_err(doing())?;
        if lifetime == Lifetime::Detached {
            file.set_len(0).map_err(doing())?; // its directory stays; without this the logs would grow for ever
        }
        let start = file.metadata().map_err(doing())?.len();
        Ok(Self { path, start })
    }

    fn writer(&self) -> Result<File> {
        let doing = Error::io(format!("could not write the log `{}`", self.path.display()));
        OpenOptions::new().append(true).open(&self.path).map_err(doing)
    }

    fn read(&self) -> Result<String> {
        read_tail(&self.path, self.start)
            .map_err(Error::io(format!("could not read the log `{}`", self.path.display())))
    }
}

fn read_tail(path: &Path, start: u64) -> io::Result<String> {
    let mut file = File::open(path)?;
    let end = file.metadata()?.len();
    file.seek(SeekFrom::Start(start.max(end.saturating_sub(LOG_BOUND))))?;
    let mut bytes = Vec::new();
    file.take(LOG_BOUND).read_to_end(&mut bytes)?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

type Request = (Command, mpsc::Sender<io::Result<Child>>);

/// Spawns on a thread that lives as long as the program: the kernel sends the parent-death signal when the *thread*
/// that forked ends, and a test's thread ends long before the Envoy that all tests share.
fn spawn_owned(command: Command) -> io::Result<Child> {
    static SPAWNER: OnceLock<mpsc::Sender<Request>> = OnceLock::new();
    let gone = |_| io::Error::other("the thread that starts processes has ended");
    let spawner = SPAWNER.get_or_init(|| {
        let (sender, requests) = mpsc::channel::<Request>();
        std::thread::spawn(move || {
            for (command, reply) in requests {
                // The requester waits for the reply, so the channel is open.
                let _ = reply.send(spawn_dying_with_us(command));
            }
        });
        sender
    });
    let (reply, answer) = mpsc::channel();
    spawner.send((command, reply)).map_err(|error| gone(error.to_string()))?;
    answer.recv().map_err(|error| gone(error.to_string()))?
}

#[expect(
    unsafe_code,
    reason = "code between fork and exec; it only makes two system calls and allocates nothing"
)]
fn spawn_dying_with_us(mut command: Command) -> io::Result<Child> {
    let owner = Pid::this();
    command.process_group(0);
    // SAFETY: prctl and getppid are async-signal-safe, and the closure touches no lock and no heap.
    unsafe {
        command.pre_exec(move || {
            prctl::set_pdeathsig(Signal::SIGKILL)?;
            // The owner may have died before the call above; then no signal will come.
            if getppid() == owner { Ok(()) } else { Err(Errno::ESRCH.into()) }
        });
    }
    command.spawn()
}

#[expect(
    unsafe_code,
    reason = "code between fork and exec; it only makes one system call and allocates nothing"
)]
fn spawn_detached(mut command: Command) -> io::Result<Child> {
    // SAFETY: setsid is async-signal-safe, and the closure touches no lock and no heap.
    unsafe {
        // Its own session, so that closing the terminal does not end it. It leads its own process group there too.
        command.pre_exec(|| setsid().map(drop).map_err(io::Error::from));
    }
    command.spawn()
}
