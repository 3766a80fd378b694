//! The cache on disk, which is shared with Python's `huggingface_hub`
//! (<https://huggingface.co/docs/huggingface_hub/guides/manage-cache>):
//!
//! ```text
//! .locks/models--org--name/<etag>.lock     held while a blob is written
//! models--org--name/
//!   blobs/<etag>                           a file's bytes, under their hash
//!   blobs/<etag>.incomplete                the part of them that has arrived
//!   snapshots/<commit>/<path>              a relative link to the blob
//!   refs/<revision>                        the commit of a branch or tag
//! ```
//!
//! A blob takes its name when it is complete and its hash is right, then the snapshot gets its
//! link, and last the revision its commit. A process that is killed in between leaves nothing that
//! looks complete and is not.

use super::hash::{Etag, is_hex};
use super::name::HubName;
use crate::error::{Error, Result};
use std::fs;
use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

const PREFIX: &str = "models--";

/// A repository's folder in the cache.
#[derive(Debug, Clone)]
pub(super) struct Repository {
    root: PathBuf,
    locks: PathBuf,
}

/// A commit of a repository in the cache, with all its files or some of them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CachedSnapshot {
    /// The repository, `org/name`.
    pub repo: String,
    /// The commit, 40 hexadecimal digits.
    pub commit: String,
    /// The branches and tags that name this commit, in order.
    pub revisions: Vec<String>,
    /// The folder with the files.
    pub path: PathBuf,
}

impl Repository {
    pub(super) fn of(cache: &Path, name: &HubName) -> Self {
        let folder = format!("{PREFIX}{}", name.repo().replace('/', "--"));
        Self { root: cache.join(&folder), locks: cache.join(".locks").join(folder) }
    }

    pub(super) fn root(&self) -> &Path {
        &self.root
    }

    pub(super) fn blob(&self, etag: &Etag) -> PathBuf {
        self.root.join("blobs").join(etag.as_str())
    }

    pub(super) fn incomplete(&self, etag: &Etag) -> PathBuf {
        self.root.join("blobs").join(format!("{}.incomplete", etag.as_str()))
    }

    pub(super) fn lock(&self, etag: &Etag) -> PathBuf {
        self.locks.join(format!("{}.lock", etag.as_str()))
    }

    pub(super) fn snapshot(&self, commit: &str) -> PathBuf {
        self.root.join("snapshots").join(commit)
    }

    /// The bytes of a blob that has arrived already; a file of another size counts as none.
    pub(super) fn has_blob(&self, etag: &Etag, size: u64) -> bool {
        fs::metadata(self.blob(etag)).is_ok_and(|file| file.is_file() && file.len() == size)
    }

    /// True if the snapshot has this file. A file of another size counts as none.
    pub(super) fn has_file(&self, commit: &str, path: &str, size: u64) -> bool {
        let file = self.snapshot(commit).join(path);
        fs::metadata(file).is_ok_and(|file| file.is_file() && file.len() == size)
    }

    /// The commit of a revision, as the last download found it; a commit is its own.
    pub(super) fn commit(&self, revision: &str) -> Option<String> {
        const LONGEST: u64 = 64;
        if is_hex(revision, 40) {
            return Some(revision.to_owned());
        }
        let file = self.root.join("refs").join(revision);
        fs::metadata(&file).ok().filter(|file| file.is_file() && file.len() <= LONGEST)?;
        let commit = fs::read_to_string(file).ok()?;
        Some(commit.trim().to_owned()).filter(|commit| is_hex(commit, 40))
    }

