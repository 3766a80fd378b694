//! Requests, checked before anything runs.

mod warnings;

use super::guidance::Guidance;
use super::prompt::check_length;
use super::schedule::Schedule;
use crate::error::{Error, Result};
use crate::model::config::{Defaults, ModelConfig};
use crate::model::vae::tiling::VaeTile;

/// The most steps of a request: as many as the noise levels that a scheduler counts
/// (`num_train_timesteps`).
pub const MAX_STEPS: usize = 1000;

/// The most pictures of a request.
pub const MAX_IMAGES: usize = 1024;

/// The longest side of a picture in pixels, whatever a model's configuration claims.
const MAX_SIDE: usize = 1 << 16;

/// A request for pictures. `None` is the model's default.
///
/// ```
/// use zimage::pipeline::request::Request;
/// let fox = Request::new("a red fox");
/// let request = Request { width: Some(512), steps: Some(4), seed: 7, ..fox };
/// ```
#[derive(Debug, Clone, PartialEq)]
pub struct Request {
    /// The prompts; at least one.
    pub prompts: Vec<String>,
    /// The negative prompts, read where guidance is on: none for the empty text, one for all
    /// prompts, or one for each.
    pub negative: Vec<String>,
    /// Pixels, a multiple of 16.
    pub width: Option<usize>,
    /// Pixels, a multiple of 16.
    pub height: Option<usize>,
    /// Steps from noise to picture, at most [`MAX_STEPS`].
    pub steps: Option<usize>,
    /// Diffusers' `guidance_scale`: the usual cfg scale − 1, so that 0 is off.
    pub guidance: Option<f32>,
    /// Caps the norm of the guided prediction at this many times that of the prompt's; 0 is off.
    pub cfg_normalization: f32,
    /// Guidance ends when the model time, from 0 (noise) to 1 (picture), is past this; 1 is never.
    /// The type is F64 for the reason at [`Guidance::truncation`].
    pub cfg_truncation: f64,
    /// The seed of the first picture; [`Job::seed`] has the others.
    pub seed: u64,
    /// Pictures for each prompt, at least 1.
    pub count: usize,
    /// Pictures drawn at once, 1 or more. More are faster on a GPU that one picture does not fill,
    /// and take more memory; the pictures are the same.
    pub batch: usize,
    /// The tiles of decoding, whose sizes are multiples of 8 pixels, or none for whole pictures.
    pub vae_tile: VaeTile,
}

impl Request {
    /// One picture of `prompt` with everything else as the model prefers it and seed 0.
    pub fn new(prompt: impl Into<String>) -> Self {
        Self {
            prompts: vec![prompt.into()],
            negative: Vec::new(),
            width: None,
            height: None,
            steps: None,
            guidance: None,
            cfg_normalization: 0.0,
            cfg_truncation: 1.0,
            seed: 0,
            count: 1,
            batch: 1,
            vae_tile: VaeTile::Auto,
        }
    }

    /// Puts the model's defaults in and checks everything that can be checked without running the
    /// model.
    ///
    /// # Errors
    /// [`Error::Request`] for the first value that is wrong, with one that is right.
    pub fn check(&self, config: &ModelConfig) -> Result<Job> {
        let mut job = self.check_within(&config.defaults, &Limits::of(config))?;
        self.vae_tile.check(&config.vae)?;
        let factor = config.vae.scale_factor();
        Schedule::new(&config.scheduler, job.steps, [job.height / factor, job.width / factor])?;
        job.warnings.extend(warnings::of_size(&config.defaults, [job.width, job.height]));
        Ok(job)
    }

