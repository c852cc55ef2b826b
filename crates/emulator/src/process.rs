//! What one Envoy process shares between its workers.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use crate::abi::{Callback, Hostcall, Level, Status};
use crate::value::Value;

/// Oldest lines go when a process has logged more than this.
const MAX_LOG_LINES: usize = 65_536;

/// A foreign function: arguments in, status and result out.
pub type ForeignFunction = dyn FnMut(&[u8]) -> (Status, Vec<u8>) + Send;

/// One Envoy process: shared data, metrics, clock, log, clusters, foreign functions, randomness, injected faults and
/// call counts. Clones are handles to the same process; VMs may run on different threads.
#[derive(Clone)]
pub struct Process {
    state: Arc<Mutex<State>>,
}

/// One line that a module logged.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LogLine {
    /// Its level.
    pub level: Level,
    /// Name of the plugin that was running; empty while a VM starts.
    pub plugin: String,
    /// The text; bytes that are not UTF-8 are replaced.
    pub message: String,
}

/// Kind of a metric.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[expect(missing_docs, reason = "the names say it")]
pub enum MetricKind {
    Counter,
    Gauge,
    Histogram,
}

/// What a callout to a cluster meets before anything is sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cluster {
    /// Calls are recorded as pending, and the test answers them.
    Reachable,
    /// No endpoints or an unresolvable host: the hostcall fails with `InternalFailure`, no callback follows.
    NoEndpoints,
}

/// Makes a hostcall answer a status without doing its work.
#[derive(Clone, Copy, Debug)]
pub struct Injection {
    first: u64,
    last: u64,
    code: u32,
}

impl Injection {
    /// Every call from now on.
    #[must_use]
    pub fn always(status: Status) -> Self {
        Self { first: 1, last: u64::MAX, code: status as u32 }
    }

    /// Only the `n`-th call from now on; 1 is the next one.
    #[must_use]
    pub fn nth(n: u64, status: Status) -> Self {
        Self { first: n, last: n, code: status as u32 }
    }

    /// The next `n` calls.
    #[must_use]
    pub fn first(n: u64, status: Status) -> Self {
        Self { first: 1, last: n, code: status as u32 }
    }

    /// The same with a number in place of a [`Status`]: WASI errors, or a status that no ABI names.
    #[must_use]
    pub fn with_code(self, code: u32) -> Self {
        Self { code, ..self }
    }
}

/// How often each boundary was crossed since the process began or [`Process::reset_calls`].
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Calls {
    /// Module to host, injected ones included.
    pub hostcalls: BTreeMap<Hostcall, u64>,
    /// Host to module; a callback that the module does not export is not counted.
    pub callbacks: BTreeMap<Callback, u64>,
}

impl Calls {
    /// Calls of one hostcall.
    #[must_use]
    pub fn hostcall(&self, call: Hostcall) -> u64 {
        self.hostcalls.get(&call).copied().unwrap_or(0)
    }

    /// Calls of one callback.
    #[must_use]
    pub fn callback(&self, call: Callback) -> u64 {
        self.callbacks.get(&call).copied().unwrap_or(0)
    }
}

#[derive(Clone, Debug)]
pub(crate) struct Metric {
    pub(crate) value: u64,
    pub(crate) samples: Vec<u64>,
}

/// Key to value and compare-and-swap number.
type SharedData = BTreeMap<Vec<u8>, (Vec<u8>, u32)>;

pub(crate) struct State {
    shared: HashMap<String, SharedData>,
    next_cas: u32,
    metrics: BTreeMap<(MetricKind, Vec<u8>), Metric>,
    realtime_ns: u64,
    monotonic_ns: u64,
    logs: VecDeque<LogLine>,
    log_level: Level,
    foreign: HashMap<String, Arc<Mutex<Box<ForeignFunction>>>>,
    clusters: HashMap<String, Cluster>,
    random: u64,
    injections: Vec<(Hostcall, Injection, u64)>,
    calls: Calls,
    pub(crate) attributes: Value,
}

impl Default for Process {
    fn default() -> Self {
        Self::new()
    }
}

impl Process {
    /// A process whose realtime clock stands at 2026-01-01T00:00:00Z and its monotonic clock at one hour.
    #[must_use]
    pub fn new() -> Self {
        let state = State {
            shared: HashMap::new(),
            next_cas: 1,
            metrics: BTreeMap::new(),
            realtime_ns: 1_767_225_600_000_000_000,
            monotonic_ns: 3_600_000_000_000,
            logs: VecDeque::new(),
            log_level: Level::Info,
            foreign: HashMap::new(),
            clusters: HashMap::new(),
            random: 0x5EED,
            injections: Vec::new(),
            calls: Calls::default(),
            attributes: Value::Map(Vec::new()),
        };
        Self { state: Arc::new(Mutex::new(state)) }
    }

