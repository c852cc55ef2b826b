//! The processes of the demo, started in order, each waited for.

use std::fs;
use std::path::PathBuf;
use std::time::Duration;

use sailcloth_launch::http::{Client, Request};
use sailcloth_launch::{
    Detached, Envoy, Error, PortMap, Ports, Process, Result, RunDir, envoy, process, repository_root,
    retarget, until_http,
};
use serde_json::Value;

use crate::certs;

/// The filters whose modules the chain loads.
const FILTERS: [&str; 5] = ["jwt", "authz", "ratelimit", "routing", "metrics"];

/// The issuer of the seed's RequestAuthentication.
const ISSUER: &str = "https://auth.mycompany.com";

/// How long a service may take to answer for the first time.
const PATIENCE: Duration = Duration::from_secs(20);

/// The ports of a running mesh, all on 127.0.0.1.
#[derive(Debug, Clone, Copy)]
pub struct Addresses {
    /// Inbound listener of api-service: mutual TLS only.
    pub inbound: u16,
    /// Outbound listener of web-service's sidecar.
    pub as_web_service: u16,
    /// Outbound listener of batch-service's sidecar.
    pub as_batch_service: u16,
    /// Envoy's admin interface.
    pub admin: u16,
    /// The issuer of tokens.
    pub issuer: u16,
    /// web-service itself.
    pub web_service: u16,
    api_v1: u16,
    api_v2: u16,
}

/// A running mesh. Dropping one that was started by [`Mesh::start`] stops all of it.
pub struct Mesh {
    /// Where to reach what.
    pub addresses: Addresses,
    /// The Envoy with the five filters.
    pub envoy: Envoy,
    services: Vec<Process>,
}

enum Starter<'s> {
    Owned(&'s RunDir),
    Detached(&'s mut Detached),
}

impl Mesh {
    /// Starts the mesh with its files in `run`.
    ///
    /// # Errors
    /// A sentence with the fix: a missing module or program, a port in use, a configuration that Envoy refuses.
    pub fn start(run: &RunDir) -> Result<Self> {
        Self::start_by(&mut Starter::Owned(run))
    }

    /// Starts the mesh so that it can be left running.
    ///
    /// # Errors
    /// As [`Mesh::start`].
    pub fn start_detached(detached: &mut Detached) -> Result<Self> {
        Self::start_by(&mut Starter::Detached(detached))
    }

    fn start_by(starter: &mut Starter<'_>) -> Result<Self> {
        let mut ports = Ports::new();
        let addresses = Addresses::reserve(&mut ports)?;
        ports.release();
        certs::write(&starter.run_dir().file("certs"))?;
        let services = start_services(starter, addresses)?;
        let config = chain(starter.run_dir(), addresses)?;
        let envoy = starter.start_envoy(envoy::Spec::new("envoy", config).concurrency(2))?;
        Ok(Self { addresses, envoy, services })
    }

    /// An error if one of the processes has ended.
    ///
    /// # Errors
    /// Which one, and its last words.
    pub fn check(&mut self) -> Result<()> {
        self.envoy.check()?;
        self.services.iter_mut().try_for_each(Process::check)
    }

    /// A token of the demo issuer with these query parameters (`sub=alice&aud=api-service`).
    ///
    /// # Errors
    /// When the issuer does not give one.
    pub fn token(&self, parameters: &str) -> Result<String> {
        let answer = get(self.addresses.issuer, &format!("/token?{parameters}"))?;
        let token = answer.get("access_token").or_else(|| answer.get("token")).and_then(Value::as_str);
        token
            .map(str::to_owned)
            .ok_or_else(|| Error::Http(format!("the issuer answered without a token: {answer}")))
    }
}

impl Addresses {
    fn reserve(ports: &mut Ports) -> Result<Self> {
        Ok(Self {
            inbound: ports.from_env_or_free("SAILCLOTH_INBOUND_PORT")?,
            as_web_service: ports.from_env_or_free("SAILCLOTH_WEB_SIDECAR_PORT")?,
            as_batch_service: ports.from_env_or_free("SAILCLOTH_BATCH_SIDECAR_PORT")?,
            admin: ports.from_env_or_free("SAILCLOTH_ADMIN_PORT")?,
            issuer: ports.from_env_or_free("SAILCLOTH_ISSUER_PORT")?,
            web_service: ports.from_env_or_free("SAILCLOTH_WEB_PORT")?,
            api_v1: ports.free()?,
            api_v2: ports.free()?,
        })
    }

    /// The ports of `envoy/chain.yaml`, and what they become.
    fn port_map(&self) -> PortMap {
        PortMap::from([
            (10000, self.inbound),
            (10001, self.as_web_service),
            (10002, self.as_batch_service),
            (9901, self.admin),
            (8080, self.api_v1),
            (8081, self.api_v2),
        ])
    }
}

impl Starter<'_> {
    fn run_dir(&self) -> &RunDir {
        match self {
            Self::Owned(run) => run,
            Self::Detached(detached) => detached.run_dir(),
        }
    }

    fn start(&mut self, spec: process::Spec) -> Result<Process> {
        match self {
            Self::Owned(run) => spec.start(run),
            Self::Detached(detached) => detached.start(spec),
        }
    }

    fn start_envoy(&mut self, spec: envoy::Spec) -> Result<Envoy> {
        match self {
            Self::Owned(run) => spec.start(run),
            Self::Detached(detached) => detached.start_envoy(spec),
        }
    }
}

