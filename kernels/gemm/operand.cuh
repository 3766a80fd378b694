// The element type of a gemm's operands A and W: BF16, or E4M3 in a kernel that defines
// FP8_OPERANDS.
#pragma once

#include "common/types.cuh"

#ifdef FP8_OPERANDS
typedef fp8 Operand;
constexpr bool IS_FP8 = true;
#else
typedef bf16 Operand;
constexpr bool IS_FP8 = false;
#endif
