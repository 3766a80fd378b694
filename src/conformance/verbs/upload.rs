//! `upload` and `download`: what goes in comes out.

use super::super::case::{Suite, steps};
use super::super::tolerance::EQUAL;
use crate::backend::{Backend, DeviceTensor};
use crate::tensor::HostTensor;

pub(super) fn cases<B: Backend + 'static>(suite: &mut Suite<B>) {
    // Lengths that are no multiple of a word, a vector or a page.
    for len in [1, 3, 257, 4099] {
        suite.add("upload", &format!("f32-{len}"), EQUAL, move |s| {
            let x = s.latents(&[len], 1e30)?;
            steps(move |_| Ok(vec![x.clone()]))
        });
        suite.add("upload", &format!("u32-{len}"), EQUAL, move |s| {
            let values: Vec<u32> = (0..len as u32).map(|i| i * 2654 % 65_521).collect();
            let x = s.numbers(&[len], &values)?;
            steps(move |_| Ok(vec![x.clone()]))
        });
        suite.add("upload", &format!("u8-{len}"), EQUAL, move |s| {
            let x = s.pixels(&[len])?;
            steps(move |_| Ok(vec![x.clone()]))
        });
    }
    suite.add("upload", "inside-a-recording", EQUAL, |s| {
        let values = s.draw(35);
        steps(move |b: &B| Ok(vec![b.upload(&HostTensor::from_f32(&[5, 7], &values))?]))
    });
    suite.add("upload", "reshaped", EQUAL, |s| {
        let x = s.latents(&[2, 3, 5, 7], 1.0)?;
        steps(move |_| Ok(vec![x.reshaped(&[14, 15])?, x.reshaped(&[210])?]))
    });
}
