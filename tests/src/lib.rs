//! What the black-box tests share: where the repository is, and how to read it. No test lives here.

pub mod calls;
pub mod figures;
pub mod guest;
pub mod host;
pub mod kit;
pub mod openssh;

use std::path::{Path, PathBuf};

/// The root of the repository.
#[must_use]
pub fn repository() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().map(Path::to_path_buf).unwrap_or_default()
}

/// The image to boot. Without one the test ends with NOT RUN, or with an error where guests are required.
#[macro_export]
macro_rules! needs_an_image {
    () => {
        match $crate::host::image_directory() {
            Some(image) => image,
            None => {
                anyhow::ensure!(!$crate::guests_are_required(), "COFFER_TEST_IMAGE names no image directory");
                eprintln!("NOT RUN: COFFER_TEST_IMAGE names no image directory; `scripts/test` builds one");
                return Ok(());
            }
        }
    };
}

/// Whether a test that finds no guest to boot must fail: `scripts/test` insists.
#[must_use]
pub fn guests_are_required() -> bool {
    std::env::var_os("COFFER_TEST_GUESTS").is_some_and(|value| value == "required")
}

/// Every file below `dir` that git would list: `target` and dot-directories are left out.
///
/// # Panics
/// When a directory cannot be read: then no answer about the tree would be true.
#[must_use]
pub fn files_below(dir: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut pending = vec![dir.to_path_buf()];
    while let Some(next) = pending.pop() {
        let entries = std::fs::read_dir(&next).unwrap_or_else(|e| panic!("read {}: {e}", next.display()));
        for entry in entries {
            let entry = entry.unwrap_or_else(|e| panic!("read {}: {e}", next.display()));
            let name = entry.file_name();
            let name = name.to_string_lossy();
            if name.starts_with('.') || name == "target" || name.starts_with("OUT") {
                continue;
            }
            let path = entry.path();
            if entry.file_type().is_ok_and(|t| t.is_dir()) {
                pending.push(path);
            } else {
                found.push(path);
            }
        }
    }
    found.sort();
    found
}
