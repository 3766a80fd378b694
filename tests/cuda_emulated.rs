//! The `cuda` backend on an emulated device: every op against `cpu`, in several thread orders, with
//! each tensor in its own allocation that ends at its last element; and the backend's errors when
//! the device fails.
//!
//! The driver is loaded once per process, and a kernel's error is sticky, so each test runs itself
//! again in a process of its own.
#![cfg(feature = "cuda")]

#[path = "support/emulated_cuda.rs"]
mod emulated_cuda;
#[path = "support/tiles.rs"]
mod tiles;

use emulated_cuda::emulated;
use pollster::block_on;
use zimage::backend::cpu::Cpu;
use zimage::backend::cuda::{Cuda, Placement};
use zimage::backend::*;
use zimage::conformance::{Options, compare};
use zimage::model::vae::tiling::{Home, Tile};
use zimage::tensor::{Format, HostTensor, Storage, Weight};

fn cuda() -> Cuda {
    Cuda::open(0, Placement::Separate).unwrap()
}

fn ops_agree() {
    let report = block_on(compare(&Cpu::new(), &cuda(), &Options::default())).unwrap();
    assert!(report.passed(), "{report}");
    assert!(report.rows.iter().map(|row| row.cases).sum::<usize>() > 200, "{report}");
}

#[test]
fn ops_agree_with_cpu() {
    emulated("ops_agree_with_cpu", &[], ops_agree);
}

#[test]
fn ops_agree_in_any_thread_order() {
    let test = "ops_agree_in_any_thread_order";
    emulated(test, &[("EMULATED_CUDA_SEED", "1")], ops_agree);
}

/// Tests the Hopper kernels, on a device that reports that architecture.
fn on_hopper(test: &str, settings: &[(&str, &str)]) {
    let settings = [&[("EMULATED_CUDA_CAPABILITY", "9")], settings].concat();
    emulated(test, &settings, || {
        assert!(cuda().device().ends_with("kernels for Hopper"), "{}", cuda().device());
        for filter in ["linear/", "swiglu/", "project_qkv/", "attention/", "conv2d/"] {
            let options = Options { filter: filter.into(), ..Options::default() };
            let report = block_on(compare(&Cpu::new(), &cuda(), &options)).unwrap();
            assert!(report.passed() && report.cases() > 5, "{report}");
        }
    });
}

#[test]
fn hopper_agrees_with_cpu() {
    on_hopper("hopper_agrees_with_cpu", &[]);
}

#[test]
fn hopper_agrees_in_any_thread_order() {
    // With one SM, a CTA computes several tiles, and wide ones.
    let settings = [("EMULATED_CUDA_SEED", "2"), ("EMULATED_CUDA_MULTIPROCESSORS", "1")];
    on_hopper("hopper_agrees_in_any_thread_order", &settings);
}

#[test]
fn out_of_memory_is_reported_and_survived() {
    emulated("out_of_memory_is_reported_and_survived", &[("EMULATED_CUDA_MEMORY_MB", "8")], || {
        let b = cuda();
        let large = HostTensor::from_f32(&[4 << 20], &vec![1.0; 4 << 20]);
        let error = b.upload(&large).unwrap_err();
        assert!(matches!(error, zimage::Error::OutOfMemory { .. }), "{error:?}");
        let sentence = error.to_string();
        assert!(sentence.contains("no memory left for a tensor of shape [4194304] (0.02 GiB)"), "{sentence}");
        assert!(sentence.ends_with("of 0.01 GiB are free"), "{sentence}");
        // A finished recording allocates all of its memory at once: here 6 MiB, of 5 free in 8.
        let pixels = b.upload(&HostTensor::from_u8(&[1, 1 << 10, 1 << 10, 3], &vec![0; 3 << 20])).unwrap();
        let mut made = None;
        let sentence = b.record(|b| b.normalize_rgb8(&pixels).map(|x| made = Some(x))).unwrap_err().to_string();
        assert!(sentence.contains("no memory left for a recording (0.01 GiB)"), "{sentence}");
        let sentence = block_on(b.download(&made.unwrap())).unwrap_err().to_string();
        assert!(sentence.contains("no memory before it is whole"), "{sentence}");
        let small = b.upload(&HostTensor::from_f32(&[2], &[1.0, 2.0])).unwrap();
        assert_eq!(block_on(b.download(&small)).unwrap().to_f32(), [1.0, 2.0]);
    });
}