    fn check_within(&self, defaults: &Defaults, limits: &Limits) -> Result<Job> {
        let width = self.width.unwrap_or(defaults.width);
        let height = self.height.unwrap_or(defaults.height);
        check_side("width", width, limits.multiple, limits.columns)?;
        check_side("height", height, limits.multiple, limits.rows)?;

        let steps = self.steps.unwrap_or(defaults.steps);
        if !(1..=MAX_STEPS).contains(&steps) {
            return refuse(format!("{steps} steps are not possible: use 1 to {MAX_STEPS}"));
        }
        let guidance = Guidance {
            scale: self.guidance.unwrap_or(defaults.guidance),
            normalization: self.cfg_normalization,
            truncation: self.cfg_truncation,
        };
        guidance.check()?;

        let prompts = self.prompts.len();
        if prompts == 0 {
            return refuse("there is no prompt: give at least one, which may be empty");
        }
        self.prompts.iter().chain(&self.negative).try_for_each(|prompt| check_length(prompt))?;
        if self.batch == 0 {
            return refuse("0 pictures at once never come to an end: use a batch of 1 or more");
        }
        let images = match self.count {
            0 => return refuse("0 pictures a prompt are nothing to do: use a count of 1 or more"),
            count => prompts.saturating_mul(count),
        };
        if images > MAX_IMAGES {
            let count = self.count;
            let most = MAX_IMAGES;
            return refuse(format!(
                "{prompts} × {count} pictures are more than the {most} of one request: ask in several, each with the seed \
                 that comes next"
            ));
        }
        let negatives = match self.negative.as_slice() {
            [] => vec![String::new(); prompts],
            [one] => vec![one.clone(); prompts],
            each if each.len() == prompts => each.to_vec(),
            each => {
                let negatives = each.len();
                return refuse(format!(
                    "{negatives} negative prompts do not fit {prompts} prompts: give none, one for all, or one for each"
                ));
            }
        };
        Ok(Job {
            warnings: warnings::of_prompts(&self.prompts),
            prompts: self.prompts.clone(),
            negatives: if guidance.scale > 0.0 { negatives } else { Vec::new() },
            width,
            height,
            steps,
            guidance,
            seed: self.seed,
            count: self.count,
            batch: self.batch,
            vae_tile: self.vae_tile,
        })
    }
}

/// The limits of a model.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Sides are multiples of this many pixels, the side of one token: 16 in Z-Image, 8 of the
    /// autoencoder times 2 of the patches.
    pub multiple: usize,
    /// The most rows of tokens.
    pub rows: usize,
    /// The most columns of tokens.
    pub columns: usize,
    /// The most tokens of a caption, its padding included.
    pub caption: usize,
}

impl Limits {
    /// The limits of a model.
    pub fn of(config: &ModelConfig) -> Self {
        Self::new(config.transformer.axes_lens, config.size_multiple())
    }

    /// The limits that the position tables set: `axes_lens` (frames, rows, columns) of the
    /// transformer's configuration counts the positions of each axis. A caption of `L` tokens,
    /// padding included, takes the frames 1 to `L`, and the picture takes the frame `L + 1`.
    pub fn new(axes_lens: [usize; 3], multiple: usize) -> Self {
        let [frames, rows, columns] = axes_lens;
        Self { multiple, rows, columns, caption: frames.saturating_sub(2) }
    }

    /// Checks the length of a caption in tokens, its padding included.
    ///
    /// # Errors
    /// [`Error::Request`] for a caption that the position tables have no room for.
    pub fn check_caption(&self, tokens: usize) -> Result<()> {
        let most = self.caption;
        if tokens <= most {
            return Ok(());
        }
        refuse(format!(
            "a prompt of {tokens} tokens, padding included, is more than the {most} that this model has positions for: \
             use a shorter prompt"
        ))
    }
}

/// A checked request: every value is known and within the model's limits.
///
/// Pictures are numbered prompt by prompt: picture `i` is number `i % count` of prompt `i / count`.
#[derive(Debug, Clone, PartialEq)]
pub struct Job {
    /// The prompts.
    pub prompts: Vec<String>,
    /// The negative prompts: one for each prompt, or none when guidance is off.
    pub negatives: Vec<String>,
    /// Pixels.
    pub width: usize,
    /// Pixels.
    pub height: usize,
    /// Steps from noise to picture.
    pub steps: usize,
    /// The guidance.
    pub guidance: Guidance,
    /// The seed of picture 0.
    pub seed: u64,
    /// Pictures for each prompt.
    pub count: usize,
    /// Pictures drawn at once.
    pub batch: usize,
    /// The tiles of decoding, or none for whole pictures.
    pub vae_tile: VaeTile,
    /// Warnings for the user before the work begins, a sentence each: the pictures will hardly
    /// please.
    pub warnings: Vec<String>,
}

impl Job {
    /// The number of pictures.
    pub fn images(&self) -> usize {
        self.prompts.len() * self.count
    }

    /// The number of the prompt that picture `i` shows.
    pub fn prompt(&self, i: usize) -> usize {
        i / self.count
    }

    /// The seed of picture `i`: the job's plus `i`, which wraps to 0. A request for the picture's
    /// prompt with this seed and a count of 1 makes the picture again. Its noise is that of
    /// diffusers with `generator=[torch.Generator("cpu").manual_seed(seed + i) for i in
    /// range(images)]`.
    pub fn seed(&self, i: usize) -> u64 {
        self.seed.wrapping_add(i as u64)
    }
}

