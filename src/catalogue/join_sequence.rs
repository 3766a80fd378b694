//! `join_sequence`: shared pictures, shared captions, guidance.

use super::{
    Backend, COPY, Call, Entry, Feature, Inputs, Op, OpCase, Rejection, Result, Tolerance, Zeros, named, rejections,
    returns,
};

/// Pictures `[pictures, image, width]` and captions `[prompts, caption, width]`.
#[derive(Debug, Clone, Copy)]
pub(crate) struct JoinSequenceCase {
    pub pictures: usize,
    /// Tokens of a picture.
    pub image: usize,
    pub prompts: usize,
    /// Tokens of a caption.
    pub caption: usize,
    pub width: usize,
    /// The caption of each sequence.
    pub captions: &'static [u32],
}

impl JoinSequenceCase {
    /// One picture with its caption.
    pub(crate) const PLAIN: Self =
        Self { pictures: 1, image: 64, prompts: 1, caption: 32, width: 3840, captions: &[0] };
}

impl OpCase for JoinSequenceCase {
    const OP: &'static str = "join_sequence";
    const TOLERANCE: Tolerance = COPY;

    fn sizes(&self) -> String {
        let Self { image, caption, width, .. } = self;
        format!("{image} + {caption} tokens, {width} wide")
    }

    fn prepare<B: Backend + 'static>(&self, inputs: &mut Inputs<'_, B>) -> Result<Call<B>> {
        let Self { pictures, image, prompts, caption, width, captions } = *self;
        let image = inputs.activation(&[pictures, image, width], 1e5)?;
        let caption = inputs.activation(&[prompts, caption, width], 1.0)?;
        let captions = inputs.integers(&[captions.len()], captions)?;
        returns(move |b: &B| Ok([b.join_sequence(&image, &caption, &captions)?]))
    }
}

pub(super) fn entry<B: Backend + 'static>() -> Entry<B> {
    let case = |[pictures, image]: [usize; 2], [prompts, caption]: [usize; 2], width, captions| JoinSequenceCase {
        pictures,
        image,
        prompts,
        caption,
        width,
        captions,
    };
    let cases = named([
        ("width-3840", JoinSequenceCase::PLAIN),
        ("guidance", case([2, 33], [3, 32], 60, &[0, 1, 2, 2])),
        ("one-picture-many-captions", case([1, 5], [3, 7], 61, &[2, 0, 1])),
        ("one-caption", case([3, 1], [1, 1], 33, &[0, 0, 0])),
        ("captions-out-of-order", case([2, 32], [4, 32], 64, &[3, 1, 0, 2, 2, 0])),
        ("full", case([2, 4096], [2, 128], 3840, &[0, 0, 1, 1])),
    ]);
    let op = Op { name: JoinSequenceCase::OP, features: &[Feature::BeyondF16] };
    Entry { op, cases, rejections: sequence_rejections() }
}

fn sequence_rejections<B: Backend + 'static>() -> Vec<Rejection<B>> {
    const IMAGE: Zeros = Zeros::Activation(&[2, 3, 4]);
    const CAPTION: Zeros = Zeros::Activation(&[5, 6, 4]);
    const CAPTIONS: Zeros = Zeros::U32(&[4]);
    let call =
        |b: &B, [image, caption, captions]: [B::Tensor; 3]| b.join_sequence(&image, &caption, &captions).map(drop);
    rejections(
        JoinSequenceCase::OP,
        call,
        [
            ("rank-of-image", [Zeros::Activation(&[3, 4]), CAPTION, CAPTIONS]),
            ("type-of-image", [Zeros::U32(&[2, 3, 4]), CAPTION, CAPTIONS]),
            ("rank-of-caption", [IMAGE, Zeros::Activation(&[6, 4]), CAPTIONS]),
            ("width-of-caption", [IMAGE, Zeros::Activation(&[5, 6, 7]), CAPTIONS]),
            ("type-of-caption", [IMAGE, Zeros::U32(&[5, 6, 4]), CAPTIONS]),
            ("rank-of-captions", [IMAGE, CAPTION, Zeros::U32(&[2, 2])]),
            ("size-of-captions", [IMAGE, CAPTION, Zeros::U32(&[3])]),
            ("type-of-captions", [IMAGE, CAPTION, Zeros::F32(&[4])]),
        ],
    )
}
