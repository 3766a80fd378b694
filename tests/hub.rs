//! Downloads from a small hub on loopback, with every fault that a network and a hub can have.
#![cfg(feature = "hub")]

#[path = "support/hub_cache.rs"]
mod cache;
#[path = "support/hub.rs"]
mod hub;

use cache::Cache;
use hub::{COMMIT, Reply, Repository, Seen, Server, bytes, hash};
use std::fs;
use std::ops::ControlFlow;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};
use zimage::weights::hub::{Hub, HubName, HubNews, HubSettings};
use zimage::{Error, HubCause};

const WEIGHTS: &str = "transformer/diffusion_pytorch_model.safetensors";

/// A repository with one file of a million bytes.
fn single() -> (Repository, Vec<u8>) {
    let weights = bytes(7, 1_000_000);
    (Repository::new(&[("z.safetensors", &weights)]), weights)
}

#[test]
fn a_pipeline_arrives_in_pythons_layout() {
    let repository = Repository::pipeline();
    let files = repository.files.clone();
    let cache = Cache::of(move |seen| repository.answer(seen));
    let folder = cache.pull("org/name").unwrap();
    assert_eq!(folder, cache.file("").components().collect::<PathBuf>());
    let needed = cache.list(&format!("snapshots/{COMMIT}"));
    let unneeded = [".gitattributes", "README.md", "assets/fox.png", "vae/diffusion_pytorch_model.bin"];
    assert_eq!(needed.len(), files.len() - unneeded.len() - 1, "{needed:?}");
    for path in &needed {
        assert_eq!(fs::read(folder.join(path)).unwrap(), files[path], "{path}");
        #[cfg(unix)]
        {
            let up = "../".repeat(path.matches('/').count() + 2);
            let target = fs::read_link(folder.join(path)).unwrap();
            assert_eq!(target.to_str().unwrap(), format!("{up}blobs/{}", hash(path, &files[path])));
        }
    }
    assert_eq!(fs::read_to_string(cache.folder.path().join("models--org--name/refs/main")).unwrap(), COMMIT);
    assert!(cache.list("blobs").iter().all(|blob| !blob.contains('.')), "nothing incomplete is left");
    assert!(!cache.server.files().iter().any(|path| unneeded.contains(&path.as_str()) || path.contains("fp16")));

    // The hub is asked for its list again, and for no file.
    let (requests, files) = (cache.server.seen().len(), cache.server.files());
    assert_eq!(cache.pull("org/name").unwrap(), folder);
    assert_eq!(cache.server.files(), files);
    let again = cache.server.seen().len();
    assert!(again > requests);
    assert_eq!(cache.resolve("org/name").unwrap(), folder);
    assert_eq!(cache.server.seen().len(), again, "a complete model needs no request");

    // A file that is missing is fetched alone.
    fs::remove_file(folder.join(WEIGHTS)).unwrap();
    let blob = hash(WEIGHTS, &repository_file(WEIGHTS));
    fs::remove_file(cache.folder.path().join("models--org--name/blobs").join(blob)).unwrap();
    assert_eq!(cache.resolve("org/name").unwrap(), folder);
    assert_eq!(cache.server.files().len(), files.len() + 1);
}

fn repository_file(path: &str) -> Vec<u8> {
    Repository::pipeline().files[path].clone()
}

/// The tree that huggingface_hub 2.4.0 makes of `Repository::pipeline()` with `snapshot_download`:
/// the links, the revision, and the files that only it has.
#[cfg(unix)]
#[test]
fn a_cache_made_by_python_is_found() {
    let repository = Repository::pipeline();
    let files = repository.files.clone();
    let cache = Cache::of(move |seen| repository.answer(seen));
    let root = cache.folder.path().join("models--org--name");
    let write = |path: &str, bytes: &[u8]| {
        fs::create_dir_all(root.join(path).parent().unwrap()).unwrap();
        fs::write(root.join(path), bytes).unwrap();
    };
    fs::write(cache.folder.path().join("CACHEDIR.TAG"), "Signature: 8a477f597d28d172789f06886806bc55").unwrap();
    write("refs/main", COMMIT.as_bytes());
    write(&format!("trees/{COMMIT}.json"), b"{\"format_version\": 1, \"files\": {}}");
    for (path, bytes) in &files {
        let blob = hash(path, bytes);
        write(&format!("blobs/{blob}"), bytes);
        fs::create_dir_all(cache.file(path).parent().unwrap()).unwrap();
        let up = "../".repeat(path.matches('/').count() + 2);
        std::os::unix::fs::symlink(format!("{up}blobs/{blob}"), cache.file(path)).unwrap();
    }
    let folder = cache.file("").components().collect::<PathBuf>();
    let offline = Hub::new(HubSettings { offline: true, ..cache.settings() });
    for hub in [&cache.hub(), &offline] {
        for (name, path) in [("org/name", ""), ("org/name@main/vae", "vae"), ("org/name/README.md", "README.md")] {
            let name = HubName::parse(name).unwrap();
            let path = folder.join(path).components().collect::<PathBuf>();
            assert_eq!(hub.cached(&name).unwrap(), path);
            assert_eq!(hub.resolve(&name, &mut |_| ControlFlow::Continue(())).unwrap(), path);
        }
    }
    let name = HubName::parse(&format!("org/name@{COMMIT}")).unwrap();
    assert_eq!(offline.cached(&name).unwrap(), folder);
    assert_eq!(cache.server.seen().len(), 0);
    let found = offline.snapshots().unwrap();
    assert_eq!(
        (found.len(), found[0].repo.as_str(), found[0].revisions.clone()),
        (1, "org/name", vec!["main".to_owned()])
    );
}

