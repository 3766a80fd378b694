//! Remote files that are those of a folder on disk, each request after a delay, with counts of what
//! is read and allocated.

use bytes::Bytes;
use std::collections::BTreeMap;
use std::fs;
use std::future::poll_fn;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst};
use std::sync::{Arc, Mutex};
use std::task::Poll;
use zimage::Error;
use zimage::weights::{BoxFuture, RemoteFiles};

/// The size of a piece in bytes, so small that most matrices are read in pieces.
pub(crate) const PIECE: u64 = 10_000;

/// The files of a folder.
#[derive(Debug)]
pub(crate) struct Slow {
    root: PathBuf,
    /// The file whose allocated bytes are counted.
    counted: &'static str,
    pub(crate) reads: AtomicUsize,
    /// The bytes that were read of each file.
    pub(crate) fetched: Mutex<BTreeMap<String, usize>>,
    /// The longest read of a file of weights in bytes.
    pub(crate) longest: AtomicUsize,
    /// True if files of weights cannot be read.
    pub(crate) broken: AtomicBool,
    /// The allocated bytes of the counted file.
    pub(crate) held: Arc<Held>,
}

/// The bytes that are currently allocated, and their peak.
#[derive(Debug, Default)]
pub(crate) struct Held {
    now: AtomicUsize,
    pub(crate) most: AtomicUsize,
}

/// Bytes that are counted until they are dropped.
struct Counted(Vec<u8>, Arc<Held>);

impl Counted {
    fn bytes(bytes: Vec<u8>, held: &Arc<Held>) -> Bytes {
        let now = held.now.fetch_add(bytes.len(), SeqCst) + bytes.len();
        held.most.fetch_max(now, SeqCst);
        Bytes::from_owner(Self(bytes, held.clone()))
    }
}

impl AsRef<[u8]> for Counted {
    fn as_ref(&self) -> &[u8] {
        &self.0
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.1.now.fetch_sub(self.0.len(), SeqCst);
    }
}

impl Slow {
    /// The files in a folder of this repository. `counted` is one of them.
    pub(crate) fn new(root: impl Into<PathBuf>, counted: &'static str) -> Arc<Self> {
        Arc::new(Self {
            root: Path::new(env!("CARGO_MANIFEST_DIR")).join(root.into()),
            counted,
            reads: AtomicUsize::new(0),
            fetched: Mutex::default(),
            longest: AtomicUsize::new(0),
            broken: AtomicBool::new(false),
            held: Arc::default(),
        })
    }

    pub(crate) fn path(&self, file: &str) -> PathBuf {
        self.root.join(file)
    }
}

fn is_weights(file: &str) -> bool {
    file.ends_with(".safetensors") || file.ends_with(".gguf")
}

/// A future that is pending when it is first polled.
async fn later() {
    let mut waited = false;
    poll_fn(|context| {
        if std::mem::replace(&mut waited, true) {
            return Poll::Ready(());
        }
        context.waker().wake_by_ref();
        Poll::Pending
    })
    .await;
}

impl RemoteFiles for Slow {
    fn size<'a>(&'a self, file: &'a str) -> BoxFuture<'a, Option<u64>> {
        Box::pin(async move {
            later().await;
            Ok(fs::metadata(self.path(file)).ok().map(|file| file.len()))
        })
    }

    fn read<'a>(&'a self, file: &'a str, range: Range<u64>) -> BoxFuture<'a, Bytes> {
        Box::pin(async move {
            later().await;
            if self.broken.load(SeqCst) && is_weights(file) {
                return Err(Error::File { path: self.path(file), problem: "the connection is lost".into() });
            }
            let part = fs::read(self.path(file)).unwrap()[range.start as usize..range.end as usize].to_vec();
            self.reads.fetch_add(1, SeqCst);
            *self.fetched.lock().unwrap().entry(file.to_owned()).or_default() += part.len();
            if is_weights(file) {
                self.longest.fetch_max(part.len(), SeqCst);
            }
            Ok(if file == self.counted { Counted::bytes(part, &self.held) } else { part.into() })
        })
    }

    fn piece(&self) -> u64 {
        PIECE
    }

    fn list<'a>(&'a self, _folder: &'a str) -> BoxFuture<'a, Vec<String>> {
        Box::pin(async { Ok(Vec::new()) })
    }
}
