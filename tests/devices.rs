//! The machine that the program computes on: its devices, threads and memory.
#![cfg(feature = "cli")]

#[path = "support/program.rs"]
mod program;

use assert_cmd::Command;
use program::{fails, succeeds};
use serde_json::Value;
use std::path::Path;
use tempfile::tempdir;

#[test]
fn inspect_lists_the_devices() {
    let folder = tempdir().unwrap();
    let (text, _) = succeeds(folder.path(), &["inspect", "--device"]);
    assert!(text.lines().any(|line| line.starts_with("cpu ") && line.contains("products of F32")), "{text}");
    let (text, _) = succeeds(folder.path(), &["inspect", "--device", "--json"]);
    let document: Value = serde_json::from_str(&text).unwrap();
    let devices = document["devices"].as_array().unwrap();
    assert_eq!(devices[0]["backend"], "cpu");
    // Additional GPUs of `cuda` are the only other devices that a program with these features may
    // have.
    let further = devices.iter().filter(|device| device["backend"].as_str().unwrap().starts_with("cuda:"));
    assert_eq!(devices.len(), zimage::BackendChoice::built_in().count() + further.count());
    for device in devices {
        assert!(device["device"].is_string() != device["problem"].is_string(), "{device}");
    }
    for (number, adapter) in document["adapters"].as_array().unwrap().iter().enumerate() {
        assert_eq!(adapter["backend"], format!("webgpu:{number}"));
        assert!(adapter["name"].as_str().is_some_and(|name| text.contains(name)), "{adapter}");
    }
    fails(folder.path(), &["inspect", "--device", "fox.png"], 2, "--device");
}

/// Runs the program in an environment without GPU drivers.
#[cfg(feature = "embedded-model")]
fn without_drivers(folder: &Path, arguments: &[&str]) -> (Option<i32>, String, String) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_zimage"));
    let output = command
        .current_dir(folder)
        .args(arguments)
        .envs([("CUDA_VISIBLE_DEVICES", ""), ("VK_DRIVER_FILES", "/nowhere"), ("VK_ICD_FILENAMES", "/nowhere")])
        .output()
        .unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    (output.status.code(), text(output.stdout), text(output.stderr))
}

#[cfg(all(feature = "embedded-model", target_os = "linux"))]
#[test]
fn auto_warns_of_the_cpu_fallback() {
    let folder = tempdir().unwrap();
    let draws = |backend: &str, more: &[&str]| {
        let arguments =
            ["generate", "a red fox", "-W", "64", "-H", "64", "-s", "1", "-o", "a.png", "--backend", backend];
        let (code, stdout, stderr) = without_drivers(folder.path(), &[&arguments, more].concat());
        assert_eq!(code, Some(0), "{stderr}");
        (stdout, stderr)
    };
    let (_, stderr) = draws("auto", &[]);
    assert!(stderr.contains("so the processor computes"), "{stderr}");
    let (stdout, _) = draws("auto", &["--json"]);
    let document: Value = serde_json::from_str(&stdout).unwrap();
    assert!(document["warnings"].to_string().contains("so the processor computes"), "{document}");
    let (_, stderr) = draws("cpu", &[]);
    assert!(!stderr.contains("processor"), "{stderr}");
}

#[cfg(feature = "webgpu")]
#[test]
fn missing_adapter_is_refused() {
    let folder = tempdir().unwrap();
    for name in ["webgpu:nonesuch", "webgpu:half:nonesuch", "webgpu:4096"] {
        let adapter = name.rsplit(':').next().unwrap();
        fails(folder.path(), &["generate", "x", "--backend", name], 2, &format!("no WebGPU adapter {adapter:?}"));
        fails(folder.path(), &["parity", "-q", "--backends", &format!("cpu,{name}")], 2, "no WebGPU adapter");
    }
    fails(folder.path(), &["generate", "x", "--backend", "webgpu:"], 2, "there is no backend");
    fails(folder.path(), &["parity", "--backends", "auto"], 2, "does not say what computes");
}

#[test]
fn thread_count_is_limited_per_core() {
    let folder = tempdir().unwrap();
    let cores = std::thread::available_parallelism().unwrap().get();
    for (asked, threads) in [("1", 1), ("3", 3), ("1000", 4 * cores), ("0", cores), ("many", cores), ("-3", cores)] {
        let mut command = Command::new(env!("CARGO_BIN_EXE_zimage"));
        let output = command
            .current_dir(folder.path())
            .args(["inspect", "--device"])
            .env("RAYON_NUM_THREADS", asked)
            .envs([("CUDA_VISIBLE_DEVICES", ""), ("VK_DRIVER_FILES", "/nowhere"), ("VK_ICD_FILENAMES", "/nowhere")])
            .output()
            .unwrap();
        let text = String::from_utf8(output.stdout).unwrap();
        assert!(text.contains(&format!("  {threads} threads, ")), "{asked}: {text}");
    }
}

/// The limits go from barely enough to start to more than enough, in steps that hit every large
/// allocation.
#[cfg(all(feature = "embedded-model", target_os = "linux"))]
#[test]
fn out_of_memory_is_one_sentence() {
    let folder = tempdir().unwrap();
    let (mut refused, mut drawn) = (0, 0);
    for megabytes in (40..=400).step_by(20) {
        let line = format!("ulimit -v {} && exec \"$0\" \"$@\"", megabytes * 1000);
        let run = |arguments: &[&str]| {
            let mut command = std::process::Command::new("sh");
            let command = command.args(["-c", &line, env!("CARGO_BIN_EXE_zimage")]).args(arguments);
            command
                .current_dir(folder.path())
                .env("RAYON_NUM_THREADS", "2")
                .env_remove("RUST_BACKTRACE")
                .output()
                .unwrap()
        };
        // The system cannot load the program at all.
        if !run(&["--version"]).status.success() {
            continue;
        }
        let output = run(&["generate", "x", "--backend", "cpu", "--steps", "1", "--seed", "1", "-o", "o.png"]);
        let error = String::from_utf8(output.stderr).unwrap();
        match output.status.code() {
            Some(0) => drawn += 1,
            Some(4) => {
                refused += 1;
                assert!(
                    error.matches("error: ").count() == 1 && error.matches('\n').count() == 1,
                    "{megabytes}: {error}"
                );
                assert!(error.contains("memory"), "{megabytes}: {error}");
            }
            other => panic!("{megabytes} MB: {other:?}: {error}"),
        }
    }
    assert!(refused >= 2 && drawn >= 1, "{refused} refused, {drawn} drawn");
}