#[test]
fn offline_nothing_is_requested() {
    let repository = Repository::pipeline();
    let cache = Cache::of(move |seen| repository.answer(seen));
    let offline = Hub::new(HubSettings { offline: true, ..cache.settings() });
    let name = HubName::parse("org/name").unwrap();
    let error = |hub: &Hub| hub.resolve(&name, &mut |_| ControlFlow::Continue(())).unwrap_err().to_string();
    assert!(error(&offline).contains("lacks it, and HF_HUB_OFFLINE forbids"), "{}", error(&offline));
    assert!(offline.files(&name).is_err());
    assert_eq!(cache.server.seen().len(), 0);
    cache.pull("org/name").unwrap();
    fs::remove_file(cache.file("text_encoder/model-00002-of-00002.safetensors")).unwrap();
    let requests = cache.server.seen().len();
    assert!(error(&offline).contains("lacks text_encoder/model-00002-of-00002.safetensors"), "{}", error(&offline));
    assert_eq!(cache.server.seen().len(), requests);
}

#[test]
fn redirects_are_followed_without_the_token() {
    let (repository, weights) = single();
    let stored = repository.clone();
    let storage = Server::start(move |seen| {
        assert!(seen.path.ends_with("?Signature=secret"), "{}", seen.path);
        stored.answer(&Seen { path: seen.path.split('?').next().unwrap().to_owned(), ..seen.clone() })
    });
    let elsewhere = storage.url();
    let cache = Cache::of(move |seen| match seen.path.strip_prefix("/moved") {
        // A renamed repository is a path on the same host, and gets the token.
        None if seen.path.contains("/resolve/") => Reply::of(307, &[("Location", &format!("/moved{}", seen.path))]),
        Some(path) => Reply::of(302, &[("Location", &format!("{elsewhere}{path}?Signature=secret"))]),
        None => repository.answer(seen),
    });
    let settings = HubSettings { token: Some("hf_secret".to_owned()), ..cache.settings() };
    let name = HubName::parse("org/name").unwrap();
    let file = Hub::new(settings).pull(&name, &mut |_| ControlFlow::Continue(())).unwrap();
    assert_eq!(fs::read(file).unwrap(), weights);
    let hub = cache.server.seen();
    assert!(hub.len() == 3 && hub.iter().all(|seen| seen.token.as_deref() == Some("Bearer hf_secret")), "{hub:?}");
    let storage = storage.seen();
    assert!(storage.len() == 1 && storage.iter().all(|seen| seen.token.is_none()), "{storage:?}");
}

#[test]
fn endless_and_broken_redirects_fail() {
    for (location, says) in [("/again", "redirects more than 10 times"), ("ftp://x/y", "which is no address")] {
        let (repository, _) = single();
        let cache = Cache::of(move |seen| match seen.path.starts_with("/api") {
            true => repository.answer(seen),
            false => Reply::of(302, &[("Location", location)]),
        });
        cache.fails("org/name", HubCause::Invalid, &[says]);
        assert!(cache.server.seen().len() < 20);
    }
}

