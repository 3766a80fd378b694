use super::*;
use tempfile::{TempDir, tempdir};

fn names(folder: &TempDir) -> Vec<String> {
    let entries = fs::read_dir(folder.path()).unwrap();
    let mut names: Vec<_> = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

#[track_caller]
fn refused(path: &Path, says: &str) {
    let error = OutputFile::open(path).unwrap_err();
    assert!(error.to_string().contains(says), "{error}");
    assert_eq!(error.kind(), crate::ErrorKind::Files);
}

#[test]
fn opening_leaves_nothing_and_changes_nothing() {
    let folder = tempdir().unwrap();
    let [new, old] = ["new", "old"].map(|name| folder.path().join(name));
    fs::write(&old, "old").unwrap();
    let files = OutputFile::open_each([new.clone(), old.clone()]).unwrap();
    assert_eq!((names(&folder), fs::read(&old).unwrap().as_slice()), (vec!["old".to_owned()], &b"old"[..]));
    for file in &files {
        file.write(b"bytes").unwrap();
    }
    assert_eq!(names(&folder), ["new", "old"]);
    assert!([new, old].iter().all(|path| fs::read(path).unwrap() == b"bytes"));
}

#[test]
fn names_of_folders_are_refused() {
    let folder = tempdir().unwrap();
    let f = folder.path();
    for name in ["", ".", "..", "new/", "new/.", "new/.."] {
        refused(&f.join(name), "found the name of a folder");
    }
    refused(Path::new(""), "found the name of a folder");
    refused(&f.join("missing/new"), "missing: no such folder");
    fs::write(f.join("file"), "").unwrap();
    refused(&f.join("file/new"), "ot a directory");
    assert_eq!(names(&folder), ["file"]);
}

#[test]
fn leftovers_of_dead_processes_are_removed() {
    let folder = tempdir().unwrap();
    for attempt in 0..120 {
        fs::write(folder.path().join(format!(".zimage-1-{attempt}.tmp")), "half").unwrap();
    }
    OutputFile::open(&folder.path().join("new")).unwrap().write(b"bytes").unwrap();
    assert_eq!(names(&folder), ["new"]);
}

#[test]
fn free_names_are_taken_on_completion() {
    let folder = tempdir().unwrap();
    let path = folder.path().join("fox.png");
    let file = OutputFile::open_first_free(&path).unwrap();
    assert!(names(&folder).is_empty());
    fs::write(&path, "mine").unwrap();
    let written = [1, 2].map(|i| file.write(&[i]).unwrap());
    assert_eq!(written, ["fox-2.png", "fox-3.png"].map(|name| folder.path().join(name)));
    assert_eq!(fs::read(&path).unwrap(), b"mine");
    assert_eq!((fs::read(&written[0]).unwrap(), fs::read(&written[1]).unwrap()), (vec![1], vec![2]));
}

#[test]
fn numbered_names_keep_the_extension() {
    let numbered = |path, number| OutputFile::numbered(Path::new(path), number);
    assert_eq!(numbered("a/fox.PNG", 1), Path::new("a/fox-1.PNG"));
    assert_eq!(numbered("red.fox.png", 10), Path::new("red.fox-10.png"));
    assert_eq!(numbered("fox", 2), Path::new("fox-2"));
}

#[test]
fn a_deleted_folder_saves_bytes_elsewhere() {
    let folder = tempdir().unwrap();
    let inner = folder.path().join("inner");
    fs::create_dir(&inner).unwrap();
    let file = OutputFile::open(&inner.join("fox.png")).unwrap();
    fs::remove_dir(&inner).unwrap();
    let sentence = file.write(b"bytes").unwrap_err().to_string();
    let kept = Path::new(sentence.split("it is kept as ").nth(1).unwrap());
    assert_eq!(fs::read(kept).unwrap(), b"bytes");
    assert!(kept.extension().is_some_and(|extension| extension == "png"), "{sentence}");
    fs::remove_file(kept).unwrap();
}

#[test]
fn a_blocking_folder_saves_bytes_beside() {
    let folder = tempdir().unwrap();
    let path = folder.path().join("fox.png");
    let file = OutputFile::open(&path).unwrap();
    fs::create_dir(&path).unwrap();
    assert!(file.write(b"bytes").is_err());
    let kept = names(&folder).into_iter().find(|name| name.starts_with("fox-kept-")).unwrap();
    assert_eq!(fs::read(folder.path().join(kept)).unwrap(), b"bytes");
    assert_eq!(names(&folder).len(), 2, "no temporary file stays");
}

#[cfg(unix)]
mod unix {
    use super::*;
    use std::io::Read;
    use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt, symlink};
    use std::process::Command;

    fn mode(path: &Path) -> u32 {
        fs::metadata(path).unwrap().mode() & 0o7777
    }

    #[test]
    fn links_are_followed_to_files_that_are_missing() {
        let folder = tempdir().unwrap();
        let f = folder.path();
        fs::create_dir(f.join("inner")).unwrap();
        symlink("inner/target", f.join("link")).unwrap();
        symlink("link", f.join("second")).unwrap();
        for bytes in [b"first", b"again"] {
            let written = OutputFile::open(&f.join("second")).unwrap().write(bytes).unwrap();
            assert_eq!(written, f.join("second"));
            assert_eq!(fs::read(f.join("inner/target")).unwrap(), bytes);
        }
        assert!(fs::symlink_metadata(f.join("link")).unwrap().is_symlink());
        symlink("gone/target", f.join("dangling")).unwrap();
        refused(&f.join("dangling"), "gone: no such folder");
        symlink("inner/", f.join("to_folder")).unwrap();
        refused(&f.join("to_folder"), "found the name of a folder");
        symlink("new/", f.join("to_new_folder")).unwrap();
        refused(&f.join("to_new_folder"), "found the name of a folder");
        symlink("loop", f.join("loop")).unwrap();
        refused(&f.join("loop"), "loop");
    }

    #[test]
    fn an_overwritten_file_keeps_mode_owner_and_names() {
        let folder = tempdir().unwrap();
        let [path, other] = ["file", "other"].map(|name| folder.path().join(name));
        fs::write(&path, "a longer text than the new one").unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o640)).unwrap();
        // Only root can give files away.
        let given = std::os::unix::fs::chown(&path, Some(12345), Some(23456)).is_ok();
        OutputFile::open(&path).unwrap().write(b"first").unwrap();
        assert_eq!((mode(&path), fs::read(&path).unwrap().as_slice()), (0o640, &b"first"[..]));
        let found = fs::metadata(&path).unwrap();
        assert!(!given || (found.uid(), found.gid()) == (12345, 23456));
        fs::hard_link(&path, &other).unwrap();
        for bytes in [&b"longer than before"[..], b"short", b""] {
            OutputFile::open(&path).unwrap().write(bytes).unwrap();
            assert_eq!(fs::read(&other).unwrap(), bytes);
        }
        assert_eq!((names(&folder).len(), mode(&other)), (2, 0o640));
    }

    #[test]
    fn a_new_file_has_the_usual_mode() {
        let folder = tempdir().unwrap();
        let [usual, ours] = ["usual", "ours"].map(|name| folder.path().join(name));
        fs::write(&usual, "").unwrap();
        OutputFile::open(&ours).unwrap().write(b"").unwrap();
        assert_eq!(mode(&ours), mode(&usual));
        let free = OutputFile::open_first_free(&folder.path().join("free")).unwrap().write(b"").unwrap();
        assert_eq!(mode(&free), mode(&usual));
    }

    #[test]
    fn a_write_protected_file_is_refused() {
        let folder = tempdir().unwrap();
        let path = folder.path().join("file");
        fs::write(&path, "mine").unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o444)).unwrap();
        assert!(OutputFile::open(&path).is_err());
        assert_eq!((fs::read(&path).unwrap().as_slice(), names(&folder).len()), (&b"mine"[..], 1));
    }

    #[test]
    fn devices_are_written_and_never_replaced() {
        let folder = tempdir().unwrap();
        let link = folder.path().join("link");
        symlink("/dev/null", &link).unwrap();
        for path in [Path::new("/dev/null"), &link] {
            assert!(OutputFile::is_stream(path));
            OutputFile::open(path).unwrap().write(b"bytes").unwrap();
        }
        assert!(fs::metadata("/dev/null").unwrap().file_type().is_char_device());
        assert!(fs::symlink_metadata(&link).unwrap().is_symlink());
        let full = OutputFile::open(Path::new("/dev/full")).unwrap().write(b"bytes");
        assert!(full.unwrap_err().to_string().contains("No space left"));
        let socket = folder.path().join("socket");
        let _listener = std::os::unix::net::UnixListener::bind(&socket).unwrap();
        refused(&socket, "found a socket");
    }

    #[test]
    fn a_pipe_without_reader_is_refused_at_once() {
        let folder = tempdir().unwrap();
        let path = folder.path().join("pipe");
        assert!(Command::new("mkfifo").arg(&path).status().unwrap().success());
        refused(&path, "no program reads from this pipe");
        let reader = {
            let path = path.clone();
            std::thread::spawn(move || {
                let mut bytes = Vec::new();
                fs::File::open(path).unwrap().read_to_end(&mut bytes).map(|_| bytes)
            })
        };
        let file = loop {
            // The reader needs a moment to open the pipe.
            match OutputFile::open(&path) {
                Ok(file) => break file,
                Err(_) => std::thread::yield_now(),
            }
        };
        // A pipe holds less than this, so writes wait for the reader.
        let bytes = vec![7; 1 << 20];
        file.write(&bytes).unwrap();
        drop(file);
        assert!(reader.join().unwrap().unwrap() == bytes);
        assert!(fs::symlink_metadata(&path).unwrap().file_type().is_fifo());
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn an_open_descriptor_continues_at_its_position() {
        use std::io::Write;
        use std::os::fd::AsRawFd;
        let folder = tempdir().unwrap();
        let path = folder.path().join("log");
        let mut open = fs::File::create(&path).unwrap();
        open.write_all(b"before ").unwrap();
        let name = format!("/dev/fd/{}", open.as_raw_fd());
        let file = OutputFile::open(Path::new(&name)).unwrap();
        file.write(b"bytes").unwrap();
        open.write_all(b" after").unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"before bytes after");
        let reading = fs::File::open(&path).unwrap();
        refused(Path::new(&format!("/proc/self/fd/{}", reading.as_raw_fd())), "for reading only");
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn a_file_with_attributes_is_written_into() {
        let folder = tempdir().unwrap();
        let path = folder.path().join("file");
        fs::write(&path, "old").unwrap();
        let [name, file] = [c"user.note".to_owned(), std::ffi::CString::new(path.to_str().unwrap()).unwrap()];
        // SAFETY: the names end with NUL, and the length of the value is passed.
        let set = unsafe { libc::setxattr(file.as_ptr(), name.as_ptr(), b"x".as_ptr().cast(), 1, 0) };
        let before = fs::metadata(&path).unwrap().ino();
        OutputFile::open(&path).unwrap().write(b"new").unwrap();
        // Some file systems have no attributes.
        assert!(set != 0 || fs::metadata(&path).unwrap().ino() == before);
        assert_eq!(fs::read(&path).unwrap(), b"new");
    }

    /// Runs the test `name` again as a process that is killed between creating a file and renaming
    /// it.
    #[test]
    fn a_killed_process_leaves_a_file_that_is_removed() {
        const FOLDER: &str = "ZIMAGE_TEST_OUTPUT_FOLDER";
        if let Some(folder) = std::env::var_os(FOLDER) {
            let _file = whole(&Path::new(&folder).join("fox.png"), &mut |out| out.write_all(b"bytes")).unwrap();
            fs::write(Path::new(&folder).join("ready"), "").unwrap();
            std::thread::sleep(std::time::Duration::from_secs(60));
            return;
        }
        let folder = tempdir().unwrap();
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "output_file::tests::unix::a_killed_process_leaves_a_file_that_is_removed"])
            .env(FOLDER, folder.path())
            .stdout(std::process::Stdio::null())
            .spawn()
            .unwrap();
        while !folder.path().join("ready").exists() {
            assert!(child.try_wait().unwrap().is_none(), "it ended early");
            std::thread::sleep(std::time::Duration::from_millis(5));
        }
        let path = folder.path().join("fox.png");
        OutputFile::open(&path).unwrap();
        assert_eq!(names(&folder).len(), 2, "the file of a living process stays: {:?}", names(&folder));
        child.kill().unwrap();
        child.wait().unwrap();
        assert_eq!(names(&folder).len(), 2);
        OutputFile::open(&path).unwrap();
        assert_eq!(names(&folder), ["ready"]);
    }

    #[test]
    fn many_writers_share_a_folder() {
        let folder = tempdir().unwrap();
        let path = folder.path().join("fox.png");
        std::thread::scope(|scope| {
            for writer in 0..8u8 {
                let path = &path;
                scope.spawn(move || {
                    for _ in 0..20 {
                        OutputFile::open_first_free(path).unwrap().write(&[writer]).unwrap();
                    }
                });
            }
        });
        assert_eq!(names(&folder).len(), 160);
    }
}

