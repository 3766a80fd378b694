//! The `cuda` backend without a GPU: every kernel file is consistent and compiles for every
//! architecture, and a missing library is reported in one sentence. The conformance suite tests the
//! ops.
#![cfg(feature = "cuda")]

use std::collections::BTreeSet;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use zimage::backend::cuda::{self, Cuda, File, Placement, Program};

/// Ampere, Ada, Hopper, and two architectures of Blackwell.
const ARCHITECTURES: [&str; 5] = ["sm_80", "sm_89", "sm_90a", "sm_100a", "sm_120a"];

/// True if NVRTC is installed. Otherwise prints a line that the test is skipped.
fn nvrtc() -> bool {
    let empty = Program::new("empty", File { name: "empty.cu", text: "extern \"C\" __global__ void empty() {}" });
    let Err(error) = cuda::compile(&empty, "sm_80") else { return true };
    let sentence = error.to_string();
    assert!(sentence.contains("libnvrtc") || sentence.contains("nvrtc64"), "{sentence}");
    let _ = writeln!(std::io::stderr(), "skipped: cuda: {sentence}");
    false
}

/// Runs `job` on all items, on all cores.
fn on_all_cores<T: Send>(items: Vec<T>, job: impl Fn(T) + Sync) {
    let items = Mutex::new(items.into_iter());
    std::thread::scope(|scope| {
        for _ in 0..std::thread::available_parallelism().map_or(1, usize::from) {
            scope.spawn(|| {
                loop {
                    let next = items.lock().unwrap().next();
                    let Some(item) = next else { break };
                    job(item);
                }
            });
        }
    });
}

fn with_architectures(programs: impl Fn(&str) -> Vec<Program>) -> Vec<(Program, &'static str)> {
    let with = |architecture| programs(architecture).into_iter().map(move |program| (program, architecture));
    ARCHITECTURES.into_iter().flat_map(with).collect()
}

#[test]
fn every_kernel_compiles_for_every_architecture() {
    if !nvrtc() {
        return;
    }
    let jobs = with_architectures(cuda::programs);
    assert!(jobs.len() > 300, "only {} kernels", jobs.len());
    on_all_cores(jobs, |(program, architecture)| compiles(&program, architecture));
}

/// The spill budget of a thread, in bytes of registers: some variants spill a few before their main
/// loop. An array that was not unrolled, or accumulators that do not fit, spill hundreds.
const SPILLS: u32 = 64;

fn compiles(program: &Program, architecture: &str) {
    let name = program.label();
    let compiled = cuda::compile(program, architecture).unwrap_or_else(|error| panic!("{error}"));
    assert!(compiled.cubin.starts_with(b"\x7fELF"), "{name} for {architecture}");
    // tools/sass/compare.py reads these files.
    if let Some(folder) = std::env::var_os("ZIMAGE_CUBINS") {
        let folder = Path::new(&folder).join(architecture);
        std::fs::create_dir_all(&folder).unwrap();
        std::fs::write(folder.join(name.replace('/', ".") + ".cubin"), &compiled.cubin).unwrap();
    }
    let spilled = |line: &str| {
        let (before, _) = line.split_once(" bytes spill stores")?;
        before.rsplit(' ').next()?.parse::<u32>().ok()
    };
    let spills: Vec<u32> = compiled.log.lines().filter_map(spilled).collect();
    assert!(!spills.is_empty(), "{name} for {architecture}: {}", compiled.log);
    assert!(spills.iter().all(|&bytes| bytes <= SPILLS), "{name} for {architecture} spills {spills:?} bytes");
    // ptxas warns like this about a wgmma that is serialized and a setmaxnreg that is ignored.
    let complaint = ["serialized", "ignored"].into_iter().find(|word| compiled.log.contains(word));
    assert_eq!(complaint, None, "{name} for {architecture}: {}", compiled.log);
}

/// The kernel files and the headers that they include, for an architecture.
fn files(architecture: &str) -> BTreeSet<(&'static str, &'static str)> {
    let of = |program: Program| program.headers().unwrap().into_iter().chain([program.file()]);
    cuda::programs(architecture).into_iter().flat_map(of).map(|file| (file.name, file.text)).collect()
}

/// For Hopper, whose programs use every file; no include depends on the architecture.
#[test]
fn every_file_compiles_alone() {
    if !nvrtc() {
        return;
    }
    let jobs = files("sm_90a").into_iter().map(|(name, text)| Program::new("alone", File { name, text })).collect();
    on_all_cores(jobs, |program| {
        cuda::compile(&program, "sm_90a").unwrap_or_else(|error| panic!("{error}"));
    });
}

#[test]
fn every_file_has_a_program() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("kernels");
    let mut on_disk = BTreeSet::new();
    let mut folders = vec![root.clone()];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            let is_source = path.extension().is_some_and(|extension| extension == "cu" || extension == "cuh");
            if path.is_dir() {
                folders.push(path);
            } else if is_source {
                let name = path.strip_prefix(&root).unwrap().to_str().unwrap().replace('\\', "/");
                on_disk.insert(name);
            }
        }
    }
    let used: BTreeSet<String> = files("sm_90a").into_iter().map(|(name, _)| name.to_owned()).collect();
    assert_eq!(on_disk, used);
}