#[test]
fn a_dropped_connection_is_resumed() {
    let (repository, weights) = single();
    let cache = Cache::of(move |seen| {
        let reply = repository.answer(seen);
        let cut = seen.path.ends_with(".safetensors").then_some(300_000);
        Reply { cut, ..reply }
    });
    let mut last = (0, 0);
    let mut waits = Vec::new();
    let file = cache.hub().pull(&HubName::parse("org/name").unwrap(), &mut |progress| {
        assert!(progress.done >= last.0, "bytes are counted once");
        last = (progress.done, progress.of);
        if let HubNews::Wait(reason) = progress.news {
            waits.push(reason.to_owned());
        }
        ControlFlow::Continue(())
    });
    assert_eq!(fs::read(file.unwrap()).unwrap(), weights);
    let from: Vec<_> = cache.server.seen().iter().skip(1).map(|seen| seen.from.unwrap_or(0)).collect();
    assert_eq!(from, [0, 300_000, 600_000, 900_000]);
    assert_eq!(last, (1_000_000, 1_000_000));
    assert!(waits.len() == 3 && waits[0].contains("the connection broke after 300000 of 1000000 bytes"), "{waits:?}");
}

#[test]
fn a_hub_that_never_delivers_is_given_up() {
    let (repository, _) = single();
    let cache = Cache::of(move |seen| {
        let cut = seen.path.ends_with(".safetensors").then_some(0);
        Reply { cut, ..repository.answer(seen) }
    });
    cache.fails("org/name", HubCause::Connection, &["the connection broke after 0 of 1000000 bytes"]);
    assert_eq!(cache.server.seen().len(), 1 + 5);
    let dead = Hub::new(HubSettings { endpoint: "http://127.0.0.1:1".to_owned(), ..cache.settings() });
    let error = dead.files(&HubName::parse("org/name").unwrap()).unwrap_err().to_string();
    assert!(error.contains("http://127.0.0.1:1/api/models/org/name/revision/main: no answer"), "{error}");
}

#[test]
fn a_part_of_an_earlier_run_is_resumed() {
    let (repository, weights) = single();
    let cache = Cache::of(move |seen| repository.answer(seen));
    fs::write(cache.incomplete("z.safetensors", &weights), &weights[..600_000]).unwrap();
    assert_eq!(fs::read(cache.pull("org/name").unwrap()).unwrap(), weights);
    assert_eq!(cache.server.seen()[1].from, Some(600_000));
    assert!(cache.server.sent() < 401_000, "{} bytes were sent", cache.server.sent());
}

#[test]
fn a_damaged_part_is_fetched_again() {
    // A wrong part, one that is whole and wrong, and one that is too long.
    for len in [600_000, 1_000_000, 1_000_001] {
        let (repository, weights) = single();
        let cache = Cache::of(move |seen| repository.answer(seen));
        fs::write(cache.incomplete("z.safetensors", &weights), vec![0; len]).unwrap();
        assert_eq!(fs::read(cache.pull("org/name").unwrap()).unwrap(), weights, "{len}");
    }
}

#[test]
fn a_server_without_ranges_starts_anew() {
    let (repository, weights) = single();
    let cache = Cache::of(move |seen| repository.answer(&Seen { from: None, ..seen.clone() }));
    fs::write(cache.incomplete("z.safetensors", &weights), &weights[..600_000]).unwrap();
    assert_eq!(fs::read(cache.pull("org/name").unwrap()).unwrap(), weights);
}

#[test]
fn wrong_bytes_never_become_a_file() {
    type Change = fn(&mut Reply);
    let cases: [(Change, &str); 5] = [
        (|reply| reply.body[5] ^= 1, "expected bytes with the hash"),
        (|reply| reply.body.truncate(999_999), "expected a file of 1000000 bytes, found one of 999999"),
        (|reply| reply.body.push(0), "expected a file of 1000000 bytes, found one of 1000001"),
        // Chunks come without a length.
        (
            |reply| {
                reply.body.push(0);
                reply.headers.push(("Transfer-Encoding", "chunked".into()));
                let length = format!("{:x}\r\n", reply.body.len());
                reply.body = [length.as_bytes(), &reply.body, b"\r\n0\r\n\r\n"].concat();
            },
            "found more",
        ),
        (
            |reply| {
                reply.status = 206;
                reply.headers.push(("Content-Range", "bytes 7-999999/1000000".into()));
            },
            "expected the bytes from 0 on, found those from 7 on",
        ),
    ];
    for (change, says) in cases {
        let (repository, _) = single();
        let cache = Cache::of(move |seen| {
            let mut reply = repository.answer(seen);
            if !seen.path.starts_with("/api") {
                change(&mut reply);
            }
            reply
        });
        let error = cache.fails("org/name", HubCause::Invalid, &[says]);
        assert!(error.starts_with("org/name/z.safetensors: "), "{error}");
        assert!(cache.list("blobs").iter().all(|blob| blob.ends_with(".incomplete")), "{says}");
    }
}

