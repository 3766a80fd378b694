//! Realistic command lines: without quotes, with other programs' flags, with values that look like
//! flags, and with texts that contain terminal escapes.
#![cfg(feature = "cli")]

use assert_cmd::Command;
use serde_json::Value;
use std::fs;
use std::path::Path;
use std::process::Output;
use tempfile::tempdir;
use zimage::{Image, Info};

fn zimage(folder: &Path, arguments: &[&str], stdin: &[u8]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_zimage"));
    command.current_dir(folder).args(arguments).write_stdin(stdin).output().unwrap()
}

fn text(bytes: &[u8]) -> &str {
    std::str::from_utf8(bytes).unwrap()
}

/// Runs the program with a missing model, so that an error about the command line must precede any
/// work.
#[track_caller]
fn refused(arguments: &[&str], says: &str) {
    let folder = tempdir().unwrap();
    let output = zimage(folder.path(), &[&["generate", "--model", "nowhere"], arguments].concat(), b"");
    let errors = text(&output.stderr);
    assert_eq!(output.status.code(), Some(2), "{arguments:?}: {errors}");
    assert!(errors.starts_with("error: ") && errors.contains(says), "{arguments:?}: {errors}");
    assert_eq!(errors.lines().count(), 1, "{arguments:?}: {errors}");
    assert!(output.stdout.is_empty() && fs::read_dir(folder.path()).unwrap().next().is_none(), "{arguments:?}");
}

/// Arguments that generate a picture quickly.
fn quick<'a>(arguments: &[&'a str]) -> Vec<&'a str> {
    let small = ["generate", "--width", "64", "--height", "64", "--steps", "1", "--seed", "7"];
    small.into_iter().chain(arguments.iter().copied()).collect()
}

#[test]
fn dashed_values_are_values() {
    for (option, value, says) in [
        ("--width", "-16", "a whole number from 1 up"),
        ("-H", "-16", "a whole number from 1 up"),
        ("-s", "-1", "a seed is --seed"),
        ("--steps", "4294967296", "a seed is --seed"),
        ("--steps", "-inf", "a number of steps"),
        ("--guidance", "-x", "a number such as 1.5"),
        ("--guidance", "1,5", "a number such as 1.5"),
        ("--cfg-truncation", "-", "a number such as 1.5"),
        ("--cfg-normalization", "-one", "a number such as 1.5"),
        ("--seed", "-5", "or -1 for a random one"),
        ("--seed", "-inf", "or -1 for a random one"),
        ("--count", "-1", "a whole number from 1 up"),
        ("--batch", "--1", "a whole number from 1 up"),
        ("--vae-tile", "-32", "auto, off, or a number"),
        ("--offload", "-none", "use auto, none, sequential or stream"),
        ("--precision", "-bf16", "use auto, bf16, fp8 or fp8-all"),
        ("--backend", "-cpu", "-cpu"),
    ] {
        refused(&["a fox", option, value], says);
        refused(&["a fox", option, value], value);
    }
}

#[test]
fn out_of_range_numbers_fail_the_request() {
    let folder = tempdir().unwrap();
    for (option, value, says) in [
        ("-g", "-inf", "guidance -inf is not a number"),
        ("--guidance", "-nan", "guidance NaN is not a number"),
        ("--guidance", "-1", "guidance -1 is not a number"),
        ("--cfg-truncation", "-inf", "cfg truncation -inf"),
        ("--cfg-normalization", "-inf", "cfg normalization -inf"),
    ] {
        let output = zimage(folder.path(), &["generate", "a fox", option, value], b"");
        let errors = text(&output.stderr);
        assert!(output.status.code() == Some(2) && errors.contains(says), "{option} {value}: {errors}");
    }
}

#[test]
fn unquoted_prompts_are_refused() {
    refused(&["a", "red", "fox"], "generate \"a red fox\"");
    refused(&["a", "red", "fox", "--steps", "8"], "3 different pictures");
    refused(&["cat", "dog"], "generate -p cat -p dog");
    refused(&["a fox", "-q", "8"], "the value of a flag");
    refused(&["a fox", "-n", "4"], "--count 4");
    refused(&["--", "--lora", "x.safetensors"], "--lora would be drawn");
    refused(&["--", "a fox", "--steps", "8"], "put flags before it");
    refused(&["-", "-"], "use - once");
    refused(&["-p", "a", "red", "fox"], "\"red fox\" is not a part of -p \"a\"");
}

#[test]
fn partly_quoted_prompts_warn_early() {
    let folder = tempdir().unwrap();
    for (prompts, says) in [
        (&["photo", "a red fox"][..], "warning: there are 2 prompts"),
        (&["a red fox --steps 8"], "warning: --steps is read as a word of the prompt"),
    ] {
        let output = zimage(folder.path(), &[&["generate", "--model", "nowhere"], prompts].concat(), b"");
        let errors: Vec<&str> = text(&output.stderr).lines().collect();
        assert!(errors[0].starts_with(says) && errors[1].contains("nowhere"), "{errors:?}");
    }
}

