//! `zimage models`: the models on this machine, and the use of each.

use super::kinds;
use super::terminal::note;
use indicatif::DecimalBytes;
use serde::Serialize;
use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use zimage::weights::hub::{CachedSnapshot, Hub, WEIGHTS, missing_from_pipeline};
use zimage::weights::{ModelFolder, Part, inspect, is_part_folder};
use zimage::{Error, Result};

/// The depth of folders that are searched.
const DEPTH: usize = 8;
/// The most files and folders that are looked at below one folder.
const MOST_LOOKED_AT: usize = 100_000;
const PIPELINE: &str = "model_index.json";

/// List the models in the cache and in other folders, and what each can be used for
///
/// A line for each pipeline of diffusers, each folder with one of its parts, and each safetensors
/// or GGUF file: its name, its size, what it is, and the flag of generate that takes it, or the
/// reason why none does.
#[derive(Debug, clap::Args)]
#[command(after_help = super::EXIT_CODES)]
pub(super) struct Args {
    /// A folder with models, such as ComfyUI's models; it is searched with the folders in it. Once
    /// for each
    #[arg(long, value_name = "DIR")]
    models_dir: Vec<PathBuf>,

    /// Print one JSON document; sizes are in bytes
    #[arg(long)]
    json: bool,
}

/// The document of `--json`.
#[derive(Serialize)]
struct Document {
    cache: String,
    models: Vec<Entry>,
}

/// A model, or a file that is a part of one.
#[derive(Debug, Serialize)]
struct Entry {
    /// The name that `--model` takes: one on the hub, or a path.
    name: String,
    /// Branches and tags of the hub.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    revisions: Vec<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    commit: Option<String>,
    path: String,
    bytes: u64,
    #[serde(flatten)]
    of: Use,
}

/// The use of a folder or file.
#[derive(Debug, Serialize)]
struct Use {
    /// An identifier, such as `pipeline`, `transformer` or `lora`; `null` for what cannot be read.
    kind: Option<&'static str>,
    /// The flags of `generate` that take it.
    flag: Option<&'static str>,
    /// The kind and the use in words.
    #[serde(rename = "use")]
    words: String,
}

pub(super) fn run(args: &Args) -> Result<()> {
    let hub = Hub::from_env()?;
    let mut models = Vec::new();
    for snapshot in hub.snapshots()? {
        add_snapshot(&snapshot, &mut models);
    }
    for folder in &args.models_dir {
        if !folder.is_dir() {
            let problem = "expected a folder with models (--models-dir), found none".to_owned();
            return Err(Error::File { path: folder.clone(), problem });
        }
        for path in find(folder) {
            models.push(entry(path.display().to_string(), &path));
        }
    }
    let cache = hub.settings().cache.display().to_string();
    if args.json {
        return super::print_json(&Document { cache, models });
    }
    if models.is_empty() {
        return super::print(&format!(
            "no models in {cache}; zimage pull Tongyi-MAI/Z-Image-Turbo downloads one, and --models-dir names a folder\n"
        ));
    }
    super::print(&lines(&models))
}

/// Adds the models of a commit: the pipeline, or each file with weights.
fn add_snapshot(snapshot: &CachedSnapshot, models: &mut Vec<Entry>) {
    let CachedSnapshot { repo, commit, revisions, path } = snapshot;
    let name = match revisions.iter().find(|revision| *revision == "main").or(revisions.first()) {
        Some(main) if main == "main" => repo.clone(),
        Some(revision) => format!("{repo}@{revision}"),
        None => format!("{repo}@{commit}"),
    };
    let found = find(path);
    let whole = if found.is_empty() { vec![path.clone()] } else { found };
    models.extend(whole.iter().map(|found| {
        let inside: Vec<_> =
            found.strip_prefix(path).into_iter().flatten().map(|part| part.to_string_lossy()).collect();
        let name = [&[name.as_str().into()], &inside[..]].concat().join("/");
        Entry { revisions: revisions.clone(), commit: Some(commit.clone()), ..entry(name, found) }
    }));
}