#[test]
fn refusals_are_not_repeated() {
    for (status, code, says) in [
        (401, "", "no such repository, or it is private (without a token the two look the same"),
        (401, "RepoNotFound", "no such repository, or it is private"),
        (401, "GatedRepo", "its terms have to be accepted at"),
        (403, "GatedRepo", "its terms have to be accepted at"),
        (403, "", "the token may not read it"),
        (404, "RepoNotFound", "there is no such repository"),
        (404, "RevisionNotFound", "there is no such revision"),
        (404, "", "there is no such repository, revision or file"),
        (400, "", "no reason was given"),
    ] {
        let cache = Cache::of(move |_| Reply::of(status, &[("X-Error-Code", code)]));
        let answered = format!("/api/models/org/name/revision/main answered {status}");
        cache.fails("org/name", HubCause::Status(status), &[&cache.server.url(), &answered, says]);
        assert_eq!(cache.server.seen().len(), 1, "{status} {code}");
    }
    let (repository, _) = single();
    let cache = Cache::of(move |seen| match seen.path.starts_with("/api") {
        true => repository.answer(seen),
        false => Reply::of(404, &[("X-Error-Code", "EntryNotFound")]),
    });
    cache.fails("org/name", HubCause::Status(404), &["org/name/z.safetensors: ", "there is no such file"]);
    cache.fails("org/name/y.safetensors", HubCause::Missing, &["the repository has z.safetensors"]);
}

#[test]
fn a_busy_hub_is_asked_again() {
    let (repository, weights) = single();
    let busy = [
        Reply::of(429, &[("Retry-After", "1")]),
        Reply::of(503, &[]),
        Reply::of(500, &[]),
        Reply::of(429, &[("RateLimit", "\"api\";r=0;t=1")]),
    ];
    let cache = Cache::of(move |seen| match busy.get(seen.before) {
        Some(reply) if seen.path.starts_with("/api") => reply.clone(),
        _ => repository.answer(seen),
    });
    let start = Instant::now();
    assert_eq!(fs::read(cache.pull("org/name").unwrap()).unwrap(), weights);
    assert!(start.elapsed() > Duration::from_secs(2), "both waits are kept");

    let cache = Cache::of(|_| Reply::of(503, &[]));
    cache.fails("org/name", HubCause::Status(503), &["the hub is in trouble"]);
    assert_eq!(cache.server.seen().len(), 5);
    let cache = Cache::of(|_| Reply::of(429, &[("Retry-After", "3600")]));
    cache.fails("org/name", HubCause::Status(429), &["try again in 3600 seconds"]);
    assert_eq!(cache.server.seen().len(), 1, "an hour is the user's decision");
}

#[test]
fn hostile_lists_are_rejected() {
    for path in ["../../etc/passwd", "/etc/passwd", "..\\..\\x", "C:\\x", "a/../../b"] {
        let cache = Cache::of(move |_| {
            let list = serde_json::json!({"sha": COMMIT, "siblings": [{"rfilename": path}, {"rfilename": "z.gguf"}]});
            Reply { body: list.to_string().into_bytes(), ..Reply::of(200, &[]) }
        });
        cache.fails("org/name", HubCause::Invalid, &["which is no path inside a folder"]);
        assert_eq!(fs::read_dir(cache.folder.path()).unwrap().count(), 0);
    }
    let cache = Cache::of(|_| Reply { body: vec![b' '; 17 << 20], ..Reply::of(200, &[]) });
    cache.fails("org/name", HubCause::Invalid, &["expected a list of files of at most 16777216 bytes"]);
    let cache = Cache::of(|_| Reply { body: b"<html>".to_vec(), ..Reply::of(200, &[]) });
    cache.fails("org/name", HubCause::Invalid, &["found broken JSON"]);
}

