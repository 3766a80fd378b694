//! How a workgroup brings its threads' values together.

use super::program::{Program, wgsl};

/// What provides `reduced` and the entry point of a verb that reduces: the sums of norms, the largest of an activation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Reduction {
    /// A tree in workgroup memory, with a barrier at each of its levels.
    Tree,
    /// Subgroup operations, and one pass through workgroup memory across subgroups of whatever size.
    Subgroups,
}

impl Reduction {
    /// Both.
    pub(super) const ALL: [Reduction; 2] = [Reduction::Tree, Reduction::Subgroups];

    /// Puts the reduction's file and constants to `program`: workgroups of `threads`, of which teams of `team` neighbours
    /// reduce among themselves. Only a whole workgroup uses subgroups: where a smaller team meets them is not known.
    pub(super) fn finish(self, program: Program, threads: usize, team: usize) -> Program {
        let program = program.with("THREADS", threads).with("TEAM", team);
        match self {
            Reduction::Subgroups if team == threads => program.file(wgsl!("reduce_subgroups")),
            _ => program.file(wgsl!("reduce_tree")),
        }
    }
}
