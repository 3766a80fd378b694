//! The tensors of a file by name, with and without the prefixes of all-in-one files.

use std::collections::BTreeMap;

/// A tensor of a file, as its header lists it.
#[derive(Debug, Clone, Copy)]
pub struct Listed<'a> {
    /// The stored name.
    pub name: &'a str,
    /// The name of its storage format, such as `BF16` or `Q4_K`.
    pub format: &'a str,
    /// Sizes, outermost first.
    pub shape: &'a [usize],
}

/// Prefixes of diffusion models in the files of ComfyUI, stable-diffusion.cpp, NVIDIA and
/// diffusers.
const PREFIXES: [&str; 6] = ["model.diffusion_model.", "diffusion_model.", "transformer.", "unet.", "net.", "model."];

/// The tensors of a file by name.
#[derive(Debug)]
pub(super) struct Index<'a> {
    listed: &'a [Listed<'a>],
    /// Tensors by their name without the prefix of a diffusion model, if it has one.
    bare: BTreeMap<&'a str, &'a Listed<'a>>,
}

impl<'a> Index<'a> {
    pub(super) fn new(listed: &'a [Listed<'a>]) -> Self {
        let bare = |name: &'a str| PREFIXES.iter().find_map(|prefix| name.strip_prefix(prefix)).unwrap_or(name);
        Self { listed, bare: listed.iter().map(|tensor| (bare(tensor.name), tensor)).collect() }
    }

    /// The stored names.
    pub(super) fn names(&self) -> impl Iterator<Item = &'a str> + Clone {
        self.listed.iter().map(|tensor| tensor.name)
    }

    /// True if a tensor has this name, or one that begins with it if it ends in a dot, apart from
    /// the prefix of a diffusion model.
    pub(super) fn has(&self, mark: &str) -> bool {
        match mark.ends_with('.') {
            true => self.bare.range(mark..).next().is_some_and(|(name, _)| name.starts_with(mark)),
            false => self.bare.contains_key(mark),
        }
    }

    /// True if every mark is there; see [`Index::has`].
    pub(super) fn has_all(&self, marks: &[&str]) -> bool {
        marks.iter().all(|mark| self.has(mark))
    }

    /// The shape of the tensor of this name, apart from the prefix of a diffusion model.
    pub(super) fn shape(&self, name: &str) -> Option<&'a [usize]> {
        self.bare.get(name).map(|tensor| tensor.shape)
    }

    /// The size of the tensor of this name along a dimension.
    pub(super) fn size(&self, name: &str, dimension: usize) -> Option<usize> {
        self.shape(name)?.get(dimension).copied()
    }

    /// The tensors whose stored names end like this.
    pub(super) fn all_ending(&self, end: &str) -> impl Iterator<Item = &'a Listed<'a>> {
        self.listed.iter().filter(move |tensor| tensor.name.ends_with(end))
    }

    /// The first tensor whose stored name ends like this.
    pub(super) fn ending(&self, end: &str) -> Option<&'a Listed<'a>> {
        self.all_ending(end).next()
    }
}
