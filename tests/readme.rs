//! The commands of `README.md` run as they are written there: with small files under the names that
//! it uses, and with a hub on loopback.
#![cfg(feature = "cli")]

#[path = "support/hub.rs"]
#[allow(dead_code, reason = "tests/hub.rs uses the rest")]
mod hub;

use hub::{Reply, Repository, Server};
use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use tempfile::{TempDir, tempdir};

const README: &str = include_str!("../README.md");

/// The small model as a diffusers folder, and its name on the hub.
const FOLDER: &str = "single_files/model";
const PUBLISHED: &str = "Tongyi-MAI/Z-Image-Turbo";
/// Files in the README, and the small ones of `tests` with the same kind of content.
const FILES: [(&str, &str); 12] = [
    ("models/diffusion_models/z_image_turbo_bf16.safetensors", "single_files/comfy.safetensors"),
    ("models/text_encoders/qwen_3_4b.safetensors", "single_files/text_encoder.safetensors"),
    ("models/vae/ae.safetensors", "single_files/ae.safetensors"),
    ("z_image_turbo_bf16.safetensors", "single_files/comfy.safetensors"),
    ("z_image_turbo_nvfp4.safetensors", "single_files/comfy_quant.safetensors"),
    ("qwen_3_4b.safetensors", "single_files/text_encoder.safetensors"),
    ("qwen_3_4b_fp8_mixed.safetensors", "single_files/text_encoder.safetensors"),
    ("ae.safetensors", "single_files/ae.safetensors"),
    ("all-in-one.safetensors", "single_files/all_in_one.safetensors"),
    ("z_image_turbo-Q4_K.gguf", "single_files/gguf.gguf"),
    ("Qwen3-4B-Q4_K_M.gguf", "single_files/text_encoder_gguf.gguf"),
    ("style.safetensors", "lora/strength.safetensors"),
];
/// Single files on the hub.
const ON_THE_HUB: [(&str, &str, &str); 3] = [
    ("leejet/Z-Image-Turbo-GGUF", "z_image_turbo-Q4_K.gguf", "single_files/gguf.gguf"),
    ("unsloth/Qwen3-4B-GGUF", "Qwen3-4B-Q4_K_M.gguf", "single_files/text_encoder_gguf.gguf"),
    ("Comfy-Org/z_image_turbo", "split_files/vae/ae.safetensors", "single_files/ae.safetensors"),
];

fn tests() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests")
}

fn read(file: &str) -> Vec<u8> {
    fs::read(tests().join(file)).unwrap()
}

/// The files below a folder, by their paths in it.
fn read_all(folder: &Path, prefix: &str, files: &mut BTreeMap<String, Vec<u8>>) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        let name = format!("{prefix}{}", path.file_name().unwrap().to_str().unwrap());
        if path.is_dir() {
            read_all(&path, &format!("{name}/"), files);
        } else {
            files.insert(name, fs::read(path).unwrap());
        }
    }
}

/// A folder with the files that the README names, and a hub with its repositories.
struct Place {
    folder: TempDir,
    cache: TempDir,
    hub: Server,
}

impl Place {
    fn new() -> Self {
        let mut model = BTreeMap::new();
        read_all(&tests().join(FOLDER), "", &mut model);
        let folder = tempdir().unwrap();
        let write = |path: &str, bytes: &[u8]| {
            let path = folder.path().join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, bytes).unwrap();
        };
        for (name, bytes) in &model {
            write(&format!("Z-Image-Turbo/{name}"), bytes);
        }
        for (name, file) in FILES {
            write(name, &read(file));
        }
        let mut repositories = vec![(PUBLISHED, Repository { files: model, bare: false })];
        repositories.extend(ON_THE_HUB.map(|(name, path, file)| (name, Repository::new(&[(path, &read(file))]))));
        let hub = Server::start(move |seen| {
            // The repositories of `support/hub.rs` all have one name.
            match repositories.iter().find(|(name, _)| seen.path.contains(&format!("/{name}/"))) {
                Some((name, repository)) => {
                    let mut seen = seen.clone();
                    seen.path = seen.path.replacen(name, "org/name", 1);
                    repository.answer(&seen)
                }
                None => Reply::of(404, &[]),
            }
        });
        Self { folder, cache: tempdir().unwrap(), hub }
    }

    /// Runs a command; pictures are small, and drawn in one step.
    fn run(&self, command: &str) -> Output {
        let mut words = words(command);
        assert_eq!(words.remove(0), "zimage", "{command}");
        if words[0] == "generate" {
            words.extend(["-W", "64", "-H", "64", "--steps", "1", "--backend", "cpu"].map(str::to_owned));
        }
        let mut program = Command::new(env!("CARGO_BIN_EXE_zimage"));
        program.args(words).current_dir(self.folder.path()).env_clear();
        program.env("HF_ENDPOINT", self.hub.url()).env("HF_HUB_CACHE", self.cache.path());
        program.env("HOME", self.cache.path().join("home")).stdin(Stdio::null());
        program.output().unwrap()
    }

    /// Runs a command and returns its standard error.
    #[track_caller]
    fn succeeds(&self, command: &str) -> String {
        let output = self.run(command);
        let errors = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(0), "{command}: {errors}");
        errors
    }

    fn pictures(&self) -> usize {
        let names = fs::read_dir(self.folder.path()).unwrap().map(|entry| entry.unwrap().path());
        names.filter(|path| path.extension().is_some_and(|end| end == "png")).count()
    }
}

