//! `zimage bench` with the embedded model at a small size, and with random weights at the published
//! models' sizes.
#![cfg(all(feature = "cli", feature = "embedded-model"))]

use assert_cmd::Command;
use serde_json::Value;
use std::process::Output;

fn bench(arguments: &[&str]) -> Output {
    let small = ["bench", "--backend", "cpu", "--width", "64", "--height", "64", "--tokens", "20", "--runs", "2"];
    Command::new(env!("CARGO_BIN_EXE_zimage")).args(small).args(arguments).output().unwrap()
}

#[track_caller]
fn prints(arguments: &[&str]) -> String {
    let output = bench(arguments);
    assert!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

#[track_caller]
fn document(arguments: &[&str]) -> Value {
    serde_json::from_str(&prints(&[arguments, &["--json"]].concat())).unwrap()
}

fn names(document: &Value) -> Vec<&str> {
    document["rows"].as_array().unwrap().iter().map(|row| row["name"].as_str().unwrap()).collect()
}

#[test]
fn bench_measures_every_stage_and_op() {
    let all = document(&[]);
    assert_eq!((&all["backend"], &all["model"], &all["width"]), (&"cpu".into(), &"emoji".into(), &64.into()));
    // 16 image tokens and 20 caption tokens, each padded to 32.
    assert_eq!((&all["caption_tokens"], &all["sequence_tokens"]), (&20.into(), &64.into()));
    for row in all["rows"].as_array().unwrap() {
        let ms = |which: &str| row["ms"][which].as_f64().unwrap();
        assert!(0.0 < ms("min") && ms("min") <= ms("median") && ms("median") <= ms("max"), "{row}");
        let positive = |key: &str| row[key].is_null() || row[key].as_f64().unwrap() > 0.0;
        assert!(row["ms"]["runs"].as_u64() == Some(2) && row["calls"].as_u64() > Some(0), "{row}");
        assert!(positive("tflops") && positive("gbs") && row["problem"].is_null(), "{row}");
    }
    for name in [
        "picture",
        "picture/denoise",
        "stage/text_encoder",
        "stage/captions",
        "stage/transformer/batch-1",
        "stage/transformer/batch-2",
        "stage/vae",
        "op/linear/qkv",
        "op/swiglu/block",
        "op/attention/block",
        "op/attention/text-block",
        "op/attention/vae",
        "op/conv2d/3x3-64-64-16-up",
        "op/group_norm/32-64-silu",
        "op/sampler_step",
        "op/to_rgb8",
    ] {
        assert!(names(&all).contains(&name), "{name} is not in {:?}", names(&all));
    }
    let pictures = &all["pictures"];
    assert_eq!((&pictures["steps"], &pictures["seed"]), (&4.into(), &42.into()));
    let number = |key: &str| pictures[key].as_f64().unwrap();
    let idle = (1.0 - 4.0 * number("step_ms") / number("loop_ms")).max(0.0);
    assert!(number("step_ms") > 0.0 && (number("idle_in_loop") - idle).abs() < 1e-9, "{pictures}");
    assert!(all["peak_memory"].is_null(), "cpu does not count");
}

#[test]
fn filter_selects_rows() {
    let stages = document(&["--filter", "stage/transformer"]);
    assert_eq!(names(&stages), ["stage/transformer/batch-1", "stage/transformer/batch-2"]);
    assert!(stages["pictures"].is_null());
    let table = prints(&["--filter", "op/attention/"]);
    let rows: Vec<&str> = table.lines().filter(|line| line.starts_with("op/")).collect();
    assert!(rows.len() == 3 && rows.iter().all(|row| row.starts_with("op/attention/")), "{table}");
    assert!(table.starts_with("cpu: ") && table.contains("emoji: 64×64") && table.contains("TFLOP/s"), "{table}");
}

#[test]
fn phases_are_printed_as_they_start() {
    let output = bench(&["--filter", "picture", "--json"]);
    let lines = String::from_utf8(output.stderr).unwrap();
    // A slow machine prints the steps of a phase as well.
    let phases: Vec<&str> = lines.lines().filter(|line| !line.contains(": ")).collect();
    assert_eq!(phases, ["loading the model", "measuring picture", "measuring steps back to back"], "{lines}");
    let output = bench(&["--filter", "stage/vae"]);
    let lines = String::from_utf8(output.stderr).unwrap();
    for phase in ["loading the VAE\n", "measuring stage/vae\n", "measuring stage/vae/replayed\n"] {
        assert!(lines.contains(phase), "{phase}: {lines}");
    }
    let output = bench(&["--filter", "stage/vae", "--quiet"]);
    assert!(output.stderr.is_empty() && !output.stdout.is_empty());
}

#[test]
fn published_models_bench_without_files() {
    let ops = document(&["--random", "turbo", "--filter", "op/qk_norm_rope"]);
    assert_eq!(ops["model"], "turbo with random weights");
    assert_eq!(ops["rows"][0]["what"], "64 tokens, 30 and 30 heads of 128");
    let quantised = document(&["--random", "turbo", "--weights", "nvfp4", "--filter", "op/linear/attention-out"]);
    assert_eq!(quantised["model"], "turbo with random NVFP4 weights");
    let row = &quantised["rows"][0];
    let megabytes = row["gbs"].as_f64().unwrap() * row["ms"]["median"].as_f64().unwrap();
    // Four bits an element, and 64 rows of F32 that are read and written; scales do not count.
    assert!((8.0..11.0).contains(&megabytes), "{row}");
    // The VAE returns finite values: bench rejects a picture with non-finite ones.
    let decoded = document(&["--random", "base", "--filter", "stage/vae"]);
    assert_eq!(names(&decoded), ["stage/vae", "stage/vae/replayed"]);
}

#[test]
fn impossible_measurements_are_refused() {
    for (arguments, says) in [
        (&["--filter", "op/sorting"][..], "op/sorting"),
        (&["--random", "tiny"], "turbo, base"),
        (&["--random", "turbo", "--weights", "q3_k"], "q4_k"),
        (&["--weights", "q4_k"], "--random"),
        (&["--random", "turbo", "--model", "folder"], "--model"),
        (&["--runs", "0"], "use 1 to 1000"),
        (&["--tokens", "513"], "use 1 to 512"),
        (&["--tokens", "3"], "the chat template's included"),
        (&["--width", "100"], "use 96 or 112"),
    ] {
        let base = ["bench", "--backend", "cpu"];
        let output = Command::new(env!("CARGO_BIN_EXE_zimage")).args(base).args(arguments).output().unwrap();
        let error = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(2), "{arguments:?}: {error}");
        assert!(error.starts_with("error: ") && error.contains(says), "{arguments:?}: {error}");
        assert!(error.matches('\n').count() == 1 && output.stdout.is_empty(), "{arguments:?}: {error}");
    }
}
