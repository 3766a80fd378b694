// moments: mean and 1/√(variance + eps) of every row of x `[rows, k]`, a warp each, for the LayerNorm of final_layer. The
// variance is summed around the mean.

extern "C" __global__ void __launch_bounds__(128)
    moments(const bf16 *x, float *out, unsigned rows, unsigned k, float eps) {
    const unsigned row = blockIdx.x * 4 + threadIdx.x / 32, lane = threadIdx.x % 32;
    if (row >= rows) return;
    const bf16 *values = x + static_cast<u64>(row) * k;
    float sum = 0.0f;
    for (unsigned i = lane; i < k; i += 32) sum += widen(values[i]);
    const float mean = lanes_sum<32>(sum) / k;
    float squares = 0.0f;
    for (unsigned i = lane; i < k; i += 32) {
        const float away = widen(values[i]) - mean;
        squares += away * away;
    }
    squares = lanes_sum<32>(squares);
    if (lane == 0) {
        out[2 * row] = mean;
        out[2 * row + 1] = rsqrtf(squares / k + eps);
    }
}
