//! Launches the products: which shader, which tile, one dispatch a piece of the matrix.

use crate::backend::webgpu::driver::variant::{Cooperative, Variant};
use crate::backend::webgpu::launch::binding::Binding;
use crate::backend::webgpu::launch::gpu::Gpu;
use crate::backend::webgpu::launch::program::{File, Program, wgsl};
use crate::backend::webgpu::matrix::Matrix;
use crate::backend::webgpu::matrix::stored::{Piece, Stored};
use crate::backend::webgpu::memory::tensor::WebGpuTensor;
use crate::error::Result;

/// Up to so many rows are multiplied by the shader for few rows.
const FEW: usize = 8;
/// Columns that a workgroup of that shader makes.
const FEW_COLUMNS: usize = 16;
/// Threads of the direct product across and down: a SIMD register of a processor in either direction.
const DIRECT: [usize; 2] = [4, 4];
/// Rows of tiles that the cooperative product makes before it goes on to the next ones.
const BAND: usize = 16;
/// From so many tiles on, large ones keep a GPU busy.
const BUSY: usize = 256;

/// What a verb brings to the products.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Verb {
    pub name: &'static str,
    /// Files in front of the product that say what its rows are and where its outputs go.
    pub files: &'static [File],
    /// What reads its rows four values at a time, if not one of these.
    pub fours: Option<File>,
    /// What reads its rows in halves, eight at a time; without it, it is multiplied in F32 by every variant.
    pub eights: Option<File>,
    /// Whether two rows of the matrix make one column.
    pub paired: bool,
    /// Whether a workgroup of the tiled product must know its rows before it reads them.
    pub prologue: bool,
    /// When the product for few rows is used.
    pub rows: Rows,
}

/// When a verb uses the product for few rows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Rows {
    Never,
    /// When there are few.
    Few,
    Always,
}

/// One product `[M, K]·[N, K]ᵀ` and what a verb does around it.
pub(crate) struct Product<'a> {
    pub verb: Verb,
    /// What `x4` reads, as rows of `row` values.
    pub x: &'a WebGpuTensor,
    pub row: usize,
    pub matrix: &'a Matrix,
    /// Rows of the product, and values in each.
    pub m: usize,
    pub k: usize,
    /// Width of a row of the output.
    pub width: usize,
    pub out: &'a WebGpuTensor,
    /// What is bound behind the output.
    pub extra: Vec<Binding>,
    /// Parameters behind those that all products have.
    pub parameters: Vec<u32>,
    pub constants: Vec<(&'static str, bool)>,
}

/// How a product is cut into workgroups.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Shape {
    /// At most so many rows at a time: `rows.wgsl`.
    Rows(usize),
    /// `product.wgsl`.
    Tile(Tile),
    /// `product_direct.wgsl`.
    Direct(Tile),
    /// `product_cooperative.wgsl`.
    Cooperative(Cooperative, Blocks),
}

/// Rows and columns of a thread of the tiled product, or of the direct one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Tile {
    tm: usize,
    tn: usize,
}

/// Subgroups in a workgroup of the cooperative product, down and across; cooperative matrices of each, down and across;
/// and steps of eight of K in workgroup memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Blocks {
    subgroups: [usize; 2],
    each: [usize; 2],
    steps: usize,
}

impl Tile {
    const fn new(tm: usize, tn: usize) -> Self {
        Self { tm, tn }
    }

    /// All that [`Tile::for_size`] may answer.
    const ALL: [Tile; 6] =
        [Tile::new(4, 1), Tile::new(4, 2), Tile::new(4, 4), Tile::new(8, 2), Tile::new(8, 4), Tile::new(8, 8)];

    /// The tile for a product of `m` rows and `n` columns, in pairs or not.
    fn for_size(m: usize, n: usize, paired: bool) -> Self {
        let tiles = |tile: Tile| m.div_ceil(16 * tile.tm) * n.div_ceil(16 * tile.tn);
        let narrowest = if paired { 2 } else { 1 };
        let tn = [1, 2, 4, 8].into_iter().find(|tn| 16 * tn >= n && *tn >= narrowest).unwrap_or(8);
        let large = Tile { tm: 8, tn: tn.max(2) };
        if tn > 1 && tiles(large) >= BUSY {
            return large;
        }
        Tile { tm: 4, tn: tn.min(4) }
    }