    /// Creates the folders that a download of `paths` writes to.
    ///
    /// # Errors
    /// [`Error::File`] for a cache that cannot be written.
    pub(super) fn prepare<'p>(&self, commit: &str, paths: impl Iterator<Item = &'p str>) -> Result<()> {
        let snapshot = self.snapshot(commit);
        let files = paths.filter_map(|path| Some(snapshot.join(path).parent()?.to_owned()));
        for folder in [self.root.join("blobs"), self.root.join("refs"), self.locks.clone()].into_iter().chain(files) {
            fs::create_dir_all(&folder).map_err(|error| unwritable(&folder, &error))?;
        }
        Ok(())
    }

    /// Links a file of a snapshot to its blob.
    ///
    /// # Errors
    /// [`Error::File`] for a cache that cannot be written.
    pub(super) fn link(&self, etag: &Etag, commit: &str, path: &str) -> Result<()> {
        let up = "../".repeat(path.split('/').count() + 1);
        let target = PathBuf::from(format!("{up}blobs/{}", etag.as_str()));
        self.place(&self.blob(etag), &self.snapshot(commit).join(path), &|link| symlink(&target, link))
    }

    /// Puts `blob` at `file`: as a symbolic link, where `symlink` can make one, else as a hard
    /// link, else as a copy. Windows lets only some users make symbolic links.
    fn place(&self, blob: &Path, file: &Path, symlink: &dyn Fn(&Path) -> io::Result<()>) -> Result<()> {
        let temporary = self.temporary();
        symlink(&temporary)
            .or_else(|_| fs::hard_link(blob, &temporary))
            .or_else(|_| fs::copy(blob, &temporary).map(drop))
            .and_then(|()| fs::rename(&temporary, file))
            .map_err(|error| {
                let _ = fs::remove_file(&temporary);
                unwritable(file, &error)
            })?;
        // If both names are already links to one file, the rename above leaves the first one.
        let _ = fs::remove_file(&temporary);
        Ok(())
    }

    /// Notes the commit of a branch or tag.
    ///
    /// # Errors
    /// [`Error::File`] for a cache that cannot be written.
    pub(super) fn set_commit(&self, revision: &str, commit: &str) -> Result<()> {
        if self.commit(revision).as_deref() == Some(commit) {
            return Ok(());
        }
        let file = self.root.join("refs").join(revision);
        let temporary = self.temporary();
        let folder = file.parent().map_or(Ok(()), fs::create_dir_all);
        folder
            .and_then(|()| fs::write(&temporary, commit))
            .and_then(|()| fs::rename(&temporary, &file))
            .map_err(|error| unwritable(&file, &error))
    }

    /// A name next to the blobs that no other thread or process has.
    fn temporary(&self) -> PathBuf {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        self.root.join("blobs").join(format!(".zimage-{}-{number}.tmp", std::process::id()))
    }
}

#[cfg(unix)]
fn symlink(target: &Path, link: &Path) -> io::Result<()> {
    std::os::unix::fs::symlink(target, link)
}

#[cfg(windows)]
fn symlink(target: &Path, link: &Path) -> io::Result<()> {
    // The parts of a link's target are separated as the system does it.
    std::os::windows::fs::symlink_file(target.iter().collect::<PathBuf>(), link)
}

/// The commits in a cache, in the order of their repositories. A cache that does not exist has
/// none.
///
/// # Errors
/// [`Error::Io`] if the cache exists and cannot be read.
pub(super) fn scan(cache: &Path) -> Result<Vec<CachedSnapshot>> {
    let entries = match fs::read_dir(cache) {
        Ok(entries) => entries,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(Error::io(cache, error)),
    };
    let mut found = Vec::new();
    for entry in entries.flatten() {
        let folder = entry.file_name().to_string_lossy().into_owned();
        let Some((org, name)) = folder.strip_prefix(PREFIX).and_then(|folder| folder.split_once("--")) else {
            continue;
        };
        let refs = entry.path().join("refs");
        let mut revisions = Vec::new();
        read_refs(&refs, &refs, &mut revisions);
        revisions.sort();
        for snapshot in fs::read_dir(entry.path().join("snapshots")).into_iter().flatten().flatten() {
            let commit = snapshot.file_name().to_string_lossy().into_owned();
            let own = revisions.iter().filter(|(_, named)| *named == commit).map(|(revision, _)| revision.clone());
            if is_hex(&commit, 40) && snapshot.path().is_dir() {
                let (repo, revisions) = (format!("{org}/{name}"), own.collect());
                found.push(CachedSnapshot { repo, commit, revisions, path: snapshot.path() });
            }
        }
    }
    found.sort_by(|a, b| (&a.repo, &a.commit).cmp(&(&b.repo, &b.commit)));
    Ok(found)
}

/// Reads the revisions below `folder` with their commits.
fn read_refs(refs: &Path, folder: &Path, found: &mut Vec<(String, String)>) {
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        let path = entry.path();
        if path.is_dir() {
            read_refs(refs, &path, found);
        } else if let (Ok(name), Ok(commit)) = (path.strip_prefix(refs), fs::read_to_string(&path)) {
            let name: Vec<_> = name.iter().map(|part| part.to_string_lossy()).collect();
            found.push((name.join("/"), commit.trim().to_owned()));
        }
    }
}

