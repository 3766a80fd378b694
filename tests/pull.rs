//! `zimage pull` and `zimage models` with a small hub on loopback: output, signals, a killed
//! process, two processes at once.
#![cfg(all(unix, feature = "cli"))]

#[path = "support/hub.rs"]
#[allow(dead_code, reason = "tests/hub.rs uses the rest")]
mod hub;

use hub::{COMMIT, Reply, Repository, Server, bytes, hash};
use serde_json::Value;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

/// The program with an environment in which only this hub and this cache exist.
fn command(program: &str, server: &Server, cache: &Path, arguments: &[&str]) -> Command {
    let mut command = Command::new(program);
    command.args(arguments).env_clear().env("PATH", std::env::var_os("PATH").unwrap_or_default());
    command.env("HF_ENDPOINT", server.url()).env("HF_HUB_CACHE", cache).env("HOME", cache.join("home"));
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

fn zimage(server: &Server, cache: &Path, arguments: &[&str]) -> Command {
    command(env!("CARGO_BIN_EXE_zimage"), server, cache, arguments)
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).unwrap()
}

/// Runs the program; returns its standard output and standard error.
#[track_caller]
fn succeeds(server: &Server, cache: &Path, arguments: &[&str]) -> (String, String) {
    let Output { status, stdout, stderr } = zimage(server, cache, arguments).output().unwrap();
    assert_eq!(status.code(), Some(0), "{arguments:?}: {}", text(&stderr));
    (text(&stdout), text(&stderr))
}

/// Asserts an exit code and one line that says why.
#[track_caller]
fn fails(output: &Output, code: i32, says: &str) {
    let error = text(&output.stderr);
    assert_eq!(output.status.code(), Some(code), "{error}");
    let last = error.lines().last().unwrap();
    assert!(last.starts_with("error: ") && last.contains(says), "{error}");
}

fn snapshot(cache: &Path) -> PathBuf {
    cache.join("models--org--name/snapshots").join(COMMIT)
}

/// A hub with one file of a million bytes that sends 400 000 of them and then nothing, until the
/// flag is cleared.
fn stalling() -> (Server, Arc<AtomicBool>, Vec<u8>) {
    let weights = bytes(7, 1_000_000);
    let repository = Repository::new(&[("z.safetensors", &weights)]);
    let stalls = Arc::new(AtomicBool::new(true));
    let stalling = stalls.clone();
    let server = Server::start(move |seen| {
        let mut reply = repository.answer(seen);
        if seen.path.ends_with(".safetensors") && stalling.load(Ordering::SeqCst) {
            (reply.cut, reply.pause) = (Some(400_000), Duration::from_secs(60));
        }
        reply
    });
    (server, stalls, weights)
}

/// Waits until a download has 400 000 bytes on disk.
#[track_caller]
fn wait_for_part(child: &mut Child, cache: &Path, weights: &[u8]) {
    let part = cache.join("models--org--name/blobs").join(format!("{}.incomplete", hash("z.safetensors", weights)));
    let start = Instant::now();
    while !fs::metadata(&part).is_ok_and(|part| part.len() == 400_000) {
        assert!(start.elapsed() < Duration::from_secs(60) && child.try_wait().unwrap().is_none(), "no part arrives");
        std::thread::sleep(Duration::from_millis(10));
    }
}

#[test]
fn pull_prints_a_path_and_the_files() {
    let repository = Repository::pipeline();
    let server = Server::start(move |seen| repository.answer(seen));
    let cache = tempfile::tempdir().unwrap();
    let (path, errors) = succeeds(&server, cache.path(), &["pull", "org/name"]);
    assert_eq!(path, format!("{}\n", snapshot(cache.path()).display()));
    let lines: Vec<&str> = errors.lines().collect();
    assert!(lines.contains(&"downloading 1.55 MB"), "{errors}");
    assert!(lines.contains(&"transformer/diffusion_pytorch_model.safetensors · 1.00 MB"), "{errors}");
    let (path, errors) = succeeds(&server, cache.path(), &["pull", "hf://org/name@main/vae", "-q", "--json"]);
    let document: Value = serde_json::from_str(&path).unwrap();
    assert_eq!(document["name"], "org/name@main/vae");
    assert_eq!(document["path"], snapshot(cache.path()).join("vae").to_str().unwrap());
    assert_eq!(errors, "");
}

#[test]
fn models_lists_the_cache_and_folders() {
    let repository = Repository::pipeline();
    let server = Server::start(move |seen| repository.answer(seen));
    let cache = tempfile::tempdir().unwrap();
    let (none, _) = succeeds(&server, cache.path(), &["models"]);
    assert!(none.starts_with("no models in ") && none.contains("zimage pull"), "{none}");
    succeeds(&server, cache.path(), &["pull", "org/name"]);
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("z.gguf"), "1234").unwrap();
    let file = folder.path().join("z.gguf").display().to_string();
    let arguments = ["models", "--models-dir", folder.path().to_str().unwrap()];
    let (list, _) = succeeds(&server, cache.path(), &arguments);
    let lines: Vec<Vec<&str>> = list.lines().map(|line| line.split_whitespace().collect()).collect();
    assert_eq!(lines[0], ["org/name", "1.55", "MB", "a", "Z-Image", "model:", "--model"]);
    assert_eq!(lines[1][..4], [file.as_str(), "4", "B", "none:"]);
    let (json, _) = succeeds(&server, cache.path(), &[&arguments[..], &["--json"]].concat());
    let document: Value = serde_json::from_str(&json).unwrap();
    let first = &document["models"][0];
    assert_eq!(
        (&first["name"], &first["revisions"][0], &first["commit"]),
        (&"org/name".into(), &"main".into(), &COMMIT.into())
    );
    assert_eq!(first["path"], snapshot(cache.path()).to_str().unwrap());
    assert_eq!(document["models"][1]["bytes"], 4);
    fails(&zimage(&server, cache.path(), &["models", "--models-dir", "nowhere"]).output().unwrap(), 3, "--models-dir");
}

