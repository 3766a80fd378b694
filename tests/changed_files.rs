//! Weights whose files change while they are in use, and file systems that reject `mmap`.

#![cfg(unix)]

use pollster::block_on;
use std::fs::{self, File};
use std::io::{Seek, Write};
use std::ops::ControlFlow;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, SystemTime};
use tempfile::TempDir;
use zimage::weights::{ModelFolder, Tensors, explain_sigbus};
use zimage::{BackendChoice, Engine, ErrorKind, Model, Request, Result, Stage};

const VAE: &str = "vae/diffusion_pytorch_model.safetensors";
/// The size of a tensor that nothing reads. It makes a file too large to be read into memory.
const PADDING: u64 = 12 << 20;

/// A copy of the small model whose VAE file is padded: it is mapped, but only its first bytes are
/// read.
fn model() -> TempDir {
    let dir = tempfile::tempdir().unwrap();
    let single = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/goldens/single");
    for part in ["", "scheduler", "tokenizer", "text_encoder", "transformer", "vae"] {
        fs::create_dir_all(dir.path().join(part)).unwrap();
        for file in fs::read_dir(single.join(part)).unwrap().flatten() {
            if file.file_type().unwrap().is_file() {
                fs::copy(file.path(), dir.path().join(part).join(file.file_name())).unwrap();
            }
        }
    }
    pad(&dir.path().join(VAE));
    dir
}

/// Adds a tensor of zeros as a hole that takes no disk space.
fn pad(path: &Path) {
    let old = fs::read(path).unwrap();
    let (length, rest) = old.split_first_chunk::<8>().unwrap();
    let (header, data) = rest.split_at(u64::from_le_bytes(*length) as usize);
    let end = data.len() as u64;
    let header = String::from_utf8(header.to_vec()).unwrap();
    let entry = format!(r#","~":{{"dtype":"U8","shape":[{PADDING}],"data_offsets":[{end},{}]}}}}"#, end + PADDING);
    let header = format!("{}{entry}", header.trim_end().strip_suffix('}').unwrap());
    let mut file = File::create(path).unwrap();
    for bytes in [&(header.len() as u64).to_le_bytes()[..], header.as_bytes(), data] {
        file.write_all(bytes).unwrap();
    }
    let end = file.stream_position().unwrap();
    file.set_len(end + PADDING).unwrap();
}

/// Generates a picture and calls `change` when the first step begins.
fn draw(root: &Path, mut change: impl FnMut()) -> Result<Vec<zimage::Image>> {
    let quiet = &mut |_| ControlFlow::Continue(());
    let engine = block_on(Engine::load(&Model::open(root)?, BackendChoice::Cpu, quiet))?;
    let request = Request { seed: 7, steps: Some(1), width: Some(64), height: Some(64), ..Request::new("a red fox") };
    let mut changed = false;
    let mut watch = |stage| {
        if matches!(stage, Stage::Step { .. }) && !std::mem::replace(&mut changed, true) {
            change();
        }
        ControlFlow::Continue(())
    };
    Ok(block_on(engine.generate(&request, &mut watch))?.images)
}

#[test]
fn overwritten_weights_are_an_error() {
    let dir = model();
    let path = dir.path().join(VAE);
    let good = draw(dir.path(), || ()).unwrap();
    let overwrite = || {
        let file = File::options().write(true).open(&path).unwrap();
        file.write_all_at(&[0; 4], fs::metadata(&path).unwrap().len() - 4).unwrap();
        file.set_modified(SystemTime::now() + Duration::from_secs(1)).unwrap();
    };
    let error = draw(dir.path(), overwrite).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Files);
    let error = error.to_string();
    assert!(error.contains(VAE) && error.contains("the file changed while it was in use"), "{error}");
    let longer = || File::options().append(true).open(&path).unwrap().write_all(b"x").unwrap();
    assert!(draw(dir.path(), longer).unwrap_err().to_string().contains("changed while it was in use"));
    File::options().write(true).open(&path).unwrap().set_len(fs::metadata(&path).unwrap().len() - 1).unwrap();
    assert_eq!(draw(dir.path(), || ()).unwrap(), good, "only the time of the file differs");
}

#[test]
fn replaced_or_small_files_may_change() {
    let dir = model();
    let path = dir.path().join(VAE);
    let good = draw(dir.path(), || ()).unwrap();
    let replace = || {
        fs::write(dir.path().join("other"), "x").unwrap();
        fs::rename(dir.path().join("other"), &path).unwrap();
        // This file is small and therefore in memory.
        File::create(dir.path().join("transformer/diffusion_pytorch_model.safetensors")).unwrap();
    };
    assert_eq!(draw(dir.path(), replace).unwrap(), good);
}

/// Reads the padding of a file that was truncated after it was opened, and panics if that succeeds.
fn read_what_was_cut() {
    let root = std::env::var("CUT_MODEL").unwrap();
    explain_sigbus(3);
    let folder = ModelFolder::open(Path::new(&root)).unwrap();
    let tensors = block_on(Tensors::open(&folder, "vae", "diffusion_pytorch_model")).unwrap();
    File::options().write(true).open(folder.path(VAE)).unwrap().set_len(4096).unwrap();
    let sum: u32 =
        block_on(tensors.take("decoder.conv_out.bias", &[3])).unwrap().bytes().iter().map(|&b| u32::from(b)).sum();
    panic!("the bytes of a file that was cut were read: {sum}");
}

