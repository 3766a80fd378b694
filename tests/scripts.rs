//! The build and test scripts: they work with any cargo target folder.
#![cfg(unix)]

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;

/// The output of `tools/target-dir` with a variable set.
fn target_dir(variable: &str, value: &str) -> String {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tools/target-dir");
    let mut command = Command::new(script);
    let output = command.env_remove("CARGO_TARGET_DIR").env(variable, value).current_dir("/").output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

#[test]
fn scripts_find_the_target_folder() {
    for variable in ["CARGO_TARGET_DIR", "CARGO_BUILD_TARGET_DIR"] {
        assert_eq!(target_dir(variable, "/elsewhere/a \"b\" \\c"), "/elsewhere/a \"b\" \\c\n", "{variable}");
    }
}

/// Replaces cargo: prints a target folder, and builds the wasm and the maker of its glue there.
const CARGO: &str = r#"#!/bin/sh
case $1 in
  metadata) echo "{\"packages\":[],\"target_directory\":\"$CARGO_TARGET_DIR\",\"version\":1}" ;;
  rustc) mkdir -p "$CARGO_TARGET_DIR/wasm32-unknown-unknown/web" && echo wasm >"$CARGO_TARGET_DIR/wasm32-unknown-unknown/web/zimage.wasm" ;;
  build) test -f "$5" && test -d "$7/debug" ;;
  *) exit 1 ;;
esac
"#;
/// Replaces rustc, with the wasm target installed.
const RUSTC: &str = "#!/bin/sh\necho .\n";
const NOTHING: &str = "#!/bin/sh\n";
/// Replaces the maker of the glue: copies the built wasm to its output folder.
const BINDGEN: &str = r#"#!/bin/sh
mkdir -p "$2" && cp "$1" "$2/$3_bg.wasm"
"#;
/// Replaces wasm-opt: copies its input.
const OPT: &str =
    "#!/bin/sh\nfor last; do true; done\nfor file; do case $file in */glue/*) cp \"$file\" \"$last\" ;; esac; done\n";

#[test]
fn page_builds_in_another_target_folder() {
    let folder = tempfile::tempdir().unwrap();
    let (tree, elsewhere) = (folder.path().join("tree"), folder.path().join("else where"));
    let write = |path: &Path, text: &str| {
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
        fs::set_permissions(path, fs::Permissions::from_mode(0o755)).unwrap();
    };
    for name in ["web/build", "tools/target-dir"] {
        write(&tree.join(name), &fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join(name)).unwrap());
    }
    write(&tree.join("Cargo.lock"), "name = \"wasm-bindgen\"\nversion = \"0.0.1\"\n");
    write(&tree.join("web/bindgen/Cargo.toml"), "wasm-bindgen-cli-support = \"=0.0.1\"\n");
    write(&tree.join("web/package-lock.json"), "{}");
    write(&tree.join("web/node_modules/newer"), "");
    for (name, text) in [("cargo", CARGO), ("rustc", RUSTC), ("node", NOTHING), ("npm", NOTHING)] {
        write(&folder.path().join("bin").join(name), text);
    }
    write(&elsewhere.join("web-tools/bindgen/debug/bindgen"), BINDGEN);
    write(&elsewhere.join("web-tools/npm/node_modules/.bin/wasm-opt"), OPT);
    let path = format!("{}:{}", folder.path().join("bin").display(), std::env::var("PATH").unwrap());
    let output = Command::new("bash")
        .arg(tree.join("web/build"))
        .env("PATH", path)
        .env("CARGO_TARGET_DIR", &elsewhere)
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    assert_eq!(fs::read_to_string(tree.join("web/src/wasm/zimage_bg.wasm")).unwrap(), "wasm\n");
    assert!(!tree.join("target").exists());
}

#[test]
fn scripts_hardcode_no_target_folder() {
    for name in [".ci/run", "tests/run", "tests/fuzz", "tests/emulated_cuda/build", "web/build"] {
        let script = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join(name)).unwrap();
        for line in script.lines().filter(|line| !line.trim_start().starts_with('#')) {
            let named = line.match_indices("target/").any(|(at, _)| !line[..at].ends_with(['$', '{', '/']));
            assert!(!named, "{name} assumes that cargo builds into target/: {line}");
        }
    }
}
