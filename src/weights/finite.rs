//! The search for a non-finite value in a model's weights, to find the cause of a broken result.

use super::file::ModelFile;
use super::{StoredType, Tensors};
use crate::error::Result;
use std::ops::Range;
use std::sync::atomic::Ordering;

/// Bytes scanned at once: a multiple of every element size.
const PIECE: u64 = 4 << 20;

impl Tensors {
    /// The name, in its file's spelling, of the first tensor that contains a NaN or an infinity.
    /// The search covers tensors that something has read, except those that are `known` not to
    /// affect the result; `known` receives names as in [`Tensors::unread`]. All of these tensors
    /// are read again, in pieces. This takes seconds for a large model and is meant for a
    /// non-finite result.
    ///
    /// # Errors
    /// Read errors.
    pub async fn first_non_finite(&self, known: impl Fn(&str) -> bool) -> Result<Option<String>> {
        for (name, entry) in &self.entries {
            if entry.read.load(Ordering::Relaxed)
                && !known(name)
                && holds_non_finite(&self.files[entry.file], &entry.range, entry.dtype).await?
            {
                return Ok(Some(entry.stored(name).to_owned()));
            }
        }
        Ok(None)
    }
}

async fn holds_non_finite(file: &ModelFile, range: &Range<u64>, dtype: StoredType) -> Result<bool> {
    let mut start = range.start;
    while start < range.end {
        let end = range.end.min(start + PIECE);
        if !all_finite(dtype, &file.read(start..end).await?) {
            return Ok(true);
        }
        start = end;
    }
    Ok(false)
}

/// True if every element is finite in its type of use. An exponent of ones marks infinities and
/// NaNs in all types except F8_E4M3, which has only NaNs; an F64 is used as an F32.
fn all_finite(dtype: StoredType, bytes: &[u8]) -> bool {
    let halves = |exponent: u16| chunks(bytes).all(|b| u16::from_le_bytes(b) & exponent != exponent);
    match dtype {
        StoredType::F16 => halves(0x7c00),
        StoredType::BF16 => halves(0x7f80),
        StoredType::F32 => chunks(bytes).all(|b| f32::from_le_bytes(b).is_finite()),
        StoredType::F64 => chunks(bytes).all(|b| (f64::from_le_bytes(b) as f32).is_finite()),
        StoredType::F8_E4M3 => bytes.iter().all(|b| b & 0x7f != 0x7f),
        StoredType::F8_E5M2 => bytes.iter().all(|b| b & 0x7c != 0x7c),
        _ => true,
    }
}

/// Little-endian elements of `N` bytes.
fn chunks<const N: usize>(bytes: &[u8]) -> impl Iterator<Item = [u8; N]> {
    bytes.as_chunks().0.iter().copied()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::future::expect_ready;
    use crate::weights::ModelFolder;
    use safetensors::tensor::TensorView;

    /// A part with these vectors as tensors.
    fn part(tensors: &[(&str, StoredType, Vec<u8>)]) -> Tensors {
        let views = tensors.iter().map(|(name, dtype, bytes)| {
            let len = bytes.len() * 8 / dtype.bitsize();
            (*name, TensorView::new(*dtype, vec![len], bytes).unwrap())
        });
        let file = safetensors::serialize(views, None).unwrap();
        let folder = ModelFolder::in_memory("m", &[]);
        let folder = folder.with_files("m", vec![("vae/w.safetensors".to_owned(), file.into())]);
        expect_ready(Tensors::open(&folder, "vae", "w")).unwrap()
    }

    fn first(tensors: &Tensors) -> Option<String> {
        expect_ready(tensors.first_non_finite(|name| name == "known")).unwrap()
    }

    #[test]
    fn every_floating_type_shows_its_infinities() {
        use half::{bf16, f16};
        type Case = (StoredType, fn(f32) -> Vec<u8>);
        let types: [Case; 4] = [
            (StoredType::F64, |v| f64::from(v).to_le_bytes().into()),
            (StoredType::F32, |v| v.to_le_bytes().into()),
            (StoredType::F16, |v| f16::from_f32(v).to_le_bytes().into()),
            (StoredType::BF16, |v| bf16::from_f32(v).to_le_bytes().into()),
        ];
        for (dtype, bytes) in types {
            for (value, found) in
                [(f32::INFINITY, true), (f32::NEG_INFINITY, true), (f32::NAN, true), (65504.0, false), (0.0, false)]
            {
                let tensors = part(&[("a", dtype, [bytes(1.0), bytes(-2.0), bytes(value)].concat())]);
                expect_ready(tensors.take("a", &[3])).unwrap();
                assert_eq!(first(&tensors).is_some(), found, "{dtype} {value}");
            }
        }
    }

    #[test]
    fn eight_bit_floats_and_large_doubles_count() {
        let too_large = 1e39f64.to_le_bytes().to_vec();
        let cases =
            [(StoredType::F64, too_large), (StoredType::F8_E4M3, vec![0xff]), (StoredType::F8_E5M2, vec![0x7c])];
        for (dtype, value) in cases {
            let tensors = part(&[("a", dtype, value)]);
            expect_ready(tensors.take("a", &[1])).unwrap();
            assert_eq!(first(&tensors).as_deref(), Some("a"), "{dtype}");
        }
    }

    #[test]
    fn only_tensors_in_use_are_blamed() {
        let nan = || f32::NAN.to_le_bytes().to_vec();
        let vector = |name| (name, StoredType::F32, nan());
        let tensors = part(&[vector("known"), vector("unread"), vector("used"), vector("z")]);
        for name in ["known", "used", "z"] {
            expect_ready(tensors.take(name, &[1])).unwrap();
        }
        assert_eq!(first(&tensors).as_deref(), Some("used"));
    }

    #[test]
    fn the_last_value_of_a_long_tensor_counts() {
        let mut bytes = vec![0; 2 * PIECE as usize + 4];
        bytes.splice(2 * PIECE as usize.., f32::INFINITY.to_le_bytes());
        let tensors = part(&[("a", StoredType::F32, bytes)]);
        expect_ready(tensors.take("a", &[2 * PIECE as usize / 4 + 1])).unwrap();
        assert_eq!(first(&tensors).as_deref(), Some("a"));
    }
}
