// The pixels under the kernel for the products that read four channels at a time.

fn operand(row: Row, k: u32) -> Value4 {
    let tap = k / p.padded;
    let channel = k % p.padded;
    let y = row.y + i32(tap / p.kw);
    let column = row.x + i32(tap % p.kw);
    let inside = y >= 0 && column >= 0 && y < i32(p.h << p.zoom) && column < i32(p.w << p.zoom);
    if (row.item == NOTHING || !inside) {
        return Value4();
    }
    let pixel = row.item + (u32(y) >> p.zoom) * p.w + (u32(column) >> p.zoom);
    return x4(row_start(pixel, p.channels) + channel, p.channels - channel);
}

fn prologue(m0: u32, thread: u32) {}
