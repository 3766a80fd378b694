//! Every rule refuses what breaks it with an error that names the verb and the sizes, and takes what keeps it.

use super::*;

const HEADS: Heads = Heads { query: 4, key_value: 2, dim: 6 };
const WIDTH: usize = 48;

fn matrix(shape: &[usize]) -> HostTensor {
    HostTensor::from_f32(shape, &vec![0.0; shape.iter().product()])
}

#[track_caller]
fn gives<const N: usize>(result: Result<impl AsRef<[usize]>>, shape: [usize; N]) {
    assert_eq!(result.unwrap().as_ref(), shape);
}

/// The error names `verb`, and its text holds all of `words`.
#[track_caller]
fn refuses<T>(result: Result<T>, verb: &str, words: &[&str]) {
    let Err(Error::Shape { verb: named, problem }) = result.map(|_| ()) else { panic!("{verb} was not refused") };
    assert_eq!(named, verb);
    words.iter().for_each(|words| assert!(problem.contains(words), "{words:?} is not in {problem:?}"));
}

#[test]
fn sizes_and_types() {
    assert_eq!(dims::<2>("linear", "x", &[3, 4]).unwrap(), [3, 4]);
    refuses(dims::<2>("linear", "x", &[3, 4, 5]), "linear", &["x", "2 dimensions", "[3, 4, 5]"]);
    refuses(dims::<2>("linear", "x", &[3, 0]), "linear", &["x", "nothing", "[3, 0]"]);
    same("linear", "the bias", &[3], &[3]).unwrap();
    refuses(same("linear", "the bias", &[3], &[4]), "linear", &["the bias", "[3]", "[4]"]);
    typed("pad_rows", "the lengths", DType::U32, DType::U32).unwrap();
    refuses(typed("pad_rows", "the lengths", DType::F32, DType::U32), "pad_rows", &["the lengths", "U32", "F32"]);
    reshaped(&[2, 6], &[3, 4]).unwrap();
    reshaped(&[1], &[]).unwrap();
    refuses(reshaped(&[2, 6], &[5]), "reshape", &["[2, 6]", "[5]"]);
    refuses(reshaped(&[2, 6], &[usize::MAX, 2]), "reshape", &["[2, 6]"]);
}

#[test]
fn matrices() {
    let verb = "upload_linear";
    let parts = |shapes: &[&[usize]]| shapes.iter().map(|shape| matrix(shape).into()).collect::<Vec<Weight<'_>>>();
    let two = parts(&[&[3, 5], &[2, 5]]);
    let [wide, narrow] = [matrix(&[3]), matrix(&[2])];
    gives(stacked(verb, &two[..1], &[]), [3, 5]);
    gives(stacked(verb, &two, &[wide.clone(), narrow.clone()]), [5, 5]);
    refuses(stacked(verb, &[], &[]), verb, &["no matrix"]);
    refuses(stacked(verb, &parts(&[&[3]]), &[]), verb, &["2 dimensions", "[3]"]);
    refuses(stacked(verb, &parts(&[&[3, 5], &[2, 4]]), &[]), verb, &["matrix 1", "4 wide", "5"]);
    refuses(stacked(verb, &two, std::slice::from_ref(&wide)), verb, &["2 matrices", "not 1"]);
    refuses(stacked(verb, &two, &[narrow, wide]), verb, &["a bias", "[3]", "[2]"]);
    gives(pair("upload_swiglu", &two[0], &two[0]), [3, 5]);
    refuses(pair("upload_swiglu", &two[0], &two[1]), "upload_swiglu", &["the second matrix", "[3, 5]", "[2, 5]"]);

    gives(linear("swiglu", &[2, 3, 5], [7, 5]), [2, 3, 7]);
    gives(linear("linear", &[5], [7, 5]), [7]);
    refuses(linear("swiglu", &[2, 3, 4], [7, 5]), "swiglu", &["[7, 5]", "[2, 3, 4]"]);
    refuses(linear("linear", &[], [7, 5]), "linear", &["[7, 5]", "[]"]);
    refuses(linear("linear", &[0, 5], [7, 5]), "linear", &["[0, 5]"]);

    gives(gather_rows(&[9, 4], &[2, 3]), [2, 3, 4]);
    refuses(gather_rows(&[9], &[2]), "gather_rows", &["the table", "[9]"]);
    refuses(gather_rows(&[9, 4], &[2, 0]), "gather_rows", &["the ids", "[2, 0]"]);
}

