//! `group_moments`: mean and variance of the groups of a GroupNorm.

use super::{DeviceTensor, Result, Runtime, check};

/// The arguments of [`GroupMomentsOp::group_moments`].
#[derive(Debug)]
pub struct GroupMomentsArgs<'a, T> {
    /// `[B, H, W, C]`.
    pub x: &'a T,
    /// Groups of neighbouring channels.
    pub groups: usize,
}

impl<T: DeviceTensor> GroupMomentsArgs<'_, T> {
    /// Checks the arguments; returns the output's shape `[B, groups, 2]`.
    pub fn check(&self) -> Result<[usize; 3]> {
        let op = "group_moments";
        let [b, _, _, c] = check::floats(op, "x", self.x)?;
        check::groups(op, c, self.groups)?;
        Ok([b, self.groups, 2])
    }
}

/// The first half of [`group_norm`](super::GroupNormOp::group_norm), for a picture in bands: the
/// moments of the picture follow from those of its bands.
pub trait GroupMomentsOp: Runtime {
    /// Mean and biased variance over a group's channels and all pixels. `x` `[B, H, W, C]`; returns
    /// F32 `[B, groups, 2]`.
    fn group_moments(&self, x: &Self::Tensor, groups: usize) -> Result<Self::Tensor> {
        let args = GroupMomentsArgs { x, groups };
        let shape = args.check()?;
        self.run_group_moments(args, shape)
    }

    /// Runs [`GroupMomentsOp::group_moments`] on checked arguments.
    fn run_group_moments(&self, args: GroupMomentsArgs<'_, Self::Tensor>, shape: [usize; 3]) -> Result<Self::Tensor>;
}

#[cfg(test)]
mod tests {
    use super::check::tests::{f32s, gives, rejects, u32s};
    use super::*;

    #[test]
    fn groups_must_divide_the_channels() {
        let x = f32s(&[2, 5, 7, 12]);
        let check = |groups| GroupMomentsArgs { x: &x, groups }.check();
        gives(check(4), [2, 4, 2]);
        rejects(check(5), "group_moments", &["12 channels", "5 groups"]);
        rejects(check(0), "group_moments", &["0 groups"]);
        let integers = u32s(&[2, 5, 7, 12]);
        rejects(
            GroupMomentsArgs { x: &integers, groups: 4 }.check(),
            "group_moments",
            &["x must be of a floating type"],
        );
    }
}
