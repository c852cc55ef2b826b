//! A stock Envoy as a child process.

mod log;

use std::{
    collections::BTreeMap,
    ffi::OsString,
    fs,
    io::Write as _,
    net::{IpAddr, SocketAddr},
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::Duration,
};

pub use log::meaningful_lines;

use crate::{
    Error, Process, Result, RunDir, http, listening_ports,
    process::{self, Lifetime},
    repository_root, wait,
};

/// How long Envoy may take to compile its modules and become ready.
const READY: Duration = Duration::from_secs(60);

/// The Envoy to use: the one named by `ENVOY`, otherwise the newest `.tools/envoy-*/envoy` of the repository.
///
/// # Errors
/// [`Error::Missing`] with what to do.
pub fn find() -> Result<PathBuf> {
    if let Some(path) = std::env::var_os("ENVOY").filter(|path| !path.is_empty()) {
        let path = PathBuf::from(path);
        return if path.is_file() {
            path.canonicalize().map_err(Error::io(format!("could not resolve `{}`", path.display())))
        } else {
            Err(Error::Missing {
                what: format!("`ENVOY={}` names no file", path.display()),
                fix: "name an Envoy binary, or unset it and run `make setup`".to_owned(),
            })
        };
    }
    let tools = repository_root()?.join(".tools");
    let installed = fs::read_dir(&tools).into_iter().flatten().flatten();
    let envoys = installed.filter(|entry| entry.file_name().to_string_lossy().starts_with("envoy-"));
    let newest = envoys
        .map(|entry| entry.path().join("envoy"))
        .filter(|path| path.is_file())
        .max_by_key(|path| version_key(path));
    newest.ok_or_else(|| Error::Missing {
        what: format!("there is no Envoy in `{}`", tools.display()),
        fix: "run `make setup` or set ENVOY=/path/to/envoy".to_owned(),
    })
}

/// The numbers in the directory's name, so that 1.40.0 is newer than 1.9.0.
fn version_key(path: &Path) -> Vec<u32> {
    let name = path.parent().and_then(Path::file_name).unwrap_or_default().to_string_lossy();
    name.split(|c: char| !c.is_ascii_digit()).filter_map(|number| number.parse().ok()).collect()
}

/// [`find`] for tests: without an Envoy, prints `skipped: …` and returns `None`, so that the test can end early.
///
/// # Panics
/// Without an Envoy when `REQUIRE_ENVOY=1`, or when `ENVOY` names something wrong: neither may pass as a skip.
pub fn find_or_skip() -> Option<PathBuf> {
    match find() {
        Ok(path) => Some(path),
        Err(error) => {
            let required = std::env::var("REQUIRE_ENVOY").is_ok_and(|value| value == "1");
            if required || std::env::var_os("ENVOY").is_some_and(|path| !path.is_empty()) {
                fail(&error.to_string());
            }
            // Not `eprintln!`: the test runner swallows that of a passing test.
            let _ = writeln!(std::io::stderr(), "skipped: {error}");
            None
        }
    }
}

#[expect(clippy::panic, reason = "ends a test that must not pass; never called elsewhere")]
fn fail(text: &str) -> ! {
    panic!("{text}")
}

/// The version of an Envoy, e.g. `1.40.0`.
///
/// # Errors
/// When it cannot be run or does not say.
pub fn version(envoy: &Path) -> Result<String> {
    let doing = || format!("could not run `{} --version`", envoy.display());
    let output = Command::new(envoy)
        .arg("--version")
        .stdin(Stdio::null())
        .output()
        .map_err(|source| Error::Io { doing: doing(), source })?;
    let text = String::from_utf8_lossy(&output.stdout);
    // "… version: <commit>/1.40.0/Clean/RELEASE/BoringSSL"
    let found = text.split_once("version: ").and_then(|(_, rest)| rest.split('/').nth(1)).map(str::to_owned);
    found.ok_or_else(|| Error::Missing {
        what: format!("{}: it printed no version", doing()),
        fix: "name an Envoy binary with ENVOY=/path/to/envoy".to_owned(),
    })
}

/// What to start.
#[derive(Clone, Debug)]
pub struct Spec {
    name: String,
    config: String,
    envoy: Option<PathBuf>,
    concurrency: u32,
    log_level: String,
    args: Vec<OsString>,
    env: Vec<(OsString, OsString)>,
    dir: Option<PathBuf>,
    ready: Duration,
}

impl Spec {
    /// An Envoy with a complete bootstrap configuration, YAML or JSON. `name` is that of its files in the run
    /// directory. Defaults: the Envoy of [`find`], one worker, log level `warning`, the repository's root as working
    /// directory (module paths such as `dist/authz.wasm` are relative to it), 60 s to become ready.
    pub fn new(name: impl Into<String>, config: impl Into<String>) -> Self {
        Self {
            name: name.into(),
            config: config.into(),
            envoy: None,
            concurrency: 1,
            log_level: "warning".to_owned(),
            args: Vec::new(),
            env: Vec::new(),
            dir: None,
            ready: READY,
        }
    }

