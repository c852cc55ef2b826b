//! The measurement: all variants run at once as Envoys of their own, and take turns.
//!
//! Every round, each variant gets a slice of a few hundred requests, in random order; the figure is the CPU time that its
//! process used, divided by the requests. What disturbs the machine for longer than a slice hits all variants of a
//! round alike, so differences and ratios are taken within rounds.

use std::{
    io::Write as _,
    thread::sleep,
    time::{Duration, Instant},
};

use sailcloth_launch::{Envoy, Error, Ports, Result, RunDir, envoy, interrupt};

use crate::{
    bootstrap::EnvoyPorts,
    load::{self, Load},
    request::{self, CONNECTIONS, Tokens},
    system::{Cores, CpuClock, Memory, PinnedHere, Spinners, pin_process},
    upstream::Upstream,
    variant::{Proof, Variant},
};

/// How long an Envoy may finish what follows its last response (destroying streams, leaving the core) before its CPU
/// time is read.
const SETTLE: Duration = Duration::from_micros(500);

/// Requests in a row on each connection before a slice counts: other Envoys have used the caches meanwhile.
const REWARM: usize = 5;

/// How much is measured.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Plan {
    /// How often all Envoys are started afresh.
    pub(crate) restarts: usize,
    /// Rounds of each restart.
    pub(crate) rounds: usize,
    /// Requests of a slice.
    pub(crate) slice: usize,
    /// Requests to each Envoy before the first round.
    pub(crate) warm_up: usize,
    /// Starts of each variant whose start-up is measured.
    pub(crate) starts: usize,
}

/// What was measured of one variant.
#[derive(Clone, Debug, Default)]
pub(crate) struct Samples {
    /// CPU µs per request: by restart, by round.
    pub(crate) cpu: Vec<Vec<f64>>,
    /// After the last round of each restart.
    pub(crate) memory: Vec<Memory>,
}

/// One Envoy and its connections.
struct Running {
    envoy: Envoy,
    clock: CpuClock,
    load: Load,
    port: u16,
    sent: usize,
}

/// Measures all variants; what comes back is in their order.
///
/// # Errors
/// When an Envoy does not start, a request fails, a variant does not do its job, or on Ctrl-C.
pub(crate) fn measure(
    variants: &[Variant],
    tokens: &Tokens,
    upstream: &Upstream,
    cores: Cores,
    plan: Plan,
) -> Result<Vec<Samples>> {
    let mut samples = vec![Samples::default(); variants.len()];
    let mut progress = Progress::new(plan);
    for restart in 0..plan.restarts {
        progress.say(&format!(
            "restart {} of {}: starting {} Envoys",
            restart + 1,
            plan.restarts,
            variants.len()
        ));
        let run = RunDir::temp()?;
        let mut ports = Ports::new();
        let mut running = Vec::new();
        for variant in variants {
            running.push(start(variant, tokens, upstream, &run, &mut ports)?);
        }
        prove_refusals(variants, &running, tokens)?;
        for one in &mut running {
            pin_process(one.envoy.process().id(), cores.envoy)?;
        }
        let _here = PinnedHere::to(cores.load)?;
        let _spinners = Spinners::start(cores)?;
        for one in &mut running {
            interrupt::check()?;
            one.send(plan.warm_up)?;
        }
        let mut order = Order::new(variants.len(), restart);
        samples.iter_mut().for_each(|samples| samples.cpu.push(Vec::with_capacity(plan.rounds)));
        for round in 0..plan.rounds {
            progress.round(restart, round);
            for &index in order.shuffled() {
                interrupt::check()?;
                let (Some(one), Some(variant)) = (running.get_mut(index), variants.get(index)) else {
                    continue;
                };
                let cpu = one.slice(plan.slice).map_err(|error| in_variant(variant, error))?;
                if let Some(rounds) = samples.get_mut(index).and_then(|samples| samples.cpu.last_mut()) {
                    rounds.push(cpu);
                }
            }
        }
        for ((variant, one), samples) in variants.iter().zip(&mut running).zip(&mut samples) {
            one.prove_counts(variant).map_err(|error| in_variant(variant, error))?;
            samples.memory.push(Memory::of(one.envoy.process().id())?);
        }
    }
    Ok(samples)
}

fn start(
    variant: &Variant,
    tokens: &Tokens,
    upstream: &Upstream,
    run: &RunDir,
    ports: &mut Ports,
) -> Result<Running> {
    let ports = EnvoyPorts { listener: ports.free()?, admin: ports.free()?, upstream: upstream.port };
    let config = variant.bootstrap(ports).to_string();
    let start = || {
        let mut envoy = envoy::Spec::new(&variant.name, config).log_level("error").start(run)?;
        let clock = CpuClock::of(envoy.process().id())?;
        let load = Load::connect(ports.listener, &request::load(tokens.token(&variant.token)))?;
        Ok(Running { envoy, clock, load, port: ports.listener, sent: 0 })
    };
    start().map_err(|error| in_variant(variant, error))
}