fn entry(name: String, path: &Path) -> Entry {
    let (path_name, bytes) = (path.display().to_string(), size(path));
    Entry { name, revisions: Vec::new(), commit: None, path: path_name, bytes, of: Use::of(path) }
}

impl Use {
    fn of(path: &Path) -> Self {
        if path.join(PIPELINE).is_file() {
            return Self::of_pipeline(path);
        }
        if path.is_dir() && !is_part_folder(path) {
            return Self::none("it has no weights");
        }
        let found = pollster::block_on(inspect(path));
        let words = kinds::use_of(&found);
        let found = found.ok();
        Self { kind: found.as_ref().map(|info| info.kind.id()), flag: found.as_ref().and_then(kinds::flag_of), words }
    }

    fn of_pipeline(path: &Path) -> Self {
        let (flag, words) = match (ModelFolder::open(path), missing_from_pipeline(path)) {
            (Ok(_), None) => (Some("--model"), "a Z-Image model: --model".to_owned()),
            (Ok(_), Some(missing)) => {
                (None, format!("a Z-Image model without {missing}: zimage pull fetches the rest"))
            }
            (Err(error), _) => return Self::none(&kinds::without_path(&error)),
        };
        Self { kind: Some("pipeline"), flag, words }
    }

    fn none(reason: &str) -> Self {
        Self { kind: None, flag: None, words: format!("none: {reason}") }
    }
}

/// The pipelines below `folder`, the folders of their parts, and the files with weights that belong
/// to none, in order.
fn find(folder: &Path) -> Vec<PathBuf> {
    let mut search = Search { seen: BTreeSet::new(), left: MOST_LOOKED_AT, found: Vec::new() };
    search.folder(folder, DEPTH);
    if search.left == 0 {
        note(&format!("{}: only the first {MOST_LOOKED_AT} files and folders were looked at", folder.display()));
    }
    search.found.sort();
    search.found
}

/// A search below a folder.
struct Search {
    /// The folders so far: links may make a circle.
    seen: BTreeSet<PathBuf>,
    /// The files and folders that may still be looked at.
    left: usize,
    found: Vec<PathBuf>,
}

impl Search {
    fn folder(&mut self, folder: &Path, depth: usize) {
        if depth == 0 || !folder.canonicalize().is_ok_and(|real| self.seen.insert(real)) {
            return;
        }
        if folder.join(PIPELINE).is_file() {
            self.found.push(folder.to_owned());
            return;
        }
        let is_part = is_part_folder(folder);
        if is_part {
            self.found.push(folder.to_owned());
        }
        for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
            let Some(left) = self.left.checked_sub(1) else { return };
            self.left = left;
            let (path, name) = (entry.path(), entry.file_name().to_string_lossy().to_ascii_lowercase());
            if path.is_dir() {
                self.folder(&path, depth - 1);
            } else if is_weights(&name) && !(is_part && is_of_part(&name)) && path.is_file() {
                self.found.push(path);
            }
        }
    }
}

fn is_weights(name: &str) -> bool {
    WEIGHTS.iter().any(|end| name.ends_with(end))
}

/// True for a file that a part's folder is read from, or a variant of it.
fn is_of_part(name: &str) -> bool {
    let rest = Part::ALL.iter().find_map(|part| name.strip_prefix(part.stem()));
    rest.is_some_and(|rest| rest.starts_with(['.', '-']))
}

/// The bytes of a file, or of all files in a folder.
fn size(path: &Path) -> u64 {
    fn sum(path: &Path, depth: usize) -> u64 {
        match fs::metadata(path) {
            Ok(found) if found.is_dir() && depth > 0 => {
                fs::read_dir(path).into_iter().flatten().flatten().map(|entry| sum(&entry.path(), depth - 1)).sum()
            }
            Ok(found) if found.is_file() => found.len(),
            _ => 0,
        }
    }
    sum(path, DEPTH)
}