/// A weight spans several buffers, and its rows do not end at the buffers' ends.
#[test]
fn large_weights_upload_correctly() {
    emulated("large_weights_upload_correctly", &[], || {
        for placement in [Placement::Separate, Placement::default()] {
            let b = Cuda::open(0, placement).unwrap();
            let values: Vec<u32> = (0..30_000_000).collect();
            let tensor = HostTensor::from_u32(&[values.len()], &values);
            let copy = b.upload(&tensor).unwrap();
            assert!(block_on(b.download(&copy)).unwrap().bytes() == tensor.bytes());
            drop(copy);
            b.trim();

            let (rows, width) = (2_000, 301);
            let part = |scale: f32| {
                let values: Vec<f32> = (0..rows * width).map(|i| scale * ((i * 7919 % 251) as f32 - 125.0)).collect();
                HostTensor::from_f32(&[rows, width], &values)
            };
            let [first, second] = [part(1.0 / 128.0), part(-1.0 / 64.0)];
            // One element of a row at a time: a gemm with a unit vector returns a column.
            let column = 297;
            let mut unit = vec![0.0; width];
            unit[column] = 1.0;
            let x = HostTensor::from_f32(&[1, 1, width], &unit);
            let run = |b: &Cuda| {
                let w = block_on(b.upload_linear(&[(&first).into(), (&second).into()], &[]))?;
                block_on(b.download(&b.linear(&b.upload(&x)?, &w)?))
            };
            let column_of = |part: &HostTensor| part.to_f32().chunks(width).map(|row| row[column]).collect::<Vec<_>>();
            assert_eq!(run(&b).unwrap().to_f32(), [column_of(&first), column_of(&second)].concat());
        }
    });
}

#[test]
fn failed_kernel_makes_the_device_unusable() {
    emulated("failed_kernel_makes_the_device_unusable", &[("EMULATED_CUDA_FAIL_LAUNCH", "1")], || {
        let b = cuda();
        let pixels = b.upload(&HostTensor::from_u8(&[1, 1, 1, 3], &[1, 2, 3])).unwrap();
        let error = match b.normalize_rgb8(&pixels) {
            Ok(x) => block_on(b.download(&x)).unwrap_err(),
            Err(error) => error,
        };
        assert!(matches!(error, zimage::Error::Lost(_)), "{error:?}");
        assert!(error.to_string().contains("start the program again"), "{error}");
    });
}

#[cfg(feature = "embedded-model")]
#[test]
fn small_device_draws_without_options() {
    emulated("small_device_draws_without_options", &[("EMULATED_CUDA_MEMORY_MB", "96")], || {
        let engine = auto();
        let request =
            zimage::Request { width: Some(32), height: Some(32), steps: Some(1), ..zimage::Request::new("a red fox") };
        let progress = &mut |_| std::ops::ControlFlow::Continue(());
        let output = block_on(engine.generate(&request, progress)).unwrap();
        assert_eq!((engine.backend(), output.run.offload), ("cuda", zimage::Offload::Stream));
    });
}

