//! A download: several files at a time, then the links of the snapshot, then the revision.

use super::cache::Repository;
use super::client::{Client, Request, hub_error};
use super::hash::Etag;
use super::listing::{LONGEST, ListedFile, Listing};
use super::name::HubName;
use super::retry::{Again, Attempts, Failure, Stop};
use super::settings::HubSettings;
use super::transfer::{Report, Transfer, Wanted};
use crate::error::{Error, HubCause, Result, excerpt};
use crate::output_file::free_space;
use std::collections::BTreeMap;
use std::io::Read;
use std::ops::ControlFlow;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::thread;
use std::time::Duration;
use ureq::http::header;

/// The time between two calls of a progress function when nothing else happens.
const TICK: Duration = Duration::from_millis(100);

/// The progress of a download.
#[derive(Debug, Clone, Copy)]
pub struct HubProgress<'a> {
    /// Bytes on disk of the files that the cache lacks, those of a cancelled download included.
    pub done: u64,
    /// All bytes of these files; 0 until the hub has listed them.
    pub of: u64,
    /// The reason for this call.
    pub news: HubNews<'a>,
}

/// The reason for a call with a [`HubProgress`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum HubNews<'a> {
    /// Time has passed: a tenth of a second.
    Bytes,
    /// A file is complete.
    File {
        /// Its path in the repository.
        path: &'a str,
        /// Its length in bytes.
        size: u64,
    },
    /// A file has to wait, for this reason.
    Wait(&'a str),
}

/// A function that is told of progress, on the thread of the caller, and may end the download.
pub type OnProgress<'p> = dyn FnMut(HubProgress<'_>) -> ControlFlow<()> + 'p;

/// News from the threads of a download.
enum News {
    File(usize),
    Wait(String),
    Failed(Error),
}

/// Requests the list of a repository's files.
///
/// # Errors
/// [`Error::Hub`]; [`Error::Cancelled`].
pub(super) fn list(settings: &HubSettings, name: &HubName, progress: &mut OnProgress<'_>) -> Result<Listing> {
    let client = Client::new(settings)?;
    let url = client.listing_url(name);
    let answer = Watch::new(&client).over(progress, |watch, sender| {
        let on_wait = |reason| drop(sender.send(News::Wait(reason)));
        Attempts::new(client.first_wait(), &watch.stop, &on_wait).run(|| {
            let answer = client.get(Request { name, url: &url, from: 0 })?;
            let mut json = Vec::new();
            answer.into_body().into_reader().take(LONGEST + 1).read_to_end(&mut json).map_err(|error| {
                let problem = format!("{url}: the connection broke ({})", excerpt(&error.to_string()));
                Failure { error: hub_error(name, HubCause::Connection, problem), again: Again::Soon }
            })?;
            Ok(json)
        })
    })?;
    let invalid = |problem: &str| hub_error(name, HubCause::Invalid, format!("{url}: {problem}"));
    if answer.len() as u64 > LONGEST {
        return Err(invalid(&format!("expected a list of files of at most {LONGEST} bytes, found a longer one")));
    }
    Listing::parse(&answer).map_err(|problem| invalid(&problem))
}

/// Downloads files of a listing into their snapshot. Files that the cache has are not requested.
///
/// # Errors
/// [`Error::Hub`]; [`Error::File`] for a cache that cannot be written or a disk that is too small;
/// [`Error::Cancelled`].
pub(super) fn download(
    settings: &HubSettings,
    name: &HubName,
    listing: &Listing,
    files: &[&ListedFile],
    progress: &mut OnProgress<'_>,
) -> Result<()> {
    let repository = Repository::of(&settings.cache, name);
    repository.prepare(&listing.commit, files.iter().map(|file| file.path.as_str()))?;
    let client = Client::new(settings)?;
    let wanted: Vec<Wanted> = Watch::new(&client).over(progress, |watch, sender| {
        let on_wait = |reason| drop(sender.send(News::Wait(reason)));
        let attempts = || Attempts::new(client.first_wait(), &watch.stop, &on_wait);
        files.iter().map(|file| describe(&client, attempts(), name, &listing.commit, file)).collect()
    })?;
    // Two files with the same bytes are one blob.
    let blobs: BTreeMap<&Etag, &Wanted> = wanted.iter().map(|file| (&file.etag, file)).collect();
    let lacking: Vec<&Wanted> =
        blobs.into_values().filter(|file| !repository.has_blob(&file.etag, file.size)).collect();
    let of = lacking.iter().fold(0u64, |sum, file| sum.saturating_add(file.size));
    let arrived = |file: &&Wanted| repository.incomplete(&file.etag).metadata().map_or(0, |part| part.len());
    check_space(&repository, of.saturating_sub(lacking.iter().map(arrived).sum()))?;

    let mut watch = Watch::new(&client);
    (watch.of, watch.files) = (of, &lacking);
    let next = AtomicUsize::new(0);
    watch.over(progress, |watch, sender| {
        let count = settings.at_once.clamp(1, lacking.len().max(1));
        thread::scope(|threads| {
            // This thread is one of them. Where the system has no thread left, they are fewer.
            for number in 1..count {
                let (sender, next, repository) = (sender.clone(), &next, &repository);
                let builder = thread::Builder::new().name(format!("download {number}"));
                let _ = builder.spawn_scoped(threads, move || watch.work(repository, next, &sender));
            }
            watch.work(&repository, &next, sender);
        });
        Ok(())
    })?;
    for (file, listed) in wanted.iter().zip(files) {
        if !repository.has_file(&listing.commit, &listed.path, file.size) {
            repository.link(&file.etag, &listing.commit, &listed.path)?;
        }
    }
    Ok(())
}