/// The error for a place in the cache that cannot be written.
pub(super) fn unwritable(path: &Path, error: &io::Error) -> Error {
    let problem = match error.kind() {
        ErrorKind::StorageFull | ErrorKind::QuotaExceeded => {
            format!("the disk is full ({error}); free some space, or set HF_HUB_CACHE to a folder on another disk")
        }
        _ => format!("the cache cannot be written ({error}); set HF_HUB_CACHE to a folder that can"),
    };
    Error::file(path, problem)
}

#[cfg(test)]
mod tests {
    use super::*;

    const COMMIT: &str = "0123456789abcdef0123456789abcdef01234567";

    fn repository(cache: &Path) -> (Repository, Etag) {
        let etag = Etag::of(&"a".repeat(64)).unwrap();
        let repository = Repository::of(cache, &HubName::parse("org/name").unwrap());
        repository.prepare(COMMIT, ["vae/deep/w.safetensors", "a.json"].into_iter()).unwrap();
        fs::write(repository.blob(&etag), "weights").unwrap();
        (repository, etag)
    }

    #[test]
    fn files_are_relative_links_to_blobs() {
        let cache = tempfile::tempdir().unwrap();
        let (repository, etag) = repository(cache.path());
        for path in ["a.json", "vae/deep/w.safetensors"] {
            repository.link(&etag, COMMIT, path).unwrap();
            repository.link(&etag, COMMIT, path).unwrap();
            let file = repository.snapshot(COMMIT).join(path);
            assert_eq!(fs::read_to_string(&file).unwrap(), "weights");
            assert!(repository.has_file(COMMIT, path, 7) && !repository.has_file(COMMIT, path, 8));
            #[cfg(unix)]
            assert!(fs::read_link(&file).unwrap().is_relative());
        }
        assert!(repository.has_blob(&etag, 7) && !repository.has_blob(&etag, 8));
        assert_eq!(fs::read_dir(repository.root().join("blobs")).unwrap().count(), 1, "nothing temporary is left");
    }

    #[test]
    fn files_are_copies_without_links() {
        let cache = tempfile::tempdir().unwrap();
        let (repository, etag) = repository(cache.path());
        let file = repository.snapshot(COMMIT).join("a.json");
        let never = |_: &Path| Err(io::Error::from(ErrorKind::PermissionDenied));
        for _ in 0..2 {
            repository.place(&repository.blob(&etag), &file, &never).unwrap();
            assert!(fs::symlink_metadata(&file).unwrap().is_file());
            assert_eq!(fs::read_to_string(&file).unwrap(), "weights");
            assert_eq!(fs::read_dir(repository.root().join("blobs")).unwrap().count(), 1);
        }
    }

    #[test]
    fn revisions_name_commits() {
        let cache = tempfile::tempdir().unwrap();
        let (repository, _) = repository(cache.path());
        assert_eq!(repository.commit("main"), None);
        assert_eq!(repository.commit(COMMIT).as_deref(), Some(COMMIT));
        for revision in ["main", "refs/pr/7"] {
            repository.set_commit(revision, COMMIT).unwrap();
            assert_eq!(repository.commit(revision).as_deref(), Some(COMMIT));
        }
        fs::write(repository.root().join("refs/broken"), "../../elsewhere").unwrap();
        assert_eq!(repository.commit("broken"), None);
        let found = scan(cache.path()).unwrap();
        let path = repository.snapshot(COMMIT);
        let revisions = vec!["main".to_owned(), "refs/pr/7".to_owned()];
        let expected = CachedSnapshot { repo: "org/name".into(), commit: COMMIT.into(), revisions, path };
        assert_eq!(found, [expected]);
        assert_eq!(scan(&cache.path().join("nowhere")).unwrap(), []);
    }

    #[test]
    fn a_full_disk_is_one_sentence() {
        let error = unwritable(Path::new("/c/b"), &io::Error::from(ErrorKind::StorageFull)).to_string();
        assert!(error.starts_with("/c/b: the disk is full") && error.contains("HF_HUB_CACHE"), "{error}");
    }
}
