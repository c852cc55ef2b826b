//! Contexts: which callback belongs to which filter configuration and which stream.

use std::borrow::Cow;
use std::cell::RefCell;
use std::collections::HashMap;
use std::hash::{BuildHasherDefault, Hasher};

use sailcloth_core::config::{Node, Problem, Severity};
use sailcloth_core::decision::LocalReply;

use crate::abi::{self, Buffer};
use crate::callout::{self, GrpcAnswer, GrpcToken, Token};
use crate::metrics::{Counter, Gauge, name};
use crate::{Action, Http, Plugin, StreamId, Streams, clock, log};

/// All contexts of one VM. Two configurations of the same module share a VM, so nothing of a filter is global.
pub struct Registry<P: Plugin>(RefCell<Contexts<P>>);

struct Contexts<P: Plugin> {
    roots: Map<Root<P>>,
    streams: Map<Stream<P>>,
    memory: MemoryGauge,
}

struct Root<P> {
    plugin: Option<P>,
    in_force: Option<Gauge>,
    serving: bool,
}

pub(crate) struct Stream<P: Plugin> {
    pub(crate) root: u32,
    pub(crate) state: P::Stream,
}

pub(crate) type Map<V> = HashMap<u32, V, BuildHasherDefault<ContextHasher>>;

impl<P: Plugin> Registry<P> {
    /// An empty registry.
    #[must_use]
    #[expect(clippy::new_without_default, reason = "made by the export macro only")]
    pub fn new() -> Self {
        Self(RefCell::new(Contexts {
            roots: Map::default(),
            streams: Map::default(),
            memory: MemoryGauge::default(),
        }))
    }

    /// `proxy_on_context_create`.
    pub fn context_create(&self, context: u32, parent: u32) {
        self.with((), |contexts| {
            if parent == 0 {
                contexts.roots.insert(context, Root { plugin: None, in_force: None, serving: false });
            } else {
                if let Some(root) = contexts.roots.get_mut(&parent) {
                    root.serve();
                }
                contexts.streams.insert(context, Stream { root: parent, state: P::Stream::default() });
            }
        });
    }

    /// `proxy_on_configure`: 1 when the configuration is accepted.
    pub fn configure(&self, context: u32, size: usize) -> u32 {
        let text = if size == 0 { Ok(Vec::new()) } else { abi::buffer(Buffer::PluginConfiguration, size) };
        let outcome = text
            .map_err(|status| format!("the configuration could not be read from Envoy: {}", status.name()))
            .and_then(|text| Node::from_plugin_configuration(&text).map_err(|error| error.to_string()))
            .map_err(|message| vec![Problem { severity: Severity::Error, path: String::new(), message }])
            .and_then(|node| P::configure(&node).map(|accepted| (accepted, node.fingerprint())));
        match outcome {
            Err(problems) => {
                refuse::<P>(&problems);
                0
            }
            Ok(((mut plugin, warnings), hash)) => {
                report::<P>(&warnings);
                plugin.start();
                let in_force = announce(&plugin, hash);
                let kept = self.with(false, |contexts| {
                    contexts.roots.insert(context, Root { plugin: Some(plugin), in_force, serving: false });
                    true
                });
                u32::from(kept)
            }
        }
    }

    /// `proxy_on_request_headers`.
    pub fn request_headers(&self, context: u32) -> u32 {
        self.on_stream(context, Action::Stop, |plugin, state, http| plugin.request_headers(state, http))
    }

    /// `proxy_on_response_headers`.
    pub fn response_headers(&self, context: u32) -> u32 {
        self.on_stream(context, Action::Continue, |plugin, state, http| plugin.response_headers(state, http))
    }

    /// `proxy_on_log`.
    pub fn log(&self, context: u32) {
        self.with((), |contexts| {
            if let Some((plugin, state)) = contexts.find(context) {
                plugin.log(state, Http::new(P::FILTER, context));
            }
        });
    }

