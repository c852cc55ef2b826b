//! The example services of the demo as one program.

use std::{io::Write as _, process::ExitCode};

use clap::{Parser, Subcommand};
use sailcloth_services::{Result, api_service, issuer, load, web_service};

const EXIT_CODES: &str = "\
Exit codes: 0 done (servers: stopped by SIGTERM or Ctrl-C); 1 could not run, or wrong arguments;
2 load: some requests got no answer; 130, 143 load: interrupted by Ctrl-C or SIGTERM.";

/// Example services for trying Sailcloth: a caller, an echoing API, an OIDC issuer, a load generator.
/// They listen on loopback unless told otherwise. For demos and tests only.
#[derive(Debug, Parser)]
#[command(name = "sailcloth-services", version, after_help = EXIT_CODES)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// The caller: asks the API for its users, passing on trace context and tokens
    #[command(after_help = EXIT_CODES)]
    WebService(web_service::Args),
    /// The callee: says what it received and which version it is
    #[command(after_help = EXIT_CODES)]
    ApiService(api_service::Args),
    /// An OIDC issuer that gives a token for anything to anybody: discovery, JWKS, /token, /rotate
    #[command(after_help = EXIT_CODES)]
    Issuer(issuer::Args),
    /// Prints a token of an issuer that was started with --state
    #[command(after_help = EXIT_CODES)]
    Token(issuer::TokenArgs),
    /// Sends a bounded number of requests and says what came back
    #[command(after_help = EXIT_CODES)]
    Load(load::Args),
}

#[tokio::main]
async fn main() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => {
            let _ = error.print();
            // Help and version are no errors; wrong usage must not look like "some requests got no answer" (2).
            return ExitCode::from(u8::from(error.use_stderr()));
        }
    };
    match run(cli.command).await {
        Ok(code) => ExitCode::from(code),
        Err(error) => {
            let _ = writeln!(std::io::stderr(), "error: {error}");
            ExitCode::from(1)
        }
    }
}

async fn run(command: Command) -> Result<u8> {
    match command {
        Command::WebService(args) => web_service::run(args).await?,
        Command::ApiService(args) => api_service::run(args).await?,
        Command::Issuer(args) => issuer::run(args).await?,
        Command::Token(args) => print(&args.token()?),
        Command::Load(args) => {
            let json = args.json;
            let tally = load::run(args).await?;
            print(&if json { tally.to_json().to_string() } else { tally.to_string() });
            return Ok(tally.exit_code());
        }
    }
    Ok(0)
}

/// A closed pipe behind us (`| head -1`) is no error.
fn print(text: &str) {
    let _ = writeln!(std::io::stdout(), "{text}");
}
