//! A part of a model as a GGUF file in another format.
//!
//! The transformer has the names of ComfyUI's files, which ComfyUI-GGUF and stable-diffusion.cpp
//! read, and the text encoder those of llama.cpp. Values come from [`Tensors`], so that a part in
//! any format that this crate reads can be written. One slab of rows is in memory at a time.

mod metadata;
mod plan;
mod tokenizer;

use super::folder::ModelFolder;
use super::gguf::writer;
use super::names::Part;
use super::tensors::Tensors;
use crate::error::{Error, Result};
use crate::future::expect_ready;
use crate::output_file::OutputFile;
use crate::tensor::{Format, HostTensor, Storage, Unquantizable, Weight, widen};
use plan::{Fate, Planned};
use std::collections::BTreeMap;
use std::io::{self, Write};
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};

/// Values that are quantised at once: 16 MiB of F32.
const SLAB: usize = 4 << 20;

/// The settings of a GGUF file.
#[derive(Debug, Clone, Copy)]
pub struct Quantization {
    /// The transformer or the text encoder.
    pub part: Part,
    /// The format of the matrices, one of [`Format::QUANTIZED`].
    pub format: Format,
    /// True if the transformer's refiners keep their type.
    pub keep_refiners: bool,
}

/// A callback with the bytes that are written, and those of the whole file.
pub type OnWritten<'a> = &'a mut dyn FnMut(u64, u64) -> ControlFlow<()>;

/// A GGUF file that is ready to be written.
#[derive(Debug)]
pub struct GgufExport {
    folder: ModelFolder,
    tensors: Tensors,
    planned: Vec<Planned>,
    left_out: Vec<String>,
    has_tokenizer: bool,
    /// The file up to the data of the first tensor.
    header: Vec<u8>,
    /// The length of the file in bytes.
    len: u64,
}

impl GgufExport {
    /// Reads the headers of a part's files, and decides the format of each tensor.
    ///
    /// | tensors | format |
    /// | --- | --- |
    /// | vectors | F32, which ggml expects of them |
    /// | embedders, modulations, final layer, pad tokens | as stored; BF16 if that is quantised |
    /// | refiners, on request | likewise |
    /// | matrices, and the text encoder's table of tokens | the format asked for |
    /// | matrices whose rows are not whole blocks of it | Q8_0, else as the embedders |
    ///
    /// # Errors
    /// [`Error::Request`] for a part or a format that is not written; those of [`Tensors::of`];
    /// [`Error::Tensor`] for tensors that do not fit together.
    pub fn new(folder: &ModelFolder, settings: Quantization) -> Result<Self> {
        let Quantization { part, format, .. } = settings;
        if part == Part::Vae || !Format::QUANTIZED.contains(&format) {
            return Err(Error::Request(format!("there is no GGUF file of a {} in {format}", part.name())));
        }
        expect_ready(async {
            let tensors = Tensors::of(folder, part).await?;
            let (planned, left_out) = plan::plan(&tensors, settings)?;
            let keys = metadata::keys(folder, settings, &tensors, &planned).await?;
            let has_tokenizer = keys.iter().any(|(key, _)| key == tokenizer::TOKENS);
            let entries: Vec<_> = planned.iter().map(|planned| planned.entry.clone()).collect();
            let (header, len) = writer::header(&keys, &entries);
            Ok(Self { folder: folder.clone(), tensors, planned, left_out, has_tokenizer, header, len })
        })
    }

    /// The length of the file in bytes.
    pub fn bytes(&self) -> u64 {
        self.len
    }

    /// The number of tensors in each format.
    pub fn formats(&self) -> BTreeMap<Format, usize> {
        let mut formats = BTreeMap::new();
        self.planned.iter().for_each(|planned| *formats.entry(planned.entry.format).or_default() += 1);
        formats
    }

    /// The matrices that keep their type because quantising them costs quality, with their formats.
    pub fn kept(&self) -> impl Iterator<Item = (&str, Format)> {
        self.with_fate(Fate::Kept)
    }

    /// The matrices whose rows are not whole blocks of the format asked for, with their formats.
    pub fn misfits(&self) -> impl Iterator<Item = (&str, Format)> {
        self.with_fate(Fate::Misfit)
    }

    fn with_fate(&self, fate: Fate) -> impl Iterator<Item = (&str, Format)> {
        let planned = self.planned.iter().filter(move |planned| planned.fate == fate);
        planned.map(|planned| (planned.entry.name.as_str(), planned.entry.format))
    }

    /// The stored names of tensors that are not written, because the part does not use them.
    pub fn left_out(&self) -> &[String] {
        &self.left_out
    }

    /// True if the file has a tokenizer.
    pub fn has_tokenizer(&self) -> bool {
        self.has_tokenizer
    }

