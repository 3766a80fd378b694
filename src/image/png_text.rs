//! The texts of a PNG: this crate's own, and other programs' generation data.
//!
//! A file may come from anywhere. Its size and its chunks are bounded before any allocation for
//! them, texts have a bounded number and length, and JSON in them a bounded depth.

mod comfy;
mod exif;
mod foreign;
mod programs;
#[cfg(test)]
mod tests;
mod texts;
mod xmp;

use super::info::Info;
use crate::error::{Error, Result};
pub use foreign::Foreign;
use serde::Serialize;
use std::fs::{self, File};
use std::io::{BufRead, BufReader, Read, Seek};
use std::path::Path;
use texts::Texts;

/// The text chunk with an [`Info`] in JSON.
pub(crate) const KEY: &str = "zimage";
/// The text chunk that other tools read and write.
pub(crate) const PARAMETERS: &str = "parameters";

/// Maximum side of a PNG in pixels.
const MAX_SIDE: u32 = 1 << 16;
/// Maximum memory for a PNG's chunks in bytes.
const MAX_CHUNKS: usize = 32 << 20;
/// Maximum size of a decompressed text in bytes.
const MAX_TEXT: usize = 4 << 20;
/// Maximum number of stored text chunk names.
const MAX_KEYS: usize = 8;

/// The texts of a PNG, written by this program or by another.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct PngText {
    /// Pixels in a row.
    pub width: usize,
    /// Rows.
    pub height: usize,
    /// The generation data, if this crate wrote the picture.
    #[serde(rename = "zimage")]
    pub info: Option<Info>,
    /// The text of AUTOMATIC1111's web UI, from the chunk of that name or from a comment in that
    /// form.
    pub parameters: Option<String>,
    /// Another program's data in its own form.
    pub foreign: Option<Foreign>,
    /// The names of the text chunks, each once. Only the first eight, because a file may contain
    /// any number.
    #[serde(skip)]
    pub keys: Vec<String>,
}

impl PngText {
    /// Reads the texts of a PNG, without its pixels.
    ///
    /// # Errors
    /// [`Error::Io`] when `path` cannot be read, [`Error::File`] when it is not a PNG or is broken.
    pub fn open(path: &Path) -> Result<Self> {
        let mut reader = decoder(path)?.read_info().map_err(|error| broken(path, &error))?;
        let mut text = Self::read(reader.info());
        // Texts usually precede the pixels, so a truncated file may still contain its generation
        // data.
        if !text.tells() {
            reader.finish().map_err(|error| broken(path, &error))?;
            text = Self::read(reader.info());
        }
        Ok(text)
    }

    /// True if any text contains generation data.
    pub fn tells(&self) -> bool {
        self.info.is_some() || self.parameters.is_some() || self.foreign.is_some()
    }

    /// The texts that a decoder has seen so far.
    pub(crate) fn read(png: &png::Info<'_>) -> Self {
        let mut keys: Vec<String> = Vec::new();
        let mut key = |name: &str| {
            if keys.len() < MAX_KEYS && !keys.iter().any(|key| key == name) {
                keys.push(name.to_owned());
            }
        };
        let mut texts = Texts::default();
        for chunk in &png.utf8_text {
            key(&chunk.keyword);
            let mut chunk = chunk.clone();
            if let (Ok(()), Ok(text)) = (chunk.decompress_text_with_limit(MAX_TEXT), chunk.get_text()) {
                texts.add(&chunk.keyword, text);
            }
        }
        for chunk in &png.uncompressed_latin1_text {
            key(&chunk.keyword);
            texts.add(&chunk.keyword, utf8_in_latin1(&chunk.text));
        }
        for chunk in &png.compressed_latin1_text {
            key(&chunk.keyword);
            let mut chunk = chunk.clone();
            if let (Ok(()), Ok(text)) = (chunk.decompress_text_with_limit(MAX_TEXT), chunk.get_text()) {
                texts.add(&chunk.keyword, utf8_in_latin1(&text));
            }
        }
        let exif = png.exif_metadata.as_deref().map(<[u8]>::to_vec);
        if exif.is_some() {
            key("eXIf");
        }
        // ImageMagick stores EXIF as hexadecimal digits in a text.
        let exif = exif.or_else(|| {
            let text = texts.get("Raw profile type exif").or_else(|| texts.get("Raw profile type APP1"))?;
            exif::from_digits(text)
        });
        for (name, text) in exif.iter().flat_map(|bytes| exif::texts(bytes)) {
            texts.add(name, text);
        }
        for (name, text) in texts.get("XML:com.adobe.xmp").map(xmp::texts).unwrap_or_default() {
            texts.add(name, text);
        }
        Self {
            width: png.width as usize,
            height: png.height as usize,
            info: texts.get(KEY).and_then(|json| serde_json::from_str(json).ok()),
            parameters: programs::parameters(&texts),
            foreign: programs::read(&texts),
            keys,
        }
    }
}

/// Opens a PNG and checks the size in its header before any allocation depends on it.
pub(crate) fn decoder(path: &Path) -> Result<png::Decoder<impl BufRead + Seek + use<>>> {
    let failed = |error| Error::io(path, error);
    // This check precedes opening, because opening a named pipe would wait for its writer.
    if !fs::metadata(path).map_err(failed)?.is_file() {
        return Err(Error::file(path, "expected a PNG, found a folder, a device or a pipe"));
    }
    let mut file = BufReader::new(File::open(path).map_err(failed)?);
    let mut signature = [0; 8];
    let start = file.read_exact(&mut signature).and_then(|()| file.rewind());
    if start.is_err() || signature != *b"\x89PNG\r\n\x1a\n" {
        return Err(Error::file(path, "not a PNG"));
    }
    let mut decoder = png::Decoder::new_with_limits(file, png::Limits { bytes: MAX_CHUNKS });
    decoder.set_ignore_iccp_chunk(true);
    let header = decoder.read_header_info().map_err(|error| broken(path, &error))?;
    let (width, height) = (header.width, header.height);
    if width > MAX_SIDE || height > MAX_SIDE {
        return Err(Error::file(path, format!("{width}×{height} is too large: a side has at most {MAX_SIDE} pixels")));
    }
    Ok(decoder)
}

/// The error of a PNG that cannot be decoded.
pub(crate) fn broken(path: &Path, error: &png::DecodingError) -> Error {
    Error::file(path, format!("a broken PNG: {error}"))
}

/// The text of a tEXt or zTXt chunk. PNG defines it as Latin-1, but many programs write UTF-8, and
/// Latin-1 text is hardly ever valid UTF-8 by chance.
fn utf8_in_latin1(text: &str) -> String {
    let bytes: Option<Vec<u8>> = text.chars().map(|c| u8::try_from(c).ok()).collect();
    bytes.and_then(|bytes| String::from_utf8(bytes).ok()).unwrap_or_else(|| text.to_owned())
}
