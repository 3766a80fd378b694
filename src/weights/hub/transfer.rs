//! The transfer of one file. The bytes that have arrived stay on disk, and the next attempt asks
//! for the rest.

use super::cache::{Repository, unwritable};
use super::client::{Client, Request, hub_error};
use super::hash::{Etag, Hasher};
use super::lock::Lock;
use super::name::HubName;
use super::retry::{Again, Attempts, Failure, Stop};
use crate::error::{Error, HubCause, Result, excerpt};
use std::fs::{self, File, OpenOptions};
use std::io::{Read, Seek, SeekFrom, Write};
use std::path::PathBuf;
use ureq::Body;
use ureq::http::{Response, StatusCode, header};

/// Bytes read at a time.
const CHUNK: usize = 256 << 10;

/// A file to fetch.
#[derive(Debug)]
pub(super) struct Wanted {
    pub name: HubName,
    pub url: String,
    pub etag: Etag,
    pub size: u64,
}

/// A change in the state of a transfer.
#[derive(Debug)]
pub(super) enum Report {
    /// Bytes that are on disk now, fetched or found.
    Bytes(u64),
    /// Bytes that have to be fetched again.
    Lost(u64),
    /// A reason to wait.
    Wait(String),
}

/// The surroundings of a transfer.
pub(super) struct Transfer<'a> {
    pub client: &'a Client<'a>,
    pub repository: &'a Repository,
    pub stop: &'a Stop,
    pub report: &'a dyn Fn(Report),
}

impl Transfer<'_> {
    /// Fetches a file into its blob, or waits until another process has done so.
    ///
    /// # Errors
    /// [`Error::Hub`], [`Error::File`] for a cache that cannot be written, [`Error::Cancelled`].
    pub(super) fn fetch(&self, wanted: &Wanted) -> Result<()> {
        let lock = self.repository.lock(&wanted.etag);
        let on_wait = || (self.report)(Report::Wait(format!("{}: another process downloads it", wanted.name)));
        let _lock = Lock::acquire(&lock, self.stop, &on_wait)?;
        if self.repository.has_blob(&wanted.etag, wanted.size) {
            (self.report)(Report::Bytes(wanted.size));
            return Ok(());
        }
        loop {
            let mut part = Part::open(self, wanted)?;
            let is_fresh = part.len == 0;
            self.fill(&mut part, wanted)?;
            match part.finish()? {
                Ok(()) => return Ok(()),
                // The part that was on disk may be damaged. It is gone now.
                Err(_) if !is_fresh => {}
                Err(found) => {
                    let (expected, found) = (wanted.etag.as_str(), found.as_str());
                    let problem = format!(
                        "expected bytes with the hash {expected}, found {found}; the hub or a proxy on the way sends other \
                         bytes"
                    );
                    return Err(hub_error(&wanted.name, HubCause::Invalid, problem));
                }
            }
        }
    }

    /// Fetches the bytes that a part lacks.
    fn fill(&self, part: &mut Part<'_>, wanted: &Wanted) -> Result<()> {
        let on_wait = |reason| (self.report)(Report::Wait(reason));
        let mut attempts = Attempts::new(self.client.first_wait(), self.stop, &on_wait);
        while part.len < wanted.size {
            let before = part.len;
            if let Err(failure) = self.pass(part, wanted) {
                if part.len > before {
                    attempts.renew();
                }
                attempts.after(failure)?;
            }
        }
        Ok(())
    }

    /// Adds the bytes of one answer to a part.
    fn pass(&self, part: &mut Part<'_>, wanted: &Wanted) -> Result<(), Failure> {
        let request = Request { name: &wanted.name, url: &wanted.url, from: part.len };
        let answer = self.client.get(request)?;
        let (from, size) = extent(&answer);
        let invalid = |problem: String| Failure::from(hub_error(&wanted.name, HubCause::Invalid, problem));
        if let Some(size) = size.filter(|size| *size != wanted.size) {
            return Err(invalid(format!("expected a file of {} bytes, found one of {size}", wanted.size)));
        }
        if from == 0 && part.len > 0 {
            part.restart()?;
        }
        if from != part.len {
            return Err(invalid(format!("expected the bytes from {} on, found those from {from} on", part.len)));
        }
        let mut body = answer.into_body().into_reader();
        let mut chunk = vec![0; CHUNK];
        let broken = |len: u64, reason: &str| {
            let problem = format!("the connection broke after {len} of {} bytes ({reason})", wanted.size);
            Failure { error: hub_error(&wanted.name, HubCause::Connection, problem), again: Again::Soon }
        };
        loop {
            self.stop.check()?;
            match body.read(&mut chunk) {
                Ok(0) if part.len < wanted.size => return Err(broken(part.len, "it ended")),
                Ok(0) => return Ok(()),
                Ok(read) if read as u64 > wanted.size - part.len => {
                    return Err(invalid(format!("expected a file of {} bytes, found more", wanted.size)));
                }
                Ok(read) => part.add(&chunk[..read])?,
                Err(error) => return Err(broken(part.len, &excerpt(&error.to_string()))),
            }
        }
    }
}

