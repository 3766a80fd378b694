// The index of a workgroup.

// The index of a workgroup in a dispatch that may be split over x and y. The last row can hold more
// workgroups than were asked for, so every shader checks the index against its work.
fn workgroup_index(group: vec3u, groups: vec3u) -> u32 {
    return group.y * groups.x + group.x;
}
