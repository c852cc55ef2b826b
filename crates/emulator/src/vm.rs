//! One instance of a module: what a worker thread of Envoy has.

use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use wasmtime::{
    Instance, Memory, Store, StoreLimits, StoreLimitsBuilder, TypedFunc, WasmParams, WasmResults,
};

use crate::abi::{Callback, Level, to_u32};
use crate::callout::{Callout, Delivery};
use crate::module::{EPOCH, Module};
use crate::plugin::{PluginInfo, RootContext};
use crate::process::{MetricKind, Process};
use crate::stream::StreamState;

/// Envoy's limit on the memory of one VM.
pub const ENVOY_MAX_MEMORY: usize = 1 << 30;

/// How to make a VM.
#[derive(Clone, Debug)]
pub struct VmOptions {
    /// The namespace of its shared data; empty in Istio.
    pub vm_id: String,
    /// What `proxy_on_vm_start` reads.
    pub vm_configuration: Vec<u8>,
    /// Its environment variables.
    pub env: Vec<(String, String)>,
    /// Bytes of linear memory; growth beyond fails inside the module. [`ENVOY_MAX_MEMORY`] by default.
    pub max_memory: usize,
    /// Wall time that one callback may take, in steps of 10 ms; Envoy has no such limit. Ten seconds by default.
    pub deadline: Duration,
}

impl Default for VmOptions {
    fn default() -> Self {
        Self {
            vm_id: String::new(),
            vm_configuration: Vec::new(),
            env: Vec::new(),
            max_memory: ENVOY_MAX_MEMORY,
            deadline: Duration::from_secs(10),
        }
    }
}

/// Why a call into a VM did not return.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Trap {
    /// The module trapped (panic, `unreachable`, out of memory, a restricted hostcall). The VM is dead from here on.
    Failed(String),
    /// A callback took longer than [`VmOptions::deadline`]. The VM is dead from here on.
    Deadline,
    /// The VM had died before, of this.
    Dead(String),
}

impl fmt::Display for Trap {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Failed(reason) => write!(f, "the module trapped: {reason}"),
            Self::Deadline => f.write_str("a callback did not return before its deadline"),
            Self::Dead(reason) => write!(f, "the VM is dead since: {reason}"),
        }
    }
}

impl std::error::Error for Trap {}

/// Whether a VM still runs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum VmState {
    /// It runs.
    Running,
    /// It trapped, for this reason. All its plugins answer 503.
    Failed(String),
}

/// A VM; clones are handles to the same one.
#[derive(Clone)]
pub struct Vm {
    inner: Arc<Mutex<VmInner>>,
}

impl Vm {
    /// Instantiates a module and runs `_initialize` (then `main`), or `_start`. During these only logging, arguments,
    /// environment, clock and random may be called; anything else traps.
    ///
    /// # Errors
    /// [`Trap::Failed`] when start-up traps or the module needs more memory than allowed.
    pub fn new(process: &Process, module: &Module, options: VmOptions) -> Result<Self, Trap> {
        Ok(Self { inner: Arc::new(Mutex::new(VmInner::start(process, module, options)?)) })
    }

    pub(crate) fn lock(&self) -> MutexGuard<'_, VmInner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether it still runs.
    #[must_use]
    pub fn state(&self) -> VmState {
        self.lock().failed.clone().map_or(VmState::Running, VmState::Failed)
    }

    /// The process it belongs to.
    #[must_use]
    pub fn process(&self) -> Process {
        self.lock().store.data().process.clone()
    }

    /// Bytes of linear memory in use; never shrinks.
    #[must_use]
    pub fn memory_bytes(&self) -> usize {
        let inner = self.lock();
        inner.store.data().memory.map_or(0, |memory| memory.data_size(&inner.store))
    }

    /// Contexts alive in it, roots included: a test of many streams sees a leak here.
    #[must_use]
    pub fn contexts(&self) -> usize {
        self.lock().store.data().contexts.len()
    }

    /// Runs what is due on the process's monotonic clock: one tick per root context whose period has passed, and the
    /// 504 of every callout past its timeout. [`Process::advance`] moves that clock.
    ///
    /// # Errors
    /// The first trap.
    pub fn run_timers(&self) -> Result<(), Trap> {
        let mut inner = self.lock();
        let now = inner.store.data().process.monotonic_ns();
        for root in inner.due_ticks(now) {
            inner.tick(root)?;
        }
        inner.expire_callouts(now)
    }

