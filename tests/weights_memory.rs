//! A hostile weight file must not make the reader allocate without bound: at most a few times the
//! actual size of the file, whatever sizes it claims. This program has one test, because its
//! allocator counts every allocation of the process.

use std::alloc::{GlobalAlloc, Layout, System};
use std::fs;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::time::{Duration, Instant};
use zimage::weights::{ModelFolder, Tensors};

static LIVE: AtomicUsize = AtomicUsize::new(0);
static PEAK: AtomicUsize = AtomicUsize::new(0);

struct Counting;

// SAFETY: every call is forwarded unchanged to the system's allocator.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        PEAK.fetch_max(LIVE.fetch_add(layout.size(), Relaxed) + layout.size(), Relaxed);
        // SAFETY: the caller upholds the contract of the system's allocator.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        LIVE.fetch_sub(layout.size(), Relaxed);
        // SAFETY: as above.
        unsafe { System.dealloc(pointer, layout) }
    }
}

#[global_allocator]
static COUNTING: Counting = Counting;

#[test]
fn memory_and_time_stay_linear() {
    const LENGTH: usize = 4 << 20;
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("model_index.json"), r#"{"_class_name": "ZImagePipeline"}"#).unwrap();
    fs::create_dir(dir.path().join("vae")).unwrap();
    let folder = ModelFolder::open(dir.path()).unwrap();
    let header = |json: String| [&(json.len() as u64).to_le_bytes()[..], json.as_bytes()].concat();
    let entry = |i: usize| format!(r#""{i}":{{"dtype":"U8","shape":[0],"data_offsets":[0,0]}}"#);
    let shaped = |i: usize| format!(r#""{i}":{{"dtype":"U8","shape":[{}0],"data_offsets":[0,0]}}"#, "1,".repeat(15));
    let cases = [
        ("a length without a header", 100_000_000u64.to_le_bytes().to_vec()),
        ("a long shape", header(format!(r#"{{"a":{{"dtype":"U8","shape":[{}1]"#, "1,".repeat(LENGTH / 2)))),
        ("long metadata", header(format!(r#"{{"__metadata__":[{}1]"#, "1,".repeat(LENGTH / 2)))),
        ("deep metadata", header(format!(r#"{{"__metadata__":{}"#, "[".repeat(LENGTH)))),
        ("a long name", header(format!(r#"{{"{}":1}}"#, "a".repeat(LENGTH)))),
        ("a long type", header(format!(r#"{{"a":{{"dtype":"{}"}}}}"#, "a".repeat(LENGTH)))),
        ("many shapes", header(format!("{{{}}}", (0..LENGTH / 100).map(shaped).collect::<Vec<_>>().join(",")))),
        ("many tensors", header(format!("{{{}}}", (0..LENGTH / 60).map(entry).collect::<Vec<_>>().join(",")))),
    ];
    for (case, bytes) in cases {
        fs::write(dir.path().join("vae/model.safetensors"), &bytes).unwrap();
        let before = LIVE.load(Relaxed);
        PEAK.store(before, Relaxed);
        let start = Instant::now();
        let opened = pollster::block_on(Tensors::open(&folder, "vae", "model"));
        let (peak, took) = (PEAK.load(Relaxed) - before, start.elapsed());
        println!("{case}: {peak} bytes for {}, {took:?}", bytes.len());
        assert_eq!(opened.is_ok(), case.starts_with("many"), "{case}");
        assert!(peak <= 16 * bytes.len() + (1 << 20), "{case}: {peak} bytes for a file of {}", bytes.len());
        // A linear reader takes well under a second; a quadratic one would take hours.
        assert!(took < Duration::from_secs(20), "{case}: {took:?}");
    }
    // A file that would need a thousand times the memory of a valid one is refused before it is
    // read.
    let index = dir.path().join("model_index.json");
    fs::write(&index, format!(r#"{{"_class_name": "ZImagePipeline", "x": [{}0]}}"#, "0,".repeat(30 << 20))).unwrap();
    let tensors = dir.path().join("vae/model.safetensors");
    let many = (0..(1 << 17) + 1).map(|i| format!(r#""{i}":{{"dtype":"U8","shape":[0],"data_offsets":[0,0]}}"#));
    fs::write(&tensors, header(format!("{{{}}}", many.collect::<Vec<_>>().join(",")))).unwrap();
    let before = LIVE.load(Relaxed);
    PEAK.store(before, Relaxed);
    let error = ModelFolder::open(dir.path()).unwrap_err().to_string();
    assert!(error.contains("model_index.json: expected at most 1048576 bytes, found 62"), "{error}");
    assert!(PEAK.load(Relaxed) - before < 1 << 20);
    let error = pollster::block_on(Tensors::open(&folder, "vae", "model")).unwrap_err().to_string();
    assert!(error.contains("expected at most 131072 tensors, found more"), "{error}");
}