#[test]
fn failures_have_exit_codes() {
    let server = Server::start(|_| Reply::of(401, &[]));
    let cache = tempfile::tempdir().unwrap();
    let run = |arguments: &[&str]| zimage(&server, cache.path(), arguments).output().unwrap();
    fails(&run(&["pull", "../name"]), 2, "expected org/name");
    fails(&run(&["pull", "org/name"]), 3, "set HF_TOKEN");
    let offline = zimage(&server, cache.path(), &["pull", "org/name"]).env("HF_HUB_OFFLINE", "1").output().unwrap();
    fails(&offline, 3, "HF_HUB_OFFLINE forbids a download");
    let token = zimage(&server, cache.path(), &["pull", "org/name"]).env("HF_TOKEN", "hf_x").output().unwrap();
    fails(&token, 3, "the token that was sent may not read it");
    assert!(!text(&token.stderr).contains("hf_x"));
    let output = run(&["pull", "org/name", "--json"]);
    let document: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!((&document["error"]["kind"], &document["error"]["exit_code"]), (&"files".into(), &3.into()));
}

#[test]
fn a_killed_download_goes_on_later() {
    let (server, stalls, weights) = stalling();
    let cache = tempfile::tempdir().unwrap();
    let mut child = zimage(&server, cache.path(), &["pull", "org/name"]).spawn().unwrap();
    wait_for_part(&mut child, cache.path(), &weights);
    child.kill().unwrap();
    child.wait().unwrap();
    assert!(!snapshot(cache.path()).join("z.safetensors").exists());
    assert!(!cache.path().join("models--org--name/refs/main").exists());
    stalls.store(false, Ordering::SeqCst);
    let (path, _) = succeeds(&server, cache.path(), &["pull", "org/name"]);
    assert_eq!(fs::read(path.trim_end()).unwrap(), weights);
    assert_eq!(server.seen().last().unwrap().from, Some(400_000));
}

#[test]
fn an_interrupted_download_ends_soon_and_goes_on_later() {
    let (server, stalls, weights) = stalling();
    let cache = tempfile::tempdir().unwrap();
    let mut child = zimage(&server, cache.path(), &["pull", "org/name"]).spawn().unwrap();
    wait_for_part(&mut child, cache.path(), &weights);
    let start = Instant::now();
    assert!(Command::new("kill").args(["-INT", &child.id().to_string()]).status().unwrap().success());
    let output = child.wait_with_output().unwrap();
    assert!(start.elapsed() < Duration::from_secs(20));
    fails(&output, 130, "cancelled");
    assert!(text(&output.stderr).contains("stopping the download, which another run goes on with"));
    stalls.store(false, Ordering::SeqCst);
    let (path, _) = succeeds(&server, cache.path(), &["pull", "org/name"]);
    assert_eq!(fs::read(path.trim_end()).unwrap(), weights);
    assert_eq!(server.seen().last().unwrap().from, Some(400_000));
}

#[test]
fn two_processes_fetch_each_file_once() {
    let repository = Repository::pipeline();
    let server = Server::start(move |seen| {
        std::thread::sleep(Duration::from_millis(200));
        repository.answer(seen)
    });
    let cache = tempfile::tempdir().unwrap();
    let pull = || zimage(&server, cache.path(), &["pull", "org/name"]).spawn().unwrap();
    for child in [pull(), pull()] {
        let output = child.wait_with_output().unwrap();
        assert_eq!(output.status.code(), Some(0), "{}", text(&output.stderr));
    }
    let files = server.files();
    let mut once = files.clone();
    once.dedup();
    assert_eq!(files, once);
}

/// A limit on the size of files acts like a full disk: the system refuses the write.
#[test]
fn a_write_that_fails_is_one_sentence() {
    let weights = bytes(7, 1_000_000);
    let repository = Repository::new(&[("z.safetensors", &weights)]);
    let server = Server::start(move |seen| repository.answer(seen));
    let cache = tempfile::tempdir().unwrap();
    let script = format!("ulimit -f 100; exec '{}' pull org/name", env!("CARGO_BIN_EXE_zimage"));
    let output = command("sh", &server, cache.path(), &["-c", &script]).output().unwrap();
    fails(&output, 3, "the cache cannot be written (File too large");
    let (path, _) = succeeds(&server, cache.path(), &["pull", "org/name"]);
    assert_eq!(fs::read(path.trim_end()).unwrap(), weights);
}
