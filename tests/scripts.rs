//! The scripts that build and test: they work wherever cargo builds to.
#![cfg(unix)]

use std::fs;
use std::path::Path;
use std::process::Command;

/// What `tools/target-dir` prints with a variable set.
fn target_dir(variable: &str, value: &str) -> String {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tools/target-dir");
    let mut command = Command::new(script);
    let output = command.env_remove("CARGO_TARGET_DIR").env(variable, value).current_dir("/").output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

#[test]
fn scripts_find_the_folder_cargo_builds_into() {
    for variable in ["CARGO_TARGET_DIR", "CARGO_BUILD_TARGET_DIR"] {
        assert_eq!(target_dir(variable, "/elsewhere/a \"b\" \\c"), "/elsewhere/a \"b\" \\c\n", "{variable}");
    }
}

#[test]
fn scripts_name_no_target_folder() {
    for name in [".ci/run", "tests/run", "tests/fuzz", "tests/emulated_cuda/build", "web/build"] {
        let script = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join(name)).unwrap();
        for line in script.lines().filter(|line| !line.trim_start().starts_with('#')) {
            let named = line.match_indices("target/").any(|(at, _)| !line[..at].ends_with(['$', '{', '/']));
            assert!(!named, "{name} takes it that cargo builds into target/: {line}");
        }
    }
}