    /// When on the monotonic clock [`Self::run_timers`] has something to do next.
    pub(crate) fn next_timer_ns(&self) -> Option<u64> {
        let inner = self.lock();
        if inner.failed.is_some() {
            return None;
        }
        let data = inner.store.data();
        let tick = |context: &Context| match context {
            Context::Root(root) => root.next_tick_ns,
            Context::Stream(_) => None,
        };
        let ticks = data.contexts.values().filter_map(tick);
        ticks.chain(data.callouts.values().filter_map(|callout| callout.deadline_ns)).min()
    }

    /// Callouts that wait for an answer, oldest first.
    #[must_use]
    pub fn callouts(&self) -> Vec<Callout> {
        self.lock().store.data().callouts.values().cloned().collect()
    }
}

/// What may be called at this moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Restriction {
    None,
    /// `_initialize`, `main`, `_start`.
    Startup,
    /// `proxy_on_memory_allocate`.
    Allocating,
}

/// A context of the VM: a plugin's root or one filter of one stream.
pub(crate) enum Context {
    Root(RootContext),
    Stream(StreamContext),
}

impl Context {
    pub(crate) fn plugin(&self) -> &Arc<PluginInfo> {
        match self {
            Self::Root(root) => &root.plugin,
            Self::Stream(stream) => &stream.plugin,
        }
    }
}

/// One filter's view of a stream: which maps it can reach just now.
pub(crate) struct StreamContext {
    pub(crate) root: u32,
    pub(crate) plugin: Arc<PluginInfo>,
    pub(crate) filter: usize,
    pub(crate) shared: Arc<Mutex<StreamState>>,
    pub(crate) visible: Visible,
}

/// The pointers of Envoy's context that are set only in certain phases.
#[derive(Default)]
#[expect(clippy::struct_excessive_bools, reason = "five independent pointers of the original")]
pub(crate) struct Visible {
    pub(crate) request_headers: bool,
    pub(crate) request_trailers: bool,
    pub(crate) response_headers: bool,
    pub(crate) response_trailers: bool,
    pub(crate) logging: bool,
    pub(crate) request_body: Option<Vec<u8>>,
    pub(crate) response_body: Option<Vec<u8>>,
}

pub(crate) struct VmData {
    pub(crate) process: Process,
    pub(crate) vm_id: String,
    pub(crate) vm_configuration: Vec<u8>,
    pub(crate) env: Vec<(String, String)>,
    pub(crate) memory: Option<Memory>,
    pub(crate) allocate: Option<TypedFunc<u32, u32>>,
    limits: StoreLimits,
    pub(crate) restriction: Restriction,
    pub(crate) current: u32,
    /// 0: same as `current`.
    pub(crate) effective: u32,
    pub(crate) contexts: HashMap<u32, Context>,
    next_context: u32,
    /// Readable only while a root context is created or configured.
    pub(crate) plugin_configuration: Option<Vec<u8>>,
    pub(crate) metrics: HashMap<u32, (MetricKind, Vec<u8>)>,
    pub(crate) next_metric: [u32; 3],
    #[cfg(feature = "cel")]
    pub(crate) programs: crate::cel::Programs,
    pub(crate) callouts: BTreeMap<u64, Callout>,
    pub(crate) next_callout: u64,
    pub(crate) next_http_token: u32,
    pub(crate) next_grpc_token: u32,
    pub(crate) delivery: Delivery,
    /// A local reply was sent: whatever the callback returns, iteration stops.
    pub(crate) stop_next: bool,
    /// What Envoy reports after the running callback, for gRPC calls whose hostcall had already failed.
    pub(crate) late_grpc_closes: Vec<(u32, u32)>,
    /// Root contexts whose `proxy_done` came after `proxy_on_done` had said "not yet".
    pub(crate) finished_roots: Vec<u32>,
}

impl VmData {
    /// The context that a hostcall acts on.
    pub(crate) fn effective_id(&self) -> u32 {
        if self.effective != 0 && self.contexts.contains_key(&self.effective) {
            self.effective
        } else {
            self.current
        }
    }

    pub(crate) fn context(&self) -> Option<&Context> {
        self.contexts.get(&self.effective_id())
    }

