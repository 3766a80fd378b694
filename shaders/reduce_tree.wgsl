// Values of a workgroup's threads become one, by a tree in workgroup memory: what every adapter can do.
//
// The verb's file provides `run`, the work of a thread, the alias Part of what is reduced, and LARGEST: whether the largest
// part is wanted, or the sum. Constants: THREADS in a workgroup, TEAM of neighbours that reduce among themselves, a power
// of two.

struct Thread {
    // Its place in the workgroup.
    index: u32,
}

var<workgroup> reduction: array<Part, THREADS>;

fn joined(a: Part, b: Part) -> Part {
    if (LARGEST) {
        return max(a, b);
    }
    return a + b;
}

// The sum, or the largest, of what all threads of a team bring, for each of them.
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
    run(flat(group, groups), groups.x * groups.y, Thread(thread));
}
