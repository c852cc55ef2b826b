//! The files of `tests/cases` and where everything lies.

use std::path::{Path, PathBuf};

use crate::case::CaseFile;

/// The root of the repository.
#[must_use]
pub fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("tests/ lies in the repository").to_owned()
}

/// The case files of a filter, by name. `SAILCLOTH_CASE=text` keeps those whose name contains it.
///
/// # Panics
/// On a file that cannot be read: a case that is not understood must not pass as absent.
#[must_use]
pub fn files(filter: &str) -> Vec<CaseFile> {
    let folder = root().join("tests/cases").join(filter);
    let wanted = std::env::var("SAILCLOTH_CASE").unwrap_or_default();
    let mut problems = Vec::new();
    let mut files = Vec::new();
    for path in yaml_files(&folder) {
        let name = format!("{filter}/{}", path.file_name().unwrap_or_default().to_string_lossy());
        if !name.contains(&wanted) {
            continue;
        }
        match CaseFile::read(&path, &name) {
            Ok(file) => files.push(file),
            Err(found) => problems.extend(found),
        }
    }
    assert!(problems.is_empty(), "the corpus has problems:\n{}", problems.join("\n"));
    assert!(!files.is_empty() || !wanted.is_empty(), "there is no case in {}", folder.display());
    files
}

/// Every `.yaml` below a folder, sorted.
#[must_use]
pub fn yaml_files(folder: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut folders = vec![folder.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(&folder).into_iter().flatten().flatten() {
            let path = entry.path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|extension| extension == "yaml") {
                found.push(path);
            }
        }
    }
    found.sort();
    found
}