#[test]
fn norms() {
    gives(norm("rms_norm", &[2, 3, 4], &[4]), [2, 3, 4]);
    refuses(norm("rms_norm", &[2, 3, 4], &[3]), "rms_norm", &["weight", "[4]", "[3]"]);
    refuses(norm("residual_norm", &[6, 4], &[4]), "residual_norm", &["3 dimensions", "[6, 4]"]);
    for r in [1, 2] {
        modulated("rms_norm", &[r, 5, 4], 4, [2, 3, 4]).unwrap();
    }
    for (table, row) in [([3, 5, 4], 0), ([1, 5, 4], 5), ([1, 5, 3], 0)] {
        refuses(modulated("residual", &table, row, [2, 3, 4]), "residual", &[&format!("row {row} of"), "2 items", "4"]);
    }
}

#[test]
fn attention_and_its_preparation() {
    gives(fused("attention", &[2, 3, WIDTH], HEADS), [2, 3]);
    refuses(fused("attention", &[2, 3, 47], HEADS), "attention", &["48 wide", "47"]);
    for (query, key_value) in [(4, 0), (4, 3), (0, 2), (1, 2)] {
        let heads = Heads { query, key_value, dim: 6 };
        let words = [&*format!("{query} query"), &*format!("{key_value} key")];
        refuses(fused("qk_norm_rope", &[2, 3, WIDTH], heads), "qk_norm_rope", &words);
    }
    gives(attention(&[2, 3, WIDTH], HEADS, None), [2, 3, 24]);
    gives(attention(&[2, 3, WIDTH], HEADS, Some(&[2])), [2, 3, 24]);
    refuses(attention(&[2, 3, WIDTH], HEADS, Some(&[3])), "attention", &["lengths", "[2]", "[3]"]);

    let verb = "qk_norm_rope";
    let qkv = [2, 3, WIDTH];
    for r in [1, 2] {
        qk_norm_rope(&qkv, HEADS, &[6], &[6], &[r, 3, 3, 2]).unwrap();
    }
    refuses(qk_norm_rope(&qkv, HEADS, &[5], &[6], &[1, 3, 3, 2]), verb, &["query norm", "[5]"]);
    refuses(qk_norm_rope(&qkv, HEADS, &[6], &[7], &[1, 3, 3, 2]), verb, &["key norm", "[7]"]);
    for rotation in [[3, 3, 3, 2], [1, 4, 3, 2], [1, 3, 6, 2], [1, 3, 3, 1]] {
        refuses(qk_norm_rope(&qkv, HEADS, &[6], &[6], &rotation), verb, &[&format!("{rotation:?}"), "[2, 3, 48]"]);
    }
    let odd = Heads { query: 1, key_value: 1, dim: 3 };
    refuses(qk_norm_rope(&[1, 1, 9], odd, &[3], &[3], &[1, 1, 1, 2]), verb, &["a head of 3"]);
}