fn lines(models: &[Entry]) -> String {
    let width =
        |text: &dyn Fn(&Entry) -> String| models.iter().map(|entry| text(entry).chars().count()).max().unwrap_or(0);
    let bytes = |entry: &Entry| DecimalBytes(entry.bytes).to_string();
    let (names, sizes) = (width(&|entry| entry.name.clone()), width(&bytes));
    models
        .iter()
        .map(|entry| format!("{:names$}  {:>sizes$}  {}\n", entry.name, bytes(entry), entry.of.words))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn write(folder: &Path, path: &str, text: &str) {
        fs::create_dir_all(folder.join(path).parent().unwrap()).unwrap();
        fs::write(folder.join(path), text).unwrap();
    }

    #[test]
    fn models_are_found_below_a_folder() {
        let folder = tempfile::tempdir().unwrap();
        let f = folder.path();
        write(f, "unet/z.gguf", "1234");
        write(f, "vae/ae.safetensors", "12");
        write(f, "vae/readme.txt", "");
        write(f, "turbo/model_index.json", "{\"_class_name\": \"ZImagePipeline\"}");
        write(f, "turbo/vae/diffusion_pytorch_model.safetensors", "1");
        write(f, "flux/model_index.json", "{\"_class_name\": \"FluxPipeline\"}");
        write(f, "encoder/config.json", "{}");
        write(f, "encoder/model.safetensors", "1");
        write(f, "encoder/model_2.SAFETENSORS", "1");
        #[cfg(unix)]
        std::os::unix::fs::symlink(f, f.join("vae/circle")).unwrap();
        let found = find(f);
        let names: Vec<_> = found.iter().map(|path| path.strip_prefix(f).unwrap().to_str().unwrap()).collect();
        assert_eq!(
            names,
            ["encoder", "encoder/model_2.SAFETENSORS", "flux", "turbo", "unet/z.gguf", "vae/ae.safetensors"]
        );
        let uses: Vec<Use> = found.iter().map(|path| Use::of(path)).collect();
        let words: Vec<&str> = uses.iter().map(|of| of.words.as_str()).collect();
        assert!(words[2].starts_with("none: ") && words[2].contains("not a Z-Image model"), "{words:?}");
        assert_eq!(words[3], "a Z-Image model without scheduler/scheduler_config.json: zimage pull fetches the rest");
        assert!(words[4].starts_with("none: ") && words[4].contains("GGUF"), "{words:?}");
        for broken in [0, 1, 5] {
            assert!(words[broken].starts_with("none: expected a safetensors file, found a file of "), "{words:?}");
        }
        let kinds: Vec<_> = uses.iter().map(|of| (of.kind, of.flag)).collect();
        let none = (None, None);
        assert_eq!(kinds, [none, none, none, (Some("pipeline"), None), none, none]);
        assert_eq!((size(&f.join("turbo")), size(&found[4])), (34, 4));
    }

    #[test]
    fn cached_models_have_names_on_the_hub() {
        let folder = tempfile::tempdir().unwrap();
        let commit = "0".repeat(40);
        let path = folder.path().join(&commit);
        write(&path, "split/z.safetensors", "1");
        let names = |revisions: &[&str]| {
            let revisions = revisions.iter().map(|revision| (*revision).to_owned()).collect();
            let snapshot = CachedSnapshot { repo: "a/b".into(), commit: commit.clone(), revisions, path: path.clone() };
            let mut models = Vec::new();
            add_snapshot(&snapshot, &mut models);
            models.into_iter().map(|entry| entry.name).collect::<Vec<_>>()
        };
        assert_eq!(names(&["dev", "main"]), ["a/b/split/z.safetensors"]);
        assert_eq!(names(&["dev"]), ["a/b@dev/split/z.safetensors"]);
        assert_eq!(names(&[]), [format!("a/b@{commit}/split/z.safetensors")]);
        fs::remove_dir_all(path.join("split")).unwrap();
        assert_eq!(names(&["main"]), ["a/b"]);
    }
}
