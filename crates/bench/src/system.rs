//! What the kernel knows of a process, and where processes may run: CPU time, memory, cores.

use std::{
    fs, mem,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread::JoinHandle,
    time::Duration,
};

use nix::{
    errno::Errno,
    libc,
    sched::{CpuSet, sched_getaffinity, sched_setaffinity},
    time::{ClockId, clock_getcpuclockid},
    unistd::Pid,
};
use sailcloth_launch::{Error, Result};

/// The two cores of a run.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Cores {
    /// Where every Envoy runs.
    pub(crate) envoy: usize,
    /// Where the load generator and the upstream run.
    pub(crate) load: usize,
}

impl Cores {
    /// The first two cores that this process may use.
    ///
    /// # Errors
    /// When there is only one.
    pub(crate) fn choose() -> Result<Self> {
        let allowed =
            sched_getaffinity(Pid::from_raw(0)).map_err(failed("could not read the CPU affinity"))?;
        let mut usable = (0..CpuSet::count()).filter(|&core| allowed.is_set(core).unwrap_or(false));
        match (usable.next(), usable.next()) {
            (Some(envoy), Some(load)) => Ok(Self { envoy, load }),
            _ => Err(Error::Missing {
                what: "the benchmark needs two CPU cores: one for Envoy, one for the load".to_owned(),
                fix: "run it on a machine with two".to_owned(),
            }),
        }
    }
}

/// Moves the calling thread, and those it starts from now on, to one core.
pub(crate) fn pin_current_thread(core: usize) -> Result<()> {
    sched_setaffinity(Pid::from_raw(0), &only(core)?).map_err(failed("could not pin a thread to a core"))
}

/// Moves all threads of a process to one core; those it starts later inherit it.
pub(crate) fn pin_process(pid: u32, core: usize) -> Result<()> {
    let set = only(core)?;
    for thread in threads(pid)? {
        match sched_setaffinity(Pid::from_raw(thread), &set) {
            Ok(()) | Err(Errno::ESRCH) => {} // a thread may have ended meanwhile
            Err(errno) => return Err(failed("could not pin Envoy to a core")(errno)),
        }
    }
    Ok(())
}

fn only(core: usize) -> Result<CpuSet> {
    let mut set = CpuSet::new();
    set.set(core).map_err(failed("could not name a core"))?;
    Ok(set)
}

fn threads(pid: u32) -> Result<Vec<i32>> {
    let path = format!("/proc/{pid}/task");
    let entries = fs::read_dir(&path).map_err(Error::io(format!("could not read `{path}`")))?;
    Ok(entries.flatten().filter_map(|entry| entry.file_name().to_str()?.parse().ok()).collect())
}

/// Restores the calling thread's cores on drop: what is pinned for measuring must not pin the Envoys started next.
#[derive(Debug)]
pub(crate) struct PinnedHere(CpuSet);

impl PinnedHere {
    /// Pins the calling thread until drop.
    pub(crate) fn to(core: usize) -> Result<Self> {
        let before =
            sched_getaffinity(Pid::from_raw(0)).map_err(failed("could not read the CPU affinity"))?;
        pin_current_thread(core)?;
        Ok(Self(before))
    }
}

impl Drop for PinnedHere {
    fn drop(&mut self) {
        // It was allowed before, so it is now.
        let _ = sched_setaffinity(Pid::from_raw(0), &self.0);
    }
}

/// The CPU time of a process, all threads, those that have ended too, in nanoseconds of the scheduler's own account.
#[derive(Clone, Copy, Debug)]
pub(crate) struct CpuClock(ClockId);

impl CpuClock {
    /// The clock of process `pid`.
    pub(crate) fn of(pid: u32) -> Result<Self> {
        clock_getcpuclockid(Pid::from_raw(pid.cast_signed()))
            .map(Self)
            .map_err(failed("there is no CPU clock of Envoy's process"))
    }

    /// What it has used. The kernel counts a thread when it leaves the core, so read it while the process waits.
    pub(crate) fn used(self) -> Result<Duration> {
        self.0.now().map(Duration::from).map_err(failed("could not read Envoy's CPU time"))
    }
}

/// Memory of a process.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Memory {
    /// Resident, in KiB; includes the program's own pages, which all Envoys share.
    pub(crate) resident_kib: u64,
    /// Written by this process alone, in KiB.
    pub(crate) private_dirty_kib: u64,
}

impl Memory {
    /// Of process `pid`, now.
    pub(crate) fn of(pid: u32) -> Result<Self> {
        let path = format!("/proc/{pid}/smaps_rollup");
        let text = fs::read_to_string(&path).map_err(Error::io(format!("could not read `{path}`")))?;
        Ok(Self { resident_kib: field(&text, "Rss:"), private_dirty_kib: field(&text, "Private_Dirty:") })
    }
}

