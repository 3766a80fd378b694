//! Runs the program under test.

use assert_cmd::Command;
use serde_json::Value;
use std::path::Path;
use std::process::Output;

/// Runs the program in `folder`.
pub(crate) fn zimage(folder: &Path, arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_zimage")).current_dir(folder).args(arguments).output().unwrap()
}

/// Runs the program and asserts this exit code and a one-line error that contains `says`. Standard
/// output is empty, or has the same error with `--json`.
#[track_caller]
pub(crate) fn fails(folder: &Path, arguments: &[&str], code: i32, says: &str) {
    let output = zimage(folder, arguments);
    let error = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(code), "{arguments:?}: {error}");
    assert!(error.starts_with("error: ") && error.contains(says), "{arguments:?}: {error}");
    assert_eq!(error.matches('\n').count(), 1, "{arguments:?}: {error}");
    assert!(!error.contains("panicked"), "{arguments:?}");
    if arguments.contains(&"--json") {
        let document: Value = serde_json::from_slice(&output.stdout).unwrap();
        assert_eq!(document["error"]["exit_code"], code, "{arguments:?}");
        assert_eq!(format!("error: {}\n", document["error"]["message"].as_str().unwrap()), error);
    } else {
        assert!(output.stdout.is_empty(), "{arguments:?}");
    }
}

/// Runs the program and asserts success. Returns its stdout and stderr.
#[track_caller]
pub(crate) fn succeeds(folder: &Path, arguments: &[&str]) -> (String, String) {
    let output = zimage(folder, arguments);
    let text = |bytes| String::from_utf8(bytes).unwrap();
    let (stdout, stderr) = (text(output.stdout), text(output.stderr));
    assert_eq!(output.status.code(), Some(0), "{arguments:?}: {stderr}");
    (stdout, stderr)
}