/// The first replay of a step launches its work, the second captures a graph, the third runs it.
#[cfg(feature = "embedded-model")]
#[test]
fn streamed_weights_draw_the_same_picture() {
    use zimage::{model::Streaming, pipeline::plan::*, tensor::StreamSource};
    emulated("streamed_weights_draw_the_same_picture", &[("EMULATED_CUDA_SEED", "3")], || {
        let draw = |offload, max_memory, max_host_memory| {
            let model = zimage::Model::embedded().unwrap();
            let (width, height) = (48, 32);
            let expected = Expected { size: [width, height], ..Expected::default_of(model.config()) };
            let residency = Residency { offload, max_memory, max_host_memory, expected: Some(expected) };
            let options = zimage::LoadOptions { residency, ..zimage::BackendChoice::Cuda { index: 0 }.into() };
            let progress = &mut |_| std::ops::ControlFlow::Continue(());
            let engine = block_on(zimage::Engine::load(&model, options, progress)).unwrap();
            let request = zimage::Request::new("a red fox");
            let request = zimage::Request { width: Some(width), height: Some(height), steps: Some(3), ..request };
            let output = block_on(engine.generate(&request, progress)).unwrap();
            let again = block_on(engine.generate(&request, progress)).unwrap();
            assert!(output.images[0].pixels == again.images[0].pixels);
            println!("{}; {} bytes at the peak", engine.plan(), engine.peak_memory().unwrap());
            assert_eq!(output.run.offload, offload);
            (output.images[0].pixels.clone(), engine.plan().clone())
        };
        let (resident, all) = draw(Offload::None, None, None);
        let (streamed, none) = draw(Offload::Stream, None, None);
        assert!(matches!(none.transformer, Streaming::AllBut { resident: 0, .. }), "{none}");
        assert!(streamed == resident);
        // A new backend already has a slab.
        let (new, much) = (Cuda::open(0, Placement::Slabs).unwrap(), 1 << 30);
        assert!(new.limit_memory(much));
        let taken = much - new.free_memory().unwrap();
        let (streamed, some) = draw(Offload::Stream, Some(taken + (none.peak + all.peak) / 2), None);
        assert!(matches!(some.transformer, Streaming::AllBut { resident: 1..=8, .. }), "{some}");
        assert!(streamed == resident);
        // The host has no memory for either network, but files hold their matrices.
        let (streamed, mapped) = draw(Offload::Stream, None, Some(500_000));
        let from_files = |streaming| matches!(streaming, Streaming::AllBut { source: StreamSource::Files, .. });
        assert!(from_files(mapped.transformer) && from_files(mapped.text_encoder), "{mapped}");
        assert!(streamed == resident);
    });
}

/// Compares the autoencoder of a small model in tiles with the cpu's whole pictures. The moments of
/// tiles differ in their last digits from those of the whole picture, which turns the rounding of a
/// few BF16 activations and of all that follows: tiles are as far from the exact result as the
/// whole picture is, and as far from that.
fn tiles_agree() {
    let path = std::path::Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/goldens/single"));
    let model = zimage::Model::open(path).unwrap();
    let size = [24, 16];
    let exact = tiles::coded(&loaded(Cpu::new(), &model), size, None);
    let pipeline = loaded(cuda(), &model);
    let whole = tiles::errors(&tiles::coded(&pipeline, size, None), &exact);
    for (pixels, home) in [(8, Home::Host), (8, Home::Device), (16, Home::Device)] {
        let tile = Tile { pixels, home };
        let tiled = tiles::errors(&tiles::coded(&pipeline, size, Some(tile)), &exact);
        println!("{tile}: {tiled:?}, whole: {whole:?}");
        assert!(tiled[0] < 1.5 * whole[0] && tiled[1] < 1.5 * whole[1], "{tiled:?} {whole:?}");
        assert!(whole.iter().all(|&error| error < 0.02), "{whole:?}");
    }
}

fn loaded<B: Backend>(b: B, model: &zimage::Model) -> zimage::pipeline::Pipeline<B> {
    let progress = &mut |_| std::ops::ControlFlow::Continue(());
    block_on(zimage::pipeline::Pipeline::load(b, model, progress)).unwrap()
}

#[test]
fn tiles_equal_the_whole_picture() {
    emulated("tiles_equal_the_whole_picture", &[], tiles_agree);
}

#[test]
fn tiles_equal_the_whole_picture_on_hopper() {
    let test = "tiles_equal_the_whole_picture_on_hopper";
    emulated(test, &[("EMULATED_CUDA_CAPABILITY", "9")], tiles_agree);
}

/// The result for a row that does not exist is undefined, but no kernel reads out of bounds for it.
#[test]
fn invalid_indices_stay_in_bounds() {
    emulated("invalid_indices_stay_in_bounds", &[], || {
        let b = cuda();
        let table = HostTensor::from_f32(&[4, 8], &[1.0; 32]).into();
        let table = block_on(b.upload_table(&table)).unwrap();
        let ids = b.upload(&HostTensor::from_u32(&[2], &[0, 1_000_000])).unwrap();
        let rows = b.gather_rows(&table, &ids).unwrap();
        assert_eq!(block_on(b.download(&rows)).unwrap().to_f32()[..8], [1.0; 8]);
    });
}