    /// All that [`Tile::for_columns`] may answer.
    const DIRECT: [Tile; 4] = [Tile::new(8, 1), Tile::new(8, 2), Tile::new(8, 4), Tile::new(8, 8)];

    /// The direct product's tile for `n` columns: as many registers as a processor has, or keeps in its nearest cache.
    /// In pairs, a thread has both of them.
    fn for_columns(n: usize, paired: bool) -> Self {
        let [.., largest] = Self::DIRECT;
        Self::DIRECT.into_iter().find(|tile| DIRECT[0] * tile.tn >= n && tile.suits(paired)).unwrap_or(largest)
    }

    /// Whether a thread's columns are whole pairs, where there are pairs.
    fn suits(self, paired: bool) -> bool {
        self.tn > 1 || !paired
    }

    /// Steps of four of K in workgroup memory: as many as 16 KiB hold, with what a verb needs besides.
    fn steps(self) -> usize {
        if self.tm + self.tn > 10 { 2 } else { 4 }
    }
}

/// Which blocks the cooperative product takes: the first row for the verb (`None`: for all), at least so many columns and
/// enough tiles; the last row for whatever is smaller. Measured on an H100.
const BLOCKS: [(Option<&str>, usize, Blocks); 4] = [
    (Some("linear"), 1024, Blocks::new([2, 4], [4, 4], 4)),
    (None, 0, Blocks::new([2, 4], [4, 2], 4)),
    (None, 0, Blocks::new([2, 2], [2, 2], 4)),
    (None, 0, Blocks::new([1, 4], [2, 2], 4)),
];

impl Blocks {
    const fn new(subgroups: [usize; 2], each: [usize; 2], steps: usize) -> Self {
        Self { subgroups, each, steps }
    }

    /// The first of the table that workgroup memory holds and that leaves every multiprocessor something to do.
    fn for_size(verb: &str, m: usize, n: usize, cooperative: Cooperative) -> Self {
        let [.., (_, _, smallest)] = BLOCKS;
        let fits = |(name, columns, blocks): &(Option<&str>, usize, Blocks)| {
            let [rows, across] = blocks.tile(cooperative.side);
            let busy = m.div_ceil(rows) * n.div_ceil(across) >= BUSY;
            name.is_none_or(|name| name == verb)
                && n >= *columns
                && busy
                && blocks.memory(cooperative.side, 1) <= cooperative.memory
        };
        BLOCKS.iter().find(|row| fits(row)).map_or(smallest, |(_, _, blocks)| *blocks)
    }

    /// Rows and columns of a workgroup's tile.
    fn tile(self, side: usize) -> [usize; 2] {
        [0, 1].map(|i| self.subgroups[i] * self.each[i] * side)
    }

    /// Buffers of operands in workgroup memory: two where they fit.
    fn buffers(self, Cooperative { side, memory, .. }: Cooperative) -> usize {
        if self.memory(side, 2) <= memory { 2 } else { 1 }
    }

    /// Bytes of workgroup memory with so many buffers, as the shader declares it.
    fn memory(self, side: usize, buffers: usize) -> usize {
        let operands = self.tile(side).iter().sum::<usize>() * (self.steps + 1) * 16;
        let sums = self.subgroups.iter().product::<usize>() * side * side * 4;
        buffers * operands + sums
    }
}

impl Shape {
    /// How to cut a product of `m` rows and `n` columns.
    fn for_size(variant: Variant, verb: Verb, m: usize, n: usize) -> Self {
        if verb.rows == Rows::Always || verb.rows == Rows::Few && m <= FEW {
            return Shape::Rows(m.next_power_of_two().min(FEW));
        }
        match variant {
            Variant::Cooperative(cooperative) if verb.eights.is_some() => {
                Shape::Cooperative(cooperative, Blocks::for_size(verb.name, m, n, cooperative))
            }
            Variant::Direct if !verb.prologue => Shape::Direct(Tile::for_columns(n, verb.paired)),
            _ => Shape::Tile(Tile::for_size(m, n, verb.paired)),
        }
    }

