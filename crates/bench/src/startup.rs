//! Start-up: from exec to the first answered request, on all cores, nothing else running.

use std::{
    io::Write as _,
    thread::sleep,
    time::{Duration, Instant},
};

use sailcloth_launch::{Error, Ports, Result, RunDir, envoy, interrupt, process, repository_root};

use crate::{
    bootstrap::EnvoyPorts,
    load,
    request::{self, Tokens},
    system::CpuClock,
    upstream::Upstream,
    variant::Variant,
};

/// How often the listener is tried.
const STEP: Duration = Duration::from_millis(1);

/// How long a start may take.
const PATIENCE: Duration = Duration::from_secs(60);

/// Whose start-up is measured: one variant of each module, the chain, and what they are compared with.
const MEASURED: [&str; 17] = [
    "base",
    "empty",
    "empty-x5-one-vm",
    "empty-x5-five-vms",
    "jwt-rs256-cached",
    "authz",
    "ratelimit",
    "routing",
    "metrics",
    "chain-cached",
    "chain-cached-one-vm-id",
    "native-chain-cached",
    "upstream-base",
    "routes-10",
    "routes-10000",
    "native-list-10000",
    "native-tree-10000",
];

/// What a start took, in ms.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Start {
    /// From exec to the first answer.
    pub(crate) wall: f64,
    /// CPU time of all threads by then.
    pub(crate) cpu: f64,
}

/// Whether the start-up of `variant` is measured.
pub(crate) fn is_measured(variant: &Variant) -> bool {
    MEASURED.contains(&variant.name.as_str()) || variant.name.contains('@')
}

/// The starts of each variant, in their order; none of those that are not measured.
///
/// # Errors
/// When an Envoy does not start, and on Ctrl-C.
pub(crate) fn measure(
    variants: &[Variant],
    tokens: &Tokens,
    upstream: &Upstream,
    starts: usize,
) -> Result<Vec<Vec<Start>>> {
    let mut all = vec![Vec::new(); variants.len()];
    for round in 0..starts {
        let _ = writeln!(std::io::stderr(), "bench: start-up, round {} of {starts}", round + 1);
        for (variant, starts) in variants.iter().zip(&mut all).filter(|(variant, _)| is_measured(variant)) {
            starts.push(start(variant, tokens, upstream)?);
        }
    }
    Ok(all)
}

fn start(variant: &Variant, tokens: &Tokens, upstream: &Upstream) -> Result<Start> {
    let (run, mut ports) = (RunDir::temp()?, Ports::new());
    let ports = EnvoyPorts { listener: ports.free()?, admin: ports.free()?, upstream: upstream.port };
    let file = run.file("envoy.yaml");
    std::fs::write(&file, variant.bootstrap(ports).to_string())
        .map_err(Error::io(format!("could not write `{}`", file.display())))?;
    let request = request::get("/api/v1/users", tokens.token(&variant.token), 0);
    let spec = process::Spec::new(&variant.name, envoy::find()?)
        .args(["--disable-hot-restart", "--concurrency", "1", "--log-level", "error", "-c"])
        .arg(file)
        .current_dir(repository_root()?);
    let begin = Instant::now();
    let mut process = spec.start(&run)?;
    loop {
        interrupt::check()?;
        // Until it listens, connecting fails; then the answer comes when it serves.
        match load::status_of(ports.listener, &request) {
            Ok(200) => break,
            Ok(status) => {
                let text = format!("variant `{}`: the first answer was {status}", variant.name);
                return Err(Error::Http(text));
            }
            Err(error) if begin.elapsed() > PATIENCE => return Err(error),
            Err(_) => process.check()?,
        }
        sleep(STEP);
    }
    let wall = begin.elapsed();
    let cpu = CpuClock::of(process.id())?.used()?;
    process.stop()?;
    Ok(Start { wall: wall.as_secs_f64() * 1e3, cpu: cpu.as_secs_f64() * 1e3 })
}