#[test]
fn time() {
    let verb = "timestep_embedding";
    gives(timestep_embedding(&[9, 2], &[1], [16, 8], [5, 16]), [2, 5]);
    refuses(timestep_embedding(&[9], &[1], [16, 8], [5, 16]), verb, &["times", "[9]"]);
    refuses(timestep_embedding(&[9, 2], &[2], [16, 8], [5, 16]), verb, &["step", "[2]"]);
    refuses(timestep_embedding(&[9, 2], &[1], [16, 7], [5, 16]), verb, &["[16, 7]"]);
    refuses(timestep_embedding(&[9, 2], &[1], [16, 8], [5, 15]), verb, &["[16, 8]", "[5, 15]"]);

    gives(modulation(&[2, 8], [12, 8], 4), [2, 3, 4]);
    refuses(modulation(&[2, 7], [12, 8], 4), "modulation", &["[12, 8]", "[2, 7]"]);
    refuses(modulation(&[2, 8], [12, 8], 5), "modulation", &["rows of 5"]);
    refuses(modulation(&[2, 8], [12, 8], 0), "modulation", &["rows of 0"]);
}

#[test]
fn patches() {
    let verb = "embed_patches";
    gives(embed_patches(&[2, 3, 4, 6], 2, [5, 12], &[5], 8, 2), [4, 8, 5]);
    gives(embed_patches(&[2, 3, 4, 6], 2, [5, 12], &[5], 6, 1), [2, 6, 5]);
    refuses(embed_patches(&[2, 3, 5, 6], 2, [5, 12], &[5], 8, 1), verb, &["5×6", "2"]);
    refuses(embed_patches(&[2, 3, 4, 7], 2, [5, 12], &[5], 8, 1), verb, &["4×7", "2"]);
    refuses(embed_patches(&[2, 3, 4, 6], 0, [5, 12], &[5], 8, 1), verb, &["4×6", "0"]);
    refuses(embed_patches(&[2, 3, 4, 6], 2, [5, 13], &[5], 8, 1), verb, &["[5, 13]", "2·2·3"]);
    refuses(embed_patches(&[2, 3, 4, 6], 2, [5, 12], &[6], 8, 1), verb, &["pad token", "[5]", "[6]"]);
    refuses(embed_patches(&[2, 3, 4, 6], 2, [5, 12], &[5], 5, 1), verb, &["6 patches", "5 tokens"]);
    refuses(embed_patches(&[2, 3, 4, 6], 2, [5, 12], &[5], 8, 0), verb, &["0 copies"]);

    let verb = "final_layer";
    gives(final_layer(&[2, 8, 5], &[1, 1, 5], 0, [12, 5], 2, [4, 6]), [2, 3, 4, 6]);
    refuses(final_layer(&[2, 8, 5], &[1, 1, 5], 1, [12, 5], 2, [4, 6]), verb, &["row 1", "[1, 1, 5]"]);
    for (w, patch, size) in [
        ([12, 4], 2, [4, 6]),
        ([10, 5], 2, [4, 6]),
        ([12, 5], 2, [5, 6]),
        ([12, 5], 2, [4, 7]),
        ([12, 5], 2, [6, 6]),
        ([12, 5], 2, [0, 6]),
        ([12, 5], 0, [4, 6]),
    ] {
        let words = [format!("{w:?}"), format!("{}×{}", size[0], size[1]), format!("patches of {patch}")];
        refuses(
            final_layer(&[2, 8, 5], &[1, 1, 5], 0, w, patch, size),
            verb,
            &[&words[0], &words[1], &words[2], "[2, 8, 5]"],
        );
    }
}

#[test]
fn sequences() {
    pad_rows(&[2, 3, 4], &[4], &[2]).unwrap();
    refuses(pad_rows(&[2, 3, 4], &[3], &[2]), "pad_rows", &["token", "[4]", "[3]"]);
    refuses(pad_rows(&[2, 3, 4], &[4], &[3]), "pad_rows", &["lengths", "[2]", "[3]"]);
    gives(join_sequence(&[2, 3, 4], &[5, 6, 4], &[4]), [4, 9, 4]);
    refuses(join_sequence(&[2, 3, 4], &[5, 6, 4], &[3]), "join_sequence", &["[2, 3, 4]", "3 sequences"]);
    refuses(join_sequence(&[2, 3, 4], &[5, 6, 7], &[2]), "join_sequence", &["[2, 3, 4]", "[5, 6, 7]"]);
}

