// Cooperative matrices of 16×16, or of 8×8 with SIDE_8: F16 times F16 into F32.

enable f16;
enable wgpu_cooperative_matrix;
// naga asks for uniform control flow under this rule too, and takes every counted loop for
// non-uniform.
diagnostic(off, derivative_uniformity);

#ifdef SIDE_8

const SIDE: u32 = 8u;

alias Left = coop_mat8x8<f16, A>;
alias Right = coop_mat8x8<f16, B>;
alias Sums = coop_mat8x8<f32, C>;

#else

const SIDE: u32 = 16u;

alias Left = coop_mat16x16<f16, A>;
alias Right = coop_mat16x16<f16, B>;
alias Sums = coop_mat16x16<f32, C>;

#endif
