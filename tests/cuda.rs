//! The `cuda` backend without a GPU: every kernel is compiled for every architecture that is named, and what is missing
//! gets a sentence. What its verbs mean is for the conformance suite.
#![cfg(feature = "cuda")]

use std::io::Write;
use std::path::PathBuf;
use std::sync::Mutex;
use zimage::backend::cuda::{self, Cuda, Placement};

/// Ampere's two, Hopper, and Blackwell's two.
const ARCHITECTURES: [&str; 5] = ["sm_80", "sm_89", "sm_90a", "sm_100a", "sm_120a"];

#[test]
fn every_kernel_compiles_for_every_architecture() {
    if let Err(error) = cuda::compile("empty", "extern \"C\" __global__ void empty() {}", "sm_80") {
        let sentence = error.to_string();
        assert!(sentence.contains("libnvrtc") || sentence.contains("nvrtc64"), "{sentence}");
        writeln!(std::io::stderr(), "skipped: cuda: {sentence}").unwrap();
        return;
    }
    let jobs: Vec<_> = ARCHITECTURES
        .iter()
        .flat_map(|architecture| cuda::kernels(architecture).into_iter().map(move |kernel| (kernel, *architecture)))
        .collect();
    assert!(jobs.len() > 300, "only {} kernels", jobs.len());
    let jobs = Mutex::new(jobs.into_iter());
    std::thread::scope(|scope| {
        for _ in 0..std::thread::available_parallelism().map_or(1, usize::from) {
            scope.spawn(|| {
                loop {
                    let next = jobs.lock().unwrap().next();
                    let Some(((name, source), architecture)) = next else { break };
                    compiles(&name, &source, architecture);
                }
            });
        }
    });
}

/// Bytes of registers that a thread may keep in memory: some variants put a few aside before their loop. An array that
/// was not unrolled, or accumulators that do not fit, are hundreds.
const SPILLS: u32 = 64;

fn compiles(name: &str, source: &str, architecture: &str) {
    let compiled = cuda::compile(name, source, architecture).unwrap_or_else(|error| panic!("{error}"));
    assert!(compiled.cubin.starts_with(b"\x7fELF"), "{name} for {architecture}");
    let spilled = |line: &str| {
        let (before, _) = line.split_once(" bytes spill stores")?;
        before.rsplit(' ').next()?.parse::<u32>().ok()
    };
    let spills: Vec<u32> = compiled.log.lines().filter_map(spilled).collect();
    assert!(!spills.is_empty(), "{name} for {architecture}: {}", compiled.log);
    assert!(spills.iter().all(|&bytes| bytes <= SPILLS), "{name} for {architecture} spills {spills:?} bytes");
    // What ptxas says when it makes wgmma wait after each instruction, or does not move registers between warpgroups.
    let complaint = ["serialized", "ignored"].into_iter().find(|word| compiled.log.contains(word));
    assert_eq!(complaint, None, "{name} for {architecture}: {}", compiled.log);
}

/// What comes before the wait of a kernel that starts early, and its parameters that lie in memory: pointers, tensor maps, and
/// structures that hold some.
fn before_waits(source: &str) -> Vec<(&str, Vec<&str>)> {
    let waits = source.match_indices("\n    wait_for_previous();").map(|(at, _)| &source[..at]);
    waits
        .map(|text| {
            let start = text.rfind("__global__").max(text.rfind("__device__")).expect("a wait is in a function");
            let (head, body) = text[start..].split_once(") {\n").expect("a function has a body");
            // The parameters stand in the last parentheses that are opened at the outermost level.
            let mut depth = 1;
            let open = head.char_indices().rev().find(|(_, c)| {
                depth += match c {
                    ')' => 1,
                    '(' => -1,
                    _ => 0,
                };
                depth == 0
            });
            let parameters = head[open.expect("a function has parameters").0 + 1..].split(',');
            let in_memory = parameters.filter(|p| p.contains(['*', '&']) || p.contains("TensorMap"));
            (body, in_memory.map(declared).collect())
        })
        .collect()
}

/// The name that a parameter declares.
fn declared(parameter: &str) -> &str {
    parameter.trim().rsplit([' ', '*', '&']).next().unwrap_or_default()
}

/// The driver starts these kernels while the one before still runs, and neither the emulation nor most runs on a GPU would show
/// that one reads too early.
#[test]
fn a_kernel_that_starts_early_touches_nothing_before_it_waits() {
    let mut seen = 0;
    for (name, source) in cuda::kernels("sm_90a") {
        for (body, parameters) in before_waits(&source) {
            seen += 1;
            assert!(!parameters.is_empty(), "{name}: {body}");
            let words = body.split(|c: char| !c.is_alphanumeric() && c != '_');
            let touched: Vec<&str> = words.filter(|word| parameters.contains(word)).collect();
            assert_eq!(touched, Vec::<&str>::new(), "{name}");
        }
    }
    assert!(seen > 50, "only {seen} kernels start early");
    let early = "__global__ void __launch_bounds__(32) f(const float *x, unsigned n) {\n    float a = x[0];\n    wait_for_previous();\n";
    assert_eq!(before_waits(early), [("    float a = x[0];", vec!["x"])]);
}

#[test]
fn a_text_that_is_no_kernel_is_refused_with_a_sentence() {
    let Err(error) = cuda::compile("broken.cu", "extern \"C\" __global__ void broken( {}", "sm_80") else {
        panic!("it compiled")
    };
    let sentence = error.to_string();
    assert!(matches!(error, zimage::Error::Device(_)) && !sentence.contains('\n'), "{sentence}");
    let missing = sentence.contains("libnvrtc") || sentence.contains("nvrtc64");
    assert!(missing || sentence.starts_with("broken.cu cannot be compiled for sm_80: "), "{sentence}");
}

/// Where the system may find the driver's library.
fn driver() -> Option<PathBuf> {
    let named = std::env::var_os("LD_LIBRARY_PATH").unwrap_or_default();
    let usual =
        ["/usr/lib64", "/usr/lib", "/usr/lib/x86_64-linux-gnu", "/usr/lib/aarch64-linux-gnu", "/usr/lib/wsl/lib"];
    let folders = std::env::split_paths(&named).chain(usual.map(PathBuf::from));
    let mut places = folders.flat_map(|folder| ["libcuda.so", "libcuda.so.1"].map(|name| folder.join(name)));
    places.find(|path| path.exists())
}

#[test]
fn a_missing_driver_gets_one_sentence() {
    if let Some(driver) = driver() {
        writeln!(std::io::stderr(), "skipped: cuda: {} is here", driver.display()).unwrap();
        return;
    }
    let sentence = "there is no NVIDIA driver: libcuda.so.1 is nowhere where the system looks for libraries; it comes \
                    with the driver of an NVIDIA GPU (https://www.nvidia.com/drivers)";
    assert!(!Cuda::present());
    let error = Cuda::open(0, Placement::default()).unwrap_err();
    assert!(matches!(error, zimage::Error::Device(_)));
    assert_eq!(error.to_string(), sentence);

    #[cfg(feature = "cli")]
    {
        let output = assert_cmd::Command::new(env!("CARGO_BIN_EXE_zimage"))
            .args(["parity", "-q", "--backends", "cpu,cuda", "--filter", "rms_norm"])
            .output()
            .unwrap();
        assert_eq!(output.status.code(), Some(4));
        assert_eq!(String::from_utf8(output.stderr).unwrap(), format!("error: {sentence}\n"));
    }
}
