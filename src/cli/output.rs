//! The places of results: the value of `-o`, names, and the promise that no work is done for a
//! place that cannot be written.

use super::streams;
use std::io::IsTerminal;
use std::path::{Path, PathBuf};
use zimage::pipeline::request::MAX_IMAGES;
use zimage::{Error, Image, OutputFile, Result};

/// The name when none is given.
const DEFAULT: &str = "zimage.png";

/// The destination of the pictures of a run.
#[derive(Debug)]
pub(super) enum Place {
    /// These files, one a picture; written over, because the user named them.
    Named(Vec<OutputFile>),
    /// Files under the first names that are free, because the user named none.
    Free(OutputFile),
}

impl Place {
    /// Reads `-o` for a run of `pictures` pictures, and tries whether files can be made there.
    pub(super) fn check(option: Option<&Path>, pictures: usize) -> Result<Self> {
        let Some(path) = option else {
            return OutputFile::open_first_free(Path::new(DEFAULT)).map(Place::Free).map_err(advised);
        };
        if path == Path::new("-") || OutputFile::is_stream(path) {
            return match pictures {
                1 => open(path).map(|file| Place::Named(vec![file])),
                _ => Err(Error::Request(format!(
                    "-o {} takes one picture, not {pictures}: name a file, such as -o {DEFAULT}",
                    path.display()
                ))),
            };
        }
        if path.is_dir() || path.as_os_str().is_empty() {
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
        if path.to_string_lossy().ends_with(std::path::is_separator) {
            // The components of a path leave the separator out.
            let file: PathBuf = path.components().collect();
            return Err(Error::Request(format!(
                "-o {}: a slash at the end names a folder; try -o {}",
                path.display(),
                file.display()
            )));
        }
        let names = (1..=pictures.min(MAX_IMAGES)).map(|number| match pictures {
            1 => path.to_owned(),
            _ => OutputFile::numbered(path, number),
        });
        OutputFile::open_each(names).map(Place::Named).map_err(advised)
    }

    /// True if the picture goes to standard output.
    pub(super) fn is_stdout(&self) -> bool {
        matches!(self, Place::Named(files) if files.iter().any(OutputFile::is_stdout))
    }

    /// Writes picture `index`; returns its file, as it was named.
    pub(super) fn write(&self, image: &Image, index: usize) -> Result<String> {
        let file = match self {
            Place::Named(files) => &files[index],
            Place::Free(file) => file,
        };
        let path = file.write(&image.to_png()?)?;
        Ok(if file.is_stdout() { "-".to_owned() } else { path.display().to_string() })
    }
}

/// Opens the value of `-o`: a file, or standard output for `-`.
pub(super) fn open(path: &Path) -> Result<OutputFile> {
    let is_dash = path == Path::new("-");
    if is_dash && std::io::stdout().is_terminal() {
        return Err(Error::Request("-o - would fill the terminal with binary data: send it on with > or |".into()));
    }
    let file = if is_dash { OutputFile::open_stdout() } else { OutputFile::open(path) }.map_err(advised)?;
    if file.is_stdout() {
        streams::check_stdout()?;
    }
    Ok(file)
}

/// The error with the flag that leads around it.
fn advised(error: Error) -> Error {
    let (path, problem) = match error {
        Error::File { path, problem } => (path, problem),
        Error::Io { path, source } => (path, format!("no file can be written here ({source})")),
        other => return other,
    };
    Error::File { path, problem: format!("{problem} (-o names another place)") }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;
    use zimage::Info;

    fn image() -> Image {
        Image { width: 1, height: 1, pixels: vec![1, 2, 3], info: Info::default() }
    }

    #[test]
    fn named_pictures_replace_a_file() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("fox.png");
        fs::write(&path, "old").unwrap();
        let place = Place::check(Some(&path), 1).unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"old", "checking changes nothing");
        place.write(&image(), 0).unwrap();
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
        let slash = folder.path().join("fox.png/");
        for path in
            [folder.path().to_owned(), slash, folder.path().join("fox"), folder.path().join("fox.jpg"), "".into()]
        {
            assert!(matches!(Place::check(Some(&path), 1), Err(Error::Request(_))), "{path:?}");
        }
        assert!(matches!(Place::check(Some(Path::new("-")), 2), Err(Error::Request(_))));
    }
}