#[test]
fn peer_flags_suggest_our_flags() {
    for (arguments, says) in [
        (&["--cfg-scale", "5"][..], "use --guidance 4, which is the CFG scale minus 1"),
        (&["--cfg_scale=7.5"], "use --guidance 6.5"),
        (&["--sampler", "euler"], "flow-match Euler"),
        (&["--sampling-method", "euler"], "flow-match Euler"),
        (&["--lora-path", "x.safetensors"], "use --lora x.safetensors"),
        (&["--diffusion-model", "z.gguf"], "use --model z.gguf"),
        (&["--init-img", "a.png"], "from text alone"),
        (&["--size", "512x512"], "use -W 512 -H 512"),
        (&["--num_inference_steps", "8"], "use --steps 8"),
        (&["--negative-prompt", "blurry"], "use --negative blurry"),
        (&["-b", "2"], "use --count 2"),
        (&["-t", "8"], "RAYON_NUM_THREADS"),
        (&["-steps", "8"], "-steps is written with two dashes: --steps"),
        (&["-prompt", "a fox"], "two dashes: --prompt"),
    ] {
        refused(&[&["a fox"], arguments].concat(), says);
    }
    refused(&["a fox", "--frobnicate"], "unexpected argument '--frobnicate' found; --help");
}

#[cfg(feature = "embedded-model")]
#[test]
fn prompts_are_taken_literally() {
    let folder = tempdir().unwrap();
    let output = zimage(folder.path(), &quick(&["-p", "cat", "-p", "--lora", "--prompt", "-", "-o", "a.png"]), b"");
    assert!(output.status.success(), "{}", text(&output.stderr));
    let prompts = [1, 2, 3].map(|i| Image::open(&folder.path().join(format!("a-{i}.png"))).unwrap().info.prompt);
    assert_eq!(prompts, ["cat", "--lora", "-"]);
}

#[cfg(feature = "embedded-model")]
#[test]
fn prompt_is_read_from_standard_input() {
    let folder = tempdir().unwrap();
    let output = zimage(folder.path(), &quick(&["-", "-o", "a.png"]), "ein Fuchs, 狐\n".as_bytes());
    assert!(output.status.success(), "{}", text(&output.stderr));
    assert_eq!(Image::open(&folder.path().join("a.png")).unwrap().info.prompt, "ein Fuchs, 狐");
    for (stdin, says) in [(&b""[..], "standard input is empty"), (&b"\xff\xfea\0"[..], "not UTF-8")] {
        let output = zimage(folder.path(), &quick(&["-", "-o", "b.png"]), stdin);
        let errors = text(&output.stderr);
        assert!(output.status.code() == Some(2) && errors.contains(says), "{errors}");
    }
    assert!(!folder.path().join("b.png").exists());
}

#[cfg(feature = "embedded-model")]
#[test]
fn warnings_precede_the_work() {
    let folder = tempdir().unwrap();
    // The backend is opened after the request is checked; it rejects the precision.
    let refused =
        ["generate", "", "-n", "an owl", "-g", "0", "-W", "64", "-H", "64", "--backend", "cpu", "--precision", "bf16"];
    let output = zimage(folder.path(), &refused, b"");
    let lines: Vec<&str> = text(&output.stderr).lines().collect();
    for (line, start) in lines.iter().zip([
        "warning: the negative prompt is not read",
        "warning: the prompt is empty",
        "warning: this model was trained for 256×256",
        "error: the cpu backend has gemms",
    ]) {
        assert!(line.starts_with(start), "{lines:?}");
    }
    assert_eq!(lines.len(), 4, "{lines:?}");
}

#[cfg(feature = "embedded-model")]
#[test]
fn quiet_prints_only_errors() {
    let folder = tempdir().unwrap();
    let warned = quick(&["a fox", "-n", "an owl", "-g", "0", "-o", "a.png"]);
    let output = zimage(folder.path(), &[&warned[..], &["-q"]].concat(), b"");
    assert!(output.status.success() && output.stdout.is_empty() && output.stderr.is_empty());
    let output = zimage(folder.path(), &[&["--quiet"], &warned[..], &["--json"]].concat(), b"");
    let document: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert!(document["warnings"][0].as_str().unwrap().contains("negative") && output.stderr.is_empty());
    let output = zimage(folder.path(), &["-q", "inspect", "nowhere.png"], b"");
    assert!(output.status.code() == Some(3) && text(&output.stderr).starts_with("error: nowhere.png"));
}

