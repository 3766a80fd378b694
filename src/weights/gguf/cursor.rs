//! A cursor over the header of a GGUF file. It fetches a remote file in pieces, because the header
//! has no length of its own: its end is known only when the last tensor's entry is read.

use crate::error::{Error, Result, excerpt};
use crate::weights::file::ModelFile;
use bytes::Bytes;

/// Bytes of the first piece that is fetched. The header of a published transformer has 40 kB; that
/// of a text encoder has 6 MB, most of it the tokenizer. Each piece is twice as long as the last.
const FIRST_PIECE: u64 = 64 << 10;

pub(super) struct Cursor<'f> {
    file: &'f ModelFile,
    /// The offset of the next byte in the file.
    at: u64,
    /// The bytes of the file from `start` on that were fetched last.
    window: Bytes,
    start: u64,
    /// Bytes of the next piece.
    piece: u64,
    /// The entry that is being read, for messages.
    item: String,
}

impl<'f> Cursor<'f> {
    pub(super) fn new(file: &'f ModelFile) -> Self {
        let piece = file.piece().map_or(file.len, |piece| piece.min(FIRST_PIECE));
        Self { file, at: 0, window: Bytes::new(), start: 0, piece, item: "the header".into() }
    }

    /// The offset of the next byte in the file.
    pub(super) fn position(&self) -> u64 {
        self.at
    }

    /// The file's length in bytes.
    pub(super) fn file_len(&self) -> u64 {
        self.file.len
    }

    /// Names the entry that is read next, for messages: `kind` and the `name` in the file.
    pub(super) fn begin(&mut self, kind: &str, name: &str) {
        self.item = format!("{kind} {}", excerpt(name));
    }

    /// An error about the entry that is being read.
    pub(super) fn fault(&self, problem: impl AsRef<str>) -> Error {
        Error::file(&self.file.path, format!("{}: {}", self.item, problem.as_ref()))
    }

    /// An error about one tensor of the file.
    pub(super) fn tensor_fault(&self, name: &str, expected: String, found: String) -> Error {
        Error::Tensor { path: self.file.path.clone(), tensor: excerpt(name), expected, found }
    }

    /// The offset after the next `len` bytes, which the file must have.
    fn end(&self, len: u64) -> Result<u64> {
        self.at.checked_add(len).filter(|&end| end <= self.file.len).ok_or_else(|| {
            let Self { at, file, .. } = self;
            self.fault(format!(
                "expected {len} bytes from byte {at} on, found a file of {} bytes: it is truncated or damaged; download \
                 it again",
                file.len
            ))
        })
    }

    /// Skips `len` bytes without fetching them.
    pub(super) fn skip(&mut self, len: u64) -> Result<()> {
        self.at = self.end(len)?;
        Ok(())
    }

    /// The next `len` bytes.
    pub(super) async fn bytes(&mut self, len: u64) -> Result<Bytes> {
        let end = self.end(len)?;
        let window = self.start..self.start + self.window.len() as u64;
        if self.at < window.start || end > window.end {
            // The old window is freed before the new one is read.
            self.window = Bytes::new();
            self.start = self.at;
            let fetched = end.max(self.at.saturating_add(self.piece)).min(self.file.len);
            self.window = self.file.read(self.at..fetched).await?;
            self.piece = self.piece.saturating_mul(2).min(self.file.piece().unwrap_or(u64::MAX));
        }
        let from = (self.at - self.start) as usize;
        self.at = end;
        Ok(self.window.slice(from..from + len as usize))
    }

    /// The next `N` bytes.
    pub(super) async fn array<const N: usize>(&mut self) -> Result<[u8; N]> {
        let bytes = self.bytes(N as u64).await?;
        Ok(bytes[..].try_into().expect("the bytes that were asked for"))
    }

    pub(super) async fn u32(&mut self) -> Result<u32> {
        self.array().await.map(u32::from_le_bytes)
    }

    pub(super) async fn u64(&mut self) -> Result<u64> {
        self.array().await.map(u64::from_le_bytes)
    }

    /// A count of entries that take at least `bytes` bytes each.
    ///
    /// # Errors
    /// [`Error::File`] for a count above `most`, or for more entries than the rest of the file can
    /// hold.
    pub(super) async fn count(&mut self, what: &str, bytes: u64, most: u64) -> Result<u64> {
        let count = self.u64().await?;
        let room = (self.file.len - self.at) / bytes;
        if count > most {
            return Err(self.fault(format!("expected at most {most} {what}, found {count}")));
        }
        if count > room {
            let problem = format!(
                "expected at most {room} {what} in the rest of a file of {} bytes, found {count}: it is truncated or \
                 damaged; download it again",
                self.file.len
            );
            return Err(self.fault(problem));
        }
        Ok(count)
    }

    /// A name of 1 to `longest` bytes.
    pub(super) async fn name(&mut self, what: &str, longest: u64) -> Result<String> {
        let len = self.u64().await?;
        if len == 0 || len > longest {
            return Err(self.fault(format!("expected {what} of 1 to {longest} bytes, found one of {len}")));
        }
        let bytes = self.bytes(len).await?;
        match str::from_utf8(&bytes) {
            Ok(name) => Ok(name.to_owned()),
            Err(_) => {
                let found = excerpt(&bytes[..bytes.len().min(64)].escape_ascii().to_string());
                Err(self.fault(format!("expected {what} in UTF-8, found {found}")))
            }
        }
    }
}
