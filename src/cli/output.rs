//! Where the pictures go: names, and the promise that no work is done for a place that cannot be written.

use std::fs::{self, OpenOptions};
use std::io::{ErrorKind, Write};
use std::path::{Path, PathBuf};
use zimage::pipeline::request::MAX_IMAGES;
use zimage::{Error, Image, Result};

/// The name when none is given.
const DEFAULT: &str = "zimage.png";

/// Where the pictures of one run go.
#[derive(Debug, PartialEq)]
pub(super) enum Place {
    /// The one picture, as PNG, to standard output.
    Stdout,
    /// This file, or files numbered by it; written over, because the user named it.
    Named(PathBuf),
    /// Files beside this one under the first names that are free, because the user named none.
    Free(PathBuf),
}

impl Place {
    /// Reads `-o` for a run of `pictures` pictures, and tries whether files can be made there.
    pub(super) fn check(option: Option<&Path>, pictures: usize) -> Result<Self> {
        let Some(path) = option else {
            let place = Place::Free(DEFAULT.into());
            return probe(Path::new(DEFAULT)).map(|()| place);
        };
        if path == Path::new("-") {
            return match pictures {
                1 => Ok(Place::Stdout),
                _ => Err(Error::Request(format!(
                    "-o - writes one picture to standard output, not {pictures}: name a file, such as -o {DEFAULT}"
                ))),
            };
        }
        if path.is_dir() {
            let file = path.join(DEFAULT);
            return Err(Error::Request(format!("-o names a folder; name a file in it, such as {}", file.display())));
        }
        if !path.extension().is_some_and(|extension| extension.eq_ignore_ascii_case("png")) {
            let png = path.with_extension("png");
            return Err(Error::Request(format!(
                "-o {}: only PNG is written; try -o {}",
                path.display(),
                png.display()
            )));
        }
        for file in (0..pictures.min(MAX_IMAGES)).map(|i| numbered(path, i, pictures)) {
            let problem = match fs::metadata(&file) {
                Ok(found) if found.is_dir() => {
                    return Err(Error::Request(format!("-o: {} is a folder; choose another name", file.display())));
                }
                // The move into place would not ask.
                Ok(found) if !found.is_file() => "this is a device or a pipe; choose another name with -o".to_owned(),
                Ok(found) if found.permissions().readonly() => {
                    "this file is write-protected; choose another name with -o".to_owned()
                }
                Err(error) if error.kind() != ErrorKind::NotFound => {
                    format!("no picture can be written here ({error}); choose another name with -o")
                }
                _ => continue,
            };
            return Err(Error::File { path: file, problem });
        }
        probe(path).map(|()| Place::Named(path.to_owned()))
    }

    /// Writes picture `index` of `count`; returns its file, as it was named.
    pub(super) fn write(&self, image: &Image, index: usize, count: usize) -> Result<String> {
        let path = match self {
            Place::Stdout => {
                let bytes = image.to_png()?;
                let mut stdout = std::io::stdout().lock();
                stdout.write_all(&bytes).and_then(|()| stdout.flush()).map_err(super::stdout_error)?;
                return Ok("-".to_owned());
            }
            Place::Named(path) => {
                let path = numbered(path, index, count);
                image.save(&path)?;
                path
            }
            Place::Free(path) => {
                let path = take_free_name(path)?;
                image.save(&path).inspect_err(|_| {
                    // It is the empty file of a moment ago; the error is the one to report.
                    let _ = fs::remove_file(&path);
                })?;
                path
            }
        };
        Ok(path.display().to_string())
    }
}

/// The first of `zimage.png`, `zimage-2.png`, … that is free. It is taken by creating it, so that two runs at once do not
/// take the same.
fn take_free_name(path: &Path) -> Result<PathBuf> {
    let names = (0..=u32::MAX as usize).map(|i| if i == 0 { path.to_owned() } else { numbered(path, i, usize::MAX) });
    for name in names {
        match OpenOptions::new().write(true).create_new(true).open(&name) {
            Ok(_) => return Ok(name),
            Err(error) if error.kind() == ErrorKind::AlreadyExists => {}
            Err(source) => return Err(Error::Io { path: name, source }),
        }
    }
    Err(Error::Request("every name is taken; choose one with -o".into()))
}