/// A command as the shell splits it.
fn words(command: &str) -> Vec<String> {
    let mut words = Vec::new();
    let mut quoted = false;
    for piece in command.split('"') {
        if quoted {
            words.push(piece.to_owned());
        } else {
            words.extend(piece.split_whitespace().map(str::to_owned));
        }
        quoted = !quoted;
    }
    words
}

/// The README between two headings.
fn section(from: &str, to: &str) -> &'static str {
    let start = README.find(&format!("\n## {from}\n")).unwrap();
    &README[start..start + README[start..].find(&format!("\n## {to}\n")).unwrap()]
}

/// The texts between backticks of a line.
fn code(line: &str) -> impl Iterator<Item = &str> {
    line.split('`').skip(1).step_by(2)
}

/// The commands of a section in their order: indented lines, code that begins with the program's
/// name, and flags in a table.
fn commands(section: &str) -> Vec<String> {
    let mut commands = Vec::new();
    for line in section.lines() {
        match line.strip_prefix("    ") {
            Some(command) if command.starts_with("zimage ") => commands.push(command.to_owned()),
            Some(_) => {}
            None => commands.extend(code(line).filter_map(|code| match code {
                _ if code.starts_with("zimage pull ") || code.starts_with("zimage models ") => Some(code.to_owned()),
                _ if code.starts_with("--model ") => Some(format!("zimage generate \"a red fox\" {code}")),
                _ => None,
            })),
        }
    }
    commands
}

#[test]
fn commands_of_the_readme_run() {
    let place = Place::new();
    let commands = commands(section("The real model", "What it does"));
    let generate = commands.iter().filter(|command| command.starts_with("zimage generate"));
    assert!(generate.count() >= 12 && commands.len() >= 15, "{commands:?}");
    for command in &commands {
        let before = place.pictures();
        let said = place.succeeds(command);
        let drawn = place.pictures() - before;
        assert_eq!(drawn, usize::from(command.starts_with("zimage generate")), "{command}: {said}");
        assert!(!said.contains("warning"), "{command}: {said}");
        if command.contains("--lora") {
            assert!(said.contains("style.safetensors: 2 of 2 tensors applied (1 layer), strength 0.8"), "{said}");
        }
    }
}

#[test]
fn the_tokenizer_alone_completes_files_of_comfyui() {
    let place = Place::new();
    let commands = commands(section("Your files", "What it does"));
    let comfyui = commands.iter().find(|command| command.contains(" models/diffusion_models/")).unwrap();
    let output = place.run(comfyui);
    let error = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(3), "{error}");
    assert!(error.contains("there is no tokenizer"), "{error}");
    let pull = commands.iter().find(|command| command.ends_with("/tokenizer")).unwrap();
    place.succeeds(pull);
    let fetched = place.hub.files();
    assert!(!fetched.is_empty() && fetched.iter().all(|file| file.starts_with("tokenizer/")), "{fetched:?}");
    place.succeeds(comfyui);
}

#[test]
fn flags_beside_those_of_other_programs_exist() {
    let place = Place::new();
    let help = place.run("zimage generate --help");
    let help = String::from_utf8(help.stdout).unwrap();
    let known = |flag: &str| help.split([' ', ',', '\n', '[']).any(|word| word == flag);
    let rows = section("Coming from ComfyUI", "Layout").lines().filter(|line| line.starts_with("| "));
    let flags: Vec<&str> = rows
        .filter_map(|row| row.trim_end_matches([' ', '|']).rsplit_once(" | "))
        .flat_map(|(_, ours)| code(ours))
        .filter_map(|code| code.split_whitespace().next().filter(|word| word.starts_with("--")))
        .collect();
    assert!(flags.len() >= 25, "{flags:?}");
    for flag in flags {
        assert!(known(flag), "{flag}");
    }
}
