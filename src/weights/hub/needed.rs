//! The files that this program reads, among those of a repository or of a folder in the cache.

use super::super::index::{self, read_index};
use super::listing::Listing;
use crate::error::excerpt;
use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

/// The file that makes a repository a pipeline of diffusers.
pub(super) const PIPELINE: &str = "model_index.json";
/// The folders of a pipeline that are read.
const FOLDERS: [&str; 5] = ["scheduler", "text_encoder", "tokenizer", "transformer", "vae"];
/// The folders of a pipeline with weights.
const NETWORKS: [&str; 3] = ["text_encoder", "transformer", "vae"];
const TEXTS: [&str; 3] = [".json", ".txt", ".jinja"];
/// The ends of the names of weights.
pub const WEIGHTS: [&str; 3] = [".safetensors", ".sft", ".gguf"];
const INDEX: &str = ".safetensors.index.json";
/// The names of weights in diffusers and in transformers, without their ends. Of an index of shards
/// and a single file, diffusers reads the index, and transformers the file.
const STEMS: [(&str, bool); 2] = [("diffusion_pytorch_model", true), ("model", false)];
const MOST_NAMES: usize = 12;

/// The files to download for a name, and what the name then means.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Selection {
    pub files: BTreeSet<String>,
    /// The path in the snapshot of the file or folder that was named; empty for the snapshot.
    pub target: String,
}

/// Selects the files for `path` in a repository, or for the repository itself: a pipeline, one part
/// of a pipeline, or the only file with weights.
///
/// # Errors
/// The fault, as the end of a sentence.
pub(super) fn select(listing: &Listing, path: Option<&str>) -> Result<Selection, String> {
    let paths = || listing.files.iter().map(|file| file.path.as_str());
    let Some(path) = path else {
        if listing.has(PIPELINE) {
            return pipeline(listing);
        }
        let part = part(listing, "");
        let is_network = |file: &String| STEMS.iter().any(|(stem, _)| is_stem(file, stem));
        if listing.has("config.json") && part.iter().any(is_network) {
            return Ok(Selection { files: part, target: String::new() });
        }
        let weights: Vec<&str> = paths().filter(|path| is_weights(path)).collect();
        return match weights[..] {
            [only] => Ok(file(listing, only)),
            [] => Err(format!(
                "expected {PIPELINE} or files that end in {}, found {}",
                WEIGHTS.join(", "),
                names(paths())
            )),
            _ => Err(format!("it has several models; name one of its files: {}", names(weights.iter().copied()))),
        };
    };
    if listing.has(path) {
        return Ok(file(listing, path));
    }
    let files = part(listing, &format!("{path}/"));
    if files.is_empty() {
        let similar = paths().filter(|found| is_weights(found) || found.rsplit('/').next() == path.rsplit('/').next());
        return Err(format!("there is no such file or folder; the repository has {}", names(similar)));
    }
    Ok(Selection { files, target: path.to_owned() })
}

/// One file, and the `config.json` next to it, which tells what its tensors do not.
fn file(listing: &Listing, path: &str) -> Selection {
    let config = path.rsplit_once('/').map_or("config.json".to_owned(), |(folder, _)| format!("{folder}/config.json"));
    let config = Some(config).filter(|config| listing.has(config) && is_weights(path));
    Selection { files: config.into_iter().chain([path.to_owned()]).collect(), target: path.to_owned() }
}

fn pipeline(listing: &Listing) -> Result<Selection, String> {
    let own = [PIPELINE, "zimage.json"].into_iter().filter(|file| listing.has(file)).map(str::to_owned);
    let mut files: BTreeSet<String> = own.collect();
    for folder in FOLDERS {
        let part = part(listing, &format!("{folder}/"));
        if NETWORKS.contains(&folder) && !part.iter().any(|file| is_weights(file)) {
            let found = listing.files.iter().map(|file| file.path.as_str());
            let found = names(found.filter(|path| path.starts_with(&format!("{folder}/"))));
            return Err(format!("{folder}: expected weights in .safetensors, found {found}"));
        }
        files.extend(part);
    }
    Ok(Selection { files, target: String::new() })
}

