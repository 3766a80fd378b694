//! Messages for a path that is not a model, and display names for models.

use super::super::file::is_weights;
use super::{INDEX, PIPELINES};
use crate::error::excerpt;
use serde_json::Value;
use std::fs;
use std::path::{Path, PathBuf};

/// The reason for refusing a path that does not exist.
pub(super) fn absent(path: &Path) -> &'static str {
    if is_weights(path) { "there is no such file" } else { "there is no such folder" }
}

/// The reason for refusing a file in place of a folder.
pub(super) fn no_folder(path: &Path) -> String {
    if path.file_name().is_some_and(|name| name == INDEX) {
        return format!("expected a diffusers folder, found its {INDEX}; name the folder that holds it");
    }
    format!("expected a diffusers folder (the one with {INDEX}), found a single file")
}

/// The reason for refusing a folder without an index, with a hint to the right folder.
pub(super) fn no_index(path: &Path) -> String {
    let absolute = path.canonicalize().unwrap_or_else(|_| path.to_owned());
    if let Some(parent) = absolute.parent().filter(|parent| parent.join(INDEX).is_file()) {
        return format!("this is one part of a model; name the folder above it, {}", parent.display());
    }
    if let Some(snapshot) = snapshot(path) {
        return format!(
            "this folder of the Hugging Face cache holds a model; name its snapshot, {}",
            snapshot.display()
        );
    }
    if let Some(inner) = newest_model(path) {
        return format!("this folder has no {INDEX}, but one in it has; name {}", inner.display());
    }
    let weights = entries(path).filter(|entry| is_weights(entry) && entry.is_file()).min();
    match weights.as_deref().and_then(Path::file_name) {
        Some(name) => {
            let name = excerpt(&name.to_string_lossy());
            format!("this folder is no model, for it has no {INDEX}; name one of its files, such as {name}")
        }
        None => format!(
            "this folder is no model, for it has no {INDEX} and no safetensors or GGUF file; name a folder with \
             {INDEX}, or a file"
        ),
    }
}

/// The model in a repository's folder of the Hugging Face cache, `models--owner--name`: the commit
/// that `refs/main` names, else the newest one.
fn snapshot(path: &Path) -> Option<PathBuf> {
    let inside = path.canonicalize().ok()?;
    let repository = if path.join("snapshots").is_dir() {
        path.to_owned()
    } else {
        // The path may be `snapshots`, `refs` or `blobs`.
        let parent = inside.parent()?;
        parent.file_name()?.to_str()?.starts_with("models--").then(|| parent.to_owned())?
    };
    let snapshots = repository.join("snapshots");
    let main = fs::read_to_string(repository.join("refs/main")).ok();
    let main = main.map(|commit| snapshots.join(commit.trim())).filter(|model| model.join(INDEX).is_file());
    main.or_else(|| newest_model(&snapshots))
}

/// The first files and folders in `path`, in any order.
fn entries(path: &Path) -> impl Iterator<Item = PathBuf> {
    const MOST_LOOKED_AT: usize = 1000;
    fs::read_dir(path).into_iter().flatten().take(MOST_LOOKED_AT).flatten().map(|entry| entry.path())
}

/// The folder in `path` with the newest index.
fn newest_model(path: &Path) -> Option<PathBuf> {
    let models = entries(path).filter(|folder| folder.join(INDEX).is_file());
    models.max_by_key(|folder| (fs::metadata(folder.join(INDEX)).and_then(|file| file.modified()).ok(), folder.clone()))
}

/// The reason for refusing the folder of another pipeline. `class` is the `_class_name` of its
/// index.
pub(super) fn other_pipeline(class: Option<&Value>) -> String {
    let found = class.map_or("nothing".to_owned(), |class| excerpt(&class.to_string()));
    let kind = match class.and_then(Value::as_str).and_then(|class| class.strip_prefix("ZImage")) {
        Some(rest) if rest.starts_with("Omni") => {
            "a Z-Image model that also reads pictures (Omni), which is not supported; name a text-to-image model"
        }
        Some(rest) if rest.starts_with("ControlNet") => {
            "a Z-Image model with a ControlNet, which is not supported; name the text-to-image model without it"
        }
        Some(_) => "a kind of Z-Image model that is not supported; name a text-to-image model",
        None => "not a Z-Image model",
    };
    format!("_class_name: expected one of {}, found {found}: this is {kind}", PIPELINES.join(", "))
}

