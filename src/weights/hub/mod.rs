//! Models from the Hugging Face hub, through a cache that is shared with Python.
//!
//! ```no_run
//! use std::ops::ControlFlow;
//! use zimage::weights::hub::{Hub, HubName};
//!
//! let hub = Hub::from_env()?;
//! let name = HubName::parse("Tongyi-MAI/Z-Image-Turbo")?;
//! let folder = hub.resolve(&name, &mut |_| ControlFlow::Continue(()))?;
//! # Ok::<(), zimage::Error>(())
//! ```
//!
//! A download fetches only files that this program reads, several at a time. A connection that
//! breaks is made again and asks for the bytes that are missing, and so does the next run after one
//! that was cancelled or killed. Each file's size and hash are checked before it appears in the
//! cache. Everything that the hub says is untrusted.

mod cache;
mod client;
mod download;
mod hash;
mod listing;
mod lock;
mod name;
mod needed;
mod path;
mod retry;
mod settings;
mod transfer;
mod url;

pub use cache::CachedSnapshot;
pub use download::{HubNews, HubProgress, OnProgress};
pub use listing::{ListedFile, Listing};
pub use name::HubName;
pub use needed::{WEIGHTS, missing_from_pipeline};
pub use settings::HubSettings;

use super::folder::ModelFolder;
use crate::error::{Error, HubCause, Result};
use cache::Repository;
use client::hub_error;
use needed::{PIPELINE, only_weights, select};
use std::ops::ControlFlow;
use std::path::PathBuf;

/// A hub and its cache.
#[derive(Debug, Clone)]
pub struct Hub {
    settings: HubSettings,
}

impl Hub {
    /// The hub of these settings.
    pub fn new(settings: HubSettings) -> Self {
        Self { settings }
    }

    /// The hub of this process's environment variables.
    ///
    /// # Errors
    /// As [`HubSettings::from_variables`].
    pub fn from_env() -> Result<Self> {
        HubSettings::from_env().map(Self::new)
    }

    /// The settings.
    pub fn settings(&self) -> &HubSettings {
        &self.settings
    }

    /// The snapshot's folder in the cache, or the file or folder in it that `name` names; `None` if
    /// the cache lacks it. A folder may lack files: see [`Hub::resolve`].
    pub fn cached(&self, name: &HubName) -> Option<PathBuf> {
        let snapshot = self.snapshot(name)?;
        let path = name.path().map_or(snapshot.clone(), |path| snapshot.join(path));
        path.exists().then_some(path)
    }

    /// The path of what `name` means, as [`Hub::resolve`] finds it, but never from the hub.
    ///
    /// # Errors
    /// [`Error::Hub`] of [`HubCause::Offline`] with the first file that the cache lacks, or of
    /// [`HubCause::Missing`] where one of several files has to be named.
    pub fn resolve_cached(&self, name: &HubName) -> Result<PathBuf> {
        let lacks = |what: &str| {
            let problem = format!("the cache {} lacks {what}", self.settings.cache.display());
            hub_error(name, HubCause::Offline, problem)
        };
        let snapshot = self.snapshot(name).ok_or_else(|| lacks("it"))?;
        match needed::cached(&snapshot, name.path()) {
            Ok(path) => Ok(path),
            Err(_) if name.path().is_none() && !snapshot.join(PIPELINE).exists() => {
                only_weights(&snapshot).map_err(|problem| hub_error(name, HubCause::Missing, problem))
            }
            Err(missing) => Err(lacks(&missing)),
        }
    }

    /// The commits in the cache, complete or not.
    ///
    /// # Errors
    /// [`Error::Io`] if the cache exists and cannot be read.
    pub fn snapshots(&self) -> Result<Vec<CachedSnapshot>> {
        cache::scan(&self.settings.cache)
    }

    /// Asks the hub for the commit of a revision and the files at it.
    ///
    /// # Errors
    /// [`Error::Hub`].
    pub fn files(&self, name: &HubName) -> Result<Listing> {
        self.list(name, &mut |_| ControlFlow::Continue(()))
    }

