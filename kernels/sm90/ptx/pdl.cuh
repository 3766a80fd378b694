// PTX griddepcontrol, programmatic dependent launch (PDL): from Hopper on, a grid may be launched
// on SMs that the grid before it has left, and run its prologue while that one ends. Elsewhere both
// do nothing.
#pragma once

// Waits until all preceding grids have ended and their writes are visible.
__device__ __forceinline__ void griddepcontrol_wait() {
#if __CUDA_ARCH__ >= 900
    asm volatile("griddepcontrol.wait;" ::: "memory");
#endif
}

// Allows the next grid to launch once all CTAs of this one have called it or ended.
__device__ __forceinline__ void griddepcontrol_launch_dependents() {
#if __CUDA_ARCH__ >= 900
    asm volatile("griddepcontrol.launch_dependents;");
#endif
}