    /// Uses this binary.
    #[must_use]
    pub fn binary(mut self, envoy: impl Into<PathBuf>) -> Self {
        self.envoy = Some(envoy.into());
        self
    }

    /// Sets the number of workers.
    #[must_use]
    pub fn concurrency(mut self, workers: u32) -> Self {
        self.concurrency = workers;
        self
    }

    /// Sets the log level: `trace` … `off`.
    #[must_use]
    pub fn log_level(mut self, level: impl Into<String>) -> Self {
        self.log_level = level.into();
        self
    }

    /// Adds an argument, e.g. `--component-log-level wasm:debug`, word by word.
    #[must_use]
    pub fn arg(mut self, arg: impl Into<OsString>) -> Self {
        self.args.push(arg.into());
        self
    }

    /// Sets a variable beside the inherited environment.
    #[must_use]
    pub fn env(mut self, name: impl Into<OsString>, value: impl Into<OsString>) -> Self {
        self.env.push((name.into(), value.into()));
        self
    }

    /// Sets the working directory.
    #[must_use]
    pub fn current_dir(mut self, dir: impl Into<PathBuf>) -> Self {
        self.dir = Some(dir.into());
        self
    }

    /// Sets how long it may take to become ready.
    #[must_use]
    pub fn ready_within(mut self, time: Duration) -> Self {
        self.ready = time;
        self
    }

    /// Starts it and waits until admin `/ready` answers 200 and every static TCP listener accepts.
    ///
    /// # Errors
    /// [`Error::Exited`] with what Envoy and its modules said when it refuses the configuration,
    /// [`Error::PortInUse`] when somebody listens on one of its ports (Envoy itself would share the port with another
    /// Envoy of the same user, without a word), [`Error::InvalidConfig`] for a configuration without an admin
    /// interface on loopback, [`Error::TimedOut`].
    pub fn start(self, run: &RunDir) -> Result<Envoy> {
        let prepared = self.prepare(run)?;
        let process = prepared.process.clone().start_as(run, Lifetime::Owned)?;
        prepared.attach(process)
    }

    pub(crate) fn prepare(self, run: &RunDir) -> Result<Prepared> {
        let ports = listening_ports(&self.config)?;
        let admin = match ports.admin {
            Some((host, port)) if host.is_loopback() && port != 0 => SocketAddr::new(host, port),
            _ => {
                let text = "admin.address: an admin interface with a fixed port on 127.0.0.1 is needed";
                return Err(Error::InvalidConfig(text.to_owned()));
            }
        };
        let listeners: Vec<_> =
            ports.listeners.into_iter().filter(|&(_, port)| port != 0).map(reachable).collect();
        for address in listeners.iter().chain([&admin]) {
            nobody_listens(*address, &self.name)?;
        }
        let process = self.process(run, "serve")?;
        Ok(Prepared { process, admin, listeners, ready: self.ready })
    }

    fn process(&self, run: &RunDir, mode: &str) -> Result<process::Spec> {
        let file = write_config(run, &self.name, &self.config)?;
        let envoy = self.envoy.clone().map_or_else(find, Ok)?;
        let dir = self.dir.clone().map_or_else(repository_root, Ok)?;
        // Without hot restart there is no shared memory and no domain socket, so no base id either: any number of
        // Envoys run side by side. The short flush interval is for readers of access logs (the default is 10 s).
        let mut spec = process::Spec::new(&self.name, envoy)
            .args(["--mode", mode, "--disable-hot-restart", "--file-flush-interval-msec", "50"])
            .args(["--concurrency", &self.concurrency.to_string(), "--log-level", &self.log_level])
            .arg("-c")
            .arg(file)
            .args(self.args.iter())
            .current_dir(dir);
        for (name, value) in &self.env {
            spec = spec.env(name, value);
        }
        Ok(spec)
    }

    /// Whether Envoy accepts the configuration: `--mode validate`, which opens no port.
    ///
    /// # Errors
    /// [`Error::InvalidConfig`] with what Envoy and its modules said.
    pub fn validate(self) -> Result<()> {
        let run = RunDir::temp()?;
        let mut process = self.process(&run, "validate")?.start(&run)?;
        let status = process.wait(self.ready)?;
        if status.success() {
            return Ok(());
        }
        let said = meaningful_lines(&process.stderr()?);
        Err(Error::InvalidConfig(if said.is_empty() {
            format!("Envoy ended ({status}) without a word")
        } else {
            said
        }))
    }
}

/// An Envoy that can be started.
pub(crate) struct Prepared {
    pub(crate) process: process::Spec,
    admin: SocketAddr,
    listeners: Vec<SocketAddr>,
    ready: Duration,
}

impl Prepared {
    /// Waits until the started process is ready.
    pub(crate) fn attach(self, process: Process) -> Result<Envoy> {
        let mut envoy = Envoy { process, admin: self.admin };
        wait::until_http(self.admin, "/ready", 200, self.ready, || envoy.check())?;
        for listener in self.listeners {
            wait::until_accepting(listener, self.ready, || envoy.check())?;
        }
        envoy.check()?;
        Ok(envoy)
    }
}

