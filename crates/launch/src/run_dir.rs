//! Where the files of running processes lie: configurations, logs, pid files.

use std::{
    fs,
    path::{Path, PathBuf},
};

use crate::{Error, Result};

/// A directory for the files of one run.
#[derive(Debug)]
pub struct RunDir {
    path: PathBuf,
    // Removes the directory when the run ends; `None` for a directory that stays.
    _temporary: Option<tempfile::TempDir>,
}

impl RunDir {
    /// A new directory that is removed on drop.
    ///
    /// # Errors
    /// When it cannot be made.
    pub fn temp() -> Result<Self> {
        let dir = tempfile::Builder::new()
            .prefix("sailcloth-")
            .tempdir()
            .map_err(Error::io("could not make a temporary directory"))?;
        Ok(Self { path: dir.path().to_owned(), _temporary: Some(dir) })
    }

    /// `path`, made if needed; it stays after the run.
    ///
    /// # Errors
    /// When it cannot be made.
    pub fn at(path: impl Into<PathBuf>) -> Result<Self> {
        let path = path.into();
        fs::create_dir_all(&path)
            .map_err(Error::io(format!("could not make the run directory `{}`", path.display())))?;
        // Absolute, because the processes may have another working directory.
        let path = path
            .canonicalize()
            .map_err(Error::io(format!("could not resolve the run directory `{}`", path.display())))?;
        Ok(Self { path, _temporary: None })
    }

    /// The directory itself, absolute.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The path of `name` in it.
    pub fn file(&self, name: impl AsRef<Path>) -> PathBuf {
        self.path.join(name)
    }
}

/// The root of the repository: the nearest directory above the working directory whose `Cargo.toml` has a
/// `[workspace]`, else the one this crate was compiled in.
///
/// # Errors
/// When neither exists (an installed binary run elsewhere).
pub fn repository_root() -> Result<PathBuf> {
    let from_here = std::env::current_dir().ok().and_then(|dir| workspace_above(&dir));
    from_here.or_else(|| workspace_above(Path::new(env!("CARGO_MANIFEST_DIR")))).ok_or_else(|| {
        Error::Missing {
            what: "the Sailcloth repository was not found above the working directory".to_owned(),
            fix: "run this inside a checkout".to_owned(),
        }
    })
}

fn workspace_above(start: &Path) -> Option<PathBuf> {
    let is_root = |dir: &&Path| {
        fs::read_to_string(dir.join("Cargo.toml"))
            .is_ok_and(|text| text.lines().any(|line| line.trim_end() == "[workspace]"))
    };
    start.ancestors().find(is_root).map(Path::to_owned)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_repository_root_holds_this_crate() {
        assert!(repository_root().unwrap().join("crates/launch/Cargo.toml").is_file());
        assert_eq!(workspace_above(Path::new("/")), None);
    }

    #[test]
    fn a_temporary_run_directory_is_removed() {
        let dir = RunDir::temp().unwrap();
        let path = dir.path().to_owned();
        fs::write(dir.file("x"), "y").unwrap();
        drop(dir);
        assert!(!path.exists());
    }
}