/// The files of one part, whose paths begin with `prefix`: texts, and one set of weights without
/// variants such as `.fp16`.
fn part(listing: &Listing, prefix: &str) -> BTreeSet<String> {
    let here = listing.files.iter().filter_map(|file| file.path.strip_prefix(prefix));
    let here: Vec<&str> = here.filter(|name| !name.contains('/')).collect();
    let mut files: Vec<&str> = Vec::new();
    for (stem, index_first) in STEMS {
        let (single, index) = (format!("{stem}.safetensors"), format!("{stem}{INDEX}"));
        let (has_single, has_index) = (here.contains(&single.as_str()), here.contains(&index.as_str()));
        let is_sharded = has_index && (index_first || !has_single);
        let is_shard = |name: &str| name.starts_with(&format!("{stem}-")) && name.ends_with(".safetensors");
        files.extend(
            here.iter().filter(|name| if is_sharded { **name == index || is_shard(name) } else { **name == single }),
        );
    }
    if files.is_empty() {
        files.extend(here.iter().filter(|name| is_weights(name)));
    }
    let is_text = |name: &str| TEXTS.iter().any(|end| name.ends_with(end)) && !name.contains(".index.");
    files.extend(here.iter().filter(|name| is_text(name)));
    files.into_iter().map(|name| format!("{prefix}{name}")).collect()
}

fn is_stem(file: &str, stem: &str) -> bool {
    is_weights(file) && file.strip_prefix(stem).is_some_and(|rest| rest.starts_with(['.', '-']))
}

/// True for the name of a file with weights.
pub(super) fn is_weights(name: &str) -> bool {
    WEIGHTS.iter().any(|end| name.ends_with(end))
}

/// The first names of a list, for a message.
fn names<'a>(names: impl Iterator<Item = &'a str>) -> String {
    let mut names: Vec<String> = names.take(MOST_NAMES + 1).map(excerpt).collect();
    match names.len() {
        0 => "none".to_owned(),
        len => {
            if len > MOST_NAMES {
                names[MOST_NAMES] = "…".to_owned();
            }
            names.join(", ")
        }
    }
}

/// The first file that the folder of a pipeline of diffusers lacks; `None` if it is complete.
pub fn missing_from_pipeline(folder: &Path) -> Option<String> {
    let has = |path: &str| folder.join(path).is_file();
    if !has(PIPELINE) {
        return Some(PIPELINE.to_owned());
    }
    if !has("scheduler/scheduler_config.json") {
        return Some("scheduler/scheduler_config.json".to_owned());
    }
    let has_pair = has("tokenizer/vocab.json") && has("tokenizer/merges.txt");
    if !has("tokenizer/tokenizer.json") && !has_pair {
        return Some("tokenizer/tokenizer.json".to_owned());
    }
    NETWORKS.iter().find_map(|part| {
        let missing = match has(&format!("{part}/config.json")) {
            true => missing_from_part(&folder.join(part)),
            false => Some("config.json".to_owned()),
        };
        missing.map(|file| format!("{part}/{file}"))
    })
}

/// The file or folder in a snapshot that `path` names, or the snapshot itself if it is a pipeline
/// or one part of it.
///
/// # Errors
/// The first file that is missing.
pub(super) fn cached(snapshot: &Path, path: Option<&str>) -> Result<PathBuf, String> {
    let Some(path) = path else {
        let is_part = snapshot.join("config.json").is_file() && !snapshot.join(PIPELINE).exists();
        let missing = if is_part && has_stem(snapshot) { missing_from_part } else { missing_from_pipeline };
        return missing(snapshot).map_or_else(|| Ok(snapshot.to_owned()), Err);
    };
    let found = snapshot.join(path);
    match found.is_dir().then(|| missing_from_part(&found)) {
        Some(None) => Ok(found),
        Some(Some(file)) => Err(format!("{path}/{file}")),
        None if found.is_file() => Ok(found),
        None => Err(path.to_owned()),
    }
}

/// The only file with weights in a snapshot.
///
/// # Errors
/// The fault, as the end of a sentence.
pub(super) fn only_weights(snapshot: &Path) -> Result<PathBuf, String> {
    fn walk(folder: &Path, found: &mut Vec<PathBuf>) {
        for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
            match entry.file_type() {
                Ok(kind) if kind.is_dir() => walk(&entry.path(), found),
                _ if is_weights(&entry.file_name().to_string_lossy()) && entry.path().is_file() => {
                    found.push(entry.path());
                }
                _ => {}
            }
        }
    }
    let mut found = Vec::new();
    walk(snapshot, &mut found);
    match found.as_slice() {
        [only] => Ok(only.clone()),
        [] => Err("it has no files with weights".to_owned()),
        _ => {
            found.sort();
            let inside = found.iter().filter_map(|path| path.strip_prefix(snapshot).ok()?.to_str());
            Err(format!("it has several models; name one of its files: {}", names(inside)))
        }
    }
}

/// The names of the files in a folder; links to nothing are none.
fn files_in(folder: &Path) -> Vec<String> {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    entries
        .filter(|entry| entry.path().is_file())
        .map(|entry| entry.file_name().to_string_lossy().into_owned())
        .collect()
}