fn write_config(run: &RunDir, name: &str, config: &str) -> Result<PathBuf> {
    // Envoy goes by the extension; YAML includes JSON.
    let file = run.file(format!("{name}.yaml"));
    fs::write(&file, config).map_err(Error::io(format!("could not write `{}`", file.display())))?;
    Ok(file)
}

/// Where a client reaches a listener: one on all addresses is reached on loopback.
fn reachable((host, port): (IpAddr, u16)) -> SocketAddr {
    let host = match host {
        IpAddr::V4(host) if host.is_unspecified() => IpAddr::from([127, 0, 0, 1]),
        IpAddr::V6(host) if host.is_unspecified() => IpAddr::from([0, 0, 0, 0, 0, 0, 0, 1]),
        other => other,
    };
    SocketAddr::new(host, port)
}

fn nobody_listens(address: SocketAddr, name: &str) -> Result<()> {
    let result = socket2::Socket::new(socket2::Domain::for_address(address), socket2::Type::STREAM, None)
        .and_then(|socket| socket.set_reuse_address(true).and_then(|()| socket.bind(&address.into())));
    match result {
        Err(error) if error.kind() == std::io::ErrorKind::AddrInUse => Err(Error::PortInUse {
            host: address.ip().to_string(),
            port: address.port(),
            variable: format!("the port_value in the configuration of {name}"),
        }),
        // Anything else (an address of another machine, a port below 1024) Envoy itself explains better.
        _ => Ok(()),
    }
}

/// A running Envoy. Dropping it stops it.
#[derive(Debug)]
pub struct Envoy {
    process: Process,
    admin: SocketAddr,
}

impl Envoy {
    /// The address of the admin interface.
    pub fn admin_address(&self) -> SocketAddr {
        self.admin
    }

    /// The process: its id, signals, files.
    pub fn process(&mut self) -> &mut Process {
        &mut self.process
    }

    /// An error with the meaningful log lines if it has ended.
    ///
    /// # Errors
    /// [`Error::Exited`].
    pub fn check(&mut self) -> Result<()> {
        self.process.check_with(meaningful_lines)
    }

    /// Stops it now, and says how it ended.
    ///
    /// # Errors
    /// As [`Process::stop`].
    pub fn stop(mut self) -> Result<std::process::ExitStatus> {
        self.process.stop()
    }

    /// A request to the admin interface, e.g. `("POST", "/logging?wasm=debug")`; the body of a 200.
    ///
    /// # Errors
    /// [`Error::Http`] for any other status.
    pub fn admin(&self, method: &str, target: &str) -> Result<String> {
        let answer =
            http::Client::new(self.admin).max_body(64 << 20).send(&http::Request::new(method, target))?;
        if answer.status == 200 {
            return Ok(answer.text().into_owned());
        }
        Err(Error::Http(format!(
            "Envoy's admin answered {method} {target} with {}: {}",
            answer.status,
            answer.text()
        )))
    }

    /// The counters and gauges whose name matches `filter` (a regular expression; empty: all).
    ///
    /// # Errors
    /// When admin does not answer.
    pub fn stats(&self, filter: &str) -> Result<BTreeMap<String, u64>> {
        let text = self.admin("GET", &format!("/stats?filter={}", percent_encode(filter)))?;
        // Histograms and text read-outs have no number behind the colon.
        let number = |line: &str| {
            let (name, value) = line.rsplit_once(": ")?;
            Some((name.to_owned(), value.parse().ok()?))
        };
        Ok(text.lines().filter_map(number).collect())
    }

    /// All metrics in Prometheus' text format.
    ///
    /// # Errors
    /// When admin does not answer.
    pub fn prometheus(&self) -> Result<String> {
        self.admin("GET", "/stats/prometheus")
    }

    /// What it logged (standard error).
    ///
    /// # Errors
    /// When the file cannot be read.
    pub fn logs(&self) -> Result<String> {
        self.process.stderr()
    }

    /// What access loggers wrote to standard output so far; Envoy writes it up to 50 ms late.
    ///
    /// # Errors
    /// When the file cannot be read.
    pub fn access_log(&self) -> Result<String> {
        self.process.stdout()
    }

    /// Waits until the access log has at least `count` lines; all of them.
    ///
    /// # Errors
    /// As [`crate::until`].
    pub fn access_log_lines(&self, count: usize, timeout: Duration) -> Result<Vec<String>> {
        wait::until(&format!("{count} lines of access log"), timeout, || {
            let lines: Vec<_> = self.access_log()?.lines().map(str::to_owned).collect();
            Ok((lines.len() >= count).then_some(lines))
        })
    }
}

fn percent_encode(text: &str) -> String {
    let encode = |byte: u8| match byte {
        b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'.' | b'_' | b'-' => char::from(byte).to_string(),
        other => format!("%{other:02X}"),
    };
    text.bytes().map(encode).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_compare_by_number() {
        let key = |version| version_key(Path::new(&format!("/x/envoy-{version}/envoy")));
        assert!(key("1.40.0") > key("1.9.0"));
    }

    #[test]
    fn a_filter_survives_its_way_into_a_url() {
        assert_eq!(percent_encode("^a.b$|c d"), "%5Ea.b%24%7Cc%20d");
    }
}
