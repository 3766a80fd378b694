//! Copies of the tests' models, for tests that modify them.

use std::fs;
use std::path::Path;
use tempfile::TempDir;

/// A copy of a folder in `tests`, such as `goldens/single`.
pub(crate) fn copy_of(folder: &str) -> TempDir {
    let copy = tempfile::tempdir().unwrap();
    copy_all(&Path::new(env!("CARGO_MANIFEST_DIR")).join("tests").join(folder), copy.path());
    copy
}

fn copy_all(from: &Path, to: &Path) {
    for entry in fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let to = to.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            fs::create_dir(&to).unwrap();
            copy_all(&entry.path(), &to);
        } else {
            fs::copy(entry.path(), to).unwrap();
        }
    }
}
