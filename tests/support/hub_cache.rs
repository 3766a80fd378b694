//! A cache that a small hub on loopback fills.

use super::hub::{COMMIT, Reply, Seen, Server, hash};
use std::fs;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::time::Duration;
use tempfile::TempDir;
use zimage::weights::hub::{Hub, HubName, HubSettings};
use zimage::{Error, HubCause, Result};

/// A cache, and the hub that fills it.
pub(crate) struct Cache {
    pub folder: TempDir,
    pub server: Server,
}

impl Cache {
    pub(crate) fn of(answer: impl Fn(&Seen) -> Reply + Send + Sync + 'static) -> Self {
        Self { folder: tempfile::tempdir().unwrap(), server: Server::start(answer) }
    }

    pub(crate) fn settings(&self) -> HubSettings {
        let first_wait = Duration::from_millis(1);
        HubSettings { endpoint: self.server.url(), first_wait, ..HubSettings::new(self.folder.path().to_owned()) }
    }

    pub(crate) fn hub(&self) -> Hub {
        Hub::new(self.settings())
    }

    pub(crate) fn pull(&self, name: &str) -> Result<PathBuf> {
        self.hub().pull(&HubName::parse(name).unwrap(), &mut |_| ControlFlow::Continue(()))
    }

    pub(crate) fn resolve(&self, name: &str) -> Result<PathBuf> {
        self.hub().resolve(&HubName::parse(name).unwrap(), &mut |_| ControlFlow::Continue(()))
    }

    /// The error of a pull, which leaves neither a file in a snapshot nor a revision.
    #[track_caller]
    pub(crate) fn fails(&self, name: &str, cause: HubCause, says: &[&str]) -> String {
        let error = self.pull(name).unwrap_err();
        let Error::Hub { cause: found, .. } = &error else { panic!("{error}") };
        let text = error.to_string();
        assert_eq!(*found, cause, "{text}");
        for part in says {
            assert!(text.contains(part), "{part:?} is not in {text:?}");
        }
        assert!(text.starts_with("org/name") && !text.contains('\n'), "{text}");
        assert_eq!((self.list("snapshots"), self.list("refs")), (Vec::new(), Vec::new()));
        text
    }

    /// The files below a folder of the repository.
    pub(crate) fn list(&self, folder: &str) -> Vec<String> {
        let root = self.folder.path().join("models--org--name").join(folder);
        let mut found = Vec::new();
        walk(&root, &root, &mut found);
        found.sort();
        found
    }

    pub(crate) fn file(&self, path: &str) -> PathBuf {
        self.folder.path().join("models--org--name/snapshots").join(COMMIT).join(path)
    }

    pub(crate) fn incomplete(&self, path: &str, bytes: &[u8]) -> PathBuf {
        let blobs = self.folder.path().join("models--org--name/blobs");
        fs::create_dir_all(&blobs).unwrap();
        blobs.join(format!("{}.incomplete", hash(path, bytes)))
    }
}

fn walk(root: &Path, folder: &Path, found: &mut Vec<String>) {
    for entry in fs::read_dir(folder).into_iter().flatten() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            walk(root, &path, found);
        } else {
            found.push(path.strip_prefix(root).unwrap().to_str().unwrap().to_owned());
        }
    }
}
