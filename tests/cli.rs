//! The program on the command line: exit codes, one-line errors, output files, and the content of
//! stdout and stderr.
//!
//! Pictures come from the embedded default model, small and with few steps.
#![cfg(feature = "cli")]

#[path = "support/program.rs"]
mod program;

use program::{fails, succeeds, zimage};
use serde_json::Value;
use std::fs;
use std::path::Path;
use tempfile::{TempDir, tempdir};
use zimage::{Image, Info, PngText};

/// The warning that precedes every picture of an untrained size.
const SIZE: &str = "warning: this model was trained for 256×256, 128×128, 192×192, 256×128 and 13 more sizes: \
                    a picture of 64×64 may be broken\n";

fn files(folder: &Path) -> Vec<String> {
    let mut names: Vec<String> =
        fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

/// A folder with `fox.png`, a picture of two pixels that this crate encoded.
fn with_picture() -> TempDir {
    let folder = tempdir().unwrap();
    let info =
        Info { prompt: "a fox,\nsitting ‒ 狐".into(), seed: 7, steps: 8, model: "emoji".into(), ..Info::default() };
    let image = Image { width: 2, height: 1, pixels: vec![1, 2, 3, 4, 5, 6], info };
    image.save(&folder.path().join("fox.png")).unwrap();
    folder
}

/// Arguments that generate a picture quickly on any machine.
fn quick<'a>(arguments: &[&'a str]) -> Vec<&'a str> {
    let small = ["generate", "--width", "64", "--height", "64", "--steps", "1", "--backend", "cpu"];
    small.into_iter().chain(arguments.iter().copied()).collect()
}

#[test]
fn help_and_version() {
    let folder = tempdir().unwrap();
    let (version, _) = succeeds(folder.path(), &["--version"]);
    assert_eq!(version, format!("zimage {}\n", env!("CARGO_PKG_VERSION")));
    for arguments in
        [&["--help"][..], &["generate", "--help"], &["inspect", "--help"], &["parity", "--help"], &["bench", "--help"]]
    {
        let (help, _) = succeeds(folder.path(), arguments);
        assert!(help.contains("Exit codes:") && help.contains("130"), "{help}");
    }
    let (help, _) = succeeds(folder.path(), &["generate", "--help"]);
    assert!(help.contains("guidance_scale of diffusers"), "{help}");
    assert_eq!(zimage(folder.path(), &[]).status.code(), Some(2));
}

#[test]
fn wrong_command_line_exits_with_2() {
    let folder = tempdir().unwrap();
    let f = folder.path();
    fails(f, &["generate"], 2, "PROMPT");
    fails(f, &["paint", "a fox"], 2, "paint");
    fails(f, &["generate", "a fox", "--step", "8"], 2, "--steps");
    fails(f, &["generate", "a fox", "--steps", "many"], 2, "many");
    fails(f, &["generate", "a fox", "--width", "-16"], 2, "a whole number");
    fails(f, &["generate", "a fox", "--count", "99999999999999999999"], 2, "a whole number");
    fails(f, &["generate", "a fox", "--seed", "1.5"], 2, "whole number");
    fails(f, &["generate", "a fox", "--backend", "abacus"], 2, "abacus");
    fails(f, &["generate", "a fox", "--offload", "disk"], 2, "use auto, none, sequential or stream");
    fails(f, &["generate", "a fox", "--precision", "int3"], 2, "use auto, bf16, fp8 or fp8-all");
    fails(f, &["generate", "a fox", "--backend", "cpu", "--precision", "bf16"], 2, "operands of F32, not BF16");
    let needs = "--fp8-attention needs --precision fp8 or fp8-all, not ";
    fails(f, &["generate", "a fox", "--fp8-attention"], 2, &format!("{needs}auto"));
    fails(f, &["bench", "--precision", "bf16", "--fp8-attention"], 2, &format!("{needs}bf16"));
    fails(f, &["plan", "--fp8-attention"], 2, &format!("{needs}auto"));
    fails(f, &["inspect", "a.png", "b.png"], 2, "b.png");
}

