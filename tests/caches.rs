//! The on-disk cache of compiled pipelines: a damaged file costs compile time and nothing else.
#![cfg(all(feature = "cli", feature = "webgpu", target_os = "linux"))]

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

/// Generates a small picture on a GPU or a software Vulkan device, with the caches in `folder`.
fn draw(folder: &Path) -> Output {
    let model = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/goldens/single");
    Command::new(env!("CARGO_BIN_EXE_zimage"))
        .current_dir(folder)
        .args(["generate", "x", "--backend", "webgpu:half", "-W", "16", "-H", "16", "-s", "1", "--seed", "1"])
        .args(["-o", "o.png", "-m", model.to_str().unwrap()])
        .env("XDG_CACHE_HOME", folder)
        .output()
        .unwrap()
}

#[track_caller]
fn drew(folder: &Path, what: &str) {
    let output = draw(folder);
    let error = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success() && !error.contains("warning"), "{what}: {error}");
}

/// The key and the data of an entry. Magic, checksum and key length precede them.
fn parts(entry: &[u8]) -> (&[u8], &[u8]) {
    let key = u64::from_le_bytes(entry[12..20].try_into().unwrap()) as usize;
    entry.split_at(20 + key)
}

/// The same entry with `data` and a matching checksum.
fn forged(entry: &[u8], data: &[u8]) -> Vec<u8> {
    let rest = [&parts(entry).0[12..], data].concat();
    [&entry[..8], &crc32fast::hash(&rest).to_le_bytes(), rest.as_slice()].concat()
}

#[test]
fn damaged_pipeline_cache_is_rebuilt() {
    let folder = tempfile::tempdir().unwrap();
    let f = folder.path();
    let first = draw(f);
    if first.status.code() == Some(4) {
        let error = String::from_utf8_lossy(&first.stderr).into_owned();
        writeln!(std::io::stderr(), "skipped: webgpu: {error}").unwrap();
        return;
    }
    let is_cache = |path: &PathBuf| path.file_name().unwrap().to_str().unwrap().starts_with("wgpu_pipeline_cache_");
    let mut entries = fs::read_dir(f.join("zimage")).unwrap().map(|entry| entry.unwrap().path());
    let file = entries.find(is_cache).unwrap();
    let whole = fs::read(&file).unwrap();
    let data = parts(&whole).1;
    assert!(data.starts_with(b"WGPUPLCH"), "the entry holds wgpu's data");
    let flipped = |at: usize| {
        let mut bytes = whole.clone();
        bytes[at] ^= 0x10;
        bytes
    };
    let other_adapter = [&data[..17], &[0xee; 15], &data[32..]].concat();
    let damaged = [
        ("a byte of the head", flipped(20)),
        ("a byte of the data", flipped(whole.len() / 2)),
        ("for another adapter", forged(&whole, &other_adapter)),
        ("no data of wgpu", forged(&whole, b"something else")),
    ];
    for (what, bytes) in damaged {
        fs::write(&file, &bytes).unwrap();
        drew(f, what);
        assert!(parts(&fs::read(&file).unwrap()).1.starts_with(b"WGPUPLCH"), "{what}: it was not made again");
    }
    fs::remove_file(&file).unwrap();
    assert!(Command::new("mkfifo").arg(&file).status().unwrap().success());
    drew(f, "a pipe");
}