#[test]
fn steps() {
    let (verb, latents) = ("guide_and_step", [2, 3, 4, 5]);
    guide_and_step(&latents, &latents, &[9, 3], &[1]).unwrap();
    guide_and_step(&latents, &[4, 3, 4, 5], &[9, 3], &[1]).unwrap();
    for prediction in [[3, 3, 4, 5], [1, 3, 4, 5], [4, 3, 5, 4]] {
        let words = [&*format!("{prediction:?}"), "[2, 3, 4, 5]"];
        refuses(guide_and_step(&latents, &prediction, &[9, 3], &[1]), verb, &words);
    }
    refuses(guide_and_step(&latents, &latents, &[9, 2], &[1]), verb, &["2 columns"]);
    refuses(guide_and_step(&latents, &latents, &[9, 3], &[2]), verb, &["step", "[2]"]);
}

#[test]
fn convolutions() {
    let plain = Conv2d { stride: 1, pad: [1; 4], upsample: false };
    let (x, kernel) = ([2, 5, 7, 3], [4, 3, 3, 3]);
    gives(conv2d(&x, kernel, plain, None), [2, 5, 7, 4]);
    gives(conv2d(&x, kernel, plain, Some(&[2, 5, 7, 4])), [2, 5, 7, 4]);
    gives(conv2d(&x, kernel, Conv2d { upsample: true, ..plain }, None), [2, 10, 14, 4]);
    gives(conv2d(&x, kernel, Conv2d { stride: 2, pad: [0, 0, 1, 1], ..plain }, None), [2, 2, 3, 4]);
    gives(conv2d(&[1, 1, 1, 3], kernel, plain, None), [1, 1, 1, 4]);
    refuses(conv2d(&x, kernel, plain, Some(&x)), "conv2d", &["residual", "[2, 5, 7, 4]", "[2, 5, 7, 3]"]);
    refuses(conv2d(&x, [4, 3, 3, 2], plain, None), "conv2d", &["[4, 3, 3, 2]", "[2, 5, 7, 3]"]);
    refuses(conv2d(&x, kernel, Conv2d { stride: 0, ..plain }, None), "conv2d", &["stride: 0"]);
    let bare = Conv2d { stride: 1, ..Conv2d::default() };
    refuses(conv2d(&[1, 2, 7, 3], kernel, bare, None), "conv2d", &["[1, 2, 7, 3]"]);
    refuses(conv2d(&[1, 7, 2, 3], kernel, bare, None), "conv2d", &["[1, 7, 2, 3]"]);
}

#[test]
fn pictures() {
    gives(group_norm(&[2, 5, 7, 12], &[12], &[12], 4), [2, 5, 7, 12]);
    refuses(group_norm(&[2, 5, 7, 12], &[11], &[12], 4), "group_norm", &["weight", "[11]"]);
    refuses(group_norm(&[2, 5, 7, 12], &[12], &[13], 4), "group_norm", &["bias", "[13]"]);
    refuses(group_norm(&[2, 5, 7, 12], &[12], &[12], 5), "group_norm", &["12 channels", "5 groups"]);
    refuses(group_norm(&[2, 5, 7, 12], &[12], &[12], 0), "group_norm", &["0 groups"]);
    gives(unscale_latents(&[2, 3, 5, 7]), [2, 5, 7, 3]);
    refuses(unscale_latents(&[3, 5, 7]), "unscale_latents", &["[3, 5, 7]"]);
    gives(scale_latents(&[2, 5, 7, 6], 3), [2, 3, 5, 7]);
    refuses(scale_latents(&[2, 5, 7, 6], 7), "scale_latents", &["7 channels", "[2, 5, 7, 6]"]);
}