    /// Downloads the files of a repository whose paths are `wanted`, and returns the snapshot's
    /// folder. `progress` is called on this thread, about ten times a second; a break ends the
    /// download, and the next one goes on from there.
    ///
    /// # Errors
    /// [`Error::Hub`], also if no file is wanted; [`Error::File`] for a cache that cannot be
    /// written or a full disk; [`Error::Cancelled`].
    pub fn download(
        &self,
        name: &HubName,
        wanted: &dyn Fn(&str) -> bool,
        progress: &mut OnProgress<'_>,
    ) -> Result<PathBuf> {
        let listing = self.list(name, progress)?;
        self.fetch(name, &listing, wanted, progress)?;
        self.finish(name, &listing)
    }

    /// Downloads what `name` means and this program reads, and returns its path: the snapshot's
    /// folder for a pipeline of diffusers or for a repository that is one part of a pipeline, else
    /// the file. The hub is asked even if the cache has a commit, because a branch may have moved.
    ///
    /// # Errors
    /// As [`Hub::download`]; [`Error::Hub`] for a repository with several models if no file is
    /// named; [`Error::File`] for a pipeline that is not of Z-Image.
    pub fn pull(&self, name: &HubName, progress: &mut OnProgress<'_>) -> Result<PathBuf> {
        let listing = self.list(name, progress)?;
        let selection = select(&listing, name.path()).map_err(|problem| hub_error(name, HubCause::Missing, problem))?;
        if selection.target.is_empty() && listing.has(PIPELINE) {
            // The few bytes that tell whether the many are worth it.
            self.fetch(name, &listing, &|path| path == PIPELINE, progress)?;
            ModelFolder::open(&self.repository(name).snapshot(&listing.commit))?;
        }
        self.fetch(name, &listing, &|path| selection.files.contains(path), progress)?;
        let folder = self.finish(name, &listing)?;
        Ok(if selection.target.is_empty() { folder } else { folder.join(selection.target) })
    }

    /// The path of what `name` means: from the cache, without a request, if the cache has all of
    /// it, else as [`Hub::pull`].
    ///
    /// # Errors
    /// As [`Hub::pull`]; offline, [`Error::Hub`] with the first file that is missing.
    pub fn resolve(&self, name: &HubName, progress: &mut OnProgress<'_>) -> Result<PathBuf> {
        let snapshot = self.snapshot(name);
        let found = match &snapshot {
            Some(snapshot) => needed::cached(snapshot, name.path()),
            None => Err("it".to_owned()),
        };
        match found {
            Ok(path) => Ok(path),
            Err(missing) if self.settings.offline => {
                // Online, the list of files tells whether a file is the only one.
                let only = snapshot.filter(|_| name.path().is_none()).and_then(|snapshot| only_weights(&snapshot).ok());
                only.ok_or_else(|| self.offline(name, &missing))
            }
            Err(_) => self.pull(name, progress),
        }
    }

    fn repository(&self, name: &HubName) -> Repository {
        Repository::of(&self.settings.cache, name)
    }

    /// The folder of the commit that the cache has for a revision.
    fn snapshot(&self, name: &HubName) -> Option<PathBuf> {
        let repository = self.repository(name);
        Some(repository.snapshot(&repository.commit(name.revision())?)).filter(|snapshot| snapshot.is_dir())
    }

    fn offline(&self, name: &HubName, missing: &str) -> Error {
        let problem = format!(
            "the cache {} lacks {missing}, and HF_HUB_OFFLINE forbids a download; unset it, or copy the cache of a machine \
             that has the model",
            self.settings.cache.display()
        );
        hub_error(name, HubCause::Offline, problem)
    }

    fn list(&self, name: &HubName, progress: &mut OnProgress<'_>) -> Result<Listing> {
        if self.settings.offline {
            return Err(self.offline(name, "the list of its files"));
        }
        download::list(&self.settings, name, progress)
    }

    fn fetch(
        &self,
        name: &HubName,
        listing: &Listing,
        wanted: &dyn Fn(&str) -> bool,
        progress: &mut OnProgress<'_>,
    ) -> Result<()> {
        let files: Vec<&ListedFile> = listing.files.iter().filter(|file| wanted(&file.path)).collect();
        if files.is_empty() {
            return Err(hub_error(name, HubCause::Missing, "the repository has none of the files that are wanted"));
        }
        download::download(&self.settings, name, listing, &files, progress)
    }

    /// Notes the commit of the revision, whose files have arrived.
    fn finish(&self, name: &HubName, listing: &Listing) -> Result<PathBuf> {
        let repository = self.repository(name);
        repository.set_commit(name.revision(), &listing.commit)?;
        Ok(repository.snapshot(&listing.commit))
    }
}
