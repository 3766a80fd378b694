// Rows of x in halves for the cooperative product, eight values at a time.

struct Row {
    start: u32,
}

struct Place {
    k8: u32,
}

fn row_at(m: u32) -> Row {
    return Row(FIRST + m * (p.k4 / 2u));
}

fn place_at(k8: u32) -> Place {
    return Place(k8);
}

fn place_after(at: Place) -> Place {
    return Place(at.k8 + BK8);
}

fn eight(row: Row, at: Place) -> u32 {
    return select(row.start + at.k8, ZEROS, at.k8 >= p.k4 / 2u);
}
