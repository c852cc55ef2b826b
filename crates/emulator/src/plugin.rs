//! A plugin: one configuration of a module in one VM, with its root context.

use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use crate::abi::{Callback, to_u32};
use crate::vm::{Context, Trap, Vm, VmInner};

/// What Envoy's `PluginConfig` says of one plugin.
#[derive(Clone, Debug, Default)]
pub struct PluginConfig {
    /// Shown in logs and as attribute `plugin_name`.
    pub name: String,
    /// Chooses the root context inside the module; attribute `plugin_root_id`.
    pub root_id: String,
    /// The bytes that `proxy_on_configure` reads: JSON text for a `Struct`, the raw value otherwise.
    pub configuration: Vec<u8>,
    /// `failure_policy: FAIL_OPEN`: after a trap new streams pass by the plugin; the streams of the moment still get
    /// 503. Closed otherwise: every stream gets 503.
    pub fail_open: bool,
    /// `allow_on_headers_stop_iteration`: pausing in a headers callback still lets the body through to this plugin.
    pub allow_on_headers_stop_iteration: bool,
}

impl PluginConfig {
    /// A plugin with that name and configuration, and the other fields at their defaults.
    #[must_use]
    pub fn new(name: &str, configuration: impl AsRef<[u8]>) -> Self {
        Self { name: name.to_owned(), configuration: configuration.as_ref().to_vec(), ..Self::default() }
    }
}

/// Why a plugin was not configured. In Envoy's canary this rejects the configuration; on a worker alone it means
/// that the filter is **skipped** there, under any failure policy: leave it out of the chain to play that.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ConfigureError {
    /// `proxy_on_vm_start` or `proxy_on_configure` returned false; the reason stands in [`crate::Process::logs`].
    Refused,
    /// The module trapped.
    Trap(Trap),
}

impl fmt::Display for ConfigureError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Refused => f.write_str("the module refused its configuration"),
            Self::Trap(trap) => write!(f, "configuring failed: {trap}"),
        }
    }
}

impl std::error::Error for ConfigureError {}

impl From<Trap> for ConfigureError {
    fn from(trap: Trap) -> Self {
        Self::Trap(trap)
    }
}

#[derive(Debug)]
pub(crate) struct PluginInfo {
    pub(crate) name: String,
    pub(crate) root_id: String,
    pub(crate) fail_open: bool,
    pub(crate) single_stop: bool,
}

/// A root context's state in the host.
pub(crate) struct RootContext {
    pub(crate) plugin: Arc<PluginInfo>,
    pub(crate) tick_ms: u32,
    pub(crate) next_tick_ns: Option<u64>,
    /// `declare_property`: name to "read only".
    pub(crate) declared: HashMap<Vec<u8>, bool>,
    /// `proxy_on_done` said "not yet".
    pub(crate) pending_done: bool,
}

impl RootContext {
    /// Plans the next tick, a period after `now`; period 0 stops the timer.
    pub(crate) fn schedule(&mut self, now: u64) {
        let period = u64::from(self.tick_ms) * 1_000_000;
        self.next_tick_ns = (period > 0).then(|| now.saturating_add(period));
    }
}

/// A configured plugin; clones are handles to the same one.
#[derive(Clone)]
pub struct Plugin {
    pub(crate) vm: Vm,
    pub(crate) root: u32,
    pub(crate) info: Arc<PluginInfo>,
}

impl Vm {
    /// Creates a root context: `proxy_on_context_create`, `proxy_on_vm_start`, `proxy_on_configure`.
    ///
    /// # Errors
    /// [`ConfigureError`] when the module refuses or traps.
    pub fn configure(&self, config: PluginConfig) -> Result<Plugin, ConfigureError> {
        let info = Arc::new(PluginInfo {
            name: config.name,
            root_id: config.root_id,
            fail_open: config.fail_open,
            single_stop: config.allow_on_headers_stop_iteration,
        });
        let mut inner = self.lock();
        let root = inner.store.data_mut().add_context(Context::Root(RootContext {
            plugin: Arc::clone(&info),
            tick_ms: 0,
            next_tick_ns: None,
            declared: HashMap::new(),
            pending_done: false,
        }));
        if !start_root(&mut inner, root, &config.configuration)? {
            inner.store.data_mut().contexts.remove(&root);
            return Err(ConfigureError::Refused);
        }
        drop(inner);
        Ok(Plugin { vm: self.clone(), root, info })
    }
}

fn start_root(vm: &mut VmInner, root: u32, configuration: &[u8]) -> Result<bool, Trap> {
    vm.with_configuration(configuration, |vm, _| {
        vm.call::<(u32, u32), ()>(root, Callback::OnContextCreate, (root, 0))
    })?;
    let size = to_u32(vm.store.data().vm_configuration.len());
    if vm.call::<(u32, u32), u32>(root, Callback::OnVmStart, (root, size))? == Some(0) {
        return Ok(false);
    }
    let configured = vm.with_configuration(configuration, |vm, size| {
        vm.call::<(u32, u32), u32>(root, Callback::OnConfigure, (root, size))
    })?;
    Ok(configured != Some(0))
}

impl Plugin {
    /// Its name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.info.name
    }

    /// The VM it lives in.
    #[must_use]
    pub fn vm(&self) -> &Vm {
        &self.vm
    }

    /// Number of its root context inside the VM.
    #[must_use]
    pub fn root_context(&self) -> u32 {
        self.root
    }

    /// Runs `proxy_on_tick` now, whatever the period.
    ///
    /// # Errors
    /// A trap.
    pub fn tick(&self) -> Result<(), Trap> {
        self.vm.lock().tick(self.root)
    }

    /// The period that the module asked for; `None` when it wants no ticks.
    #[must_use]
    pub fn tick_period(&self) -> Option<Duration> {
        let mut inner = self.vm.lock();
        let period = inner.store.data_mut().root_of(self.root)?.tick_ms;
        (period > 0).then(|| Duration::from_millis(u64::from(period)))
    }

    /// Ends the root context: `proxy_on_done`, and `proxy_on_delete` when that returned true. When it returned false the
    /// context lives until the module calls `proxy_done`. True when the context is gone.
    ///
    /// # Errors
    /// A trap.
    pub fn shut_down(&self) -> Result<bool, Trap> {
        let mut inner = self.vm.lock();
        if inner.call::<u32, u32>(self.root, Callback::OnDone, self.root)? == Some(0) {
            if let Some(root) = inner.store.data_mut().root_of(self.root) {
                root.pending_done = true;
            }
            return Ok(false);
        }
        inner.delete(self.root).map(|()| true)
    }
}
