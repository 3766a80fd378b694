//! A finished picture and its generation data, to PNG and back.
//!
//! A picture cannot be reproduced without its prompt and seed, so every PNG stores them twice: as
//! `parameters`, the form that common tools read, and as `zimage`, the whole [`Info`] in JSON.

mod info;
mod png_text;

use crate::error::{Error, Result};
use crate::output_file::OutputFile;
use crate::reserve::zeros;
pub use info::{Info, LoraInfo};
pub use png_text::{Foreign, PngText};
use png_text::{KEY, PARAMETERS, broken, decoder};
use std::path::Path;

/// Maximum pixels of a PNG to read. The model's positions end far below, at 8192, and a small
/// machine's memory far above.
const MAX_PIXELS: u64 = 1 << 26;

/// A picture in eight-bit RGB.
#[derive(Debug, Clone, PartialEq)]
pub struct Image {
    /// Pixels in a row.
    pub width: usize,
    /// Rows.
    pub height: usize,
    /// `height` rows of `width` pixels, each red, green, blue, starting at the top left.
    pub pixels: Vec<u8>,
    /// The generation data.
    pub info: Info,
}

impl Image {
    /// The picture as a PNG with its [`Info`] as text.
    ///
    /// # Errors
    /// [`Error::Internal`] when `pixels` does not hold `height · width · 3` bytes.
    pub fn to_png(&self) -> Result<Vec<u8>> {
        let failed = |error: png::EncodingError| Error::internal(error.to_string());
        let size = |side: usize| u32::try_from(side).map_err(|error| Error::internal(error.to_string()));
        let mut bytes = Vec::new();
        let mut encoder = png::Encoder::new(&mut bytes, size(self.width)?, size(self.height)?);
        encoder.set_color(png::ColorType::Rgb);
        encoder.set_depth(png::BitDepth::Eight);
        let json = serde_json::to_string(&self.info).map_err(|error| Error::internal(error.to_string()))?;
        // A NUL would end the text early in other readers; JSON escapes it.
        for (key, text) in [(PARAMETERS, self.info.parameters().replace('\0', "\u{fffd}")), (KEY, json)] {
            // Readers disagree about the upper half of Latin-1 in tEXt, so non-ASCII text is iTXt.
            match text.is_ascii() {
                true => encoder.add_text_chunk(key.to_owned(), text),
                false => encoder.add_itxt_chunk(key.to_owned(), text),
            }
            .map_err(failed)?;
        }
        let mut writer = encoder.write_header().map_err(failed)?;
        writer.write_image_data(&self.pixels).map_err(failed)?;
        writer.finish().map_err(failed)?;
        Ok(bytes)
    }

    /// Writes the picture as a PNG, replacing an existing file, atomically (see [`OutputFile`]).
    ///
    /// # Errors
    /// As [`Image::to_png`], [`OutputFile::open`] and [`OutputFile::write`].
    pub fn save(&self, path: &Path) -> Result<()> {
        let bytes = self.to_png()?;
        OutputFile::open(path)?.write(&bytes).map(drop)
    }