#[test]
fn parity_reports_agreement_of_backends() {
    let folder = tempdir().unwrap();
    let f = folder.path();
    let (table, _) = succeeds(f, &["parity", "--backends", "cpu", "--filter", "attention", "--seed", "3"]);
    assert!(table.contains("seed 3") && table.contains("attention ") && table.contains("all pass"), "{table}");
    let (json, _) = succeeds(f, &["parity", "--backends", "cpu,cpu", "--filter", "linear/odd", "--json"]);
    let document: Value = serde_json::from_str(&json).unwrap();
    assert_eq!(document["passed"], true);
    let row = &document["reports"][0]["rows"][0];
    assert_eq!((&row["op"], &row["cases"], &row["worst"]["error"]), (&"linear".into(), &2.into(), &0.0.into()));
    fails(f, &["parity", "--backends", "cpu,abacus"], 2, "cpu");
    fails(f, &["parity", "--backends", "auto"], 2, "auto");
    fails(f, &["parity", "-q", "--filter", "no such case"], 2, "no such case");
    fails(f, &["parity", "--model", "nowhere"], 3, "nowhere");
}

#[test]
fn impossible_request_exits_with_2() {
    let folder = tempdir().unwrap();
    let f = folder.path();
    fails(f, &["generate", "a fox", "--width", "100"], 2, "16");
    fails(f, &["generate", "a fox", "--count", "0"], 2, "count");
    fails(f, &["generate", "a fox", "--batch", "0"], 2, "batch");
    fails(f, &["generate", "a fox", "--steps", "0"], 2, "steps");
    fails(f, &["generate", "a fox", "--guidance", "nan"], 2, "guidance");
    fails(f, &["generate", "a fox", "--vae-tile", "100"], 2, "use 96");
    fails(f, &["generate", "a fox", "--vae-tile", "some"], 2, "auto, off, or a number");
    fails(f, &["generate", "a fox", "--guidance", "-2"], 2, "guidance");
    fails(f, &["generate", "a cat", "a dog", "an owl", "--negative", "x", "--negative", "y"], 2, "negative");
    assert!(files(f).is_empty());
}

#[test]
fn unwritable_output_fails_before_the_run() {
    let folder = tempdir().unwrap();
    let f = folder.path();
    fs::write(f.join("file"), "").unwrap();
    // The model is wrong as well: an error about the output path shows that nothing was loaded.
    let place =
        |file: &str, code, says: &str| fails(f, &["generate", "a fox", "-m", "nowhere", "-o", file], code, says);
    place("missing/fox.png", 3, "missing: no such folder");
    place("file/fox.png", 3, "file");
    place("fox.jpg", 2, "only PNG");
    place("fox", 2, "-o fox.png");
    place(".", 2, "folder");
    fails(f, &["generate", "a cat", "a dog", "-o", "-"], 2, "one picture");
    fails(f, &["generate", "a", "--json", "-o", "-"], 2, "--json");
    assert_eq!(files(f), ["file"]);
}

#[test]
fn missing_model_exits_with_3() {
    let folder = tempdir().unwrap();
    fs::write(folder.path().join("fox.png"), "mine").unwrap();
    fails(folder.path(), &["generate", "a fox", "--model", "nowhere", "-o", "fox.png"], 3, "nowhere");
    fails(folder.path(), &["generate", "a fox", "--model", ".", "-o", "fox.png"], 3, "model_index.json");
    assert_eq!(fs::read(folder.path().join("fox.png")).unwrap(), b"mine");
    assert_eq!(files(folder.path()), ["fox.png"]);
}

#[test]
fn inspect_prints_generation_settings() {
    let folder = with_picture();
    let (text, errors) = succeeds(folder.path(), &["inspect", "fox.png"]);
    assert!(text.contains("a fox,\nsitting ‒ 狐") && text.contains("seed") && errors.is_empty(), "{text}");
    let (text, _) = succeeds(folder.path(), &["inspect", "fox.png", "--json"]);
    let document: Value = serde_json::from_str(&text).unwrap();
    assert_eq!(document["file"], "fox.png");
    assert_eq!(document["width"], 2);
    assert_eq!(document["zimage"]["seed"], 7);
    assert_eq!(document["zimage"]["prompt"], "a fox,\nsitting ‒ 狐");
    assert!(document["parameters"].as_str().unwrap().contains("Seed: 7"));
}