/// A file with its size and hash, from the list or, where that lacks one, from the file's headers.
fn describe(
    client: &Client<'_>,
    mut attempts: Attempts<'_>,
    name: &HubName,
    commit: &str,
    file: &ListedFile,
) -> Result<Wanted> {
    let name = name.with_path(&file.path);
    let url = client.file_url(name.repo(), commit, &file.path);
    if let (Some(size), Some(etag)) = (file.size, file.etag.clone()) {
        return Ok(Wanted { name, url, etag, size });
    }
    let request = Request { name: &name, url: &url, from: 0 };
    let answer = attempts.run(|| client.head(request))?;
    let text = |header: &str| answer.headers().get(header).and_then(|value| value.to_str().ok());
    let etag = text("x-linked-etag").or_else(|| text(header::ETAG.as_str())).and_then(Etag::of_header);
    let length = || text(header::CONTENT_LENGTH.as_str()).filter(|_| answer.status().is_success());
    let size = text("x-linked-size").or_else(length).and_then(|size| size.parse().ok());
    match (etag, size) {
        (Some(etag), Some(size)) => Ok(Wanted { name, url, etag, size }),
        _ => {
            let problem = format!("{url}: the hub tells no size and hash of the file, so that it cannot be checked");
            Err(hub_error(&name, HubCause::Invalid, problem))
        }
    }
}

/// Checks that a disk has `needed` more bytes, so that a download does not end when it fills up.
fn check_space(repository: &Repository, needed: u64) -> Result<()> {
    match free_space(repository.root()) {
        Some(free) if free < needed => Err(Error::file(
            repository.root(),
            format!(
                "the disk has {free} bytes left and the download needs {needed}; free some space, or set HF_HUB_CACHE to a \
                 folder on another disk"
            ),
        )),
        _ => Ok(()),
    }
}

/// Work on other threads. The caller's thread reports it to a progress function. The first failure,
/// or the user's wish, ends all of it.
struct Watch<'a> {
    client: &'a Client<'a>,
    stop: Stop,
    done: AtomicU64,
    of: u64,
    files: &'a [&'a Wanted],
}

impl<'a> Watch<'a> {
    fn new(client: &'a Client<'a>) -> Self {
        Self { client, stop: Stop::default(), done: AtomicU64::new(0), of: 0, files: &[] }
    }

    /// Runs `task` on another thread.
    fn over<T: Send>(
        &self,
        progress: &mut OnProgress<'_>,
        task: impl FnOnce(&Self, &Sender<News>) -> Result<T> + Send,
    ) -> Result<T> {
        let (sender, news) = channel();
        thread::scope(|threads| {
            let builder = thread::Builder::new().name("download".to_owned());
            let started = builder.spawn_scoped(threads, move || task(self, &sender));
            let thread = started
                .map_err(|error| Error::Device(format!("the system has no thread left for a download ({error})")))?;
            self.tell(&news, progress)?;
            thread.join().unwrap_or_else(|_| Err(Error::internal("a thread of a download panicked")))
        })
    }

    /// Fetches one file after the other until none is left.
    fn work(&self, repository: &Repository, next: &AtomicUsize, sender: &Sender<News>) {
        loop {
            let number = next.fetch_add(1, Ordering::Relaxed);
            let Some(file) = self.files.get(number) else { return };
            let report = |report: Report| match report {
                Report::Bytes(bytes) => {
                    self.done.fetch_add(bytes, Ordering::Relaxed);
                }
                Report::Lost(bytes) => {
                    self.done.fetch_sub(bytes, Ordering::Relaxed);
                }
                // The receiver lives as long as this thread.
                Report::Wait(reason) => drop(sender.send(News::Wait(reason))),
            };
            let transfer = Transfer { client: self.client, repository, stop: &self.stop, report: &report };
            let done = transfer.fetch(file);
            let failed = done.is_err();
            let _ = sender.send(done.map_or_else(News::Failed, |()| News::File(number)));
            if failed {
                return;
            }
        }
    }

    /// Tells `progress` of the news until all threads have ended.
    fn tell(&self, news: &Receiver<News>, progress: &mut OnProgress<'_>) -> Result<()> {
        let mut failed = None;
        let mut fail = |error: Error| {
            if failed.is_none() {
                failed = Some(error);
                self.stop.set();
                self.client.shut_down();
            }
        };
        loop {
            let heard = match news.recv_timeout(TICK) {
                Ok(News::Failed(error)) => {
                    fail(error);
                    continue;
                }
                Ok(heard) => Some(heard),
                Err(RecvTimeoutError::Timeout) => None,
                Err(RecvTimeoutError::Disconnected) => break,
            };
            let news = match &heard {
                Some(News::File(number)) => {
                    let file = self.files[*number];
                    HubNews::File { path: file.name.path().unwrap_or_default(), size: file.size }
                }
                Some(News::Wait(reason)) => HubNews::Wait(reason),
                _ => HubNews::Bytes,
            };
            let done = self.done.load(Ordering::Relaxed);
            if progress(HubProgress { done, of: self.of, news }).is_break() {
                fail(Error::Cancelled);
            }
        }
        failed.map_or(Ok(()), Err)
    }
}