    pub(crate) fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Realtime in nanoseconds since the Unix epoch.
    #[must_use]
    pub fn now_ns(&self) -> u64 {
        self.lock().realtime_ns
    }

    /// Sets the realtime clock only, to nanoseconds since the Unix epoch; it may jump back.
    pub fn set_realtime_ns(&self, nanoseconds: u64) {
        self.lock().realtime_ns = nanoseconds;
    }

    /// Moves both clocks forward. Timers do not fire by themselves: see [`crate::Vm::run_timers`].
    pub fn advance(&self, by: Duration) {
        let by = u64::try_from(by.as_nanos()).unwrap_or(u64::MAX);
        let mut state = self.lock();
        state.realtime_ns = state.realtime_ns.saturating_add(by);
        state.monotonic_ns = state.monotonic_ns.saturating_add(by);
    }

    pub(crate) fn monotonic_ns(&self) -> u64 {
        self.lock().monotonic_ns
    }

    /// What was logged, oldest first; lines below [`Process::set_log_level`] are not kept, nor more than 65 536.
    #[must_use]
    pub fn logs(&self) -> Vec<LogLine> {
        self.lock().logs.iter().cloned().collect()
    }

    /// The level that `proxy_get_log_level` answers and below which lines are dropped. `Info` at first.
    pub fn set_log_level(&self, level: Level) {
        self.lock().log_level = level;
    }

    pub(crate) fn log_level(&self) -> Level {
        self.lock().log_level
    }

    pub(crate) fn log(&self, level: Level, plugin: &str, message: &[u8]) {
        let mut state = self.lock();
        if level < state.log_level {
            return;
        }
        if state.logs.len() >= MAX_LOG_LINES {
            state.logs.pop_front();
        }
        let message = String::from_utf8_lossy(message).into_owned();
        state.logs.push_back(LogLine { level, plugin: plugin.to_owned(), message });
    }

    /// Makes a cluster known to callouts. Unknown ones answer `BadArgument`.
    pub fn set_cluster(&self, name: &str, cluster: Cluster) {
        self.lock().clusters.insert(name.to_owned(), cluster);
    }

    /// Forgets a cluster.
    pub fn remove_cluster(&self, name: &str) {
        self.lock().clusters.remove(name);
    }

    pub(crate) fn cluster(&self, name: &str) -> Option<Cluster> {
        self.lock().clusters.get(name).copied()
    }

    /// Registers a foreign function under a name, in place of a built-in or earlier one. It must not call back into the
    /// VM that calls it.
    pub fn set_foreign_function(
        &self,
        name: &str,
        function: impl FnMut(&[u8]) -> (Status, Vec<u8>) + Send + 'static,
    ) {
        self.lock().foreign.insert(name.to_owned(), Arc::new(Mutex::new(Box::new(function))));
    }

    pub(crate) fn call_foreign(&self, name: &str, arguments: &[u8]) -> Option<(Status, Vec<u8>)> {
        let function = self.lock().foreign.get(name).cloned()?;
        let mut function = function.lock().unwrap_or_else(PoisonError::into_inner);
        Some(function(arguments))
    }

    /// Seeds what `random_get` answers, so that a run can be repeated.
    pub fn seed_random(&self, seed: u64) {
        self.lock().random = seed;
    }

    pub(crate) fn random(&self, size: usize) -> Vec<u8> {
        let mut state = self.lock();
        let mut bytes = Vec::with_capacity(size);
        while bytes.len() < size {
            bytes.extend(split_mix_64(&mut state.random).to_le_bytes());
        }
        bytes.truncate(size);
        bytes
    }

    /// Sets an attribute that every context sees, root contexts too: `["node", "id"]`, `["xds", "node", …]`.
    pub fn set_attribute(&self, path: &[&str], value: impl Into<Value>) {
        self.lock().attributes.set_path(path, value.into());
    }

    /// Makes a hostcall fail. Injections of one hostcall add up; the oldest that applies wins.
    pub fn inject(&self, call: Hostcall, injection: Injection) {
        self.lock().injections.push((call, injection, 0));
    }

    /// Removes all injections.
    pub fn clear_injections(&self) {
        self.lock().injections.clear();
    }

