//! A small hub on loopback, with the answers of huggingface.co and with faults.

use sha2::{Digest, Sha256};
use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::time::Duration;

/// The commit of every repository here.
pub(crate) const COMMIT: &str = "0123456789abcdef0123456789abcdef01234567";

/// A request that a server got.
#[derive(Debug, Clone)]
pub(crate) struct Seen {
    pub method: String,
    /// The path with its query.
    pub path: String,
    /// The first byte of the range, if one was asked for.
    pub from: Option<usize>,
    /// The value of the header `Authorization`.
    pub token: Option<String>,
    /// The number of earlier requests for this path.
    pub before: usize,
}

/// The answer to a request.
#[derive(Debug, Clone, Default)]
pub(crate) struct Reply {
    pub status: u16,
    pub headers: Vec<(&'static str, String)>,
    pub body: Vec<u8>,
    /// The number of bytes of the body after which the connection is closed.
    pub cut: Option<usize>,
    /// A time without a byte, after those of `cut`.
    pub pause: Duration,
}

impl Reply {
    pub(crate) fn of(status: u16, headers: &[(&'static str, &str)]) -> Self {
        let headers = headers.iter().map(|(name, value)| (*name, (*value).to_owned())).collect();
        Self { status, headers, ..Self::default() }
    }
}

/// A server on loopback. Its threads end with the process.
pub(crate) struct Server {
    address: SocketAddr,
    seen: Arc<Mutex<Vec<Seen>>>,
    /// Bytes of bodies that were written to a connection.
    sent: Arc<Mutex<usize>>,
}

impl Server {
    pub(crate) fn start(answer: impl Fn(&Seen) -> Reply + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let server = Self { address: listener.local_addr().unwrap(), seen: Arc::default(), sent: Arc::default() };
        let (seen, sent, answer) = (server.seen.clone(), server.sent.clone(), Arc::new(answer));
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let (seen, sent, answer) = (seen.clone(), sent.clone(), answer.clone());
                std::thread::spawn(move || serve(&stream, &seen, &sent, &*answer));
            }
        });
        server
    }

    pub(crate) fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// The requests so far.
    pub(crate) fn seen(&self) -> Vec<Seen> {
        self.seen.lock().unwrap().clone()
    }

    /// The requests so far for files, as their paths.
    pub(crate) fn files(&self) -> Vec<String> {
        let seen = self.seen();
        let mut files: Vec<String> =
            seen.iter().filter_map(|seen| Some(seen.path.split_once(COMMIT)?.1[1..].to_owned())).collect();
        files.sort();
        files
    }

    /// The bytes of bodies that were sent so far.
    pub(crate) fn sent(&self) -> usize {
        *self.sent.lock().unwrap()
    }
}

fn serve(stream: &TcpStream, seen: &Mutex<Vec<Seen>>, sent: &Mutex<usize>, answer: &dyn Fn(&Seen) -> Reply) {
    let mut lines = BufReader::new(stream).lines().map_while(Result::ok).take_while(|line| !line.is_empty());
    let Some(first) = lines.next() else { return };
    let mut words = first.split(' ').map(str::to_owned);
    let (method, path) = (words.next().unwrap(), words.next().unwrap());
    let headers: BTreeMap<String, String> = lines
        .filter_map(|line| line.split_once(": ").map(|(name, value)| (name.to_lowercase(), value.into())))
        .collect();
    let range = headers.get("range").map(|range| range.strip_prefix("bytes=").unwrap().strip_suffix('-').unwrap());
    let from = range.map(|from| from.parse().unwrap());
    let request = {
        let mut seen = seen.lock().unwrap();
        let before = seen.iter().filter(|other| other.path == path).count();
        seen.push(Seen { method, path, from, token: headers.get("authorization").cloned(), before });
        seen.last().unwrap().clone()
    };
    let Reply { status, headers, body, cut, pause } = answer(&request);
    let mut head = format!("HTTP/1.1 {status} Words\r\nConnection: close\r\n");
    if !headers.iter().any(|(name, _)| ["Content-Length", "Transfer-Encoding"].contains(name)) {
        head += &format!("Content-Length: {}\r\n", body.len());
    }
    for (name, value) in headers {
        head += &format!("{name}: {value}\r\n");
    }
    let mut stream = stream;
    let body = if request.method == "HEAD" { &[] } else { &body[..cut.unwrap_or(body.len()).min(body.len())] };
    let write = |stream: &mut &TcpStream, bytes: &[u8]| stream.write_all(bytes).and_then(|()| stream.flush());
    let _ = write(&mut stream, (head + "\r\n").as_bytes());
    for piece in body.chunks(10_000) {
        if write(&mut stream, piece).is_err() {
            break;
        }
        *sent.lock().unwrap() += piece.len();
    }
    std::thread::sleep(pause);
}