    pub(crate) fn stream(&self) -> Option<&StreamContext> {
        match self.context() {
            Some(Context::Stream(stream)) => Some(stream),
            _ => None,
        }
    }

    pub(crate) fn stream_mut(&mut self) -> Option<&mut StreamContext> {
        let id = self.effective_id();
        self.stream_of(id)
    }

    pub(crate) fn stream_of(&mut self, id: u32) -> Option<&mut StreamContext> {
        match self.contexts.get_mut(&id) {
            Some(Context::Stream(stream)) => Some(stream),
            _ => None,
        }
    }

    /// Id of the root context that owns the acting context.
    pub(crate) fn root_id(&self) -> u32 {
        self.stream().map_or(self.effective_id(), |stream| stream.root)
    }

    pub(crate) fn root_mut(&mut self) -> Option<&mut RootContext> {
        let id = self.root_id();
        self.root_of(id)
    }

    pub(crate) fn root_of(&mut self, id: u32) -> Option<&mut RootContext> {
        match self.contexts.get_mut(&id) {
            Some(Context::Root(root)) => Some(root),
            _ => None,
        }
    }

    pub(crate) fn plugin_name(&self) -> &str {
        self.context().map_or("", |context| context.plugin().name.as_str())
    }

    pub(crate) fn add_context(&mut self, context: Context) -> u32 {
        self.next_context += 1;
        self.contexts.insert(self.next_context, context);
        self.next_context
    }
}

pub(crate) struct VmInner {
    pub(crate) store: Store<VmData>,
    instance: Option<Instance>,
    pub(crate) failed: Option<String>,
    deadline_epochs: u64,
}

impl VmInner {
    fn start(process: &Process, module: &Module, options: VmOptions) -> Result<Self, Trap> {
        let data = VmData {
            process: process.clone(),
            vm_id: options.vm_id,
            vm_configuration: options.vm_configuration,
            env: options.env,
            memory: None,
            allocate: None,
            limits: StoreLimitsBuilder::new().memory_size(options.max_memory).build(),
            restriction: Restriction::Startup,
            current: 0,
            effective: 0,
            contexts: HashMap::new(),
            next_context: 0,
            plugin_configuration: None,
            metrics: HashMap::new(),
            next_metric: [0, 1, 2],
            #[cfg(feature = "cel")]
            programs: crate::cel::Programs::default(),
            callouts: BTreeMap::new(),
            next_callout: 0,
            next_http_token: 1,
            next_grpc_token: 1,
            delivery: Delivery::default(),
            stop_next: false,
            late_grpc_closes: Vec::new(),
            finished_roots: Vec::new(),
        };
        let mut store = Store::new(module.pre.module().engine(), data);
        store.limiter(|data| &mut data.limits);
        let epochs = options.deadline.as_millis() / EPOCH.as_millis() + 1;
        let deadline_epochs = u64::try_from(epochs).unwrap_or(u64::MAX / 2).min(u64::MAX / 2);
        let mut inner = Self { store, instance: None, failed: None, deadline_epochs };
        inner.initialize(module)?;
        Ok(inner)
    }

    fn initialize(&mut self, module: &Module) -> Result<(), Trap> {
        self.store.set_epoch_deadline(self.deadline_epochs);
        let instance = module.pre.instantiate(&mut self.store).map_err(|error| self.fail(&error))?;
        self.instance = Some(instance);
        let memory = instance.get_memory(&mut self.store, "memory");
        let allocate = ["proxy_on_memory_allocate", "malloc"]
            .iter()
            .find_map(|name| instance.get_typed_func::<u32, u32>(&mut self.store, name).ok());
        self.store.data_mut().memory = memory;
        self.store.data_mut().allocate = allocate;
        if self.exports("_initialize") {
            self.run::<(), ()>("_initialize", ())?;
            if self.exports("main") {
                self.run::<(u32, u32), u32>("main", (0, 0))?;
            }
        } else if self.exports("_start") {
            self.run::<(), ()>("_start", ())?;
        }
        self.store.data_mut().restriction = Restriction::None;
        Ok(())
    }

    fn exports(&mut self, name: &str) -> bool {
        self.instance.is_some_and(|instance| instance.get_func(&mut self.store, name).is_some())
    }

