//! The modules under test: built by the suite itself, so that no step has to be remembered.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::path::PathBuf;
use std::process::Command;
use std::sync::{Mutex, OnceLock};

use sailcloth_emulator::Module;

use crate::corpus::root;
use crate::report::note;

/// The path of a module, `dist/<name>.wasm`, not older than the sources. Filters lie there; the probe lies where cargo
/// put it, since it is no part of a release.
///
/// # Panics
/// When it cannot be built.
#[must_use]
pub fn path(name: &str) -> PathBuf {
    static BUILT: OnceLock<()> = OnceLock::new();
    BUILT.get_or_init(build);
    if name == "probe" {
        built().join("probe.wasm")
    } else {
        root().join("dist").join(format!("{name}.wasm"))
    }
}

/// A module compiled for the emulator, once per process.
///
/// # Panics
/// When it cannot be built or compiled.
#[must_use]
pub fn module(name: &str) -> Module {
    static COMPILED: Mutex<BTreeMap<String, Module>> = Mutex::new(BTreeMap::new());
    let mut compiled = COMPILED.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    let compile = || {
        let path = path(name);
        let bytes = fs::read(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        Module::compile(&bytes).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
    };
    compiled.entry(name.to_owned()).or_insert_with(compile).clone()
}

/// The names of all filters: the folders of `filters/`.
#[must_use]
pub fn filters() -> Vec<String> {
    let folders = fs::read_dir(root().join("filters")).into_iter().flatten().flatten();
    let with_manifest = folders.filter(|folder| folder.path().join("Cargo.toml").is_file());
    let mut names: Vec<String> =
        with_manifest.map(|folder| folder.file_name().to_string_lossy().into_owned()).collect();
    names.sort();
    names
}

/// Modules built with features of a filter of their own: module, filter, feature.
const BUILDS: &[(&str, &str, &str)] = &[("jwt-full", "jwt", "full")];

fn target() -> PathBuf {
    std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| root().join("target"), PathBuf::from)
}

fn built() -> PathBuf {
    target().join("wasm32-wasip1/wasm")
}

/// Cargo knows what is stale. One process at a time: suites run side by side.
fn build() {
    fs::create_dir_all(target()).expect("the target directory can be made");
    let lock = File::create(target().join(".sailcloth-modules.lock")).expect("a lock file can be made");
    lock.lock().expect("the lock can be taken");
    fs::create_dir_all(root().join("dist")).expect("dist/ can be made");
    // First: cargo puts every build of a filter under the same name.
    for (module, filter, feature) in BUILDS {
        let package = format!("sailcloth-filter-{filter}");
        cargo_build(&["-p".to_owned(), package, "--features".to_owned(), (*feature).to_owned()]);
        publish(filter, module);
    }
    let mut packages = vec!["-p".to_owned(), "sailcloth-probe".to_owned()];
    for name in filters() {
        packages.extend(["-p".to_owned(), format!("sailcloth-filter-{name}")]);
    }
    cargo_build(&packages);
    filters().iter().for_each(|name| publish(name, name));
}

fn cargo_build(packages: &[String]) {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let mut command = Command::new(cargo);
    command.current_dir(root()).args(["build", "--quiet", "--profile", "wasm", "--target", "wasm32-wasip1"]);
    command.args(packages);
    // What cargo set for this test must not reach the build of something else.
    for (name, _) in std::env::vars_os() {
        let name_text = name.to_string_lossy();
        if name_text.starts_with("CARGO_PKG_")
            || name_text.starts_with("CARGO_MANIFEST")
            || name_text == "RUSTFLAGS"
        {
            command.env_remove(&name);
        }
    }
    let output = command.output().expect("cargo can be started");
    assert!(
        output.status.success(),
        "the modules could not be built:\n{}",
        String::from_utf8_lossy(&output.stderr)
    );
}

/// Copies what was built of a filter to `dist/` unless the same lies there already, as `make wasm` does.
fn publish(filter: &str, module: &str) {
    let file = format!("{module}.wasm");
    let (from, to) = (built().join(format!("{filter}.wasm")), root().join("dist").join(&file));
    let fresh = fs::read(&from).unwrap_or_else(|error| panic!("{}: {error}", from.display()));
    if fs::read(&to).is_ok_and(|there| there == fresh) {
        return;
    }
    note(&format!("dist/{file}: built anew"));
    // Renamed into place: an Envoy that starts meanwhile reads the old file or the new one, whole.
    let staged = root().join("dist").join(format!(".{file}.{}", std::process::id()));
    fs::write(&staged, fresh)
        .and_then(|()| fs::rename(&staged, &to))
        .unwrap_or_else(|error| panic!("dist/{file}: {error}"));
}
