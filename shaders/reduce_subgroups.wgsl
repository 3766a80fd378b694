// Values of a workgroup's threads become one, by subgroup operations: each subgroup reduces its own, and what they found
// passes through workgroup memory once. Subgroups may have any size, and the last one fewer threads than the others.
//
// The verb's file provides `run`, Part and LARGEST as for reduce_tree.wgsl. Constants: THREADS in a workgroup, all one TEAM.

struct Thread {
    // Its place in the workgroup.
    index: u32,
    subgroup: u32,
    // In the workgroup.
    subgroups: u32,
    // Its place in the subgroup.
    lane: u32,
}

// One for each subgroup, however small they are.
var<workgroup> reduction: array<Part, THREADS>;

// The sum, or the largest, of what all threads of the workgroup bring, for each of them.
fn reduced(me: Thread, own: Part) -> Part {
    var all: Part;
    if (LARGEST) {
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
        if (LARGEST) {
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
    run(flat(group, groups), groups.x * groups.y, Thread(thread, subgroup, subgroups, lane));
}