fn has_stem(folder: &Path) -> bool {
    files_in(folder).iter().any(|file| STEMS.iter().any(|(stem, _)| is_stem(file, stem)))
}

/// The first file that a part's folder lacks, which has weights or a tokenizer; `None` if the
/// folder is complete.
fn missing_from_part(folder: &Path) -> Option<String> {
    let names = files_in(folder);
    let has = |name: &str| names.iter().any(|known| known == name);
    for (stem, index_first) in STEMS {
        let (single, index) = (format!("{stem}.safetensors"), format!("{stem}{INDEX}"));
        if has(&index) && (index_first || !has(&single)) {
            let path = folder.join(&index);
            let short = fs::metadata(&path).is_ok_and(|file| file.len() <= index::LONGEST);
            let map = short.then(|| fs::read(&path).ok()).flatten().and_then(|bytes| read_index(&path, &bytes).ok());
            // A broken index is complete: the loader names its fault.
            return map?.into_values().find(|shard| !has(shard));
        }
    }
    let is_whole = names.iter().any(|name| is_weights(name)) || has("tokenizer.json") || has("vocab.json");
    (!is_whole).then(|| format!("{}.safetensors", STEMS[0].0))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::weights::hub::listing::ListedFile;

    fn listing(paths: &[&str]) -> Listing {
        let mut files: Vec<_> =
            paths.iter().map(|path| ListedFile { path: (*path).to_owned(), size: None, etag: None }).collect();
        files.sort_by(|a, b| a.path.cmp(&b.path));
        Listing { commit: "0".repeat(40), files }
    }

    #[track_caller]
    fn selects(listing: &Listing, path: Option<&str>, files: &[&str], target: &str) {
        let selected = select(listing, path).unwrap();
        assert_eq!(selected.files.iter().map(String::as_str).collect::<Vec<_>>(), files);
        assert_eq!(selected.target, target);
    }

    /// The files of a repository in the layout of Tongyi-MAI/Z-Image-Turbo, and files beside them.
    const TURBO: [&str; 24] = [
        ".gitattributes",
        "README.md",
        "assets/a.png",
        "model_index.json",
        "scheduler/scheduler_config.json",
        "text_encoder/config.json",
        "text_encoder/generation_config.json",
        "text_encoder/model-00001-of-00002.safetensors",
        "text_encoder/model-00002-of-00002.safetensors",
        "text_encoder/model.safetensors.index.json",
        "text_encoder/pytorch_model.bin",
        "tokenizer/merges.txt",
        "tokenizer/tokenizer.json",
        "tokenizer/tokenizer_config.json",
        "transformer/config.json",
        "transformer/diffusion_pytorch_model-00001-of-00001.safetensors",
        "transformer/diffusion_pytorch_model.fp16-00001-of-00001.safetensors",
        "transformer/diffusion_pytorch_model.fp16.safetensors",
        "transformer/diffusion_pytorch_model.safetensors.index.fp16.json",
        "transformer/diffusion_pytorch_model.safetensors.index.json",
        "transformer/onnx/model.safetensors",
        "vae/config.json",
        "vae/diffusion_pytorch_model.bin",
        "vae/diffusion_pytorch_model.safetensors",
    ];

    #[test]
    fn a_pipeline_is_its_five_parts() {
        let files = [
            "model_index.json",
            "scheduler/scheduler_config.json",
            "text_encoder/config.json",
            "text_encoder/generation_config.json",
            "text_encoder/model-00001-of-00002.safetensors",
            "text_encoder/model-00002-of-00002.safetensors",
            "text_encoder/model.safetensors.index.json",
            "tokenizer/merges.txt",
            "tokenizer/tokenizer.json",
            "tokenizer/tokenizer_config.json",
            "transformer/config.json",
            "transformer/diffusion_pytorch_model-00001-of-00001.safetensors",
            "transformer/diffusion_pytorch_model.safetensors.index.json",
            "vae/config.json",
            "vae/diffusion_pytorch_model.safetensors",
        ];
        let turbo = listing(&TURBO);
        selects(&turbo, None, &files, "");
        selects(&turbo, Some("vae"), &files[13..], "vae");
        selects(&turbo, Some("tokenizer"), &files[7..10], "tokenizer");
        selects(&turbo, Some("tokenizer/tokenizer.json"), &files[8..9], "tokenizer/tokenizer.json");
        assert!(select(&turbo, Some("unet")).unwrap_err().contains("no such file or folder"));
        let bare = listing(&["model_index.json", "text_encoder/pytorch_model.bin"]);
        let error = select(&bare, None).unwrap_err();
        assert_eq!(error, "text_encoder: expected weights in .safetensors, found text_encoder/pytorch_model.bin");
    }

    #[test]
    fn an_index_is_read_as_the_libraries_do() {
        let both = |stem: &str| {
            let names = ["-1.safetensors", ".safetensors", ".safetensors.index.json"].map(|end| format!("{stem}{end}"));
            part(&listing(&names.each_ref().map(String::as_str)), "")
        };
        assert_eq!(both("model").into_iter().collect::<Vec<_>>(), ["model.safetensors"]);
        assert_eq!(both("diffusion_pytorch_model").len(), 2);
    }

    #[test]
    fn single_files_are_selected_by_name() {
        let comfy = listing(&["split/dit/z.safetensors", "split/dit/config.json", "split/vae/ae.safetensors", "a.md"]);
        let file = "split/dit/z.safetensors";
        selects(&comfy, Some(file), &["split/dit/config.json", file], file);
        selects(&comfy, Some("split/vae"), &["split/vae/ae.safetensors"], "split/vae");
        let error = select(&comfy, None).unwrap_err();
        assert_eq!(error, format!("it has several models; name one of its files: {file}, split/vae/ae.safetensors"));
        let error = select(&comfy, Some("dit/z.safetensors")).unwrap_err();
        assert!(error.contains("no such file or folder; the repository has split/dit/z.safetensors"), "{error}");
        selects(&listing(&["z.gguf", "a.md"]), None, &["z.gguf"], "z.gguf");
        assert!(select(&listing(&["a.md"]), None).unwrap_err().ends_with("found a.md"));
        assert!(select(&listing(&[]), None).unwrap_err().ends_with("found none"));
        // A text encoder by itself.
        let qwen = listing(&["config.json", "model.safetensors", "tokenizer.json", "LICENSE"]);
        selects(&qwen, None, &["config.json", "model.safetensors", "tokenizer.json"], "");
    }

    #[test]
    fn missing_files_are_found() {
        let folder = tempfile::tempdir().unwrap();
        let write = |path: &str, text: &str| {
            let file = folder.path().join(path);
            fs::create_dir_all(file.parent().unwrap()).unwrap();
            fs::write(file, text).unwrap();
        };
        let index = r#"{"weight_map": {"a": "model-1.safetensors", "b": "model-2.safetensors"}}"#;
        for (path, text) in [
            ("model_index.json", "{}"),
            ("scheduler/scheduler_config.json", "{}"),
            ("tokenizer/tokenizer.json", "{}"),
            ("text_encoder/config.json", "{}"),
            ("text_encoder/model.safetensors.index.json", index),
            ("text_encoder/model-1.safetensors", ""),
            ("text_encoder/model-2.safetensors", ""),
            ("transformer/config.json", "{}"),
            ("transformer/diffusion_pytorch_model.safetensors", ""),
            ("vae/config.json", "{}"),
            ("vae/diffusion_pytorch_model.safetensors", ""),
        ] {
            assert!(missing_from_pipeline(folder.path()).is_some(), "without {path}");
            write(path, text);
        }
        assert_eq!(missing_from_pipeline(folder.path()), None);
        fs::remove_file(folder.path().join("text_encoder/model-2.safetensors")).unwrap();
        assert_eq!(missing_from_pipeline(folder.path()).unwrap(), "text_encoder/model-2.safetensors");
        let whole = folder.path().join("vae/diffusion_pytorch_model.safetensors");
        assert_eq!(cached(folder.path(), Some("vae")).unwrap(), folder.path().join("vae"));
        assert_eq!(cached(folder.path(), Some("vae/diffusion_pytorch_model.safetensors")).unwrap(), whole);
        assert_eq!(cached(folder.path(), Some("text_encoder")).unwrap_err(), "text_encoder/model-2.safetensors");
        assert_eq!(cached(folder.path(), Some("unet")).unwrap_err(), "unet");
        assert_eq!(cached(&folder.path().join("vae"), None).unwrap(), folder.path().join("vae"));
        assert_eq!(cached(&folder.path().join("tokenizer"), None).unwrap_err(), PIPELINE);
        assert_eq!(only_weights(&folder.path().join("vae")).unwrap(), whole);
        assert!(only_weights(folder.path()).unwrap_err().contains("it has several models"));
        #[cfg(unix)]
        {
            let link = folder.path().join("text_encoder/model-2.safetensors");
            std::os::unix::fs::symlink("nowhere", link).unwrap();
            assert_eq!(missing_from_pipeline(folder.path()).unwrap(), "text_encoder/model-2.safetensors");
        }
    }
}