fn start_services(starter: &mut Starter<'_>, addresses: Addresses) -> Result<Vec<Process>> {
    let program = services_program()?;
    let service = |name: &str, command: &str, port: u16, rest: &[&str]| {
        process::Spec::new(name, &program)
            .args([command, "--listen", &format!("127.0.0.1:{port}")])
            .args(rest)
    };
    // The API by its name, reached through the sidecar as HTTP proxy: as in the mesh to come.
    let sidecar = format!("http://127.0.0.1:{}", addresses.as_web_service);
    let specs = [
        (service("api-service-v1", "api-service", addresses.api_v1, &["--version", "v1"]), addresses.api_v1),
        (service("api-service-v2", "api-service", addresses.api_v2, &["--version", "v2"]), addresses.api_v2),
        (
            service(
                "web-service",
                "web-service",
                addresses.web_service,
                &["--api", "http://api-service", "--proxy", &sidecar],
            ),
            addresses.web_service,
        ),
        (service("issuer", "issuer", addresses.issuer, &["--issuer", ISSUER]), addresses.issuer),
    ];
    specs
        .into_iter()
        .map(|(spec, port)| {
            let mut process = starter.start(spec)?;
            until_http(([127, 0, 0, 1], port).into(), "/health", 200, PATIENCE, || process.check())?;
            Ok(process)
        })
        .collect()
}

/// The program of the example services: built beside this one.
fn services_program() -> Result<PathBuf> {
    let own = std::env::current_exe().map_err(Error::io("could not find the path of this program"))?;
    // A test program lies one directory deeper than the programs of the package.
    let candidates = own.ancestors().skip(1).take(2).map(|dir| dir.join("sailcloth-services"));
    candidates.into_iter().find(|path| path.is_file()).ok_or_else(|| Error::Missing {
        what: "the program `sailcloth-services` is missing".to_owned(),
        fix: "run `cargo build -p sailcloth-services`".to_owned(),
    })
}

/// `envoy/chain.yaml` on these ports, with these certificates and the issuer's keys.
fn chain(run: &RunDir, addresses: Addresses) -> Result<String> {
    let root = repository_root()?;
    if let Some(filter) = FILTERS.iter().find(|filter| !root.join(format!("dist/{filter}.wasm")).is_file()) {
        return Err(Error::Missing {
            what: format!("dist/{filter}.wasm is missing"),
            fix: "run `make wasm`".to_owned(),
        });
    }
    let path = root.join("envoy/chain.yaml");
    let yaml =
        fs::read_to_string(&path).map_err(Error::io(format!("could not read `{}`", path.display())))?;
    let keys = get(addresses.issuer, "/.well-known/jwks.json")?.to_string();
    let certificates = run.file("certs").display().to_string();
    let json = retarget(&yaml, &addresses.port_map())?;
    let mut config: Value = serde_json::from_str(&json)
        .map_err(|error| Error::InvalidConfig(format!("envoy/chain.yaml: {error}")))?;
    rewrite(&mut config, &mut |key, text| match key {
        "jwks" => Some(keys.clone()),
        "filename" => text.strip_prefix(".run/certs").map(|rest| format!("{certificates}{rest}")),
        _ => None,
    });
    Ok(config.to_string())
}

fn rewrite(value: &mut Value, change: &mut impl FnMut(&str, &str) -> Option<String>) {
    match value {
        Value::Array(items) => items.iter_mut().for_each(|item| rewrite(item, change)),
        Value::Object(entries) => {
            for (key, entry) in entries {
                match entry.as_str().and_then(|text| change(key, text)) {
                    Some(text) => *entry = Value::String(text),
                    None => rewrite(entry, change),
                }
            }
        }
        _ => {}
    }
}

fn get(port: u16, target: &str) -> Result<Value> {
    let answer = Client::local(port).send(&Request::get(target))?;
    if answer.status != 200 {
        return Err(Error::Http(format!("GET {target} was answered {}: {}", answer.status, answer.text())));
    }
    answer.json().map_err(|error| Error::Http(format!("GET {target} was not answered with JSON: {error}")))
}
