//! Tiles of a thread, for the tile and the direct kernel.

/// Threads of a workgroup of the tile kernel across and down.
pub(super) const TILE_THREADS: usize = 16;
/// Threads of a workgroup of the direct kernel across and down: a SIMD register of a processor in
/// either direction.
pub(super) const DIRECT_THREADS: usize = 4;
/// Tiles that keep a GPU busy.
pub(super) const BUSY_TILES: usize = 256;

/// Rows and columns of a thread.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Tile {
    pub rows: usize,
    pub columns: usize,
}

impl Tile {
    /// Every result of [`Tile::for_size`].
    pub(super) const TILED: [Tile; 6] =
        [Tile::new(4, 1), Tile::new(4, 2), Tile::new(4, 4), Tile::new(8, 2), Tile::new(8, 4), Tile::new(8, 8)];
    /// Every result of [`Tile::for_columns`].
    pub(super) const DIRECT: [Tile; 4] = [Tile::new(8, 1), Tile::new(8, 2), Tile::new(8, 4), Tile::new(8, 8)];

    const fn new(rows: usize, columns: usize) -> Self {
        Self { rows, columns }
    }

    /// The tile of the tile kernel for `m` rows and `n` columns, paired or not.
    pub(super) fn for_size(m: usize, n: usize, paired: bool) -> Self {
        let tiles = |tile: Tile| {
            let [rows, columns] = tile.of_workgroup(TILE_THREADS);
            m.div_ceil(rows) * n.div_ceil(columns)
        };
        let narrowest = if paired { 2 } else { 1 };
        let covers = |columns: &usize| TILE_THREADS * columns >= n && *columns >= narrowest;
        let columns = [1, 2, 4, 8].into_iter().find(covers).unwrap_or(8);
        let large = Tile::new(8, columns.max(2));
        if columns > 1 && tiles(large) >= BUSY_TILES {
            return large;
        }
        Tile::new(4, columns.min(4))
    }

    /// The tile of the direct kernel for `n` columns: at most as many sums as a processor has
    /// registers, or holds in its nearest cache. With pairs, a thread has both columns.
    pub(super) fn for_columns(n: usize, paired: bool) -> Self {
        let [.., largest] = Self::DIRECT;
        let covers = |tile: &Tile| DIRECT_THREADS * tile.columns >= n && tile.fits(paired);
        Self::DIRECT.into_iter().find(covers).unwrap_or(largest)
    }

    /// Whether a thread has whole pairs of columns, if columns are paired.
    pub(super) fn fits(&self, paired: bool) -> bool {
        self.columns > 1 || !paired
    }

    /// Rows and columns of a workgroup of `threads`×`threads`.
    pub(super) fn of_workgroup(self, threads: usize) -> [usize; 2] {
        [threads * self.rows, threads * self.columns]
    }

    /// Steps of four of K in workgroup memory: as many as 16 KiB hold beside the op's own arrays.
    pub(super) fn k_steps(self) -> usize {
        if self.rows + self.columns > 10 { 2 } else { 4 }
    }
}
