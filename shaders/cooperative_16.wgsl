// Cooperative matrices of 16×16: halves times halves into F32.

enable f16;
enable wgpu_cooperative_matrix;
// naga asks for uniform control flow under this rule as well, and takes every loop with a counter for one that is not.
diagnostic(off, derivative_uniformity);

const SIDE: u32 = 16u;

alias Left = coop_mat16x16<f16, A>;
alias Right = coop_mat16x16<f16, B>;
alias Sums = coop_mat16x16<f32, C>;