/// The embedded model on the backend selected by `auto`.
#[cfg(feature = "embedded-model")]
fn auto() -> zimage::Engine {
    let progress = &mut |_| std::ops::ControlFlow::Continue(());
    block_on(zimage::Engine::load(&zimage::Model::embedded().unwrap(), zimage::BackendChoice::Auto, progress)).unwrap()
}

/// Asserts that `auto` falls back to another backend and gives the reason `sentence`, and that it
/// says so if the fallback is the CPU.
#[cfg(feature = "embedded-model")]
fn goes_on_with(sentence: &str) {
    let engine = auto();
    let (first, rest) = engine.warnings().split_first().unwrap();
    assert_eq!(*first, format!("the NVIDIA GPU is not used through CUDA: {sentence}"));
    match engine.backend() {
        "cpu" => assert!(rest.len() == 1 && rest[0].ends_with("so the processor computes"), "{rest:?}"),
        other => assert!(other == "webgpu" && rest.is_empty(), "{other}: {rest:?}"),
    }
}

#[cfg(feature = "embedded-model")]
#[test]
fn auto_prefers_cuda() {
    emulated("auto_prefers_cuda", &[], || {
        let engine = auto();
        assert_eq!((engine.backend(), engine.warnings().len()), ("cuda", 0));
    });
}

#[cfg(feature = "embedded-model")]
#[test]
fn auto_skips_an_old_device() {
    let test = "auto_skips_an_old_device";
    emulated(test, &[("EMULATED_CUDA_CAPABILITY", "7")], || {
        let sentence = Cuda::open(0, Placement::Separate).unwrap_err().to_string();
        assert!(sentence.contains("has compute capability 7.0"), "{sentence}");
        goes_on_with(&sentence);
    });
}

#[cfg(feature = "embedded-model")]
#[test]
fn auto_skips_cuda_without_nvrtc() {
    let test = "auto_skips_cuda_without_nvrtc";
    // A folder without the library, and a search path that holds only the driver.
    let Some(folder) = emulated_cuda::built() else { return };
    let alone = tempfile::tempdir().unwrap();
    std::fs::copy(folder.join("libcuda.so"), alone.path().join("libcuda.so")).unwrap();
    let path = alone.path().to_str().unwrap();
    emulated(test, &[("LD_LIBRARY_PATH", path), ("ZIMAGE_NVRTC", path)], || {
        let error = Cuda::open(0, Placement::Separate);
        let Err(error) = error else {
            // A system-wide installation is found anyway.
            return;
        };
        let sentence = error.to_string();
        assert!(sentence.contains("libnvrtc.so") && sentence.contains("pip install"), "{sentence}");
        goes_on_with(&sentence);
    });
}

#[test]
fn old_driver_is_refused() {
    emulated("old_driver_is_refused", &[("EMULATED_CUDA_DRIVER", "11080")], || {
        let sentence = Cuda::open(0, Placement::Separate).unwrap_err().to_string();
        assert!(sentence.starts_with("the NVIDIA driver is of CUDA 11, ") && sentence.contains("update"), "{sentence}");
    });
}

#[test]
fn missing_gpu_is_no_error() {
    emulated("missing_gpu_is_no_error", &[("EMULATED_CUDA_DEVICES", "0")], || {
        assert!(!Cuda::present());
        let sentence = Cuda::open(0, Placement::Separate).unwrap_err().to_string();
        assert!(sentence.contains("sees no GPU"), "{sentence}");
    });
}

/// The entry's magic, checksum and key length, which precede the key and the machine code.
const ENTRY_HEAD: usize = 20;