    fn run<P: WasmParams, R: WasmResults>(&mut self, name: &str, params: P) -> Result<R, Trap> {
        self.store.set_epoch_deadline(self.deadline_epochs);
        let Some(instance) = self.instance else {
            return Err(Trap::Failed("not instantiated".to_owned()));
        };
        let result = instance
            .get_typed_func::<P, R>(&mut self.store, name)
            .and_then(|function| function.call(&mut self.store, params));
        result.map_err(|error| self.fail(&error))
    }

    fn fail(&mut self, error: &wasmtime::Error) -> Trap {
        let deadline = matches!(error.downcast_ref::<wasmtime::Trap>(), Some(wasmtime::Trap::Interrupt));
        let trap = if deadline { Trap::Deadline } else { Trap::Failed(format!("{error:#}")) };
        self.failed = Some(trap.to_string());
        let data = self.store.data();
        data.process.log(Level::Error, data.plugin_name(), format!("Wasm VM failed: {trap}").as_bytes());
        trap
    }

    /// Calls a callback for a context. `None` when the module does not export it.
    pub(crate) fn call<P: WasmParams, R: WasmResults>(
        &mut self,
        context: u32,
        callback: Callback,
        params: P,
    ) -> Result<Option<R>, Trap> {
        if let Some(reason) = &self.failed {
            return Err(Trap::Dead(reason.clone()));
        }
        if !self.exports(callback.name()) {
            return Ok(None);
        }
        let data = self.store.data_mut();
        data.current = context;
        data.effective = 0;
        // A reply of an earlier callback (a tick's, an answer's) does not stop what this one says to go on.
        data.stop_next = false;
        data.process.count_callback(callback);
        let result = self.run(callback.name(), params);
        let data = self.store.data_mut();
        data.current = 0;
        data.effective = 0;
        let stop = data.stop_next;
        let result = result?;
        self.after_call()?;
        self.store.data_mut().stop_next = stop;
        Ok(Some(result))
    }

    fn after_call(&mut self) -> Result<(), Trap> {
        for (root, token) in std::mem::take(&mut self.store.data_mut().late_grpc_closes) {
            self.close_grpc(root, token, 14, "")?;
        }
        for root in std::mem::take(&mut self.store.data_mut().finished_roots) {
            self.delete(root)?;
        }
        Ok(())
    }

    /// `proxy_on_delete`, then the context is gone.
    pub(crate) fn delete(&mut self, context: u32) -> Result<(), Trap> {
        let result = self.call::<u32, ()>(context, Callback::OnDelete, context);
        let data = self.store.data_mut();
        data.contexts.remove(&context);
        data.callouts.retain(|_, callout| callout.root != context);
        result.map(|_| ())
    }

    /// `proxy_on_context_create` for a stream context.
    pub(crate) fn create_stream(&mut self, context: StreamContext) -> Result<u32, Trap> {
        let root = context.root;
        let id = self.store.data_mut().add_context(Context::Stream(context));
        self.call::<(u32, u32), ()>(id, Callback::OnContextCreate, (id, root))?;
        Ok(id)
    }

    /// Whether a local reply was sent since this was last asked.
    pub(crate) fn take_stop(&mut self) -> bool {
        std::mem::take(&mut self.store.data_mut().stop_next)
    }

    pub(crate) fn tick(&mut self, root: u32) -> Result<(), Trap> {
        let now = self.store.data().process.monotonic_ns();
        self.call::<u32, ()>(root, Callback::OnTick, root)?;
        if let Some(context) = self.store.data_mut().root_of(root) {
            context.schedule(now);
        }
        Ok(())
    }

    fn due_ticks(&self, now: u64) -> Vec<u32> {
        let due = |context: &Context| match context {
            Context::Root(root) => root.next_tick_ns.is_some_and(|at| at <= now),
            Context::Stream(_) => false,
        };
        let contexts = &self.store.data().contexts;
        let mut due: Vec<u32> = contexts.iter().filter(|(_, c)| due(c)).map(|(id, _)| *id).collect();
        due.sort_unstable();
        due
    }

    /// Runs `f` while the plugin configuration can be read.
    pub(crate) fn with_configuration<R>(
        &mut self,
        configuration: &[u8],
        f: impl FnOnce(&mut Self, u32) -> R,
    ) -> R {
        self.store.data_mut().plugin_configuration = Some(configuration.to_vec());
        let result = f(self, to_u32(configuration.len()));
        self.store.data_mut().plugin_configuration = None;
        result
    }
}
