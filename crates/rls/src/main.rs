//! The rate limit service as a program.

use std::io::Write as _;
use std::net::SocketAddr;
use std::process::ExitCode;
use std::sync::Arc;

use clap::Parser;
use sailcloth_rls::{LimitSpec, Limits, serve};
use tokio::net::TcpListener;

/// A rate limit service that speaks envoy.service.ratelimit.v3, for demos and tests.
/// It listens on loopback unless told otherwise.
#[derive(Debug, Parser)]
#[command(
    name = "sailcloth-rls",
    version,
    after_help = "Exit codes: 0 stopped by SIGTERM or Ctrl-C; 1 could not run, or wrong arguments."
)]
struct Cli {
    /// Where to listen
    #[arg(long, default_value = "127.0.0.1:8083")]
    listen: SocketAddr,
    /// Keep the counters in the Redis at this HOST:PORT; in memory without it
    #[arg(long)]
    redis: Option<String>,
    /// A limit: DOMAIN/KEY+KEY=REQUESTS/SECONDS, for each combination of the values of these descriptor entries
    #[arg(long = "limit", required = true)]
    limits: Vec<LimitSpec>,
}

#[tokio::main]
async fn main() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => {
            let _ = error.print();
            return ExitCode::from(u8::from(error.use_stderr()));
        }
    };
    match run(cli).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            let _ = writeln!(std::io::stderr(), "error: {error}");
            ExitCode::FAILURE
        }
    }
}

async fn run(cli: Cli) -> Result<(), String> {
    use tokio::signal::unix::{SignalKind, signal};
    let mut terminate = signal(SignalKind::terminate()).map_err(|error| error.to_string())?;
    let mut interrupt = signal(SignalKind::interrupt()).map_err(|error| error.to_string())?;
    let limits = Arc::new(Limits::new(cli.limits, cli.redis)?);
    let listener = TcpListener::bind(cli.listen)
        .await
        .map_err(|error| format!("could not listen on {}: {error}", cli.listen))?;
    let _ = writeln!(std::io::stdout(), "rls listens on {}", cli.listen);
    tokio::select! {
        served = serve(listener, limits) => served.map_err(|error| error.to_string()),
        _ = terminate.recv() => Ok(()),
        _ = interrupt.recv() => Ok(()),
    }
}
