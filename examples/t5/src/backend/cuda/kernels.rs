//! Typed launches of the kernels in `cuda/`: each checks that its operands are as large as the kernel reaches.

use anyhow::{Context as _, Result, bail};
use bytemuck::{Pod, Zeroable};
use cudarc::driver::sys::CUtensorMapDataType;
use onekv::DType;
use onekv::cuda::{Grid, TensorMap};

use super::driver::{Argument, Driver};
use super::memory::{Buffer, Pool};
use super::rows::{Bias, Rows, SelfCache};
use crate::config::Activated;
use Argument::{At, Bytes, Float, Int, Long, Map};

/// Matrix on the device: activations `[tokens, width]`, a projection `[outputs, inputs]`, embeddings `[words, width]`.
pub struct Matrix {
    pub data: Buffer,
    pub rows: usize,
    pub cols: usize,
    pub dtype: DType,
    /// Where a norm is begun: its rows are yet to be divided by their root mean square. Hopper's products do.
    pub squares: Option<Squares>,
}

/// Sums of the squares of parts of every row `[rows, parts]`, and what is added to their mean.
pub struct Squares {
    data: Buffer,
    parts: usize,
    epsilon: f32,
}

/// The residual stream `[tokens, d_model]`, f32, with the norm that was begun where it was written last.
pub struct Residual {
    pub sum: Matrix,
    pub begun: Option<Begun>,
}

/// The norm of a residual stream, begun: by whom its elements passed by anyway.
pub struct Begun {
    /// The sum times the norm's weight.
    scaled: Matrix,
    squares: Squares,
    /// Where the norm's weight is: which norm it is.
    weight: u64,
}

/// Columns of a product's tile.
const TILE_COLUMNS: usize = 128;

impl Begun {
    /// Room for the norm of `[rows, cols]` whose sums of squares are over `parts` of each row; none of `weight`'s elements are
    /// read before the kernel that this is given to.
    pub fn new(pool: &Pool, rows: usize, weight: &Buffer, cols: usize, parts: usize) -> Result<Self> {
        room("weight", weight, cols * 4)?;
        by_eight("width", cols)?;
        let data = pool.take(rows * cols * DType::Bf16.size_bytes())?;
        let scaled = Matrix { data, rows, cols, dtype: DType::Bf16, squares: None };
        let squares = Squares { data: pool.take(rows * parts * 4)?, parts, epsilon: 0.0 };
        Ok(Self { scaled, squares, weight: weight.at() })
    }

    /// Parts of a row that products sum over.
    pub fn parts_of_product(cols: usize) -> usize {
        cols.div_ceil(TILE_COLUMNS)
    }

    /// What products take for the normed stream, if this is the norm with these weights.
    pub fn end(self, weight: &Buffer, epsilon: f32) -> Option<Matrix> {
        let squares = Some(Squares { epsilon, ..self.squares });
        (self.weight == weight.at()).then_some(Matrix { squares, ..self.scaled })
    }

    /// The weight, the scaled sum and the squares.
    fn at(&self) -> [u64; 3] {
        [self.weight, self.scaled.data.at(), self.squares.data.at()]
    }

    fn check(&self, rows: usize, cols: usize, parts: usize) -> Result<()> {
        same("rows of the norm", self.scaled.rows, rows)?;
        same("width of the norm", self.scaled.cols, cols)?;
        same("parts of the norm", self.squares.parts, parts)
    }
}

/// Where a product goes: `[m, n]` from byte `at` of `data` on.
pub struct Target<'a> {
    pub data: &'a mut Buffer,
    pub at: usize,
    pub dtype: DType,
    pub add: bool,
}

/// Query rows `first..` of the tokens `start..end`; `T5Tile` of cuda/encode.cu.
pub type Tile = [i32; 4];

/// Query rows of a tile.
pub fn tile_rows(dtype: DType) -> usize {
    if dtype == DType::F32 { 16 } else { 64 }
}

