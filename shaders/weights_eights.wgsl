// Weights stored as F16, eight at a time. Rows are padded with zeros to whole lines of 64 bytes.

@group(0) @binding(2) var<storage, read> weights: array<Eight>;
