//! Loading of NVIDIA's libraries from the CUDA toolkit or from Python packages.

use cudarc::get_lib_name_candidates;
use std::ffi::OsStr;
use std::path::{Path, PathBuf};

/// The names of a library.
#[derive(Debug)]
pub(crate) struct Library {
    /// Its name in cudarc, which maps it to candidate file names.
    pub name: &'static str,
    /// The prefixes of its file names on Unix and on Windows, dependencies first.
    pub files: [&'static [&'static str]; 2],
    /// Its Python package, besides the package of all of CUDA.
    pub package: &'static str,
}

impl Library {
    /// Loads the library for the rest of the process: from `first`, the system's folders, or the
    /// folders of toolkits and packages. The error lists the searched folders besides the system's.
    pub(crate) fn load(&self, first: &[PathBuf]) -> Result<(), Vec<PathBuf>> {
        // A library that was loaded by its path counts only if cudarc knows its name: cudarc panics
        // if it finds none.
        let known_with = |folders: &[PathBuf]| {
            let _ = folders.iter().any(|folder| self.load_from(folder));
            self.is_known()
        };
        if known_with(first) {
            return Ok(());
        }
        let usual = usual_folders(self.package);
        if known_with(&usual) { Ok(()) } else { Err([first, &usual].concat()) }
    }

    /// True if it is loaded, or if the system finds it by one of cudarc's names.
    fn is_known(&self) -> bool {
        get_lib_name_candidates(self.name).iter().any(|name| keep(OsStr::new(name)))
    }

    /// Loads the library and its dependencies from `folder`.
    fn load_from(&self, folder: &Path) -> bool {
        let starts = self.files[usize::from(cfg!(windows))];
        starts.iter().fold(false, |_, start| {
            let files = sorted(folder, |name| name.starts_with(start) && !name.contains(".alt."));
            files.iter().any(|file| keep(file.as_os_str()))
        })
    }
}

/// Loads a library by name or path for the rest of the process.
fn keep(name: &OsStr) -> bool {
    // SAFETY: the initialisers of NVIDIA's libraries only set up the libraries.
    let library = unsafe { libloading::Library::new(name) };
    library.map(std::mem::forget).is_ok()
}

/// The existing library folders of the CUDA toolkit and of PyPI's packages.
fn usual_folders(package: &str) -> Vec<PathBuf> {
    let mut folders = Vec::new();
    for variable in ["CUDA_HOME", "CUDA_PATH"] {
        if let Some(path) = std::env::var_os(variable).map(PathBuf::from) {
            folders.extend(["lib64", "bin/x64", "bin"].map(|name| path.join(name)));
        }
    }
    if cfg!(unix) {
        folders.extend(["/usr/local/cuda/lib64", "/opt/cuda/lib64"].map(PathBuf::from));
        let pythons = ["VIRTUAL_ENV", "CONDA_PREFIX"].map(|name| std::env::var_os(name).map(PathBuf::from));
        let home = std::env::var_os("HOME").map(|home| PathBuf::from(home).join(".local"));
        for root in pythons.into_iter().flatten().chain(home) {
            for python in sorted(&root.join("lib"), |name| name.starts_with("python3")) {
                let nvidia = python.join("site-packages/nvidia");
                folders.extend(["cu13", package].map(|name| nvidia.join(name).join("lib")));
            }
        }
    }
    folders.retain(|folder| folder.is_dir());
    folders
}

/// The entries of `folder` whose names `wanted` accepts, sorted.
fn sorted(folder: &Path, wanted: impl Fn(&str) -> bool) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(folder).into_iter().flatten().flatten().map(|entry| entry.path());
    let mut found: Vec<PathBuf> =
        entries.filter(|path| path.file_name().and_then(OsStr::to_str).is_some_and(&wanted)).collect();
    found.sort();
    found
}
