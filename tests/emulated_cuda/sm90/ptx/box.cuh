// Boxes of a tensor map, for the emulated TMA and mbarriers.
#pragma once

#include "common/ptx/mma.cuh"

using TensorMap = emulated_cuda::TensorMap;

namespace emulated_cuda {

/// The swizzled address of `logical`: chunk i of row r is at i ^ r % 8 in rows of 128 bytes, and at
/// i ^ r / 2 % 4 in rows of 64 bytes. A chunk is 16 bytes.
inline char *swizzled(char *logical, unsigned row_bytes = 128) {
    Size address = reinterpret_cast<Size>(logical);
    return reinterpret_cast<char *>(address ^ (address >> 7 & (row_bytes / 16 - 1)) << 4);
}

inline unsigned bytes_of(const TensorMap &map) { return map.box[0] * map.box[1] * map.box[2] * map.box[3] * map.element_bytes; }

template <class... At> inline Box box_at(const void *in_shared, const TensorMap &map, At... at) {
    if (reinterpret_cast<Size>(in_shared) % 1024)
        emulated_cuda_fail("a swizzled box at %p, which is not aligned to 1024 bytes", in_shared);
    if (sizeof...(at) != map.rank) emulated_cuda_fail("%u coordinates in a tensor of rank %u", unsigned(sizeof...(at)), map.rank);
    return {static_cast<char *>(const_cast<void *>(in_shared)), map, {int(at)...}};
}

/// Visits the elements of a box, by their addresses in shared memory and in the tensor (null
/// outside).
template <class F> EMULATED_CUDA_UNCHECKED inline void each_element(const Box &box, F visit) {
    const TensorMap &map = box.map;
    const unsigned bytes = map.element_bytes, width = map.box[0], rows = map.box[1] * map.box[2] * map.box[3];
    for (unsigned row = 0; row < rows; row++) {
        const unsigned inner[4] = {0, row % map.box[1], row / map.box[1] % map.box[2], row / map.box[1] / map.box[2]};
        Word start = map.address;
        bool inside = true;
        for (unsigned i = 1; i < 4; i++) {
            // A negative coordinate is past every size.
            const Word at = Word(box.at[i]) + inner[i];
            inside = inside && at < map.sizes[i];
            start += at * map.strides[i - 1];
        }
        for (unsigned i = 0; i < width; i++) {
            const Word x = Word(box.at[0]) + i;
            char *in_tensor = inside && x < map.sizes[0] ? reinterpret_cast<char *>(start + x * bytes) : nullptr;
            visit(swizzled(box.in_shared + (row * width + i) * bytes, width * bytes), in_tensor);
        }
    }
}

} // namespace emulated_cuda