fn refuse<T>(sentence: impl Into<String>) -> Result<T> {
    Err(Error::Request(sentence.into()))
}

/// One side of the picture, in pixels, against the most tokens along it.
fn check_side(name: &str, pixels: usize, multiple: usize, most_tokens: usize) -> Result<()> {
    let multiple = multiple.max(1);
    let most = most_tokens.min(MAX_SIDE / multiple) * multiple;
    if pixels > most {
        return refuse(format!("{name} {pixels} is more than this model has positions for: use at most {most}"));
    }
    if pixels > 0 && pixels.is_multiple_of(multiple) {
        return Ok(());
    }
    let below = pixels / multiple * multiple;
    let above = below + multiple;
    let nearest = match (below > 0, above <= most) {
        (true, true) => format!("{below} or {above}"),
        (true, false) => below.to_string(),
        _ => above.to_string(),
    };
    refuse(format!("{name} {pixels} is not a positive multiple of {multiple}: use {nearest}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const DEFAULTS: Defaults = Defaults { steps: 8, guidance: 0.0, width: 1024, height: 768, sizes: Vec::new() };

    fn limits() -> Limits {
        Limits::new([1536, 512, 512], 16)
    }

    fn check(request: &Request) -> Result<Job> {
        request.check_within(&DEFAULTS, &limits())
    }

    fn sentence(request: Request) -> String {
        match check(&request) {
            Err(Error::Request(sentence)) => sentence,
            other => panic!("expected a refusal, found {other:?}"),
        }
    }

    #[test]
    fn missing_values_are_the_models_defaults() {
        let job = check(&Request::new("a fox")).unwrap();
        assert_eq!((job.width, job.height, job.steps), (1024, 768, 8));
        assert_eq!(job.guidance, Guidance { scale: 0.0, normalization: 0.0, truncation: 1.0 });
        assert_eq!((job.prompts.as_slice(), job.negatives.len()), (["a fox".to_owned()].as_slice(), 0));
        let bad = Defaults { width: 1000, ..DEFAULTS };
        assert!(Request::new("a fox").check_within(&bad, &limits()).is_err());
    }

    #[test]
    fn sizes_name_the_nearest_that_work() {
        let width = |width| sentence(Request { width: Some(width), ..Request::new("") });
        assert_eq!(width(1000), "width 1000 is not a positive multiple of 16: use 992 or 1008");
        assert_eq!(width(0), "width 0 is not a positive multiple of 16: use 16");
        assert_eq!(width(15), "width 15 is not a positive multiple of 16: use 16");
        assert_eq!(width(8193), "width 8193 is more than this model has positions for: use at most 8192");
        assert!(width(usize::MAX).ends_with("use at most 8192"));
        let height = sentence(Request { height: Some(17), ..Request::new("") });
        assert_eq!(height, "height 17 is not a positive multiple of 16: use 16 or 32");
        assert!(check(&Request { width: Some(16), height: Some(8192), ..Request::new("") }).is_ok());
        assert!(Request::new("").check_within(&DEFAULTS, &Limits::new([usize::MAX; 3], usize::MAX)).is_err());
        assert!(Request::new("").check_within(&DEFAULTS, &Limits::new([0; 3], 0)).is_err());
    }

    #[test]
    fn numbers_out_of_range_are_refused() {
        let request = Request::new("a fox");
        for steps in [0, 1001, usize::MAX] {
            assert!(sentence(Request { steps: Some(steps), ..request.clone() }).contains("1 to 1000"));
        }
        for guidance in [-1.0, f32::NAN, f32::INFINITY] {
            assert!(sentence(Request { guidance: Some(guidance), ..request.clone() }).contains("cfg scale"));
        }
        for cfg_normalization in [-0.5, f32::NAN, f32::INFINITY] {
            assert!(sentence(Request { cfg_normalization, ..request.clone() }).contains("normalization"));
        }
        for cfg_truncation in [-0.1, 1.1, f64::NAN] {
            assert!(sentence(Request { cfg_truncation, ..request.clone() }).contains("truncation"));
        }
        assert!(sentence(Request { count: 0, ..request.clone() }).contains("a count of 1"));
        assert!(sentence(Request { batch: 0, ..request.clone() }).contains("a batch of 1"));
        for count in [1025, usize::MAX] {
            assert!(sentence(Request { count, ..request.clone() }).contains("more than the 1024"));
        }
        assert!(sentence(Request { prompts: Vec::new(), ..request }).contains("no prompt"));
    }

    #[test]
    fn negatives_are_none_one_or_one_for_each() {
        let request =
            Request { prompts: vec!["a".into(), "b".into(), "c".into()], guidance: Some(2.5), ..Request::new("") };
        let negatives = |negative: &[&str]| {
            let negative = negative.iter().map(ToString::to_string).collect();
            check(&Request { negative, ..request.clone() }).map(|job| job.negatives)
        };
        assert_eq!(negatives(&[]).unwrap(), ["", "", ""]);
        assert_eq!(negatives(&["x"]).unwrap(), ["x", "x", "x"]);
        assert_eq!(negatives(&["x", "y", "z"]).unwrap(), ["x", "y", "z"]);
        assert!(negatives(&["x", "y"]).unwrap_err().to_string().contains("2 negative prompts"));
    }

    #[test]
    fn every_picture_has_its_own_seed() {
        let request = Request { prompts: vec!["a".into(), "b".into()], count: 3, seed: u64::MAX, ..Request::new("") };
        let job = check(&request).unwrap();
        assert_eq!(job.images(), 6);
        assert_eq!((0..6).map(|i| job.prompt(i)).collect::<Vec<_>>(), [0, 0, 0, 1, 1, 1]);
        assert_eq!((0..6).map(|i| job.seed(i)).collect::<Vec<_>>(), [u64::MAX, 0, 1, 2, 3, 4]);
    }

    #[test]
    fn captions_leave_a_frame_for_the_picture() {
        assert!(limits().check_caption(1534).is_ok());
        assert!(limits().check_caption(1535).is_err());
        assert_eq!(Limits::new([1, 1, 1], 16).caption, 0);
    }

    fn any_request() -> impl Strategy<Value = Request> {
        let texts = || prop::collection::vec("[a-z<|>]{0,8}", 0..5);
        // Half of the sizes are plausible ones, so that jobs come out as well as refusals.
        let size = || prop::option::of(prop_oneof![(0..700usize).prop_map(|tokens| tokens * 16), any::<usize>()]);
        let steps = prop::option::of(prop_oneof![0..1100usize, any::<usize>()]);
        let number = || prop_oneof![0.0..9.0f32, any::<f32>()];
        let truncation = prop_oneof![0.0..1.0f64, any::<f64>()];
        let count = prop_oneof![0..9usize, any::<usize>()];
        (
            (texts(), texts(), size(), size(), steps),
            (prop::option::of(number()), number(), truncation, any::<u64>(), count),
        )
            .prop_map(
                |((prompts, negative, width, height, steps), (guidance, normalization, truncation, seed, count))| {
                    Request {
                        prompts,
                        negative,
                        width,
                        height,
                        steps,
                        guidance,
                        cfg_normalization: normalization,
                        cfg_truncation: truncation,
                        seed,
                        count,
                        batch: 1,
                        vae_tile: VaeTile::Auto,
                    }
                },
            )
    }

    proptest! {
        #[test]
        fn a_request_is_refused_in_a_sentence_or_within_the_limits(
            request in any_request(),
            axes_lens in prop_oneof![Just([1536, 512, 512]), any::<[usize; 3]>()],
            multiple in prop_oneof![Just(16usize), any::<usize>()],
        ) {
            let limits = Limits::new(axes_lens, multiple);
            match request.check_within(&DEFAULTS, &limits) {
                Err(Error::Request(sentence)) => prop_assert!(!sentence.is_empty() && !sentence.contains('\n')),
                Err(other) => prop_assert!(false, "{other:?}"),
                Ok(job) => {
                    for (side, tokens) in [(job.width, limits.columns), (job.height, limits.rows)] {
                        prop_assert!(side > 0 && side.is_multiple_of(multiple) && side / multiple <= tokens);
                    }
                    prop_assert!((1..=MAX_STEPS).contains(&job.steps));
                    prop_assert!((1..=MAX_IMAGES).contains(&job.images()));
                    prop_assert!(job.guidance.scale >= 0.0 && job.guidance.scale.is_finite());
                    let negatives = if job.guidance.scale > 0.0 { job.prompts.len() } else { 0 };
                    prop_assert_eq!(job.negatives.len(), negatives);
                    prop_assert!(job.prompt(job.images() - 1) < job.prompts.len());
                }
            }
        }

        #[test]
        fn plausible_requests_are_jobs(tokens in (1..=512usize, 1..=512usize), steps in 1..=MAX_STEPS, count in 1..9usize) {
            let width = Some(tokens.0 * 16);
            let height = Some(tokens.1 * 16);
            let request = Request { width, height, steps: Some(steps), count, ..Request::new("a fox") };
            prop_assert!(check(&request).is_ok());
        }
    }
}