    /// Reads a PNG of any colour type. An alpha channel is dropped, sixteen bits become eight. A
    /// picture from another tool has an [`Info`] with only the size.
    ///
    /// # Errors
    /// [`Error::Io`] when `path` cannot be read, [`Error::File`] when it is not a PNG, is broken,
    /// or has more than 2²⁶ pixels.
    pub fn open(path: &Path) -> Result<Self> {
        let mut decoder = decoder(path)?;
        decoder.set_transformations(png::Transformations::normalize_to_color8());
        let mut reader = decoder.read_info().map_err(|error| broken(path, &error))?;
        let width = reader.info().width;
        let height = reader.info().height;
        let bytes = reader.output_buffer_size().filter(|_| u64::from(width) * u64::from(height) <= MAX_PIXELS);
        let Some(bytes) = bytes else {
            return Err(Error::file(
                path,
                format!("{width}×{height} is too large: at most {MAX_PIXELS} pixels are read"),
            ));
        };
        let mut pixels = zeros(bytes, "the pixels of a picture")?;
        let frame = reader.next_frame(&mut pixels).map_err(|error| broken(path, &error))?;
        // Texts may follow the pixels. Broken texts do not affect the picture.
        let _ = reader.finish();
        pixels.truncate(frame.buffer_size());
        let pixels = match frame.color_type.samples() {
            1 => pixels.iter().flat_map(|&gray| [gray; 3]).collect(),
            2 => pixels.chunks_exact(2).flat_map(|pixel| [pixel[0]; 3]).collect(),
            3 => pixels,
            _ => pixels.chunks_exact(4).flat_map(|pixel| [pixel[0], pixel[1], pixel[2]]).collect(),
        };
        let width = width as usize;
        let height = height as usize;
        let info = PngText::read(reader.info()).info.unwrap_or(Info { width, height, ..Info::default() });
        Ok(Self { width, height, pixels, info })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::fs;
    use std::io::Write;

    fn image(prompt: &str, negative: &str) -> Image {
        let info = Info {
            prompt: prompt.into(),
            negative: negative.into(),
            steps: 8,
            guidance: 3.5,
            cfg_normalization: 0.1,
            cfg_truncation: 1.0,
            seed: u64::MAX,
            width: 3,
            height: 2,
            model: "emoji".into(),
            loras: vec![LoraInfo { name: "style".into(), strength: 0.8, sha256: "0123456789abcdef".repeat(4) }],
            version: "0.1.0".into(),
        };
        Image { width: 3, height: 2, pixels: (0..18).map(|i| i * 14).collect(), info }
    }

    fn written(bytes: &[u8]) -> tempfile::NamedTempFile {
        let mut file = tempfile::NamedTempFile::new().unwrap();
        file.write_all(bytes).unwrap();
        file
    }

    /// A PNG of one gray pixel with the given size field, texts and trailing texts.
    fn png(size: (u32, u32), chunks: &[(&[u8; 4], &[u8])]) -> Vec<u8> {
        let mut bytes = Vec::new();
        let mut encoder = png::Encoder::new(&mut bytes, 1, 1);
        encoder.set_color(png::ColorType::Grayscale);
        let mut writer = encoder.write_header().unwrap();
        for (kind, data) in chunks {
            writer.write_chunk(png::chunk::ChunkType(**kind), data).unwrap();
        }
        writer.write_image_data(&[9]).unwrap();
        writer.finish().unwrap();
        bytes[16..20].copy_from_slice(&size.0.to_be_bytes());
        bytes[20..24].copy_from_slice(&size.1.to_be_bytes());
        bytes
    }

    #[test]
    fn parameters_match_other_tools() {
        let info = image("a fox,\nsitting", "blurry").info;
        assert_eq!(
            info.parameters(),
            "a fox,\nsitting\nNegative prompt: blurry\nSteps: 8, Sampler: Euler, CFG scale: 4.5, \
             Seed: 18446744073709551615, Size: 3x2, Model: emoji, Lora hashes: \"style: 0123456789\", Version: zimage 0.1.0"
        );
        let off = Info { guidance: 0.0, negative: String::new(), model: "a, b".into(), ..info };
        assert!(off.parameters().contains("sitting\nSteps: 8, Sampler: Euler, CFG scale: 1, "));
        assert!(off.parameters().contains("Model: \"a, b\", Lora hashes: "));
    }

    #[test]
    fn a_picture_survives_its_file() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("fox.png");
        let image = image("ein Fuchs, 红色的狐狸 🦊\r\n\"zweite\" Zeile", "größer");
        image.save(&path).unwrap();
        image.save(&path).unwrap();
        assert_eq!(Image::open(&path).unwrap(), image);
        let text = PngText::open(&path).unwrap();
        assert_eq!(text.parameters.unwrap(), image.info.parameters());
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1, "no temporary file stays");
    }

    #[test]
    fn names_reach_the_system_s_limit() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("x".repeat(251) + ".png");
        image("a", "").save(&path).unwrap();
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
    }

    #[test]
    fn wrong_pixel_counts_are_errors() {
        let image = Image { height: 5, ..image("a", "") };
        assert!(matches!(image.to_png(), Err(Error::Internal(_))));
    }

    #[test]
    fn saving_to_no_folder_names_the_file() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("missing/fox.png");
        let error = image("a", "").save(&path).unwrap_err();
        assert!(matches!(&error, Error::File { path: named, .. } if path.parent() == Some(named)), "{error}");
        assert!(error.to_string().contains("no such folder"), "{error}");
    }

    #[test]
    fn foreign_pictures_are_read() {
        let file = written(&png((1, 1), &[(b"tEXt", b"parameters\0a caf\xe9\nSteps: 20"), (b"tEXt", b"Software\0x")]));
        let text = PngText::open(file.path()).unwrap();
        assert_eq!((text.width, text.height, text.info), (1, 1, None));
        assert_eq!(text.parameters.as_deref(), Some("a café\nSteps: 20"));
        assert_eq!(text.keys, ["parameters", "Software"]);
        let image = Image::open(file.path()).unwrap();
        assert_eq!((image.pixels.as_slice(), image.info.width), ([9, 9, 9].as_slice(), 1));
    }

    #[test]
    fn hostile_files_are_errors() {
        let whole = image("a fox", "").to_png().unwrap();
        for length in 0..whole.len() {
            let file = written(&whole[..length]);
            // The last chunk is empty, so the picture is complete without it.
            let cut = length < whole.len() - 16;
            assert!(Image::open(file.path()).is_err() || !cut, "cut to {length} bytes");
        }
        for size in [(0, 1), (u32::MAX, u32::MAX), (0x7fff_ffff, 1), (1, 0x7fff_ffff), (60_000, 60_000)] {
            assert!(Image::open(written(&png(size, &[])).path()).is_err(), "{size:?}");
        }
        // A chunk length beyond the end of the file.
        let mut long = png((1, 1), &[(b"tEXt", b"parameters\0fox")]);
        long[33..37].copy_from_slice(&0x7fff_fff0u32.to_be_bytes());
        assert!(PngText::open(written(&long).path()).is_err());
        // Another program's value under our key is ignored without an error.
        let file = written(&png((1, 1), &[(b"tEXt", b"zimage\0{\"prompt\": 7}"), (b"iTXt", b"zimage\0\x07")]));
        assert_eq!(PngText::open(file.path()).unwrap().info, None);
        assert!(
            PngText::open(written(b"GIF89a, not this time").path()).unwrap_err().to_string().ends_with("not a PNG")
        );
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        #[test]
        fn any_prompt_survives(prompt in any::<String>(), negative in any::<String>(), guidance in 0f32..100.0) {
            let mut image = image(&prompt, &negative);
            image.info.guidance = guidance;
            let file = written(&image.to_png().unwrap());
            let text = PngText::open(file.path()).unwrap();
            prop_assert_eq!(text.parameters.unwrap(), image.info.parameters().replace('\0', "\u{fffd}"));
            prop_assert_eq!(text.info.unwrap(), image.info);
        }

        #[test]
        fn damage_never_panics(at in any::<prop::sample::Index>(), byte in any::<u8>()) {
            let mut bytes = image("a fox", "größer").to_png().unwrap();
            let at = at.index(bytes.len());
            bytes[at] = byte;
            let file = written(&bytes);
            let _ = (Image::open(file.path()), PngText::open(file.path()));
        }
    }
}