#[test]
fn inspect_escapes_foreign_texts() {
    let folder = tempdir().unwrap();
    let mut encoder = png::Encoder::new(fs::File::create(folder.path().join("other.png")).unwrap(), 1, 1);
    encoder.add_text_chunk("parameters".into(), "a cat\nSteps: 20\x1b[2J".into()).unwrap();
    encoder.write_header().unwrap().write_image_data(&[0]).unwrap();
    let (text, _) = succeeds(folder.path(), &["inspect", "other.png"]);
    assert_eq!(text, "a cat\nSteps: 20\\u{1b}[2J\n");
    let (text, _) = succeeds(folder.path(), &["inspect", "other.png", "--json"]);
    let document: Value = serde_json::from_str(&text).unwrap();
    assert_eq!((&document["zimage"], &document["parameters"]), (&Value::Null, &"a cat\nSteps: 20\x1b[2J".into()));
}

#[test]
fn inspect_refuses_other_files() {
    let folder = with_picture();
    let f = folder.path();
    let whole = fs::read(f.join("fox.png")).unwrap();
    fs::write(f.join("cut.png"), &whole[..40]).unwrap();
    fs::write(f.join("text.png"), "no picture").unwrap();
    fs::write(f.join("empty.png"), "").unwrap();
    png::Encoder::new(fs::File::create(f.join("plain.png")).unwrap(), 1, 1)
        .write_header()
        .unwrap()
        .write_image_data(&[0])
        .unwrap();
    fs::create_dir(f.join("folder")).unwrap();
    fails(f, &["inspect", "cut.png"], 3, "broken PNG");
    fails(f, &["inspect", "text.png"], 3, "not a PNG");
    fails(f, &["inspect", "empty.png"], 3, "not a PNG");
    fails(f, &["inspect", "plain.png"], 3, "how it was made");
    fails(f, &["inspect", "missing.png"], 3, "missing.png");
    fails(f, &["inspect", "folder"], 3, "no model_index.json and no safetensors or GGUF file");
    fails(f, &["inspect", "folder/model.safetensors"], 3, "there is no such file");
    fails(f, &["inspect", "folder/config.json"], 3, "name the folder");
    fails(f, &["generate", "a fox", "--model", "nowhere/z.gguf"], 3, "nowhere/z.gguf: there is no such file");
}

#[cfg(unix)]
#[test]
fn devices_and_pipes_are_never_replaced() {
    let folder = with_picture();
    let f = folder.path();
    assert!(std::process::Command::new("mkfifo").arg(f.join("pipe.png")).status().unwrap().success());
    std::os::unix::fs::symlink("/dev/null", f.join("null.png")).unwrap();
    let image = Image::open(&f.join("fox.png")).unwrap();
    for name in ["pipe.png", "null.png"] {
        fails(f, &["inspect", name], 3, "expected a PNG");
    }
    fails(f, &["generate", "a fox", "-m", "nowhere", "-o", "pipe.png"], 3, "no program reads from this pipe");
    assert!(image.save(&f.join("pipe.png")).is_err());
    image.save(&f.join("null.png")).unwrap();
    assert!(fs::symlink_metadata(f.join("null.png")).unwrap().is_symlink());
    assert_eq!(files(f), ["fox.png", "null.png", "pipe.png"]);
}

#[cfg(target_os = "linux")]
#[test]
fn closed_pipe_passes_full_disk_fails() {
    use std::process::Stdio;
    let folder = with_picture();
    let run = |stdout: Stdio, arguments: &[&str]| {
        let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_zimage"));
        command.current_dir(folder.path()).args(arguments).stdin(Stdio::null()).stdout(stdout).output().unwrap()
    };
    for arguments in [&["inspect", "fox.png"][..], &["--help"], &["--version"]] {
        let (reader, writer) = std::io::pipe().unwrap();
        drop(reader);
        let output = run(writer.into(), arguments);
        assert_eq!((output.status.code(), output.stderr.as_slice()), (Some(0), &[][..]), "{arguments:?}");
    }
    let full = fs::OpenOptions::new().write(true).open("/dev/full").unwrap();
    let output = run(full.into(), &["inspect", "fox.png"]);
    let error = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(3));
    assert!(error.starts_with("error: standard output: ") && error.lines().count() == 1, "{error}");
}

// ---- with the embedded default ------------------------------------------------------------------

