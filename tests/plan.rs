//! `zimage plan`, the flags of the device's memory, and the plan of a run.
#![cfg(all(feature = "cli", feature = "embedded-model"))]

#[path = "support/program.rs"]
mod program;

use program::{fails, succeeds};
use serde_json::Value;
use tempfile::tempdir;

/// A small picture on the cpu.
const SMALL: [&str; 6] = ["-W", "64", "-H", "48", "--backend", "cpu"];

fn document(text: &str) -> Value {
    serde_json::from_str(text).unwrap()
}

#[test]
fn a_plan_has_bytes_and_seconds() {
    let folder = tempdir().unwrap();
    let plan = |more: &[&str]| succeeds(folder.path(), &[&["plan"], &SMALL[..], more].concat()).0;
    let found = document(&plan(&["--json"]));
    assert_eq!((found["offload"].as_str(), found["vae_tile"].as_u64()), (Some("none"), None));
    assert_eq!((found["streamed_per_step"].as_u64(), found["free_memory"].as_u64()), (Some(0), None));
    let files = found["files"].as_u64().unwrap();
    let peak = found["peak_memory"].as_u64().unwrap();
    assert!(files > 1_000_000 && peak > files, "{found}");
    let seconds = |part: &str| found["seconds"][part].as_f64().unwrap();
    let sum = seconds("load") + seconds("text_encoder") + 4.0 * seconds("step") + seconds("vae");
    assert!(seconds("step") > 0.0 && (seconds("total") / sum - 1.0).abs() < 1e-9, "{found}");

    let in_turn = document(&plan(&["--json", "--offload", "sequential"]));
    assert_eq!(in_turn["offload"], "sequential");
    assert!(in_turn["peak_memory"].as_u64().unwrap() < peak);
    let batch = document(&plan(&["--json", "--count", "4", "--batch", "4"]));
    assert!(batch["peak_memory"].as_u64().unwrap() > peak);
    assert!(batch["seconds"]["total"].as_f64().unwrap() > 2.0 * seconds("total"), "{batch}");

    let text = plan(&["--steps", "3"]);
    for part in ["text encoder", "transformer", "VAE", "activations of decoding", "the most at once", "3 steps of"] {
        assert!(text.contains(part), "{text}");
    }
    assert!(text.contains("all networks on the device; the picture decoded whole"), "{text}");
}

/// Turbo has 12.3 + 8.0 + 0.2 GB in BF16; Q4_K has 4.5 of 16 bits.
#[test]
fn a_published_model_is_planned_without_its_files() {
    let folder = tempdir().unwrap();
    let plan = |more: &[&str]| {
        let command = ["plan", "--json", "--random", "turbo", "--backend", "cpu", "-W", "64", "-H", "64"];
        document(&succeeds(folder.path(), &[&command, more].concat()).0)["files"].as_f64().unwrap() / 1e9
    };
    let near = |found: f64, expected: f64| assert!((found / expected - 1.0).abs() < 0.02, "{found} GB, not {expected}");
    near(plan(&[]), 12.3 + 7.85 + 0.17);
    near(plan(&["--weights", "q4_k"]), 3.75 + 2.2 + 0.17);
    near(plan(&["--weights", "q8_0"]), 6.65 + 4.17 + 0.17);
}

/// The host has no other memory, so nothing is streamed there.
#[test]
fn streaming_on_the_cpu_is_sequential() {
    let folder = tempdir().unwrap();
    let (text, _) = succeeds(folder.path(), &[&["plan", "--json", "--offload", "stream"], &SMALL[..]].concat());
    assert_eq!(document(&text)["offload"], "sequential");
}

#[test]
fn a_run_reports_its_plan() {
    let folder = tempdir().unwrap();
    let run = |more: &[&str]| {
        succeeds(folder.path(), &[&["generate", "a red fox", "-s", "1", "-o", "a.png"], &SMALL[..], more].concat())
    };
    let found = document(&run(&["--json"]).0);
    assert!(found["plan"].as_str().unwrap().starts_with("all networks on the device; "), "{found}");
    assert!(found["predicted_memory"].as_u64().unwrap() > 0 && found["peak_memory"].is_null(), "{found}");
    let (_, said) = run(&[]);
    assert!(!said.contains("plan:"), "the cpu has no memory of its own: {said}");
}

#[test]
fn limits_of_memory_are_sizes_of_a_device() {
    let folder = tempdir().unwrap();
    for command in [&["plan"][..], &["generate", "a red fox"], &["bench"]] {
        let with = |size: &'static str| [command, &["--backend", "cpu", "--max-vram", size]].concat();
        fails(folder.path(), &with("4"), 2, "expected a size such as 4G");
        fails(folder.path(), &with("lots"), 2, "expected a size such as 4G");
        if command[0] != "bench" {
            fails(folder.path(), &with("4G"), 2, "the cpu backend computes in the host's memory");
        }
    }
    fails(folder.path(), &["plan", "--offload", "disk"], 2, "sequential or stream");
    fails(folder.path(), &["plan", "--model", "nowhere"], 3, "nowhere");
    fails(folder.path(), &["plan", "--width", "65"], 2, "65");
}