/// The names with a default value in an `#ifndef` block of `text`.
fn defaults(text: &'static str) -> impl Iterator<Item = &'static str> {
    let blocks = text.split("\n#ifndef ").skip(1).filter_map(|rest| rest.split("\n#endif").next());
    let names = |line: &'static str| line.strip_prefix("#define ")?.split(' ').next();
    blocks.flat_map(move |block| block.lines().filter_map(names))
}

/// A constant that a launcher omits would silently take its default, which exists for editors.
#[test]
fn programs_define_all_their_constants() {
    for program in cuda::programs("sm_90a") {
        let files = program.headers().unwrap().into_iter().chain([program.file()]);
        let declared: BTreeSet<&str> = files.flat_map(|file| defaults(file.text)).collect();
        assert_eq!(program.constants().collect::<BTreeSet<_>>(), declared, "{}", program.label());
    }
}

#[test]
fn waiting_programs_declare_dependent_launch() {
    for program in cuda::programs("sm_90a") {
        let waits = program.source().contains("griddepcontrol_wait();");
        assert_eq!(program.is_pdl(), waits, "{}", program.label());
    }
}

/// The text before each `griddepcontrol_wait` of a kernel, and the kernel's parameters in memory:
/// pointers, tensor maps, and structs that may hold either.
fn before_waits(source: &str) -> Vec<(&str, Vec<&str>)> {
    let waits = source.match_indices("\n    griddepcontrol_wait();").map(|(at, _)| &source[..at]);
    waits
        .map(|text| {
            let start = text.rfind("__global__").max(text.rfind("__device__")).expect("a wait is in a function");
            let (head, body) = text[start..].split_once(") {\n").expect("a function has a body");
            // The parameters are inside the last parentheses that open at the outermost level.
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

/// The name of the declared parameter.
fn declared(parameter: &str) -> &str {
    parameter.trim().rsplit([' ', '*', '&']).next().unwrap_or_default()
}

/// With programmatic dependent launch the preceding kernel may still be writing. Neither the
/// emulation nor most runs on a GPU would reveal a read that comes too early.
#[test]
fn kernels_wait_before_memory_access() {
    let mut seen = 0;
    for program in cuda::programs("sm_90a") {
        let name = program.label();
        for (body, parameters) in before_waits(&program.source()) {
            seen += 1;
            assert!(!parameters.is_empty(), "{name}: {body}");
            let words = body.split(|c: char| !c.is_alphanumeric() && c != '_');
            let touched: Vec<&str> = words.filter(|word| parameters.contains(word)).collect();
            assert_eq!(touched, Vec::<&str>::new(), "{name}");
        }
    }
    assert!(seen > 50, "only {seen} kernels wait");
    let early = "__global__ void __launch_bounds__(32) f(const float *x, unsigned n) {\n    float a = x[0];\n    \
                 griddepcontrol_wait();\n";
    assert_eq!(before_waits(early), [("    float a = x[0];", vec!["x"])]);
}

/// The error for a file that fails to compile.
fn rejected(text: &'static str) -> zimage::Error {
    let program = Program::new("broken", File { name: "broken.cu", text });
    let Err(error) = cuda::compile(&program, "sm_80") else { panic!("it compiled") };
    error
}

#[test]
fn invalid_kernel_is_one_sentence() {
    let error = rejected("#include \"common/types.cuh\"\nextern \"C\" __global__ void broken( {}");
    let sentence = error.to_string();
    assert!(matches!(error, zimage::Error::Device(_)) && !sentence.contains('\n'), "{sentence}");
    let missing = sentence.contains("libnvrtc") || sentence.contains("nvrtc64");
    let right =
        sentence.starts_with("broken.cu cannot be compiled for sm_80: ") && sentence.contains("broken.cu(2): error");
    assert!(missing || right, "{sentence}");
}

#[test]
fn missing_include_is_named() {
    let error = rejected("#include \"common/none.cuh\"\n");
    let sentence = "broken.cu cannot be compiled: broken.cu includes common/none.cuh, which is not in kernels/";
    assert!(matches!(&error, zimage::Error::Internal(found) if found == sentence), "{error}");
}

/// The driver's library, if it is installed.
fn driver() -> Option<PathBuf> {
    let named = std::env::var_os("LD_LIBRARY_PATH").unwrap_or_default();
    let usual =
        ["/usr/lib64", "/usr/lib", "/usr/lib/x86_64-linux-gnu", "/usr/lib/aarch64-linux-gnu", "/usr/lib/wsl/lib"];
    let folders = std::env::split_paths(&named).chain(usual.map(PathBuf::from));
    let mut places = folders.flat_map(|folder| ["libcuda.so", "libcuda.so.1"].map(|name| folder.join(name)));
    places.find(|path| path.exists())
}

#[test]
fn missing_driver_is_one_sentence() {
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