#[test]
fn truncated_map_exits_with_one_sentence() {
    if std::env::var_os("CUT_MODEL").is_some() {
        return read_what_was_cut();
    }
    let dir = model();
    let this = "truncated_map_exits_with_one_sentence";
    let child = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", this, "--nocapture"])
        .env("CUT_MODEL", dir.path())
        .output()
        .unwrap();
    let said = String::from_utf8(child.stderr).unwrap();
    assert_eq!(child.status.code(), Some(3), "{said}");
    let line = said.lines().last().unwrap();
    assert!(line.starts_with("error: ") && line.contains(VAE), "{said}");
    assert!(line.contains("the file became shorter while it was in use, or its disk failed"), "{said}");
}

/// Reads this test's own map of a truncated file.
fn raise_another_bus_error() {
    use std::os::fd::AsRawFd;
    explain_sigbus(3);
    let file = tempfile::tempfile().unwrap();
    file.set_len(4096).unwrap();
    // SAFETY: the map is new. Reading the truncated part is the purpose of this process.
    let byte = unsafe {
        let map = libc::mmap(std::ptr::null_mut(), 4096, libc::PROT_READ, libc::MAP_SHARED, file.as_raw_fd(), 0);
        file.set_len(0).unwrap();
        map.cast::<u8>().read_volatile()
    };
    panic!("a byte of a file that was cut was read: {byte}");
}

#[test]
fn other_bus_errors_reach_the_system() {
    use std::os::unix::process::ExitStatusExt;
    const CHILD: &str = "RAISE_SIGBUS";
    if std::env::var_os(CHILD).is_some() {
        return raise_another_bus_error();
    }
    let child = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "other_bus_errors_reach_the_system"])
        .env(CHILD, "1")
        .output()
        .unwrap();
    assert_eq!(child.status.signal(), Some(libc::SIGBUS));
}

/// Makes the system reject this thread's file maps with ENODEV, as some file systems do: only the
/// shared ones, or all.
#[cfg(target_os = "linux")]
fn refuse_maps(private: bool) {
    let statement = |code: u32, jt, jf, k| libc::sock_filter { code: code as u16, jt, jf, k };
    let load = |offset| statement(libc::BPF_LD | libc::BPF_W | libc::BPF_ABS, 0, 0, offset);
    let is = |value, jt, jf| statement(libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K, jt, jf, value);
    let done = |value| statement(libc::BPF_RET | libc::BPF_K, 0, 0, value);
    let flags = libc::MAP_SHARED as u32 | if private { libc::MAP_PRIVATE as u32 } else { 0 };
    let mut filter = [
        load(0),
        is(libc::SYS_mmap as u32, 0, 5),
        // The fifth argument is the file descriptor; it is −1 for anonymous maps.
        load(16 + 4 * 8),
        is(u32::MAX, 3, 0),
        load(16 + 3 * 8),
        statement(libc::BPF_JMP | libc::BPF_JSET | libc::BPF_K, 0, 1, flags),
        done(libc::SECCOMP_RET_ERRNO | libc::ENODEV as u32),
        done(libc::SECCOMP_RET_ALLOW),
    ];
    let program = libc::sock_fprog { len: filter.len() as u16, filter: filter.as_mut_ptr() };
    // SAFETY: the BPF program outlives the call, which copies it and affects this thread only.
    let installed = unsafe {
        libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == 0
            && libc::prctl(libc::PR_SET_SECCOMP, libc::SECCOMP_MODE_FILTER, &program) == 0
    };
    assert!(installed, "no filter: {}", std::io::Error::last_os_error());
    let file = tempfile::tempfile().unwrap();
    file.set_len(4096).unwrap();
    let map = |flags| {
        use std::os::fd::AsRawFd;
        // SAFETY: the map is new and nothing uses it.
        let map = unsafe { libc::mmap(std::ptr::null_mut(), 4096, libc::PROT_READ, flags, file.as_raw_fd(), 0) };
        map != libc::MAP_FAILED
    };
    assert_eq!([map(libc::MAP_SHARED), map(libc::MAP_PRIVATE)], [false, !private], "the filter works");
}

#[cfg(target_os = "linux")]
#[test]
fn weights_load_without_mmap() {
    let dir = model();
    let good = draw(dir.path(), || ()).unwrap();
    for private in [false, true] {
        let root = dir.path();
        let draw = || {
            refuse_maps(private);
            draw(root, || ())
        };
        let drawn = std::thread::scope(|scope| scope.spawn(draw).join().unwrap()).unwrap();
        assert_eq!(drawn, good, "without private maps: {private}");
    }
}

#[cfg(target_os = "linux")]
#[test]
fn file_truncated_between_reads_is_an_error() {
    let dir = model();
    let read = || {
        refuse_maps(true);
        let folder = ModelFolder::open(dir.path()).unwrap();
        let tensors = block_on(Tensors::open(&folder, "vae", "diffusion_pytorch_model")).unwrap();
        File::options().write(true).open(folder.path(VAE)).unwrap().set_len(4096).unwrap();
        assert!(folder.check_unchanged().unwrap_err().to_string().contains("changed while it was in use"));
        block_on(tensors.take("decoder.conv_out.bias", &[3])).unwrap_err().to_string()
    };
    let error = std::thread::scope(|scope| scope.spawn(read).join().unwrap());
    assert!(error.contains(VAE) && error.contains("the file became shorter while it was read"), "{error}");
}
