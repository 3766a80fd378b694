// The pixels under the kernel for the products that read four channels at a time.

// A tap of the kernel, and a channel under it.
struct Place {
    y: i32,
    x: i32,
    channel: u32,
}

fn place_at(k: u32) -> Place {
    let tap = k / p.padded;
    return Place(i32(tap / p.kw), i32(tap % p.kw), k % p.padded);
}

fn operand(row: Row, at: Place) -> Value4 {
    let y = row.y + at.y;
    let column = row.x + at.x;
    let inside = (y >= 0) & (column >= 0) & (y < i32(p.h << p.zoom)) & (column < i32(p.w << p.zoom));
    let pixel = select(0u, row.item + (u32(y) >> p.zoom) * p.w + (u32(column) >> p.zoom), inside);
    let v = x4(row_start(pixel, p.channels) + at.channel, p.channels - at.channel);
    return select(Value4(), v, inside);
}

fn prologue(m0: u32, thread: u32) {}