/// The folder's own name, or the repository's name for a snapshot in the Hugging Face cache, where
/// folders have commit names: `models--owner--name/snapshots/commit`.
pub(super) fn display_name(path: &Path) -> String {
    let absolute = path.canonicalize().unwrap_or_else(|_| path.to_owned());
    let mut names = absolute.ancestors().map(|folder| folder.file_name().unwrap_or_default().to_string_lossy());
    let (own, parent, grandparent) = (names.next(), names.next(), names.next());
    if parent.as_deref() == Some("snapshots")
        && let Some(repository) = grandparent.as_deref().and_then(|name| name.strip_prefix("models--"))
    {
        return repository.rsplit("--").next().unwrap_or(repository).to_owned();
    }
    own.unwrap_or_default().into_owned()
}

#[cfg(test)]
mod tests {
    use crate::weights::ModelFolder;
    use std::fs;
    use std::path::Path;

    const GOOD: &str = "{\"_class_name\": \"ZImagePipeline\"}";

    fn write(path: &Path, text: &str) {
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }

    #[track_caller]
    fn refused(path: &Path, parts: &[&str]) {
        let error = ModelFolder::open(path).unwrap_err().to_string();
        for part in parts {
            assert!(error.contains(part), "{part:?} is not in {error:?}");
        }
    }

    #[test]
    fn a_cache_folder_leads_to_its_snapshot() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path().join("models--Tongyi-MAI--Z-Image-Turbo");
        for commit in ["0123", "4567"] {
            write(&root.join("snapshots").join(commit).join("model_index.json"), GOOD);
        }
        write(&root.join("refs/main"), "0123\n");
        for inside in ["", "snapshots", "refs"] {
            refused(&root.join(inside), &["of the Hugging Face cache", "name its snapshot", "snapshots/0123"]);
        }
        write(&root.join("refs/main"), "89ab");
        refused(&root, &["name its snapshot", "/snapshots/"]);
        ModelFolder::open(&root.join("snapshots/4567")).unwrap();
        fs::remove_dir_all(root.join("snapshots")).unwrap();
        refused(&root, &["it has no model_index.json"]);
    }

    #[test]
    fn a_missing_path_is_called_what_its_name_says() {
        let dir = tempfile::tempdir().unwrap();
        for name in ["z.gguf", "z.safetensors", "z.SFT"] {
            refused(&dir.path().join(name), &["there is no such file"]);
        }
        refused(&dir.path().join("z-1.5"), &["there is no such folder"]);
    }

    #[test]
    fn a_folder_that_is_no_model_says_what_is_in_it() {
        let dir = tempfile::tempdir().unwrap();
        write(&dir.path().join("notes.txt"), "");
        refused(dir.path(), &["no model_index.json and no safetensors or GGUF file; name a folder with", "or a file"]);
        write(&dir.path().join("zeta.safetensors"), "");
        write(&dir.path().join("alpha.gguf"), "");
        refused(dir.path(), &["this folder is no model", "name one of its files, such as alpha.gguf"]);
    }

    #[test]
    fn a_model_one_folder_deeper_is_named() {
        let dir = tempfile::tempdir().unwrap();
        write(&dir.path().join("Z-Image/model_index.json"), GOOD);
        refused(dir.path(), &["has no model_index.json", "name ", "/Z-Image"]);
        refused(&dir.path().join("Z-Image/model_index.json"), &["name the folder that holds it"]);
    }

    #[test]
    fn other_pipelines_are_named() {
        let dir = tempfile::tempdir().unwrap();
        for (class, kind) in [
            ("ZImageOmniPipeline", "that also reads pictures"),
            ("ZImageControlNetPipeline", "with a ControlNet"),
            ("ZImageControlNetInpaintPipeline", "with a ControlNet"),
            ("ZImageEditPipeline", "a kind of Z-Image model that is not supported"),
            ("FluxPipeline", "not a Z-Image model"),
        ] {
            write(&dir.path().join("model_index.json"), &format!("{{\"_class_name\": \"{class}\"}}"));
            refused(dir.path(), &[class, kind]);
        }
    }
}