    /// Rows and columns that one workgroup makes.
    fn tile(self) -> [usize; 2] {
        match self {
            Shape::Rows(few) => [few, FEW_COLUMNS],
            Shape::Tile(Tile { tm, tn }) => [16 * tm, 16 * tn],
            Shape::Direct(Tile { tm, tn }) => [DIRECT[1] * tm, DIRECT[0] * tn],
            Shape::Cooperative(cooperative, blocks) => blocks.tile(cooperative.side),
        }
    }

    /// Puts the product's own files and constants to `program`.
    fn finish(self, program: Program, paired: bool) -> Program {
        let program = program.with("PAIRED", paired).file(wgsl!("columns"));
        let outputs = |columns: usize| if paired { columns / 2 } else { columns };
        match self {
            Shape::Rows(few) => program.with("MR", few).file(wgsl!("rows")),
            Shape::Tile(tile) => {
                program.with("TM", tile.tm).with("TN", tile.tn).with("BK4", tile.steps()).file(wgsl!("product"))
            }
            Shape::Direct(Tile { tm, tn }) => program
                .with("TM", tm)
                .with("TN", tn)
                .with("GX", DIRECT[0])
                .with("GY", DIRECT[1])
                .with("OUTPUTS", outputs(tn))
                .file(wgsl!("product_direct")),
            Shape::Cooperative(cooperative, blocks) => {
                let Blocks { subgroups: [gm, gn], each: [fm, fn_], steps } = blocks;
                let threads = gm * gn * cooperative.lanes;
                let loads = |rows: usize| rows * steps / threads;
                let [bm, bn] = self.tile();
                program
                    .with("GM", gm)
                    .with("GN", gn)
                    .with("FM", fm)
                    .with("FN", fn_)
                    .with("BK8", steps)
                    .with("KF", 8 * steps / cooperative.side)
                    .with("LANES", cooperative.lanes)
                    .with("LOADS_A", loads(bm))
                    .with("LOADS_B", loads(bn))
                    .with("SHARE", cooperative.side.pow(2) / cooperative.lanes)
                    .with("BUFFERS", blocks.buffers(cooperative))
                    .with("BAND", BAND)
                    .with("OUTPUTS", outputs(fn_))
                    .file(cooperative_file(cooperative))
                    .file(wgsl!("product_cooperative"))
            }
        }
    }
}

/// How the first input is read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Input {
    /// F32 in rows of any width.
    Scalar,
    /// F32 in rows of a multiple of four.
    Vec4,
    /// What [`Gpu::narrow`] makes.
    Half,
}

impl Input {
    fn file(self) -> File {
        match self {
            Input::Scalar => wgsl!("input_scalar"),
            Input::Vec4 => wgsl!("input_vec4"),
            Input::Half => wgsl!("input_half"),
        }
    }
}

fn weights(stored: Stored) -> File {
    match stored {
        Stored::F32 => wgsl!("weights_f32"),
        Stored::Bf16 => wgsl!("weights_bf16"),
        Stored::F16 => wgsl!("weights_f16"),
    }
}

