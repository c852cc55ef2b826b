//! `make bench`: CPU per request that each filter adds to a stock Envoy, beside Envoy's native counterpart in the same
//! run; sizes, memory and start-up of the modules. `docs/performance.md` says how and what the figures mean.

mod bootstrap;
mod load;
mod measure;
mod policy;
mod report;
mod request;
mod routes;
mod startup;
mod stats;
mod system;
mod upstream;
mod variant;

use std::{
    fs,
    io::Write as _,
    path::{Path, PathBuf},
    process::ExitCode,
    str::FromStr,
    time::{Duration, Instant},
};

use clap::Parser;
use measure::{Plan, measure};
use report::{Module, Report};
use request::Tokens;
use sailcloth_launch::{Error, Result, envoy, interrupt, repository_root};
use system::Cores;
use upstream::Upstream;
use variant::{Catalog, ExtraModule, Variant, select};

const AFTER_HELP: &str = "\
The tables go to standard output, progress to standard error. Two cores are used whole: stop everything else.
Exit codes: 0 measured; 1 could not run, or a request failed; 3 Envoy refused a configuration; 130, 143 interrupted.
ENVOY=/path/to/envoy measures another Envoy.";

/// Between these lines of a document stand the tables.
const BEGIN: &str = "<!-- bench: begin -->";
const END: &str = "<!-- bench: end -->";

/// Measures what the filters cost in a stock Envoy.
#[derive(Debug, Parser)]
#[command(name = "sailcloth-bench", version, after_help = AFTER_HELP)]
struct Cli {
    /// A minute instead of half an hour: shows that everything works, not what it costs
    #[arg(long)]
    quick: bool,
    /// Rounds of each restart [default: 200; quick: 12]
    #[arg(long, value_name = "N")]
    rounds: Option<usize>,
    /// How often all Envoys are started afresh [default: 4; quick: 1]
    #[arg(long, value_name = "N")]
    restarts: Option<usize>,
    /// Starts of each module for the start-up time [default: 9; quick: 2]
    #[arg(long, value_name = "N")]
    starts: Option<usize>,
    /// Only variants whose name contains PATTERN (may be given several times), and what they are compared with
    #[arg(long, value_name = "PATTERN")]
    only: Vec<String>,
    /// Writes everything, with all samples, to FILE
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Puts the tables into FILE, between its two lines `<!-- bench: … -->`
    #[arg(long, value_name = "FILE")]
    update: Option<PathBuf>,
    /// Measures one more module: as VARIANT with this file instead of ours, or without configuration
    #[arg(long, value_name = "[VARIANT=]PATH", hide = true)]
    module: Vec<ModuleArgument>,
}

#[derive(Clone, Debug)]
struct ModuleArgument(ExtraModule);

impl FromStr for ModuleArgument {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (variant, path) = match text.split_once('=') {
            Some((variant, path)) => (Some(variant.to_owned()), path),
            None => (None, text),
        };
        // Envoy runs in another directory.
        let path = fs::canonicalize(path).map_err(|error| format!("`{path}`: {error}"))?;
        Ok(Self(ExtraModule { variant, path }))
    }
}

fn main() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => {
            let _ = error.print();
            return ExitCode::from(u8::from(error.use_stderr()));
        }
    };
    match run(&cli) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            let _ = writeln!(std::io::stderr(), "error: {error}");
            ExitCode::from(error.exit_code())
        }
    }
}

fn run(cli: &Cli) -> Result<()> {
    interrupt::install()?;
    let begin = Instant::now();
    let cores = Cores::choose()?;
    let root = repository_root()?;
    let document = cli.update.as_deref().map(Document::open).transpose()?;
    let modules = root.join("dist");
    let target =
        std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| root.join("target"), std::path::PathBuf::from);
    let empty = target.join("wasm32-wasip1/wasm/empty.wasm");
    let tokens = Tokens::generate()?;
    let extra: Vec<ExtraModule> = cli.module.iter().map(|argument| argument.0.clone()).collect();
    let catalog =
        Catalog { modules: &modules, empty: &empty, jwks: &tokens.jwks, route_counts: &routes::COUNTS };
    let all = catalog.with_extra(&extra).map_err(|name| Error::Missing {
        what: format!("there is no variant `{name}`"),
        fix: "name one of the tables' first column".to_owned(),
    })?;
    let variants = select(all, &cli.only);
    if variants.is_empty() {
        return Err(Error::Missing {
            what: format!("no variant's name contains `{}`", cli.only.join("`, `")),
            fix: "leave `--only` out to see all names".to_owned(),
        });
    }
    let module_sizes = sizes(&modules, &empty, &variants, &extra)?;
    let load_before = fs::read_to_string("/proc/loadavg").unwrap_or_default();
    let upstream = Upstream::start(cores.load)?;
    let plan = cli.plan();
    // First, while no thread is pinned: what is started inherits the cores of the thread that starts it.
    let starts = startup::measure(&variants, &tokens, &upstream, plan.starts)?;
    let samples = measure(&variants, &tokens, &upstream, cores, plan)?;
    let report = Report {
        machine: system::machine(),
        envoy: envoy::version(&envoy::find()?)?,
        plan,
        circumstances: circumstances(begin.elapsed(), &load_before, upstream.answered()),
        variants,
        samples,
        starts,
        modules: module_sizes,
    };
    publish(cli, &report, document)
}