impl Matrix {
    pub fn check(&self, what: &str, dtype: DType) -> Result<()> {
        if self.squares.is_some() {
            bail!("{what} is a norm that was begun, allowed: one that has ended");
        }
        self.fits(what, dtype)
    }

    fn fits(&self, what: &str, dtype: DType) -> Result<()> {
        if self.dtype != dtype {
            bail!("{what} is {:?}, allowed: {dtype:?}", self.dtype);
        }
        room(what, &self.data, self.rows * self.cols * dtype.size_bytes())
    }
}

/// An error where `buffer` is smaller than what a kernel reaches.
fn room(what: &str, buffer: &Buffer, bytes: usize) -> Result<()> {
    if buffer.bytes() < bytes {
        bail!("{what} has {} bytes, allowed: at least {bytes}", buffer.bytes());
    }
    Ok(())
}

fn same(what: &str, value: usize, allowed: usize) -> Result<()> {
    if value != allowed {
        bail!("{what} is {value}, allowed: {allowed}");
    }
    Ok(())
}

/// Some kernels take eight elements at a time.
fn by_eight(what: &str, value: usize) -> Result<()> {
    if !value.is_multiple_of(8) {
        bail!("{what} is {value}, allowed: a multiple of 8");
    }
    Ok(())
}

/// Addresses, then numbers.
fn arguments(buffers: &[&Buffer], numbers: &[usize]) -> Vec<Argument<'static>> {
    buffers.iter().map(|buffer| At(buffer.at())).chain(numbers.iter().map(|x| int(*x))).collect()
}

fn int(x: usize) -> Argument<'static> {
    // Counts past 2^31 would need more memory than a card has; they fail the kernels' bounds, not the host.
    Int(i32::try_from(x).unwrap_or(i32::MAX))
}

fn per_token(tokens: usize) -> Grid {
    Grid { x: tokens, threads: 256, ..Grid::default() }
}

// SAFETY of every launch below: the arguments are those of the kernel in cuda/ by order and type; `check`, `room`
// and `same` show that each operand is as large as the kernel reaches by the numbers that it is given; buffers return
// to the pool of the one stream. Ids are below the vocabulary by `generate::check` and by the kernel that chooses
// them; rows, slots and positions are those of `Rows`.

