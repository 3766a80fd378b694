//! Programs whose workgroups reduce.

use super::program::{Program, wgsl};
use crate::backend::webgpu::driver::variant::Reduction;

impl Program {
    /// Appends the file and the constants of `reduction`: workgroups of `threads`, in which teams
    /// of `team` neighbours reduce among themselves. Only a whole workgroup uses subgroups: the
    /// border of a smaller team within them is unknown.
    pub(crate) fn reduces(self, reduction: Reduction, threads: usize, team: usize) -> Self {
        let program = self.with("THREADS", threads).with("TEAM", team);
        match reduction {
            Reduction::Subgroups if team == threads => program.file(wgsl!("reduce_subgroups")),
            _ => program.file(wgsl!("reduce_tree")),
        }
    }
}
