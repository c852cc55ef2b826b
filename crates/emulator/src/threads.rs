//! All instances of one plugin that an Envoy process runs, and their timers on one clock.

use std::time::Duration;

use crate::callout::{Answer, AnswerError, Callout};
use crate::module::Module;
use crate::plugin::{ConfigureError, Plugin, PluginConfig};
use crate::process::Process;
use crate::vm::{Trap, Vm, VmOptions};

/// A plugin as Envoy runs it: configured first in a canary that is thrown away, then on the main thread, then on each
/// worker. The main thread's instance gets no streams, but ticks and answers like the others.
///
/// ```no_run
/// # use sailcloth_emulator::{Cluster, Module, PluginConfig, Process, Threads, VmOptions};
/// # use std::time::Duration;
/// # let module = Module::compile(&[])?;
/// let process = Process::new();
/// process.set_cluster("keys", Cluster::Reachable);
/// let config = PluginConfig::new("my-filter", "{}");
/// let threads = Threads::configure(&process, &module, &VmOptions::default(), &config, 2)?;
/// threads.advance(Duration::from_secs(60))?;
/// assert_eq!(threads.callouts().len(), 1, "three instances, one of which fetches");
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub struct Threads {
    process: Process,
    main: Plugin,
    workers: Vec<Plugin>,
}

impl Threads {
    /// Makes the canary, the main thread's instance and those of the workers.
    ///
    /// # Errors
    /// [`ConfigureError`] of the first instance that does not configure.
    pub fn configure(
        process: &Process,
        module: &Module,
        options: &VmOptions,
        config: &PluginConfig,
        workers: usize,
    ) -> Result<Self, ConfigureError> {
        let instance = || Vm::new(process, module, options.clone())?.configure(config.clone());
        // Envoy kills the canary without a word to it.
        drop(instance()?);
        let main = instance()?;
        let workers = (0..workers).map(|_| instance()).collect::<Result<_, _>>()?;
        Ok(Self { process: process.clone(), main, workers })
    }

    /// The main thread's instance.
    #[must_use]
    pub fn main(&self) -> &Plugin {
        &self.main
    }

    /// The workers' instances, which get the streams.
    #[must_use]
    pub fn workers(&self) -> &[Plugin] {
        &self.workers
    }

    /// Moves the clock forward and runs every thread's timers when they are due, in the order of time: ticks, and the
    /// 504 of callouts past their timeout. What a tick or an answer did to a stream shows after
    /// [`Stream::proceed`](crate::Stream::proceed).
    ///
    /// # Errors
    /// The first trap.
    pub fn advance(&self, by: Duration) -> Result<(), Trap> {
        let by = u64::try_from(by.as_nanos()).unwrap_or(u64::MAX);
        let end = self.process.monotonic_ns().saturating_add(by);
        loop {
            let now = self.process.monotonic_ns();
            let next = self.all().filter_map(|plugin| plugin.vm().next_timer_ns()).min();
            let until = next.unwrap_or(end).clamp(now, end);
            self.process.advance(Duration::from_nanos(until - now));
            for plugin in self.all() {
                plugin.vm().run_timers()?;
            }
            if next.is_none_or(|next| next > end) {
                return Ok(());
            }
        }
    }

    fn all(&self) -> impl Iterator<Item = &Plugin> {
        std::iter::once(&self.main).chain(&self.workers)
    }

    /// Callouts that wait for an answer, with the instance that made each: 0 is the main thread, then the workers.
    #[must_use]
    pub fn callouts(&self) -> Vec<(usize, Callout)> {
        let of = |(index, plugin): (usize, &Plugin)| {
            plugin.vm().callouts().into_iter().map(move |one| (index, one))
        };
        self.all().enumerate().flat_map(of).collect()
    }

    /// Answers a callout of [`Self::callouts`].
    ///
    /// # Errors
    /// [`AnswerError`].
    pub fn answer(&self, (instance, callout): &(usize, Callout), answer: Answer) -> Result<(), AnswerError> {
        let plugin = self.all().nth(*instance).ok_or(AnswerError::NotPending)?;
        plugin.vm().answer(callout, answer)
    }
}