/// Where the ids of embeddings come from.
pub enum Ids<'a> {
    List(&'a Buffer),
    /// Every row's next token.
    Next(&'a Rows),
}

/// The embeddings of `ids`, and of their norm the beginning, over whole rows.
pub fn embed(
    driver: &Driver,
    table: &Matrix,
    ids: Ids<'_>,
    out: &mut Matrix,
    next: Option<&mut Begun>,
) -> Result<()> {
    let [ids, stride, index] = match ids {
        Ids::List(ids) => {
            room("ids", ids, out.rows * 4)?;
            [At(ids.at()), Int(1), At(0)]
        }
        Ids::Next(rows) => {
            same("rows", out.rows, rows.live.len())?;
            [At(rows.state.at()), Int(4), At(rows.slots.at())]
        }
    };
    out.check("out", DType::F32)?;
    same("width", out.cols, table.cols)?;
    let mut list = vec![At(table.data.at()), ids, stride, index, At(out.data.at()), int(out.cols)];
    list.extend(match next {
        Some(begun) => {
            begun.check(out.rows, out.cols, 1)?;
            same("bytes of an element", table.dtype.size_bytes(), begun.scaled.dtype.size_bytes())?;
            begun.at().map(At)
        }
        None => [At(0); 3],
    });
    // SAFETY: see above.
    unsafe { driver.launch("elementwise", &format!("t5_embed_{}", table.dtype), per_token(out.rows), &list) }
}

pub fn rms_norm(driver: &Driver, x: &Matrix, weight: &Buffer, epsilon: f32, out: &mut Matrix) -> Result<()> {
    x.check("x", DType::F32)?;
    out.check("out", out.dtype)?;
    room("weight", weight, x.cols * 4)?;
    same("elements", out.rows * out.cols, x.rows * x.cols)?;
    by_eight("width", x.cols)?;
    let list = [At(x.data.at()), At(weight.at()), At(out.data.at()), int(x.cols), Float(epsilon)];
    // SAFETY: see above.
    unsafe { driver.launch("elementwise", &format!("t5_rms_norm_{}", out.dtype), per_token(x.rows), &list) }
}

pub fn activate(driver: &Driver, h: &Matrix, activated: Activated, out: &mut Matrix) -> Result<()> {
    let Activated { activation, gated } = activated;
    h.check("h", out.dtype)?;
    out.check("out", out.dtype)?;
    by_eight("width", out.cols)?;
    let count = out.rows * out.cols;
    same("elements", h.rows * h.cols, if gated { 2 * count } else { count })?;
    let mut list = arguments(&[&h.data, &out.data], &[out.cols]);
    list.extend([Long(count as i64), Int(activation as i32), Int(i32::from(gated))]);
    let (name, grid) = (format!("t5_activate_{}", out.dtype), per_token((count / 8).div_ceil(256)));
    // SAFETY: see above.
    unsafe { driver.launch("elementwise", &name, grid, &list) }
}

/// The last token of every row.
pub fn last_tokens(driver: &Driver, x: &Matrix, rows: &Rows, out: &mut Matrix) -> Result<()> {
    x.check("x", DType::F32)?;
    out.check("out", DType::F32)?;
    same("tokens", x.rows, rows.pass().tokens)?;
    same("width", out.cols, x.cols)?;
    same("rows", out.rows, rows.live.len())?;
    let list = [At(x.data.at()), At(rows.pass().first.at()), At(out.data.at()), int(x.cols)];
    // SAFETY: see above.
    unsafe { driver.launch("elementwise", "t5_last_tokens", per_token(out.rows), &list) }
}

/// Self-attention of the rows' next tokens, which the cache then holds.
pub fn attend_self(
    driver: &Driver,
    qkv: &Matrix,
    cache: &SelfCache,
    rows: &Rows,
    bias: &Bias,
    out: &mut Matrix,
) -> Result<()> {
    let pass = rows.pass();
    qkv.check("qkv", out.dtype)?;
    out.check("out", out.dtype)?;
    same("tokens", qkv.rows, pass.tokens)?;
    same("tokens", out.rows, pass.tokens)?;
    same("qkv width", qkv.cols, 3 * cache.inner)?;
    same("out width", out.cols, cache.inner)?;
    same("slots", rows.total, cache.slots)?;
    room("cache", &cache.data, cache.slots * cache.capacity * 2 * cache.inner * out.dtype.size_bytes())?;
    // A position in the cache, and a distance, for every token that a row can have.
    let positions = cache.capacity.min(bias.zero + 1).min(bias.span);
    if positions < rows.longest {
        bail!("cache and bias have {positions} positions, allowed: at least {}", rows.longest);
    }
    room("bias", &bias.data, bias.heads * bias.span * 4)?;
    let (tokens, of_tokens) = (&pass.token_row, &pass.first);
    let list = [&qkv.data, &cache.data, &out.data, &rows.slots, &rows.state, tokens, of_tokens, &bias.data];
    let list = arguments(&list, &[bias.heads, cache.capacity, bias.span, bias.zero]);
    let grid = Grid { x: pass.tokens, y: bias.heads.div_ceil(4), threads: 128, ..Grid::default() };
    let name = format!("t5_attend_self_{}_{}", out.dtype, cache.inner / bias.heads);
    // SAFETY: see above. A row's positions stay below its first and its new tokens together.
    unsafe { driver.launch("decode", &name, grid, &list) }
}

/// Self-attention of the encoder over tiles of [`tile_rows`] query rows.
pub fn attend_encoder(
    driver: &Driver,
    qkv: &Matrix,
    tiles: (&Buffer, usize),
    bias: &Bias,
    out: &mut Matrix,
) -> Result<()> {
    qkv.check("qkv", out.dtype)?;
    out.check("out", out.dtype)?;
    same("elements", qkv.rows * qkv.cols, 3 * out.rows * out.cols)?;
    room("tiles", tiles.0, tiles.1 * size_of::<Tile>())?;
    room("bias", &bias.data, bias.heads * bias.span * 4)?;
    let dim = out.cols / bias.heads;
    let list = [&qkv.data, &out.data, tiles.0, &bias.data];
    let list = arguments(&list, &[bias.heads, bias.span, bias.zero]);
    // As `attend_tensor` in cuda/encode.cu: queries, two stages of K and V, two of biases.
    let keys = if dim == 64 { 64 } else { 32 };
    let tensor = 64 * dim * 2 + 4 * keys * dim * 2 + 2 * (keys + 64) * 4;
    let shared_bytes = if out.dtype == DType::F32 { 0 } else { tensor };
    let grid = Grid { x: tiles.1, y: bias.heads, threads: 128, shared_bytes, ..Grid::default() };
    // SAFETY: see above. The caller's tiles lie within the tokens of `qkv`, and their offsets within the bias.
    unsafe { driver.launch("encode", &format!("t5_attend_encoder_{}_{dim}", out.dtype), grid, &list) }
}

/// What becomes of a product; `T5Epilogue` of cuda/gemm_sm90a.cu.
#[repr(C)]
#[derive(Clone, Copy, Pod, Zeroable)]
struct Epilogue {
    out: u64,
    squares: u64,
    next_weight: u64,
    next: u64,
    next_squares: u64,
    m: i32,
    n: i32,
    k: i32,
    wide: i32,
    add: i32,
    activation: i32,
    gated: i32,
    parts: i32,
    epsilon: f32,
    unused: i32,
}

/// The copy engine's map of `[planes, rows, cols]` of a 16-bit type, row-major, without gaps, in boxes of `box_rows` rows of every plane
/// and 64 columns; columns a multiple of 8.
fn tensor_map(at: u64, dtype: DType, shape: [usize; 3], box_rows: usize) -> Result<TensorMap> {
    let data_type = match dtype {
        DType::F16 => CUtensorMapDataType::CU_TENSOR_MAP_DATA_TYPE_FLOAT16,
        DType::Bf16 => CUtensorMapDataType::CU_TENSOR_MAP_DATA_TYPE_BFLOAT16,
        other => bail!("the type is {other:?}, allowed: F16 or Bf16"),
    };
    let [planes, rows, cols] = shape;
    let all = planes * rows * cols * 2;
    let steps = [cols * 2, rows * cols * 2, all, all];
    Ok(TensorMap::new(data_type, at, [cols, rows, planes, 1, 1], steps, [64, box_rows, planes, 1, 1], 128)?)
}

/// Blocks that divide a product's width among them: few tiles of the result take more of them, so that the card is full.
fn dividing_blocks(tiles: usize, steps: usize, multiprocessors: usize) -> usize {
    let full = |blocks: &usize| 4 * tiles * blocks >= 3 * multiprocessors;
    [1, 2, 4].into_iter().find(full).unwrap_or(8).min(1 << steps.ilog2())
}

/// `target = x W^T`, added to it or activated, on Hopper; 16-bit types. Ends the norm of `x` where it was begun, and begins
/// that of the target, in bf16 and f32.
pub fn gemm_sm90a(
    driver: &Driver,
    x: &Matrix,
    w: &Matrix,
    target: Target<'_>,
    activated: Option<Activated>,
    next: Option<&mut Begun>,
) -> Result<()> {
    let gated = activated.is_some_and(|a| a.gated);
    let planes = if gated { 2 } else { 1 };
    let n = w.rows / planes;
    same("outputs", w.rows, n * planes)?;
    check_product(x, w, n, &target)?;
    if x.rows == 0 {
        return Ok(());
    }
    let x_map = tensor_map(x.data.at(), x.dtype, [1, x.rows, x.cols], 64)?;
    let w_map = tensor_map(w.data.at(), w.dtype, [planes, n, w.cols], TILE_COLUMNS / planes)?;
    if let Some(squares) = &x.squares {
        room("squares", &squares.data, x.rows * squares.parts * 4)?;
    }
    if let Some(begun) = &next {
        begun.check(x.rows, n, Begun::parts_of_product(n))?;
        if (w.dtype, target.dtype, gated) != (begun.scaled.dtype, DType::F32, false) {
            bail!(
                "a norm is begun of {} from {}, allowed: F32 from Bf16, without a gate",
                target.dtype,
                w.dtype
            );
        }
    }
    let [next_weight, next, next_squares] = next.map_or([0; 3], |begun| begun.at());
    let count = |value: usize| i32::try_from(value).context("a product has more than 2^31 rows or columns");
    let epilogue = Epilogue {
        out: target.data.at() + target.at as u64,
        squares: x.squares.as_ref().map_or(0, |squares| squares.data.at()),
        next_weight,
        next,
        next_squares,
        m: count(x.rows)?,
        n: count(n)?,
        k: count(w.cols)?,
        wide: i32::from(target.dtype == DType::F32),
        add: i32::from(target.add),
        activation: activated.map_or(-1, |a| a.activation as i32),
        gated: i32::from(gated),
        parts: count(x.squares.as_ref().map_or(0, |squares| squares.parts))?,
        epsilon: x.squares.as_ref().map_or(0.0, |squares| squares.epsilon),
        unused: 0,
    };
    // As `GemmShape` in cuda/gemm_sm90a.cu.
    let groups = x.rows.div_ceil(64).next_power_of_two().min(4);
    let stages = if groups == 2 { 3 } else { 4 };
    let shared_bytes = stages * ((64 * groups + 128) * 128 + 2 * 8) + 8 + 64 * groups * 4;
    let (tiles, y) = (n.div_ceil(TILE_COLUMNS / planes), x.rows.div_ceil(64 * groups));
    let cluster = dividing_blocks(tiles * y, w.cols.div_ceil(64), driver.multiprocessors);
    let grid =
        Grid { x: tiles * cluster, y, cluster, threads: 128 * groups + 32, shared_bytes, overlaps: false };
    let name = format!("t5_gemm_sm90a_{}_{}", w.dtype, 64 * groups);
    let list = [Map(&x_map), Map(&w_map), Bytes(bytemuck::bytes_of(&epilogue))];
    // SAFETY: see above.
    unsafe { driver.launch("gemm_sm90a", &name, grid, &list) }
}

/// The operands of a product of `n` columns fit each other.
pub fn check_product(x: &Matrix, w: &Matrix, n: usize, target: &Target<'_>) -> Result<()> {
    x.fits("x", w.dtype)?;
    same("width", x.cols, w.cols)?;
    room("weights", &w.data, w.rows * w.cols * w.dtype.size_bytes())?;
    room("product", target.data, target.at + x.rows * n * target.dtype.size_bytes())?;
    if target.dtype != w.dtype && target.dtype != DType::F32 {
        bail!("the product is {:?}, allowed: {:?} or F32", target.dtype, w.dtype);
    }
    by_eight("width", w.cols)
}

/// The next token of every row; overwrites logits of ids that the rules suppress.
pub fn choose(driver: &Driver, logits: &mut Matrix, rows: &Rows) -> Result<()> {
    logits.check("logits", DType::F32)?;
    same("rows", logits.rows, rows.live.len())?;
    if logits.cols < rows.words {
        bail!("logits are of {} words, allowed: at least {}, which the rules name", logits.cols, rows.words);
    }
    let list = [
        At(logits.data.at()),
        int(logits.cols),
        At(rows.slots.at()),
        At(rows.pass().first.at()),
        At(rows.state.at()),
        At(rows.outputs.at()),
        At(rows.listed.at()),
        Bytes(bytemuck::bytes_of(&rows.rules)),
    ];
    // SAFETY: see above. Outputs are written below `max_new_tokens` only.
    unsafe { driver.launch("decode", "t5_choose", Grid { threads: 1024, ..per_token(logits.rows) }, &list) }
}