#[test]
fn a_list_without_hashes_is_completed_from_headers() {
    let (mut repository, weights) = single();
    repository.bare = true;
    let mirror = repository.clone();
    let cache = Cache::of(move |seen| mirror.answer(seen));
    let file = cache.pull("org/name").unwrap();
    assert_eq!(fs::read(&file).unwrap(), weights);
    let offline = Hub::new(HubSettings { offline: true, ..cache.settings() });
    assert_eq!(
        offline.resolve(&HubName::parse("org/name").unwrap(), &mut |_| ControlFlow::Continue(())).unwrap(),
        file
    );

    // The hub redirects to a storage, whose ETag is another one.
    let linked = hash("z.safetensors", &weights);
    let storage = repository.clone();
    let storage = Server::start(move |seen| storage.answer(seen)).url();
    let cache = Cache::of(move |seen| match seen.path.starts_with("/api") {
        true => repository.answer(seen),
        false => Reply::of(
            302,
            &[
                ("Location", &format!("{storage}{}", seen.path)),
                ("ETag", "\"other\""),
                ("X-Linked-Etag", &format!("\"{linked}\"")),
                ("X-Linked-Size", "1000000"),
            ],
        ),
    });
    assert_eq!(fs::read(cache.pull("org/name").unwrap()).unwrap(), weights);
}

#[test]
fn a_pipeline_of_another_model_is_not_downloaded() {
    let mut repository = Repository::pipeline();
    repository.files.insert("model_index.json".into(), br#"{"_class_name": "FluxPipeline"}"#.to_vec());
    let cache = Cache::of(move |seen| repository.answer(seen));
    let error = cache.pull("org/name").unwrap_err().to_string();
    assert!(error.contains("not a Z-Image model"), "{error}");
    assert_eq!(cache.server.files(), ["model_index.json"]);
    assert_eq!(cache.list("refs"), [""; 0], "an older commit stays the one to use");
}

#[test]
fn a_cancelled_download_goes_on_later() {
    let (repository, weights) = single();
    let stalls = Arc::new(Mutex::new(true));
    let stalling = stalls.clone();
    let cache = Cache::of(move |seen| {
        let mut reply = repository.answer(seen);
        if seen.path.ends_with(".safetensors") && *stalling.lock().unwrap() {
            (reply.cut, reply.pause) = (Some(400_000), Duration::from_secs(60));
        }
        reply
    });
    let name = HubName::parse("org/name").unwrap();
    let start = Instant::now();
    let cancelled = cache.hub().pull(&name, &mut |progress| match progress.done < 400_000 {
        true => ControlFlow::Continue(()),
        false => ControlFlow::Break(()),
    });
    assert!(matches!(cancelled, Err(Error::Cancelled)), "{cancelled:?}");
    assert!(start.elapsed() < Duration::from_secs(20), "a silent connection does not delay the end");
    assert_eq!(cache.list("snapshots"), [""; 0]);
    *stalls.lock().unwrap() = false;
    assert_eq!(fs::read(cache.pull("org/name").unwrap()).unwrap(), weights);
    assert_eq!(cache.server.seen().last().unwrap().from, Some(400_000));
}

#[test]
fn two_at_once_fetch_each_file_once() {
    let (repository, weights) = single();
    let cache = Cache::of(move |seen| {
        std::thread::sleep(Duration::from_millis(100));
        repository.answer(seen)
    });
    std::thread::scope(|threads| {
        let pulls: Vec<_> = (0..3).map(|_| threads.spawn(|| cache.pull("org/name").unwrap())).collect();
        for pull in pulls {
            assert_eq!(fs::read(pull.join().unwrap()).unwrap(), weights);
        }
    });
    assert_eq!(cache.server.files(), ["z.safetensors"]);
}

#[cfg(unix)]
#[test]
fn a_disk_that_is_too_small_is_seen_before_the_download() {
    let list = serde_json::json!({"sha": COMMIT, "siblings": [
        {"rfilename": "z.gguf", "size": u64::MAX, "blobId": "0".repeat(40)}]});
    let cache = Cache::of(move |_| Reply { body: list.to_string().into_bytes(), ..Reply::of(200, &[]) });
    let error = cache.pull("org/name").unwrap_err().to_string();
    assert!(error.contains("bytes left and the download needs 18446744073709551615"), "{error}");
    assert_eq!(cache.server.seen().len(), 1);
}

#[test]
fn a_cache_that_cannot_be_written_is_one_sentence() {
    let (repository, _) = single();
    let cache = Cache::of(move |seen| repository.answer(seen));
    fs::write(cache.folder.path().join("file"), "").unwrap();
    let hub = Hub::new(HubSettings { cache: cache.folder.path().join("file/hub"), ..cache.settings() });
    let error = hub.pull(&HubName::parse("org/name").unwrap(), &mut |_| ControlFlow::Continue(())).unwrap_err();
    assert!(matches!(error, Error::File { .. }));
    assert!(error.to_string().contains("the cache cannot be written") && error.to_string().contains("HF_HUB_CACHE"));
}
