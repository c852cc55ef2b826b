//! `make demo`, `make up`, `make down`.

use std::io::Write as _;
use std::process::ExitCode;

use clap::{Parser, Subcommand};
use sailcloth_demo::certs;
use sailcloth_demo::mesh::Mesh;
use sailcloth_demo::tour::Tour;
use sailcloth_launch::{Detached, Error, Result, RunDir, detached, interrupt, repository_root};

const EXIT_CODES: &str = "\
Exit codes: 0 as expected; 1 could not run; 2 a step of the tour differed; 3 Envoy refused the configuration;
130, 143 interrupted by Ctrl-C or SIGTERM.
Ports are free ones; SAILCLOTH_WEB_SIDECAR_PORT, SAILCLOTH_BATCH_SIDECAR_PORT, SAILCLOTH_INBOUND_PORT,
SAILCLOTH_ADMIN_PORT, SAILCLOTH_ISSUER_PORT and SAILCLOTH_WEB_PORT fix them. ENVOY names another Envoy.";

/// The demo mesh on loopback: stock Envoy with the five filters, example services, mutual TLS.
#[derive(Debug, Parser)]
#[command(name = "sailcloth-demo", version, after_help = EXIT_CODES)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Clone, Copy, Subcommand)]
enum Command {
    /// Starts the mesh, plays the tour, stops everything
    Tour,
    /// Starts the mesh and leaves it running
    Up,
    /// Stops what `up` started
    Down,
    /// Writes the certificates that `envoy/chain.yaml` names into .run/certs
    Certs,
}

fn main() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => {
            let _ = error.print();
            return ExitCode::from(u8::from(error.use_stderr()));
        }
    };
    match run(cli.command) {
        Ok(code) => ExitCode::from(code),
        Err(error) => {
            let _ = writeln!(std::io::stderr(), "error: {error}");
            ExitCode::from(error.exit_code())
        }
    }
}

fn run(command: Command) -> Result<u8> {
    interrupt::install()?;
    match command {
        Command::Tour => tour(),
        Command::Up => up(),
        Command::Down => down(),
        Command::Certs => certificates(),
    }
}

fn tour() -> Result<u8> {
    say("starting the mesh: api-service v1 and v2, web-service, an issuer, stock Envoy with five filters");
    let run = RunDir::temp()?;
    let mut mesh = Mesh::start(&run)?;
    let differences = Tour::new(&mut mesh).play()?;
    drop(mesh);
    match differences {
        0 => say("\nThe tour went as expected; everything it started is stopped."),
        1 => say("\n1 step of the tour differed; everything it started is stopped."),
        many => say(&format!("\n{many} steps of the tour differed; everything it started is stopped.")),
    }
    Ok(if differences == 0 { 0 } else { 2 })
}

fn up() -> Result<u8> {
    let mut detached = Detached::begin(run_dir()?)?;
    let mesh = Mesh::start_detached(&mut detached)?;
    let addresses = mesh.addresses;
    let running = detached.leave_running();
    say(&format!("running: {}", running.join(", ")));
    say(&format!(
        "\nTry:\n  curl -i -H 'host: api-service' localhost:{web}/api/v1/users    # as web-service: 200, nine times in ten from v1\n  \
         curl -i -H 'host: api-service' localhost:{batch}/api/v1/users    # as batch-service: 403\n  \
         curl -i -H 'host: api-service' localhost:{web}/health -A 'Chrome/149'    # v2\n  \
         TOKEN=$(curl -s 'localhost:{issuer}/token?sub=alice&aud=api-service' | python3 -c 'import json,sys; print(json.load(sys.stdin)[\"access_token\"])')\n  \
         curl -i -H 'host: api-service' localhost:{web}/api/v1/admin -H \"authorization: Bearer $TOKEN\"\n  \
         curl -s localhost:{admin}/stats/prometheus | grep -E '^(istio|sailcloth)_'\n\nStop it with `make down`.",
        web = addresses.as_web_service,
        batch = addresses.as_batch_service,
        issuer = addresses.issuer,
        admin = addresses.admin,
    ));
    Ok(0)
}

fn down() -> Result<u8> {
    let stopped = detached::stop(&run_dir()?)?;
    if stopped.is_empty() {
        say("nothing is running");
    }
    stopped.iter().for_each(|process| say(&process.to_string()));
    Ok(0)
}

fn certificates() -> Result<u8> {
    let dir = repository_root()?.join(".run/certs");
    certs::write(&dir)?;
    say(&format!("certificates for envoy/chain.yaml are in {}", dir.display()));
    Ok(0)
}

fn run_dir() -> Result<std::path::PathBuf> {
    Ok::<_, Error>(repository_root()?.join(".run/demo"))
}

fn say(text: &str) {
    let _ = writeln!(std::io::stdout(), "{text}");
}
