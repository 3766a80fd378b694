// The pixels under the kernel in halves for the cooperative product, eight channels at a time.

struct Place {
    // The tap, and the eight of its channels.
    down: i32,
    across: i32,
    channel8: u32,
}

fn place_at(k8: u32) -> Place {
    let tap = k8 / (p.padded / 8u);
    return Place(i32(tap / p.kw), i32(tap % p.kw), k8 % (p.padded / 8u));
}

// Without a division: steps are many, and few of them end a tap.
fn place_after(at: Place) -> Place {
    var next = at;
    next.channel8 += BK8;
    while (next.channel8 >= p.padded / 8u) {
        next.channel8 -= p.padded / 8u;
        next.across++;
        if (next.across == i32(p.kw)) {
            next.across = 0;
            next.down++;
        }
    }
    return next;
}

fn eight(row: Row, at: Place) -> u32 {
    let y = row.y + at.down;
    let column = row.x + at.across;
    // Negative ones are large as well. Behind the last tap stands nothing, whatever the picture holds there.
    let inside = u32(y) < (p.h << p.zoom) && u32(column) < (p.w << p.zoom) && at.down < i32(p.kh);
    let pixel = row.item + (u32(y) >> p.zoom) * p.w + (u32(column) >> p.zoom);
    return select(ZEROS, FIRST + pixel * (p.padded / 8u) + at.channel8, inside);
}