    /// Writes the file, and returns its name. `on_written` may end the writing.
    ///
    /// # Errors
    /// [`Error::File`] for an output that is a file of the model, for values that are not finite or
    /// too large for their format, and for a model's file that changes meanwhile;
    /// [`Error::Cancelled`]; read errors; those of [`OutputFile::write_with`].
    pub fn write(&self, output: &OutputFile, on_written: OnWritten<'_>) -> Result<PathBuf> {
        if self.tensors.files().any(|file| is_same(file, output.path())) {
            return Err(Error::file(output.path(), "this is a file of the model itself; choose another name"));
        }
        output.write_with(self.len, &mut |out| {
            let mut out = Out { out, path: output.path(), written: 0, len: self.len, on_written: &mut *on_written };
            self.write_all(&mut out).map_err(io::Error::other)
        })
    }

    fn write_all(&self, out: &mut Out<'_>) -> Result<()> {
        out.write(&self.header)?;
        for planned in &self.planned {
            self.write_tensor(planned, out)?;
            out.write(&vec![0; writer::padding(planned.entry.bytes)])?;
        }
        self.folder.check_unchanged()
    }

    fn write_tensor(&self, planned: &Planned, out: &mut Out<'_>) -> Result<()> {
        let mut buffer = Vec::new();
        expect_ready(async {
            let mut parts = Vec::new();
            for name in &planned.parts {
                parts.push(self.tensors.weight(name, &planned.part_shape, &|_| Ok(())).await?);
            }
            let format = planned.entry.format;
            let is_stored_so =
                |part: &Weight<'_>| matches!(part.storage(), Some(Storage::Plain(stored)) if *stored == format);
            if parts.iter().all(is_stored_so) {
                // Quantised again, they would lose more.
                for part in &parts {
                    part.each_stored_piece(|_, bytes| out.write(&bytes)).await?;
                }
                return Ok(());
            }
            let rows = parts.first().map_or(1, Weight::rows).max(1);
            let take = |row: usize, piece: HostTensor| {
                let name = &planned.parts[(row / rows).min(planned.parts.len() - 1)];
                quantize(&piece, format, &mut buffer, |slab| match slab {
                    Ok(bytes) => out.write(bytes),
                    Err(reason) => Err(self.tensors.unquantizable(name, reason)),
                })
            };
            Weight::each_piece(&parts, take).await
        })
    }
}

/// Quantises a piece in slabs of rows, with `buffer` for their bytes. All threads share the rows.
fn quantize(
    piece: &HostTensor,
    format: Format,
    buffer: &mut Vec<u8>,
    mut take: impl FnMut(Result<&[u8], Unquantizable>) -> Result<()>,
) -> Result<()> {
    // A vector is one row.
    let columns = if piece.shape().len() < 2 { piece.len() } else { piece.shape()[piece.shape().len() - 1] };
    let stored = columns * piece.dtype().size();
    let (Some(bytes), 1..) = (format.bytes(columns), stored) else { return Ok(()) };
    for slab in piece.bytes().chunks((SLAB / columns).max(1) * stored) {
        buffer.resize(slab.len() / stored * bytes, 0);
        let row = |values: &mut Vec<f32>, (stored, out): (&[u8], &mut [u8])| {
            widen(piece.dtype(), stored, values);
            format.quantize(values, out)
        };
        let values = || vec![0.0; columns];
        #[cfg(not(target_family = "wasm"))]
        let done = {
            use rayon::prelude::*;
            let rows = slab.par_chunks_exact(stored).zip(buffer.par_chunks_exact_mut(bytes));
            rows.try_for_each_init(values, row)
        };
        #[cfg(target_family = "wasm")]
        let done = {
            let (mut values, mut rows) = (values(), slab.chunks_exact(stored).zip(buffer.chunks_exact_mut(bytes)));
            rows.try_for_each(|pair| row(&mut values, pair))
        };
        take(done.map(|()| buffer.as_slice()))?;
    }
    Ok(())
}

/// The file that is being written.
struct Out<'a> {
    out: &'a mut dyn Write,
    path: &'a Path,
    written: u64,
    len: u64,
    on_written: &'a mut dyn FnMut(u64, u64) -> ControlFlow<()>,
}

impl Out<'_> {
    fn write(&mut self, bytes: &[u8]) -> Result<()> {
        self.out.write_all(bytes).map_err(|error| Error::io(self.path, error))?;
        self.written += bytes.len() as u64;
        match (self.on_written)(self.written, self.len) {
            ControlFlow::Continue(()) => Ok(()),
            ControlFlow::Break(()) => Err(Error::Cancelled),
        }
    }
}

/// True if both paths lead to one file.
fn is_same(file: &Path, other: &Path) -> bool {
    #[cfg(unix)]
    {
        use std::os::unix::fs::MetadataExt;
        let id = |path: &Path| std::fs::metadata(path).ok().map(|file| (file.dev(), file.ino()));
        id(file).is_some_and(|file| id(other) == Some(file))
    }
    #[cfg(not(unix))]
    {
        file.canonicalize().is_ok_and(|file| other.canonicalize().is_ok_and(|other| file == other))
    }
}