#[test]
fn json_errors_are_documents() {
    let folder = tempdir().unwrap();
    for (arguments, kind, code) in [
        (&["generate", "a fox", "--json", "--model", "nowhere"][..], "files", 3),
        (&["generate", "a fox", "--json", "--width", "100"], "request", 2),
        (&["generate", "a fox", "--json", "--frobnicate"], "request", 2),
        (&["inspect", "nowhere.png", "--json"], "files", 3),
        (&["bench", "--json", "--runs", "0"], "request", 2),
        (&["parity", "--json", "--backends", "abacus"], "request", 2),
    ] {
        let output = zimage(folder.path(), arguments, b"");
        assert_eq!(output.status.code(), Some(code), "{arguments:?}");
        let document: Value = serde_json::from_slice(&output.stdout).unwrap();
        let error = &document["error"];
        assert_eq!((&error["kind"], &error["exit_code"]), (&kind.into(), &code.into()), "{arguments:?}");
        assert_eq!(text(&output.stderr), format!("error: {}\n", error["message"].as_str().unwrap()), "{arguments:?}");
    }
}

/// True if a terminal would interpret or hide one of the characters.
fn has_hidden(text: &str) -> bool {
    text.contains(|c: char| {
        (c.is_control() && c != '\n')
            || matches!(c, '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}' | '\u{feff}')
    })
}

#[test]
fn hidden_characters_are_escaped() {
    let folder = tempdir().unwrap();
    let hostile = "\u{7f}\u{85}\u{9b}2J\u{61c}\u{200b}\u{200e}\u{202e}gnp.\u{2066}\u{2028}\u{feff}\u{e0041}";
    let name = format!("x{hostile}.png");
    let info = Info { prompt: format!("a fox{hostile}"), ..Info::default() };
    let image = Image { width: 1, height: 1, pixels: vec![1, 2, 3], info };
    image.save(&folder.path().join(&name)).unwrap();

    let shown = zimage(folder.path(), &["inspect", &name], b"");
    assert!(shown.status.success() && !has_hidden(text(&shown.stdout)), "{shown:?}");
    assert!(text(&shown.stdout).contains("\\u{202e}gnp."), "{shown:?}");
    let json = zimage(folder.path(), &["inspect", &name, "--json"], b"");
    assert!(!has_hidden(text(&json.stdout)) && !text(&json.stdout).contains('\u{e0041}'), "{json:?}");
    let document: Value = serde_json::from_slice(&json.stdout).unwrap();
    assert_eq!((&document["file"], &document["zimage"]["prompt"]), (&name.into(), &image.info.prompt.into()));

    let missing = format!("missing\n{hostile}");
    for arguments in [
        &["inspect", &missing][..],
        &["generate", "a fox", "-m", &missing],
        &["generate", "a fox", "--steps", &missing],
    ] {
        let output = zimage(folder.path(), arguments, b"");
        let errors = text(&output.stderr);
        assert!(!output.status.success() && !has_hidden(errors) && errors.lines().count() == 1, "{errors:?}");
    }
    let output = zimage(folder.path(), &[&format!("paint{hostile}")], b"");
    assert!(output.status.code() == Some(2) && !has_hidden(text(&output.stderr)), "{output:?}");
}

#[cfg(unix)]
#[test]
fn non_utf8_names_print_one_line() {
    use std::os::unix::ffi::OsStrExt;
    let folder = tempdir().unwrap();
    let name = std::ffi::OsStr::from_bytes(b"f\xff\x1b[2J.png");
    let mut command = Command::new(env!("CARGO_BIN_EXE_zimage"));
    let output = command.current_dir(folder.path()).arg("inspect").arg(name).output().unwrap();
    assert_eq!(output.status.code(), Some(3));
    assert!(text(&output.stderr).starts_with("error: f\u{fffd}\\u{1b}[2J.png: "), "{output:?}");
}

#[test]
fn completions_and_man_pages_are_printed() {
    let folder = tempdir().unwrap();
    for shell in ["bash", "zsh", "fish", "powershell", "elvish"] {
        let output = zimage(folder.path(), &["completions", shell], b"");
        assert!(output.status.success() && text(&output.stdout).contains("guidance"), "{shell}");
    }
    let output = zimage(folder.path(), &["man"], b"");
    assert!(text(&output.stdout).contains(".TH zimage 1") && text(&output.stdout).contains("generate"), "{output:?}");
    let output = zimage(folder.path(), &["man", "generate"], b"");
    assert!(text(&output.stdout).contains(".TH zimage-generate 1"), "{output:?}");
    assert!(text(&output.stdout).contains("Exit codes:"), "{output:?}");
    let output = zimage(folder.path(), &["man", "paint"], b"");
    assert!(output.status.code() == Some(2) && text(&output.stderr).contains("there are: generate, inspect"));
}