/// The first byte of an answer, and the size of the whole file where the answer tells it.
fn extent(answer: &Response<Body>) -> (u64, Option<u64>) {
    let text = |name| answer.headers().get(name).and_then(|value| value.to_str().ok());
    if answer.status() != StatusCode::PARTIAL_CONTENT {
        let is_plain = text(header::CONTENT_ENCODING).is_none_or(|encoding| encoding == "identity");
        return (0, text(header::CONTENT_LENGTH).filter(|_| is_plain).and_then(|len| len.parse().ok()));
    }
    content_range(text(header::CONTENT_RANGE).unwrap_or_default())
}

/// Reads `bytes 5-9/10`: the first byte, and the size unless it is `*`. Anything
/// else gives a first byte at which no part ends.
fn content_range(text: &str) -> (u64, Option<u64>) {
    let range = || {
        let (range, size) = text.strip_prefix("bytes ")?.split_once('/')?;
        Some((range.split_once('-')?.0.parse().ok()?, size.parse().ok()))
    };
    range().unwrap_or((u64::MAX, None))
}

/// The part of a file that has arrived. Two processes write the same bytes to the same places, so
/// that a file system without locks costs time and no file.
struct Part<'a> {
    transfer: &'a Transfer<'a>,
    wanted: &'a Wanted,
    path: PathBuf,
    file: File,
    hasher: Hasher,
    len: u64,
}

impl<'a> Part<'a> {
    /// Opens the part that an earlier run left, or an empty one.
    fn open(transfer: &'a Transfer<'a>, wanted: &'a Wanted) -> Result<Self> {
        let path = transfer.repository.incomplete(&wanted.etag);
        if fs::metadata(&path).is_ok_and(|file| file.len() > wanted.size) {
            fs::remove_file(&path).map_err(|error| unwritable(&path, &error))?;
        }
        let file = OpenOptions::new().create(true).truncate(false).read(true).write(true).open(&path);
        let file = file.map_err(|error| unwritable(&path, &error))?;
        let hasher = Hasher::new(&wanted.etag, wanted.size);
        let mut part = Self { transfer, wanted, path, file, hasher, len: 0 };
        let mut chunk = vec![0; CHUNK];
        while part.len < wanted.size {
            transfer.stop.check()?;
            let most = (wanted.size - part.len).min(CHUNK as u64) as usize;
            let read = part.file.read(&mut chunk[..most]).map_err(|error| Error::io(&part.path, error))?;
            if read == 0 {
                break;
            }
            part.count(&chunk[..read]);
        }
        Ok(part)
    }

    fn count(&mut self, bytes: &[u8]) {
        self.hasher.update(bytes);
        self.len += bytes.len() as u64;
        (self.transfer.report)(Report::Bytes(bytes.len() as u64));
    }

    fn add(&mut self, bytes: &[u8]) -> Result<()> {
        self.file.write_all(bytes).map_err(|error| unwritable(&self.path, &error))?;
        self.count(bytes);
        Ok(())
    }

    /// Begins at the first byte again.
    fn restart(&mut self) -> Result<()> {
        self.file.seek(SeekFrom::Start(0)).map_err(|error| Error::io(&self.path, error))?;
        self.hasher = Hasher::new(&self.wanted.etag, self.wanted.size);
        (self.transfer.report)(Report::Lost(self.len));
        self.len = 0;
        Ok(())
    }

    /// Gives the complete file the name of its blob, or removes it if its hash, which is returned,
    /// is wrong.
    fn finish(self) -> Result<Result<(), Etag>> {
        let found = self.hasher.finish();
        if found != self.wanted.etag {
            fs::remove_file(&self.path).map_err(|error| unwritable(&self.path, &error))?;
            (self.transfer.report)(Report::Lost(self.len));
            return Ok(Err(found));
        }
        let repository = self.transfer.repository;
        let done = self.file.sync_all().and_then(|()| fs::rename(&self.path, repository.blob(&self.wanted.etag)));
        match done {
            Ok(()) => Ok(Ok(())),
            // Without locks another process may have been first.
            Err(_) if repository.has_blob(&self.wanted.etag, self.wanted.size) => Ok(Ok(())),
            Err(error) => Err(unwritable(&self.path, &error)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::content_range;

    #[test]
    fn ranges_are_read() {
        assert_eq!(content_range("bytes 5-9/10"), (5, Some(10)));
        assert_eq!(content_range("bytes 5-9/*"), (5, None));
        for text in ["", "bytes", "bytes */10", "items 5-9/10", "bytes x-9/10"] {
            assert_eq!(content_range(text).0, u64::MAX, "{text}");
        }
    }
}
