//! The search for a non-finite value in a model's weights, to find the cause of a broken result.

use super::Tensors;
use crate::error::{Error, Result};
use crate::tensor::Weight;

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
            let Some(shape) = entry.read.get().filter(|_| !known(name)) else { continue };
            // Other types than those of weights have no such values.
            if entry.in_memory().is_some()
                && let Some(weight) = self.stored_weight(name, shape, &|_| Ok(())).await?
                && !is_finite(weight).await?
            {
                return Ok(Some(entry.stored(name).to_owned()));
            }
        }
        Ok(None)
    }
}

/// True if every element is finite in its type in memory.
async fn is_finite(weight: Weight<'_>) -> Result<bool> {
    let parts = [weight.finite(|| Error::NonFinitePicture)];
    match Weight::each_piece(&parts, |_, _| Ok(())).await {
        Err(Error::NonFinitePicture) => Ok(false),
        read => read.map(|()| true),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::future::expect_ready;
    use crate::weights::ModelFolder;
    use ::safetensors::Dtype;
    use safetensors::tensor::TensorView;

    /// A part with these vectors as tensors.
    fn part(tensors: &[(&str, Dtype, Vec<u8>)]) -> Tensors {
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
        type Case = (Dtype, fn(f32) -> Vec<u8>);
        let types: [Case; 3] = [
            (Dtype::F32, |v| v.to_le_bytes().into()),
            (Dtype::F16, |v| f16::from_f32(v).to_le_bytes().into()),
            (Dtype::BF16, |v| bf16::from_f32(v).to_le_bytes().into()),
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
    fn eight_bit_floats_count() {
        for (dtype, value) in [(Dtype::F8_E4M3, 0xff), (Dtype::F8_E5M2, 0x7c)] {
            let tensors = part(&[("a", dtype, vec![value])]);
            expect_ready(tensors.take("a", &[1])).unwrap();
            assert_eq!(first(&tensors).as_deref(), Some("a"), "{dtype}");
        }
    }

    #[test]
    fn only_tensors_in_use_are_blamed() {
        let nan = || f32::NAN.to_le_bytes().to_vec();
        let vector = |name| (name, Dtype::F32, nan());
        let tensors = part(&[vector("known"), vector("unread"), vector("used"), vector("z")]);
        for name in ["known", "used", "z"] {
            expect_ready(tensors.take(name, &[1])).unwrap();
        }
        assert_eq!(first(&tensors).as_deref(), Some("used"));
    }

    #[test]
    fn the_last_value_of_a_long_tensor_counts() {
        const LEN: usize = (3 << 20) + 1;
        let mut bytes = vec![0; 4 * LEN];
        bytes.splice(4 * (LEN - 1).., f32::INFINITY.to_le_bytes());
        let tensors = part(&[("a", Dtype::F32, bytes)]);
        expect_ready(tensors.take("a", &[LEN])).unwrap();
        assert_eq!(first(&tensors).as_deref(), Some("a"));
    }
}