#[test]
fn damaged_machine_code_is_compiled_again() {
    let caches = tempfile::tempdir().unwrap();
    let test = "damaged_machine_code_is_compiled_again";
    emulated(test, &[("XDG_CACHE_HOME", caches.path().to_str().unwrap())], || {
        let run = || {
            let b = cuda();
            let pixels = b.upload(&HostTensor::from_u8(&[1, 1, 1, 3], &[1, 2, 3])).unwrap();
            block_on(b.download(&b.normalize_rgb8(&pixels).unwrap())).unwrap().to_f32()
        };
        let right = run();
        let folder = std::path::PathBuf::from(std::env::var_os("XDG_CACHE_HOME").unwrap()).join("zimage");
        let folders = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
        let files: Vec<_> = folders
            .flat_map(|folder| std::fs::read_dir(folder).unwrap())
            .map(|entry| entry.unwrap().path())
            .filter(|path| path.extension().is_some_and(|extension| extension == "cubin"))
            .collect();
        assert!(!files.is_empty());
        type Damage = fn(&[u8]) -> Vec<u8>;
        let damage: [Damage; 3] = [
            |whole| {
                let mut flipped = whole.to_vec();
                *flipped.last_mut().unwrap() ^= 1;
                flipped
            },
            |whole| whole[..whole.len() / 2].to_vec(),
            // The checksum matches, but the driver rejects the code.
            |whole| {
                let key = u64::from_le_bytes(whole[12..ENTRY_HEAD].try_into().unwrap()) as usize;
                let rest = [&whole[12..ENTRY_HEAD + key], b"no machine code"].concat();
                [&whole[..8], &crc32fast::hash(&rest).to_le_bytes(), rest.as_slice()].concat()
            },
        ];
        for damaged in damage {
            for file in &files {
                std::fs::write(file, damaged(&std::fs::read(file).unwrap())).unwrap();
            }
            assert_eq!(run(), right);
            for file in &files {
                let again = std::fs::read(file).unwrap();
                let sum = crc32fast::hash(&again[12..]).to_le_bytes();
                assert!(again[8..12] == sum && !again.ends_with(b"no machine code"), "{}", file.display());
            }
        }
    });
}

/// Every function of the emulated driver, from its source text.
fn emulated_functions() -> Vec<String> {
    let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/emulated_cuda");
    let chapters = ["device_calls.cpp", "memory_calls.cpp", "module_calls.cpp", "stream_calls.cpp"];
    let text = chapters.map(|file| std::fs::read_to_string(folder.join(file)).unwrap()).concat();
    text.lines().filter_map(|line| Some(line.strip_prefix("API ")?.split('(').next()?.to_owned())).collect()
}

/// Runs `body` on a CUDA 12.0 driver that has exactly the functions which the backend looks up, so
/// every call goes to one of them. `cache` is the backend's disk cache.
fn on_the_oldest(test: &str, cache: &std::path::Path, body: impl FnOnce()) {
    let listed = cuda::driver_functions();
    let mut others = emulated_functions();
    assert!(listed.iter().all(|name| others.iter().any(|other| other == name)), "{others:?}");
    others.retain(|name| !listed.contains(&name.as_str()));
    assert!(others.len() > 20 && others.iter().any(|name| name == "cuEventElapsedTime_v2"), "{others:?}");
    let Some(folder) = emulated_cuda::built() else { return };
    let settings = [
        ("EMULATED_CUDA_DRIVER", "12000"),
        ("EMULATED_CUDA_HIDE", &others.join(",")),
        ("LD_LIBRARY_PATH", &format!("{}:{}", folder.display(), folder.join("cublaslt").display())),
        ("XDG_CACHE_HOME", cache.to_str().unwrap()),
    ];
    emulated(test, &settings, body);
}

#[test]
fn oldest_driver_has_every_called_function() {
    let Some(folder) = emulated_cuda::built() else { return };
    on_the_oldest("oldest_driver_has_every_called_function", &folder.join("cache"), || {
        let options = Options { filter: "/odd".into(), ..Options::default() };
        let report = block_on(compare(&Cpu::new(), &cuda(), &options)).unwrap();
        assert!(report.passed() && report.cases() > 5, "{report}");
    });
}