/// A repository `org/name`.
#[derive(Debug, Clone, Default)]
pub(crate) struct Repository {
    pub files: BTreeMap<String, Vec<u8>>,
    /// True if the list has neither sizes nor hashes, as mirrors may send it.
    pub bare: bool,
}

impl Repository {
    pub(crate) fn new(files: &[(&str, &[u8])]) -> Self {
        let files = files.iter().map(|(path, bytes)| ((*path).to_owned(), bytes.to_vec())).collect();
        Self { files, bare: false }
    }

    /// A pipeline with small parts, a sharded text encoder, and files that no one needs.
    pub(crate) fn pipeline() -> Self {
        let index =
            br#"{"weight_map": {"a": "model-00001-of-00002.safetensors", "b": "model-00002-of-00002.safetensors"}}"#;
        Self::new(&[
            (".gitattributes", b"x"),
            ("README.md", b"# words"),
            ("assets/fox.png", b"png"),
            ("model_index.json", br#"{"_class_name": "ZImagePipeline"}"#),
            ("scheduler/scheduler_config.json", b"{}"),
            ("text_encoder/config.json", b"{}"),
            ("text_encoder/model-00001-of-00002.safetensors", &bytes(1, 300_000)),
            ("text_encoder/model-00002-of-00002.safetensors", &bytes(2, 200_000)),
            ("text_encoder/model.safetensors.index.json", index),
            ("tokenizer/tokenizer.json", b"{}"),
            ("transformer/config.json", b"{} "),
            ("transformer/diffusion_pytorch_model.fp16.safetensors", b"half"),
            ("transformer/diffusion_pytorch_model.safetensors", &bytes(3, 1_000_000)),
            ("vae/config.json", b"{}"),
            ("vae/diffusion_pytorch_model.bin", b"pickle"),
            ("vae/diffusion_pytorch_model.safetensors", &bytes(4, 50_000)),
        ])
    }

    /// The answer of huggingface.co, all in one place.
    pub(crate) fn answer(&self, seen: &Seen) -> Reply {
        if seen.path.starts_with("/api/models/org/name/revision/main") {
            return Reply { body: self.list().into_bytes(), ..Reply::of(200, &[]) };
        }
        let path = seen.path.strip_prefix(&format!("/org/name/resolve/{COMMIT}/")).unwrap_or_default();
        let Some(bytes) = self.files.get(path) else { return Reply::of(404, &[("X-Error-Code", "EntryNotFound")]) };
        let etag = format!("\"{}\"", hash(path, bytes));
        let mut reply = Reply::of(200, &[("ETag", &etag)]);
        if seen.method == "HEAD" {
            reply.headers.push(("Content-Length", bytes.len().to_string()));
            return reply;
        }
        let from = seen.from.unwrap_or_default();
        if seen.from.is_some() {
            let last = bytes.len() - 1;
            reply.status = 206;
            reply.headers.push(("Content-Range", format!("bytes {from}-{last}/{}", bytes.len())));
        }
        Reply { body: bytes[from..].to_vec(), ..reply }
    }

    /// The list of files as `GET /api/models/…?blobs=true` gives it.
    fn list(&self) -> String {
        let files = self.files.iter().map(|(path, bytes)| {
            let (size, hash) = (bytes.len(), hash(path, bytes));
            match (self.bare, hash.len()) {
                (true, _) => serde_json::json!({"rfilename": path}),
                (_, 64) => serde_json::json!({
                    "rfilename": path, "size": size, "blobId": "0".repeat(40),
                    "lfs": {"sha256": hash, "size": size, "pointerSize": 134}}),
                _ => serde_json::json!({"rfilename": path, "size": size, "blobId": hash}),
            }
        });
        let files: Vec<_> = files.collect();
        serde_json::json!({"_id": "1", "id": "org/name", "sha": COMMIT, "siblings": files}).to_string()
    }
}

/// The hash of a file: SHA-256 for weights, which are in LFS. For the few other files the values of
/// `git hash-object` are known.
pub(crate) fn hash(path: &str, bytes: &[u8]) -> String {
    if path.ends_with(".json") {
        return match bytes {
            b"{}" => "9e26dfeeb6e641a33dae4961196235bdb965b21b".to_owned(),
            b"{} " => "1868abf8cffe8652006e6a8eeff920c4e8a900f6".to_owned(),
            _ => sha256(bytes),
        };
    }
    sha256(bytes)
}

fn sha256(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Bytes without a pattern.
pub(crate) fn bytes(seed: u32, len: usize) -> Vec<u8> {
    let mut state = seed;
    let mut next = || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (state >> 24) as u8
    };
    (0..len).map(|_| next()).collect()
}
