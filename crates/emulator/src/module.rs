//! Compiled modules: one engine for all, imports checked as Envoy 1.36 does.

use std::fmt;
use std::sync::OnceLock;
use std::time::Duration;

use wasmtime::{Config, Engine, InstancePre, Linker, OptLevel};

use crate::abi::Hostcall;
use crate::vm::VmData;

/// How often the clock of deadlines ticks.
pub(crate) const EPOCH: Duration = Duration::from_millis(10);

/// A compiled module. Compile once, instantiate in as many VMs as wanted; clones are cheap.
#[derive(Clone)]
pub struct Module {
    pub(crate) pre: InstancePre<VmData>,
    exports: Vec<String>,
    imports: Vec<String>,
}

/// Why a module cannot be loaded.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ModuleError {
    /// Not a valid module, or one that needs features which the host lacks.
    Invalid(String),
    /// It imports what neither ABI 0.2.1 nor the WASI allow-list of Envoy 1.36 has.
    MissingImport(String),
    /// It imports a known function with another signature.
    ImportSignature(String),
    /// It exports no `proxy_abi_version_0_2_1` or `_0_2_0`.
    UnknownAbi,
}

impl fmt::Display for ModuleError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Invalid(reason) => write!(f, "not a loadable module: {reason}"),
            Self::MissingImport(name) => write!(f, "missing import: `{name}`"),
            Self::ImportSignature(reason) => write!(f, "import with the wrong signature: {reason}"),
            Self::UnknownAbi => f.write_str("missing or unknown proxy-wasm ABI version"),
        }
    }
}

impl std::error::Error for ModuleError {}

impl Module {
    /// Compiles the bytes of a `.wasm` file.
    ///
    /// # Errors
    /// See [`ModuleError`]; the missing import is named.
    pub fn compile(bytes: &[u8]) -> Result<Self, ModuleError> {
        let engine = engine()?;
        let module = wasmtime::Module::new(engine, bytes)
            .map_err(|error| ModuleError::Invalid(format!("{error:#}")))?;
        for import in module.imports() {
            if !Hostcall::is_linked(import.module(), import.name()) {
                return Err(ModuleError::MissingImport(format!("{}.{}", import.module(), import.name())));
            }
        }
        let imports = module.imports().map(|i| format!("{}.{}", i.module(), i.name())).collect();
        let exports: Vec<String> = module.exports().map(|export| export.name().to_owned()).collect();
        if !exports.iter().any(|e| e == "proxy_abi_version_0_2_1" || e == "proxy_abi_version_0_2_0") {
            return Err(ModuleError::UnknownAbi);
        }
        let pre = linker(engine)?
            .instantiate_pre(&module)
            .map_err(|error| ModuleError::ImportSignature(format!("{error:#}")))?;
        Ok(Self { pre, exports, imports })
    }

    /// Names of everything it exports.
    #[must_use]
    pub fn exports(&self) -> &[String] {
        &self.exports
    }

    /// Everything it imports, as `env.proxy_log`.
    #[must_use]
    pub fn imports(&self) -> &[String] {
        &self.imports
    }
}

fn engine() -> Result<&'static Engine, ModuleError> {
    static ENGINE: OnceLock<Result<Engine, String>> = OnceLock::new();
    ENGINE
        .get_or_init(|| start_engine().map_err(|error| format!("{error:#}")))
        .as_ref()
        .map_err(|reason| ModuleError::Invalid(reason.clone()))
}

/// The engine and the thread that advances its epoch, which is what deadlines are counted in.
fn start_engine() -> wasmtime::Result<Engine> {
    let mut config = Config::new();
    config.epoch_interruption(true);
    config.cranelift_opt_level(OptLevel::None);
    let engine = Engine::new(&config)?;
    let clock = engine.clone();
    std::thread::spawn(move || {
        loop {
            std::thread::sleep(EPOCH);
            clock.increment_epoch();
        }
    });
    Ok(engine)
}

fn linker(engine: &Engine) -> Result<Linker<VmData>, ModuleError> {
    let mut linker = Linker::new(engine);
    crate::hostcalls::link(&mut linker)
        .and_then(|()| crate::wasi::link(&mut linker))
        .map_err(|error| ModuleError::Invalid(format!("{error:#}")))?;
    Ok(linker)
}