    /// `proxy_on_http_call_response`. The context is the root's, whichever stream called.
    pub fn callout(&self, context: u32, token: u32, headers: usize, body: usize) {
        let answer = callout::answer(headers, body, P::MAX_ANSWER);
        let sender = callout::sender(token).map(StreamId);
        self.on_root(context, |plugin, streams| plugin.callout(streams, sender, Token::of(token), answer));
    }

    /// `proxy_on_grpc_receive`. The context is the root's, whichever stream called.
    pub fn grpc_receive(&self, context: u32, token: u32, size: usize) {
        self.grpc(context, token, || callout::grpc_message(size));
    }

    /// `proxy_on_grpc_close`: a call that failed.
    pub fn grpc_close(&self, context: u32, token: u32, status: u32) {
        self.grpc(context, token, || GrpcAnswer::Closed(status));
    }

    fn grpc(&self, context: u32, token: u32, answer: impl FnOnce() -> GrpcAnswer) {
        let Some(sender) = callout::grpc_sender(token) else { return };
        let (sender, answer) = (Some(StreamId(sender)).filter(|_| sender != 0), answer());
        self.on_root(context, |plugin, streams| {
            plugin.grpc_answer(streams, sender, GrpcToken(token), answer);
        });
    }

    /// `proxy_on_tick`.
    pub fn tick(&self, context: u32) {
        self.on_root(context, P::tick);
    }