/// The name of picture `index` of `count`: `fox.png`, or `fox-1.png`, `fox-2.png`, … when there are several.
fn numbered(path: &Path, index: usize, count: usize) -> PathBuf {
    if count == 1 {
        return path.to_owned();
    }
    let mut name = path.file_stem().unwrap_or_default().to_owned();
    name.push(format!("-{}.", index + 1));
    name.push(path.extension().unwrap_or_default());
    path.with_file_name(name)
}

/// Creates a file beside `path` and removes it again: the one sure way to learn whether its folder can be written.
pub(super) fn probe(path: &Path) -> Result<()> {
    let folder = match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    };
    let probe = folder.join(format!(".zimage-{}.tmp", std::process::id()));
    let tried = OpenOptions::new().write(true).create(true).truncate(false).open(&probe);
    match tried.and_then(|_| fs::remove_file(&probe)) {
        Ok(()) => Ok(()),
        Err(error) if error.kind() == ErrorKind::NotFound => Err(Error::File {
            path: folder.to_owned(),
            problem: "no such folder to write to; create it or choose another with -o".into(),
        }),
        Err(error) => Err(Error::File {
            path: folder.to_owned(),
            problem: format!("no file can be written here ({error}); choose another place with -o"),
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use zimage::Info;

    fn image() -> Image {
        Image { width: 1, height: 1, pixels: vec![1, 2, 3], info: Info::default() }
    }

    #[test]
    fn several_pictures_are_numbered() {
        assert_eq!(numbered(Path::new("a/fox.png"), 0, 1), Path::new("a/fox.png"));
        assert_eq!(numbered(Path::new("a/fox.PNG"), 0, 2), Path::new("a/fox-1.PNG"));
        assert_eq!(numbered(Path::new("red.fox.png"), 9, 10), Path::new("red.fox-10.png"));
    }

    #[test]
    fn unnamed_pictures_never_replace_a_file() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join(DEFAULT);
        fs::write(&path, "mine").unwrap();
        let place = Place::Free(path.clone());
        let files = [0, 1].map(|i| place.write(&image(), i, 2).unwrap());
        assert_eq!(files, ["zimage-2.png", "zimage-3.png"].map(|name| folder.path().join(name).display().to_string()));
        assert_eq!(fs::read(&path).unwrap(), b"mine");
    }

    #[test]
    fn named_pictures_replace_a_file() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("fox.png");
        fs::write(&path, "old").unwrap();
        let place = Place::check(Some(&path), 1).unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"old", "checking changes nothing");
        place.write(&image(), 0, 1).unwrap();
        assert_eq!(Image::open(&path).unwrap().pixels, [1, 2, 3]);
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
    }

    #[test]
    fn places_that_cannot_be_written_are_errors() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("file");
        fs::write(&file, "").unwrap();
        for path in [folder.path().join("missing/fox.png"), file.join("fox.png")] {
            assert!(matches!(Place::check(Some(&path), 1), Err(Error::File { .. })), "{path:?}");
        }
        let kept = folder.path().join("kept.png");
        fs::write(&kept, "").unwrap();
        let mut permissions = fs::metadata(&kept).unwrap().permissions();
        permissions.set_readonly(true);
        fs::set_permissions(&kept, permissions).unwrap();
        assert!(matches!(Place::check(Some(&kept), 1), Err(Error::File { .. })));
        fs::rename(&kept, folder.path().join("kept-3.png")).unwrap();
        assert!(matches!(Place::check(Some(&kept), 3), Err(Error::File { .. })), "the last of several");
        assert!(matches!(Place::check(Some(&kept), 2), Ok(Place::Named(_))));
        let long = folder.path().join("x".repeat(400) + ".png");
        assert!(matches!(Place::check(Some(&long), 1), Err(Error::File { .. })), "a name that is too long");
        for path in [folder.path().to_owned(), folder.path().join("fox"), folder.path().join("fox.jpg"), "".into()] {
            assert!(matches!(Place::check(Some(&path), 1), Err(Error::Request(_))), "{path:?}");
        }
        assert!(matches!(Place::check(Some(Path::new("-")), 2), Err(Error::Request(_))));
        assert_eq!(Place::check(Some(Path::new("-")), 1).unwrap(), Place::Stdout);
    }
}
