//! Patches of a picture: `embed_patches` cuts them and `final_layer` puts them back.

/// A picture of `channels` planes, `height`×`width`, cut into squares of `patch`.
#[derive(Clone, Copy)]
pub(super) struct Patches {
    pub channels: usize,
    pub height: usize,
    pub width: usize,
    pub patch: usize,
}

impl Patches {
    /// Squares in the picture.
    pub(super) fn count(&self) -> usize {
        (self.height / self.patch) * (self.width / self.patch)
    }

    /// Values of a patch.
    pub(super) fn values(&self) -> usize {
        self.patch * self.patch * self.channels
    }

    /// The index in `[C, H, W]` of value `i` of patch `t`; a patch lists its values by (row,
    /// column, channel).
    pub(super) fn at(&self, t: usize, i: usize) -> usize {
        let across = self.width / self.patch;
        let (row, column, channel) =
            (i / self.channels / self.patch, i / self.channels % self.patch, i % self.channels);
        let (y, x) = (t / across * self.patch + row, t % across * self.patch + column);
        (channel * self.height + y) * self.width + x
    }
}
