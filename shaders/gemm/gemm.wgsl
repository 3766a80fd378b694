// out[m, n] = Σₖ A[m, k]·W[n, k] for M rows of an input and the rows of W, by one of four kernels:
//   (nothing)           gemm/tile: tiles in workgroup memory
//   GEMM_COOPERATIVE    gemm/cooperative: tiles on cooperative matrices, F16 operands
//   GEMM_DIRECT         gemm/direct: operands straight from memory, for processors
//   GEMV                gemm/gemv: at most 8 rows of A at a time
//
// The importer declares
//   Params and p            with m, n, k, k4, stride, tiles, first, width, weight_scale in front
//   Row, row_at(m)          the place of row m of A
//   Place, place_at(k)      the place of columns k .. k + 4 in every row; k is a multiple of four
//   operand(row, place)     A[m, k .. k + 4], zeros past the end of a row
//   prologue(m0, thread)    work of the tile kernel on its rows before it reads them
//   store(m, n, v, up)      writes the output of row m and column n; with PAIRED, v is the gate's
// sum and `up` its
//                           value's
// and for the cooperative kernel, in place of the last four but store,
//   place_at(k8)            the place of the eight values from 8·k8 on
//   place_after(place)      the place BK8 vectors of eight later
//   vec8_at(row, place)     their index in x

#ifdef GEMV
#import gemm/gemv
#else
#ifdef GEMM_COOPERATIVE
#import gemm/cooperative
#else
#ifdef GEMM_DIRECT
#import gemm/direct
#else
#import gemm/tile
#endif
#endif
#endif