fn field(text: &str, name: &str) -> u64 {
    let line = text.lines().find_map(|line| line.strip_prefix(name));
    line.and_then(|rest| rest.split_whitespace().next()?.parse().ok()).unwrap_or_default()
}

/// A thread per core that computes whenever nobody else wants the core. Without them a virtual machine halts at every
/// wait, and what it takes to be woken again (10 to 40 % of both cores) is charged to whoever runs next.
#[derive(Debug)]
pub(crate) struct Spinners {
    stop: Arc<AtomicBool>,
    threads: Vec<JoinHandle<()>>,
}

impl Spinners {
    /// One on each core.
    ///
    /// # Errors
    /// When the kernel refuses the SCHED_IDLE policy: a spinner without it would take half of the core.
    pub(crate) fn start(cores: Cores) -> Result<Self> {
        let stop = Arc::new(AtomicBool::new(false));
        let mut spinners = Self { stop: Arc::clone(&stop), threads: Vec::new() };
        for core in [cores.envoy, cores.load] {
            let (report, reported) = std::sync::mpsc::channel();
            let stop = Arc::clone(&stop);
            spinners.threads.push(std::thread::spawn(move || {
                let ready = pin_current_thread(core).and_then(|()| idle_policy());
                let spins = ready.is_ok();
                if report.send(ready).is_ok() && spins {
                    while !stop.load(Ordering::Relaxed) {
                        std::hint::spin_loop();
                    }
                }
            }));
            reported.recv().map_err(|_| Error::Http("a spinner ended at once".to_owned()))??;
        }
        Ok(spinners)
    }
}

impl Drop for Spinners {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        for thread in self.threads.drain(..) {
            // A spinner cannot panic, and there is nothing to be done about one that did.
            let _ = thread.join();
        }
    }
}

#[expect(unsafe_code, reason = "nix has no wrapper for sched_setscheduler")]
fn idle_policy() -> Result<()> {
    // SAFETY: `sched_param` is a plain structure of integers for which zero is the only priority of SCHED_IDLE, and it
    // lives through the call; thread 0 is the calling one.
    let result = unsafe {
        let parameter: libc::sched_param = mem::zeroed();
        libc::sched_setscheduler(0, libc::SCHED_IDLE, &raw const parameter)
    };
    Errno::result(result).map(drop).map_err(failed("could not give a spinner the SCHED_IDLE policy"))
}

fn failed(doing: &'static str) -> impl Fn(Errno) -> Error {
    move |errno| Error::Io { doing: doing.to_owned(), source: errno.into() }
}

/// What the figures were measured on: processor, cores, kernel.
pub(crate) fn machine() -> String {
    let cpuinfo = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let value = |name: &str| {
        let line = cpuinfo.lines().find(|line| line.starts_with(name));
        line.and_then(|line| line.split_once(": ")).map_or("unknown", |(_, value)| value).to_owned()
    };
    let kernel = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    let cores = std::thread::available_parallelism().map_or(0, usize::from);
    format!(
        "{} (family {} model {}), {cores} cores, Linux {}",
        value("model name"),
        value("cpu family"),
        value("model\t"),
        kernel.trim()
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_cpu_clock_of_a_process_runs_while_it_computes() {
        let clock = CpuClock::of(std::process::id()).unwrap();
        let before = clock.used().unwrap();
        let start = std::time::Instant::now();
        while start.elapsed() < Duration::from_millis(50) {
            std::hint::spin_loop();
        }
        assert!(clock.used().unwrap() > before + Duration::from_millis(5));
    }

    #[test]
    fn memory_is_read_in_kib() {
        let text = "5581-7ff [rollup]\nRss:     1234 kB\nPrivate_Dirty:    56 kB\n";
        assert_eq!((field(text, "Rss:"), field(text, "Private_Dirty:"), field(text, "Swap:")), (1234, 56, 0));
        assert!(Memory::of(std::process::id()).unwrap().resident_kib > 100);
    }

    #[test]
    fn pinning_ends_with_its_guard() {
        let cores = |()| sched_getaffinity(Pid::from_raw(0)).unwrap();
        let before = cores(());
        let first = (0..CpuSet::count()).find(|&core| before.is_set(core).unwrap()).unwrap();
        let guard = PinnedHere::to(first).unwrap();
        assert_eq!(cores(()), only(first).unwrap());
        drop(guard);
        assert_eq!(cores(()), before);
    }
}