fn program(verb: Verb, input: Input, stored: Stored, shape: Shape, constants: &[(&'static str, bool)]) -> Program {
    let (operands, rows) = match shape {
        Shape::Cooperative(..) => ([wgsl!("input_eights"), wgsl!("weights_eights")], verb.eights),
        Shape::Rows(_) | Shape::Tile(_) | Shape::Direct(_) => ([input.file(), weights(stored)], verb.fours),
    };
    let mut program = Program::new(verb.name, &[wgsl!("common")]);
    for file in operands.iter().chain(verb.files).chain(&rows) {
        program = program.file(*file);
    }
    for (name, value) in constants {
        program = program.with(name, *value);
    }
    shape.finish(program, verb.paired)
}

impl Product<'_> {
    /// Appends the dispatches.
    pub(crate) fn run(self, gpu: &Gpu) -> Result<()> {
        let variant = gpu.device.variant;
        let halves = match Shape::for_size(variant, self.verb, self.m, self.matrix.rows) {
            Shape::Rows(_) | Shape::Direct(_) => false,
            Shape::Tile(_) | Shape::Cooperative(..) => self.verb.eights.is_some() && variant.f16(),
        };
        let (x, input) = if halves {
            (gpu.to_f16(self.x, self.row, self.row.next_multiple_of(8))?, Input::Half)
        } else {
            (self.x.clone(), if self.row.is_multiple_of(4) { Input::Vec4 } else { Input::Scalar })
        };
        for piece in &self.matrix.pieces {
            let columns = if self.verb.paired { 2 * piece.rows } else { piece.rows };
            let shape = Shape::for_size(variant, self.verb, self.m, columns);
            let program = program(self.verb, input, self.matrix.stored, shape, &self.constants);
            let [rows, width] = shape.tile();
            let tiles = columns.div_ceil(width);
            let mut args = vec![Binding::from(&x), piece.binding(), Binding::from(self.out)];
            args.extend(self.extra.iter().cloned());
            let parameters = self.piece_parameters(piece, tiles, halves);
            gpu.dispatch(&program, &args, parameters, tiles * self.m.div_ceil(rows))?;
        }
        Ok(())
    }

    fn piece_parameters(&self, piece: &Piece, tiles: usize, halves: bool) -> Vec<u32> {
        let (k4, stride) = (if halves { 2 * self.k.div_ceil(8) } else { self.k.div_ceil(4) }, self.matrix.stride4());
        // Halves have whole eights.
        let k = if halves { 4 * k4 } else { self.k };
        let mut parameters: Vec<u32> =
            [self.m, piece.rows, k, k4, stride, tiles, piece.first, self.width].map(|value| value as u32).to_vec();
        parameters.push(self.matrix.scale.to_bits());
        parameters.extend(&self.parameters);
        parameters
    }
}

/// Every program of a verb with these constants: all that [`Product::run`] may ask for.
pub(crate) fn programs(verb: Verb, inputs: &[bool], constants: &[(&'static str, bool)]) -> Vec<Program> {
    let mut programs = Vec::new();
    let f32s = inputs.iter().map(|aligned| if *aligned { Input::Vec4 } else { Input::Scalar });
    for (stored, input) in Stored::ALL.into_iter().flat_map(|stored| f32s.clone().map(move |input| (stored, input))) {
        if verb.rows != Rows::Never {
            programs.extend([1, FEW].map(|few| program(verb, input, stored, Shape::Rows(few), constants)));
        }
    }
    let suiting = |tile: &Tile| tile.suits(verb.paired);
    let tiles = Tile::ALL.into_iter().filter(suiting);
    let mut operands: Vec<_> =
        Stored::ALL.into_iter().flat_map(|s| f32s.clone().map(move |input| (s, input))).collect();
    if verb.rows != Rows::Always && !verb.prologue {
        let direct = Tile::DIRECT.into_iter().filter(suiting);
        for ((stored, input), tile) in operands.iter().flat_map(|o| direct.clone().map(move |tile| (*o, tile))) {
            programs.push(program(verb, input, stored, Shape::Direct(tile), constants));
        }
    }
    if verb.eights.is_some() {
        operands.push((Stored::F16, Input::Half));
        for (kind, (_, _, blocks)) in Cooperative::KNOWN.into_iter().flat_map(|kind| BLOCKS.map(|row| (kind, row))) {
            programs.push(program(verb, Input::Half, Stored::F16, Shape::Cooperative(kind, blocks), constants));
        }
    }
    if verb.rows != Rows::Always {
        for ((stored, input), tile) in operands.into_iter().flat_map(|o| tiles.clone().map(move |tile| (o, tile))) {
            programs.push(program(verb, input, stored, Shape::Tile(tile), constants));
        }
    }
    programs
}

/// The file with the types of cooperative matrices.
pub(crate) fn cooperative_file(cooperative: Cooperative) -> File {
    if cooperative.side == 16 { wgsl!("cooperative_16") } else { wgsl!("cooperative_8") }
}