/// Says which Envoy it was; an interrupt stays what it is.
fn in_variant(variant: &Variant, error: Error) -> Error {
    match error {
        Error::Interrupted(_) => error,
        error => Error::Http(format!("variant `{}`: {error}", variant.name)),
    }
}

impl Running {
    fn send(&mut self, requests: usize) -> Result<usize> {
        let sent = self.load.run(requests.div_ceil(CONNECTIONS))?;
        self.sent += sent;
        Ok(sent)
    }

    /// The CPU time of a request, in µs.
    fn slice(&mut self, requests: usize) -> Result<f64> {
        self.send(REWARM * CONNECTIONS)?;
        sleep(SETTLE);
        let before = self.clock.used()?;
        let sent = self.send(requests)?;
        sleep(SETTLE);
        let used = self.clock.used()?.saturating_sub(before);
        #[expect(clippy::cast_precision_loss, reason = "some hundred requests")]
        let sent = sent as f64;
        Ok(used.as_secs_f64() * 1e6 / sent)
    }

    /// That the variant has counted what it did.
    fn prove_counts(&mut self, variant: &Variant) -> Result<()> {
        for proof in &variant.proofs {
            let &Proof::Counted(metrics, share) = proof else { continue };
            let counted: u64 = self.envoy.stats(metrics)?.values().sum();
            #[expect(clippy::cast_precision_loss, reason = "counts far below 2^52")]
            let enough = counted as f64 >= share * self.sent as f64;
            if !enough {
                return Err(Error::Http(format!(
                    "`{metrics}` has counted {counted} of {} requests: it does not do the job that is measured",
                    self.sent
                )));
            }
        }
        Ok(())
    }
}

/// That every variant refuses what its policy refuses.
fn prove_refusals(variants: &[Variant], running: &[Running], tokens: &Tokens) -> Result<()> {
    for (variant, one) in variants.iter().zip(running) {
        let token = tokens.token(&variant.token);
        for proof in &variant.proofs {
            let (request, expected) = match proof {
                Proof::ForgedTokenIsRefused => {
                    (request::get("/api/v1/users", &request::forged(token), 0), 401)
                }
                Proof::OtherPathIsRefused => (request::get("/elsewhere", token, 0), 403),
                Proof::Counted(..) => continue,
            };
            let status = load::status_of(one.port, &request).map_err(|error| in_variant(variant, error))?;
            if status != expected {
                let text = format!("{proof:?} does not hold: answered {status} instead of {expected}");
                return Err(in_variant(variant, Error::Http(text)));
            }
        }
    }
    Ok(())
}

/// The turns of a round: a different order each time, the same ones in every run.
struct Order {
    indices: Vec<usize>,
    state: u64,
}

impl Order {
    fn new(count: usize, seed: usize) -> Self {
        let state = 0x9e37_79b9_7f4a_7c15_u64.wrapping_mul(u64::try_from(seed).unwrap_or(0).wrapping_add(1));
        Self { indices: (0..count).collect(), state }
    }

    /// Fisher and Yates, with xorshift64.
    fn shuffled(&mut self) -> &[usize] {
        for last in (1..self.indices.len()).rev() {
            self.state ^= self.state << 13;
            self.state ^= self.state >> 7;
            self.state ^= self.state << 17;
            let bound = u64::try_from(last).unwrap_or(u64::MAX).saturating_add(1);
            self.indices.swap(last, usize::try_from(self.state % bound).unwrap_or(last));
        }
        &self.indices
    }
}

/// Lines on standard error, every few seconds.
struct Progress {
    plan: Plan,
    /// Since the first round.
    since: Option<Instant>,
    last: Instant,
}

impl Progress {
    const EVERY: Duration = Duration::from_secs(10);

    fn new(plan: Plan) -> Self {
        Self { plan, since: None, last: Instant::now() }
    }

    fn say(&mut self, text: &str) {
        let _ = writeln!(std::io::stderr(), "bench: {text}");
        self.last = Instant::now();
    }

    fn round(&mut self, restart: usize, round: usize) {
        let since = *self.since.get_or_insert_with(Instant::now);
        let (done, total) = (restart * self.plan.rounds + round, self.plan.restarts * self.plan.rounds);
        if self.last.elapsed() < Self::EVERY || done == 0 {
            return;
        }
        let left = since.elapsed().as_secs() * u64::try_from(total - done).unwrap_or(0)
            / u64::try_from(done).unwrap_or(1);
        let restarts = self.plan.restarts;
        self.say(&format!(
            "restart {} of {restarts}, round {round} of {}; about {}:{:02} min left",
            restart + 1,
            self.plan.rounds,
            left / 60,
            left % 60
        ));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_round_holds_all_variants_in_another_order() {
        let mut order = Order::new(20, 0);
        let first = order.shuffled().to_vec();
        let second = order.shuffled().to_vec();
        assert_ne!(first, second);
        for mut round in [first, second] {
            round.sort_unstable();
            assert_eq!(round, (0..20).collect::<Vec<_>>());
        }
        assert_eq!(Order::new(1, 5).shuffled(), [0]);
    }
}