impl Cli {
    fn plan(&self) -> Plan {
        let (restarts, rounds, starts, warm_up) =
            if self.quick { (1, 12, 2, 200) } else { (4, 200, 9, 2000) };
        Plan {
            restarts: self.restarts.unwrap_or(restarts).max(1),
            rounds: self.rounds.unwrap_or(rounds).max(1),
            slice: 300,
            warm_up,
            starts: self.starts.unwrap_or(starts),
        }
    }
}

fn circumstances(took: Duration, load: &str, upstream: u64) -> String {
    let load = load.split_whitespace().next().unwrap_or("unknown");
    let seconds = took.as_secs();
    format!(
        "The run took {}:{:02} min; load average before it {load} (0 is a quiet machine); {upstream} requests reached \
         the upstream; no request failed.",
        seconds / 60,
        seconds % 60
    )
}

/// The modules that the variants use. One that is missing ends the run with what to do.
fn sizes(dist: &Path, empty: &Path, variants: &[Variant], extra: &[ExtraModule]) -> Result<Vec<Module>> {
    let ours = [
        ("routing", "routing"),
        ("jwt", "jwt-rs256-cached"),
        ("authz", "authz"),
        ("ratelimit", "ratelimit"),
        ("metrics", "metrics"),
    ];
    let is_used = |name: &str| {
        let used = |variant: &Variant| {
            variant.is_ours() && (variant.name.starts_with(name) || variant.name.starts_with("chain"))
        };
        variants.iter().any(used)
    };
    let mut modules = vec![module("empty", "empty", empty)?];
    for (name, variant) in ours.into_iter().filter(|(name, _)| is_used(name)) {
        modules.push(module(name, variant, &dist.join(format!("{name}.wasm")))?);
    }
    for ExtraModule { variant, path } in extra {
        let file = path.file_stem().unwrap_or_default().to_string_lossy();
        let variant = format!("{}@{file}", variant.as_deref().unwrap_or("empty"));
        modules.push(module(&variant, &variant, path)?);
    }
    Ok(modules)
}

fn module(name: &str, variant: &str, path: &Path) -> Result<Module> {
    let bytes = fs::metadata(path).map_err(|_| Error::Missing {
        what: format!("there is no module `{}`", path.display()),
        fix: "run `make bench`, which builds it".to_owned(),
    })?;
    Ok(Module { name: name.to_owned(), variant: variant.to_owned(), bytes: bytes.len() })
}

fn publish(cli: &Cli, report: &Report, document: Option<Document>) -> Result<()> {
    let text = report.markdown();
    let doing = || Error::io("could not write the tables");
    std::io::stdout().write_all(text.as_bytes()).map_err(doing())?;
    if let Some(path) = &cli.json {
        fs::write(path, report.json().to_string())
            .map_err(Error::io(format!("could not write `{}`", path.display())))?;
    }
    document.map_or(Ok(()), |document| document.write(&text))
}

/// A document with a place for the tables; read before the run, so that half an hour is not lost to a wrong name.
struct Document {
    path: PathBuf,
    before: String,
    after: String,
}

impl Document {
    fn open(path: &Path) -> Result<Self> {
        let text =
            fs::read_to_string(path).map_err(Error::io(format!("could not read `{}`", path.display())))?;
        let parts = text.split_once(BEGIN).and_then(|(before, rest)| Some((before, rest.split_once(END)?.1)));
        let Some((before, after)) = parts else {
            return Err(Error::Missing {
                what: format!("`{}` has no place for the tables", path.display()),
                fix: format!("write the lines `{BEGIN}` and `{END}` where they belong"),
            });
        };
        Ok(Self { path: path.to_owned(), before: before.to_owned(), after: after.to_owned() })
    }

    fn write(&self, tables: &str) -> Result<()> {
        let Self { path, before, after } = self;
        fs::write(path, format!("{before}{BEGIN}\n{tables}{END}{after}"))
            .map_err(Error::io(format!("could not write `{}`", path.display())))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_tables_replace_what_stood_between_the_marks() {
        let path = std::env::temp_dir().join(format!("sailcloth-bench-{}.md", std::process::id()));
        fs::write(&path, format!("a\n{BEGIN}\nold\n{END}\nb\n")).unwrap();
        Document::open(&path).unwrap().write("new\n").unwrap();
        assert_eq!(fs::read_to_string(&path).unwrap(), format!("a\n{BEGIN}\nnew\n{END}\nb\n"));
        fs::write(&path, "no marks").unwrap();
        let error = Document::open(&path).err().unwrap().to_string();
        fs::remove_file(&path).unwrap();
        assert!(error.contains("has no place for the tables"), "{error}");
    }

    #[test]
    fn a_module_that_does_not_exist_is_refused_before_the_run() {
        assert!("empty=/no/such.wasm".parse::<ModuleArgument>().is_err());
        assert!("/no/such.wasm".parse::<ModuleArgument>().is_err());
    }

    #[test]
    fn the_command_line_is_well_formed() {
        use clap::CommandFactory as _;
        Cli::command().debug_assert();
    }
}
