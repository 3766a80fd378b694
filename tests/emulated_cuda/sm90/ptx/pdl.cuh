// Emulates kernels/sm90/ptx/pdl.cuh: grids run one after the other.
#pragma once

inline void griddepcontrol_wait() {}
inline void griddepcontrol_launch_dependents() {}