#[test]
fn oldest_driver_autotunes_large_gemms() {
    // The cache is empty: a candidate chosen by an earlier run would not be timed again.
    let cache = tempfile::tempdir().unwrap();
    on_the_oldest("oldest_driver_autotunes_large_gemms", cache.path(), || {
        let b = cuda();
        assert!(b.device().contains("cuBLASLt 12.2.5"), "{}", b.device());
        let (m, n, k) = (64, 4096, 2048);
        let x = b.upload(&HostTensor::from_f32(&[1, m, k], &vec![0.5; m * k])).unwrap();
        let values = HostTensor::from_f32(&[n, k], &vec![1.0 / 64.0; n * k]);
        // The same values as blocks with the scale 1 / 64 and 32 ones.
        let block = [&[0x00, 0x24][..], &[1; 32]].concat();
        let blocks = block.repeat(n * k / 32).into();
        let quantized = Weight::quantized(Storage::Plain(Format::Q8_0), &[n, k], blocks).unwrap();
        // The first gemm is tuned while a recording is made, whose own tensors have no memory yet.
        for w in [quantized, (&values).into()] {
            let w = block_on(b.upload_linear(&[w], &[])).unwrap();
            let mut made = None;
            let recording = b.record(|b| b.linear(&x, &w).map(|product| made = Some(product))).unwrap();
            b.replay(&recording).unwrap();
            let product = block_on(b.download(&made.unwrap())).unwrap().to_f32();
            assert_eq!(product, vec![16.0; m * n]);
        }
    });
}

#[test]
fn missing_driver_function_is_named_first() {
    let test = "missing_driver_function_is_named_first";
    let of_nvrtc = ["nvrtcVersion", "nvrtcGetCUBIN", "nvrtcGetProgramLogSize"];
    let names = cuda::driver_functions().iter().chain(&of_nvrtc);
    // The child process gets the name.
    let named = std::env::var("EMULATED_CUDA_HIDE").ok();
    for name in names.filter(|name| named.as_ref().is_none_or(|named| named == *name)) {
        emulated(test, &[("EMULATED_CUDA_HIDE", name)], || {
            assert!(Cuda::present());
            let error = Cuda::open(0, Placement::Separate).unwrap_err();
            assert!(matches!(error, zimage::Error::Device(_)), "{error:?}");
            assert!(error.to_string().contains(&format!("has no function {name}, ")), "{error}");
        });
    }
}

#[cfg(feature = "embedded-model")]
#[test]
fn auto_skips_an_incomplete_driver() {
    let test = "auto_skips_an_incomplete_driver";
    emulated(test, &[("EMULATED_CUDA_HIDE", "cuGraphLaunch,cuInit")], || {
        goes_on_with(&Cuda::open(0, Placement::Separate).unwrap_err().to_string());
    });
}

#[test]
fn gpu_index_out_of_range_is_refused() {
    emulated("gpu_index_out_of_range_is_refused", &[], || {
        assert_eq!(Cuda::count(), 1);
        for index in [1, 7, usize::MAX] {
            let error = Cuda::open(index, Placement::default()).unwrap_err();
            assert_eq!(error.kind(), zimage::ErrorKind::Request);
            let expected = format!("there is no NVIDIA GPU {index}: the driver sees only GPU 0");
            assert_eq!(error.to_string(), expected);
        }
        let found = block_on(zimage::devices());
        let named: Vec<String> = found.iter().map(|(choice, _)| choice.to_string()).collect();
        assert_eq!(named.iter().filter(|name| name.starts_with("cuda")).collect::<Vec<_>>(), ["cuda"]);
    });
}

/// The emulation ends the process if page-locked memory is freed during a copy from it. `recorded`
/// events are recorded before the first one fails.
fn an_upload_fails(test: &str, recorded: usize) {
    emulated(test, &[("EMULATED_CUDA_FAIL_RECORD", &(recorded + 1).to_string())], || {
        let b = cuda();
        // Two staging buffers.
        let values: Vec<u32> = (0..12 << 20).collect();
        let error = b.upload(&HostTensor::from_u32(&[values.len()], &values)).unwrap_err().to_string();
        assert!(error.contains("the GPU refused"), "{error}");
        // The device stays usable.
        let small = HostTensor::from_u32(&[3], &[1, 2, 3]);
        assert_eq!(block_on(b.download(&b.upload(&small).unwrap())).unwrap().to_u32().unwrap(), [1, 2, 3]);
    });
}

#[test]
fn memory_of_unrecorded_copy_is_not_freed() {
    an_upload_fails("memory_of_unrecorded_copy_is_not_freed", 0);
}

#[test]
fn memory_of_preceding_copy_is_not_freed() {
    an_upload_fails("memory_of_preceding_copy_is_not_freed", 1);
}