#[test]
fn generate_writes_a_png() {
    let folder = tempdir().unwrap();
    let (stdout, stderr) =
        succeeds(folder.path(), &quick(&["ein roter Fuchs, 狐", "--seed", "7", "--guidance", "1.5", "-o", "fox.png"]));
    assert!(stdout.is_empty(), "{stdout}");
    let report = stderr.strip_prefix(SIZE).unwrap();
    assert!(report.starts_with("wrote fox.png (64×64, seed 7, ") && report.ends_with(" s)\n"), "{stderr}");
    assert!(!stderr.contains(|c: char| c.is_control() && c != '\n'), "{stderr:?}");
    assert_eq!(files(folder.path()), ["fox.png"]);
    let image = Image::open(&folder.path().join("fox.png")).unwrap();
    assert_eq!((image.width, image.height, image.pixels.len()), (64, 64, 64 * 64 * 3));
    let info = &image.info;
    assert_eq!((info.prompt.as_str(), info.seed, info.steps, info.guidance), ("ein roter Fuchs, 狐", 7, 1, 1.5));
    assert_eq!((info.width, info.height, info.version.as_str()), (64, 64, env!("CARGO_PKG_VERSION")));
    let text = PngText::open(&folder.path().join("fox.png")).unwrap().parameters.unwrap();
    assert!(text.contains("CFG scale: 2.5, Seed: 7, Size: 64x64"), "{text}");
}

#[test]
fn same_seed_gives_the_same_picture() {
    let folder = tempdir().unwrap();
    let f = folder.path();
    succeeds(f, &quick(&["a fox", "--seed", "7", "-o", "a.png"]));
    succeeds(f, &quick(&["a fox", "--seed", "7", "-o", "b.png"]));
    assert_eq!(fs::read(f.join("a.png")).unwrap(), fs::read(f.join("b.png")).unwrap());
    let (_, first) = succeeds(f, &quick(&["a fox", "-o", "c.png"]));
    let (_, second) = succeeds(f, &quick(&["a fox", "--seed", "-1", "-o", "d.png"]));
    let seed = |line: &str| line.split("seed ").nth(1).and_then(|rest| rest.split(',').next()?.parse::<u64>().ok());
    assert_eq!(seed(&first), Some(Image::open(&f.join("c.png")).unwrap().info.seed));
    assert_ne!(seed(&first), seed(&second));
}

#[test]
fn unnamed_outputs_take_free_names() {
    let folder = tempdir().unwrap();
    succeeds(folder.path(), &quick(&["a fox"]));
    let (_, stderr) = succeeds(folder.path(), &quick(&["a fox", "--count", "2"]));
    assert!(stderr.contains("wrote zimage-2.png") && stderr.contains("wrote zimage-3.png"), "{stderr}");
    assert_eq!(files(folder.path()), ["zimage-2.png", "zimage-3.png", "zimage.png"]);
}

#[test]
fn several_outputs_are_numbered() {
    let folder = tempdir().unwrap();
    succeeds(folder.path(), &quick(&["a fox", "an owl", "--count", "2", "--seed", "3", "-o", "pictures.png"]));
    let names = ["pictures-1.png", "pictures-2.png", "pictures-3.png", "pictures-4.png"];
    assert_eq!(files(folder.path()), names);
    let prompts = names.map(|name| Image::open(&folder.path().join(name)).unwrap().info.prompt);
    assert_eq!(prompts, ["a fox", "a fox", "an owl", "an owl"]);
}

#[test]
fn json_is_one_document() {
    let folder = tempdir().unwrap();
    let (stdout, stderr) = succeeds(folder.path(), &quick(&["a fox", "--json", "--seed", "7", "-o", "fox.png"]));
    assert!(stderr.is_empty(), "{stderr}");
    let document: Value = serde_json::from_str(&stdout).unwrap();
    let image = serde_json::json!({"file": "fox.png", "seed": 7, "width": 64, "height": 64, "prompt": "a fox"});
    assert_eq!(document["images"], Value::Array(vec![image]));
    assert_eq!((&document["steps"], &document["vae_tile"]), (&1.into(), &Value::Null));
    assert_eq!(document["offload"], "none");
    assert!(document["guidance"].is_number() && document["warnings"].is_array());
    for name in ["model", "backend", "device", "operands"] {
        assert!(document[name].as_str().is_some_and(|text| !text.is_empty()), "{name}");
    }
    let milliseconds = &document["milliseconds"];
    for name in ["load", "text_encoder", "vae", "total"] {
        assert!(milliseconds[name].as_f64().is_some_and(|ms| ms >= 0.0), "{name}");
    }
    assert!(milliseconds["transformer"]["total"].is_number());
    assert_eq!(milliseconds["transformer"]["per_step"].as_array().map(Vec::len), Some(1));
}