#[test]
fn a_file_that_fails_halfway_changes_nothing() {
    let folder = tempdir().unwrap();
    let [new, old] = ["new", "old"].map(|name| folder.path().join(name));
    fs::write(&old, "old").unwrap();
    for path in [&new, &old] {
        let file = OutputFile::open(path).unwrap();
        let failed = file.write_with(10, &mut |out| {
            out.write_all(b"half")?;
            Err(io::Error::other(Error::Cancelled))
        });
        assert!(matches!(failed, Err(Error::Cancelled)));
        assert_eq!((names(&folder), fs::read(&old).unwrap().as_slice()), (vec!["old".to_owned()], &b"old"[..]));
    }
    for path in [&new, &old] {
        OutputFile::open(path).unwrap().write_with(5, &mut |out| out.write_all(b"bytes")).unwrap();
        assert_eq!(fs::read(path).unwrap(), b"bytes");
    }
}

#[test]
fn a_file_larger_than_the_disk_is_not_begun() {
    let folder = tempdir().unwrap();
    let file = OutputFile::open(&folder.path().join("new")).unwrap();
    let sentence = file.write_with(u64::MAX, &mut |_| unreachable!()).unwrap_err().to_string();
    assert!(sentence.contains("new: the disk has ") && sentence.contains(&u64::MAX.to_string()), "{sentence}");
    assert_eq!(names(&folder), [""; 0]);
}

#[cfg(unix)]
#[test]
fn a_file_with_two_names_is_filled_in_place() {
    let folder = tempdir().unwrap();
    let [path, other] = ["path", "other"].map(|name| folder.path().join(name));
    for bytes in [&b"a longer text than the old one"[..], b"short"] {
        let _ = fs::remove_file(&other);
        fs::write(&path, "an old text").unwrap();
        fs::hard_link(&path, &other).unwrap();
        let len = bytes.len() as u64;
        OutputFile::open(&path).unwrap().write_with(len, &mut |out| out.write_all(bytes)).unwrap();
        assert!([&path, &other].iter().all(|path| fs::read(path).unwrap() == bytes));
    }
}
