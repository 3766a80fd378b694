// Reduction over a workgroup's threads: by a tree in workgroup memory, which every adapter can run,
// or with SUBGROUPS by subgroup operations. Subgroups may have any size, and the last one fewer
// threads than the others.
//
// The importer declares `run`, the work of a thread, and the alias Part of the values to reduce.
// Constants: THREADS in a workgroup, TEAM of neighbours that reduce among themselves (a power of
// two; with SUBGROUPS the whole workgroup), and REDUCE_MAX for the maximum in place of the sum.

#import shared/dispatch

const THREADS: u32 = 256u;
const TEAM: u32 = 256u;
const REDUCE_MAX: bool = false;

#ifdef SUBGROUPS

struct Thread {
    // Index in the workgroup.
    index: u32,
    // Index of the subgroup, and the number of subgroups in the workgroup.
    subgroup: u32,
    subgroups: u32,
    // Index in the subgroup.
    lane: u32,
}

// One value for each subgroup, however small subgroups are.
var<workgroup> reduction: array<Part, THREADS>;

// The reduction of `own` over the workgroup, in every thread.
fn reduced(me: Thread, own: Part) -> Part {
    var all: Part;
    if (REDUCE_MAX) {
        all = subgroupMax(own);
    } else {
        all = subgroupAdd(own);
    }
    if (me.lane == 0u) {
        reduction[me.subgroup] = all;
    }
    workgroupBarrier();
    all = reduction[0];
    for (var i = 1u; i < me.subgroups; i++) {
        if (REDUCE_MAX) {
            all = max(all, reduction[i]);
        } else {
            all += reduction[i];
        }
    }
    workgroupBarrier();
    return all;
}

@compute @workgroup_size(THREADS)
fn main(
    @builtin(workgroup_id) group: vec3u,
    @builtin(num_workgroups) groups: vec3u,
    @builtin(local_invocation_index) thread: u32,
    @builtin(subgroup_id) subgroup: u32,
    @builtin(num_subgroups) subgroups: u32,
    @builtin(subgroup_invocation_id) lane: u32,
) {
    run(workgroup_index(group, groups), groups.x * groups.y, Thread(thread, subgroup, subgroups, lane));
}

#else

struct Thread {
    // Index in the workgroup.
    index: u32,
}

var<workgroup> reduction: array<Part, THREADS>;

fn joined(a: Part, b: Part) -> Part {
    if (REDUCE_MAX) {
        return max(a, b);
    }
    return a + b;
}

// The reduction of `own` over the team, in every thread of it.
fn reduced(me: Thread, own: Part) -> Part {
    let lane = me.index % TEAM;
    reduction[me.index] = own;
    workgroupBarrier();
    for (var reach = TEAM / 2u; reach > 0u; reach /= 2u) {
        if (lane < reach) {
            reduction[me.index] = joined(reduction[me.index], reduction[me.index + reach]);
        }
        workgroupBarrier();
    }
    let all = reduction[me.index - lane];
    workgroupBarrier();
    return all;
}

@compute @workgroup_size(THREADS)
fn main(
    @builtin(workgroup_id) group: vec3u,
    @builtin(num_workgroups) groups: vec3u,
    @builtin(local_invocation_index) thread: u32,
) {
    run(workgroup_index(group, groups), groups.x * groups.y, Thread(thread));
}

#endif