    fn on_root(&self, context: u32, call: impl FnOnce(&mut P, &mut Streams<'_, P>)) {
        callout::enter(0);
        self.with((), |contexts| {
            let Contexts { roots, streams, .. } = contexts;
            if let Some(plugin) = roots.get_mut(&context).and_then(|root| root.plugin.as_mut()) {
                call(plugin, &mut Streams::new(context, streams));
            }
        });
    }

    /// `proxy_on_delete`.
    pub fn delete(&self, context: u32) {
        self.with((), |contexts| {
            if let Some(Stream { root, state }) = contexts.streams.remove(&context) {
                contexts.memory.update::<P>();
                if let Some(plugin) = contexts.roots.get_mut(&root).and_then(|root| root.plugin.as_mut()) {
                    plugin.ended(StreamId(context), state);
                }
            } else if let Some(Root { in_force: Some(gauge), serving: true, .. }) =
                contexts.roots.remove(&context)
            {
                gauge.add(-1);
            }
        });
    }

    fn on_stream(
        &self,
        context: u32,
        unconfigured: Action,
        call: impl FnOnce(&mut P, &mut P::Stream, Http) -> Action,
    ) -> u32 {
        callout::enter(context);
        let http = Http::new(P::FILTER, context);
        let action = self
            .with(None, |contexts| contexts.find(context).map(|(plugin, state)| call(plugin, state, http)));
        let action = action.unwrap_or_else(|| match unconfigured {
            Action::Stop => http.reply(&not_configured::<P>()),
            Action::Continue => Action::Continue,
        });
        u32::from(action == Action::Stop)
    }

    /// Callbacks never nest (the host calls back only for memory), so the borrow always succeeds; if it ever did not,
    /// the callback does nothing instead of panicking.
    fn with<T>(&self, otherwise: T, call: impl FnOnce(&mut Contexts<P>) -> T) -> T {
        match self.0.try_borrow_mut() {
            Ok(mut contexts) => call(&mut contexts),
            Err(_) => otherwise,
        }
    }
}

impl<P> Root<P> {
    /// Counts this instance as one that serves its configuration, from its first stream on: Envoy also configures an
    /// instance on the main thread and a canary that it never tells to go.
    fn serve(&mut self) {
        if let (false, Some(gauge)) = (self.serving, self.in_force) {
            self.serving = true;
            gauge.add(1);
        }
    }
}

impl<P: Plugin> Contexts<P> {
    fn find(&mut self, context: u32) -> Option<(&mut P, &mut P::Stream)> {
        let stream = self.streams.get_mut(&context)?;
        let plugin = self.roots.get_mut(&stream.root)?.plugin.as_mut()?;
        Some((plugin, &mut stream.state))
    }
}

fn not_configured<P: Plugin>() -> LocalReply {
    LocalReply {
        status: 503,
        grpc_status: 14,
        headers: Vec::new(),
        body: Cow::Borrowed(""),
        details: format!("sailcloth_{}_not_configured", P::FILTER.name()),
    }
}

fn report<P: Plugin>(problems: &[Problem]) {
    for problem in problems {
        let line = format!("sailcloth {}: {problem}", P::FILTER.name());
        match problem.severity {
            Severity::Error => log::error(&line),
            Severity::Warning => log::warn(&line),
        }
    }
}

fn refuse<P: Plugin>(problems: &[Problem]) {
    report::<P>(problems);
    let errors = problems.iter().filter(|problem| problem.severity == Severity::Error).count();
    log::error(&format!(
        "sailcloth {}: configuration refused: {errors} problem(s), listed above",
        P::FILTER.name()
    ));
    let labels = [("filter", P::FILTER.name())];
    if let Ok(counter) = Counter::define(&name("sailcloth_config_refused_total", &labels)) {
        counter.add(1);
    }
    if let (Ok(gauge), Ok(now)) =
        (Gauge::define(&name("sailcloth_config_refused_time_seconds", &labels)), clock::system_time())
    {
        gauge.set(now.as_secs());
    }
}

/// Shows what is in force: what the configuration holds, and (counted up by [`Root::serve`]) how many workers serve it.
fn announce<P: Plugin>(plugin: &P, hash: u64) -> Option<Gauge> {
    let filter = P::FILTER.name();
    let hash = format!("{hash:016x}");
    let labels = [("filter", filter), ("version", env!("CARGO_PKG_VERSION")), ("hash", &hash)];
    for (kind, count) in plugin.resources() {
        if let Ok(gauge) =
            Gauge::define(&name("sailcloth_config_resources", &[("filter", filter), ("kind", kind)]))
        {
            gauge.set(u64::try_from(count).unwrap_or(u64::MAX));
        }
    }
    Gauge::define(&name("sailcloth_config_info", &labels)).ok()
}

/// The linear memory of all VMs of this filter, added up; a VM's memory never shrinks.
#[derive(Default)]
struct MemoryGauge {
    gauge: Option<Gauge>,
    shown: usize,
    streams: u32,
}

impl MemoryGauge {
    const EVERY: u32 = 256;
    const PAGE: usize = 65536;

    fn update<P: Plugin>(&mut self) {
        let due = self.streams.is_multiple_of(Self::EVERY);
        self.streams = self.streams.wrapping_add(1);
        let pages = memory_pages();
        if !due || pages == self.shown {
            return;
        }
        let labels = [("filter", P::FILTER.name())];
        self.gauge = self.gauge.or_else(|| Gauge::define(&name("sailcloth_vm_memory_bytes", &labels)).ok());
        if let Some(gauge) = self.gauge {
            let grown = pages.saturating_sub(self.shown).saturating_mul(Self::PAGE);
            gauge.add(i64::try_from(grown).unwrap_or(i64::MAX));
            self.shown = pages;
        }
    }
}

fn memory_pages() -> usize {
    #[cfg(target_family = "wasm")]
    return core::arch::wasm32::memory_size(0);
    #[cfg(not(target_family = "wasm"))]
    return 0;
}

/// Context ids are small and consecutive: one multiplication spreads them.
#[derive(Default)]
pub(crate) struct ContextHasher(u64);

impl Hasher for ContextHasher {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.write_u32(u32::from(*byte));
        }
    }

    fn write_u32(&mut self, id: u32) {
        self.0 = (self.0 ^ u64::from(id)).wrapping_mul(0x9e37_79b9_7f4a_7c15).rotate_left(32);
    }
}