    /// Counts a hostcall; the code to answer when one is injected.
    pub(crate) fn enter(&self, call: Hostcall) -> Option<u32> {
        let mut state = self.lock();
        *state.calls.hostcalls.entry(call).or_default() += 1;
        let mut code = None;
        for (_, injection, seen) in state.injections.iter_mut().filter(|(injected, ..)| *injected == call) {
            *seen += 1;
            if (injection.first..=injection.last).contains(seen) {
                code = code.or(Some(injection.code));
            }
        }
        code
    }

    pub(crate) fn count_callback(&self, call: Callback) {
        *self.lock().calls.callbacks.entry(call).or_default() += 1;
    }

    /// How often each boundary was crossed, over all VMs.
    #[must_use]
    pub fn calls(&self) -> Calls {
        self.lock().calls.clone()
    }

    /// Starts counting again.
    pub fn reset_calls(&self) {
        self.lock().calls = Calls::default();
    }

    /// A shared-data record: value and compare-and-swap number.
    #[must_use]
    pub fn shared_data(&self, vm_id: &str, key: impl AsRef<[u8]>) -> Option<(Vec<u8>, u32)> {
        self.lock().shared.get(vm_id)?.get(key.as_ref()).cloned()
    }

    /// Every key of a vm_id's shared data, sorted: shared data is never freed, so tests bound this.
    #[must_use]
    pub fn shared_keys(&self, vm_id: &str) -> Vec<Vec<u8>> {
        self.lock().shared.get(vm_id).map(|map| map.keys().cloned().collect()).unwrap_or_default()
    }

    /// Writes shared data as `proxy_set_shared_data` does: `cas` 0 writes always; another number must be the current
    /// one, or the key must be absent, so `u32::MAX` creates only if absent.
    ///
    /// # Errors
    /// [`Status::CasMismatch`].
    pub fn set_shared_data(
        &self,
        vm_id: &str,
        key: impl AsRef<[u8]>,
        value: impl AsRef<[u8]>,
        cas: u32,
    ) -> Result<(), Status> {
        let mut guard = self.lock();
        let state = &mut *guard;
        let map = state.shared.entry(vm_id.to_owned()).or_default();
        if let Some((_, current)) = map.get(key.as_ref())
            && cas != 0
            && cas != *current
        {
            return Err(Status::CasMismatch);
        }
        map.insert(key.as_ref().to_vec(), (value.as_ref().to_vec(), state.next_cas));
        // 0 means "unconditional" and is never given out.
        state.next_cas = state.next_cas.checked_add(1).unwrap_or(1);
        Ok(())
    }

    /// A counter's value; `None` while nobody has defined it. Names are as the module wrote them (Envoy puts
    /// `wasmcustom.` in front).
    #[must_use]
    pub fn counter(&self, name: &str) -> Option<u64> {
        self.metric(MetricKind::Counter, name).map(|metric| metric.value)
    }

    /// A gauge's value.
    #[must_use]
    pub fn gauge(&self, name: &str) -> Option<u64> {
        self.metric(MetricKind::Gauge, name).map(|metric| metric.value)
    }

    /// Every value recorded in a histogram, in order.
    #[must_use]
    pub fn histogram(&self, name: &str) -> Option<Vec<u64>> {
        self.metric(MetricKind::Histogram, name).map(|metric| metric.samples)
    }

    fn metric(&self, kind: MetricKind, name: &str) -> Option<Metric> {
        self.lock().metrics.get(&(kind, name.as_bytes().to_vec())).cloned()
    }

    /// Every metric: kind, name, value (for a histogram the number of samples), sorted.
    #[must_use]
    pub fn metrics(&self) -> Vec<(MetricKind, String, u64)> {
        let state = self.lock();
        let row = |((kind, name), metric): (&(MetricKind, Vec<u8>), &Metric)| {
            let samples = u64::try_from(metric.samples.len()).unwrap_or(u64::MAX);
            let value = if *kind == MetricKind::Histogram { samples } else { metric.value };
            (*kind, String::from_utf8_lossy(name).into_owned(), value)
        };
        state.metrics.iter().map(row).collect()
    }

    pub(crate) fn define_metric(&self, kind: MetricKind, name: &[u8]) {
        let empty = Metric { value: 0, samples: Vec::new() };
        self.lock().metrics.entry((kind, name.to_vec())).or_insert(empty);
    }

    pub(crate) fn with_metric<R>(
        &self,
        kind: MetricKind,
        name: &[u8],
        f: impl FnOnce(&mut Metric) -> R,
    ) -> Option<R> {
        self.lock().metrics.get_mut(&(kind, name.to_vec())).map(f)
    }
}

fn split_mix_64(state: &mut u64) -> u64 {
    *state = state.wrapping_add(0x9E37_79B9_7F4A_7C15);
    let mut z = *state;
    z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    z ^ (z >> 31)
}