#[test]
fn sequential_offload_gives_the_same_picture() {
    let folder = tempdir().unwrap();
    let draw = |offload, file| {
        let arguments = quick(&["a fox", "--seed", "7", "--json", "--offload", offload, "-o", file]);
        let document: Value = serde_json::from_str(&succeeds(folder.path(), &arguments).0).unwrap();
        assert_eq!((&document["offload"], &document["operands"]), (&offload.into(), &"F32".into()));
        fs::read(folder.path().join(file)).unwrap()
    };
    assert!(draw("none", "a.png") == draw("sequential", "b.png"));
}

#[test]
fn vae_tiles_apply_to_larger_pictures() {
    let folder = tempdir().unwrap();
    for (side, used) in [("32", 32.into()), ("64", Value::Null)] {
        let (stdout, _) = succeeds(folder.path(), &quick(&["a fox", "--json", "--vae-tile", side, "-o", "fox.png"]));
        let document: Value = serde_json::from_str(&stdout).unwrap();
        assert_eq!((&document["vae_tile"], document["warnings"].as_array().map(Vec::len)), (&used, Some(1)));
    }
}

#[test]
fn negative_prompt_without_guidance_warns() {
    let folder = tempdir().unwrap();
    let arguments = quick(&["a fox", "--negative", "an owl", "--guidance", "0", "-o", "fox.png"]);
    let (_, stderr) = succeeds(folder.path(), &arguments);
    assert!(stderr.starts_with("warning: the negative prompt is not read"), "{stderr}");
    let (stdout, stderr) = succeeds(folder.path(), &[&arguments[..], &["--json"]].concat());
    let document: Value = serde_json::from_str(&stdout).unwrap();
    assert_eq!((document["warnings"].as_array().map(Vec::len), stderr.as_str()), (Some(2), ""));
    let (_, stderr) = succeeds(folder.path(), &quick(&["a fox", "-n", "an owl", "-g", "1", "-o", "fox.png"]));
    assert!(stderr.strip_prefix(SIZE).unwrap().starts_with("wrote"), "{stderr}");
    assert_eq!(Image::open(&folder.path().join("fox.png")).unwrap().info.negative, "an owl");
}

#[test]
fn picture_goes_to_standard_output() {
    let folder = tempdir().unwrap();
    let output = zimage(folder.path(), &quick(&["a fox", "-o", "-", "--seed", "7"]));
    assert!(output.status.success());
    let report = String::from_utf8(output.stderr).unwrap();
    assert!(report.strip_prefix(SIZE).unwrap().starts_with("wrote to standard output (64×64, seed 7, "), "{report}");
    assert!(files(folder.path()).is_empty());
    fs::write(folder.path().join("fox.png"), output.stdout).unwrap();
    assert_eq!(Image::open(&folder.path().join("fox.png")).unwrap().info.seed, 7);
}

#[test]
fn inspect_shows_the_embedded_default() {
    let folder = tempdir().unwrap();
    let (text, _) = succeeds(folder.path(), &["inspect"]);
    for part in ["transformer", "text_encoder", "vae", "scheduler", "steps"] {
        assert!(text.contains(part), "{part}: {text}");
    }
    let (text, _) = succeeds(folder.path(), &["inspect", "--json"]);
    let document: Value = serde_json::from_str(&text).unwrap();
    for part in ["transformer", "text_encoder", "vae"] {
        let part = &document["parts"][part];
        let total: u64 = part["types"].as_object().unwrap().values().map(|of| of["parameters"].as_u64().unwrap()).sum();
        assert!(part["bytes"].as_u64().unwrap() > 0 && part["tensors"].as_u64().unwrap() > 0, "{part}");
        assert_eq!(part["parameters"].as_u64().unwrap(), total, "{part}");
    }
    assert!(document["parts"]["tokenizer"]["bytes"].as_u64().unwrap() > 0);
    assert!(document["scheduler"]["shift"].is_number() && document["defaults"]["steps"].is_number());
}
