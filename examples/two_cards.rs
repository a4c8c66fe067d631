//! One attention on two cards. Either its heads are shared out, and each card has the K/V of its own heads; or its
//! keys, and what each card found is brought to the first and joined there by its LSE.
//!
//! `cargo run --release --features cuda --example two_cards`

use std::ops::Range;
use std::sync::Arc;

use anyhow::{Context as _, Result, bail, ensure};
use onekv::cuda::{Kernels, Queue};
use onekv::cudarc::driver::{CudaSlice, CudaStream, CudaView, DeviceRepr, ValidAsZeroBits};
use onekv::plan::{Plan, PlanOptions};
use onekv::{Element, Keys, PartialState, Problem, ProblemSpec, SharedKv, View, reference};

/// What cudarc and onekv take: f32, f16, bf16.
pub trait Real: Element + DeviceRepr + ValidAsZeroBits {}
impl<E: Element + DeviceRepr + ValidAsZeroBits> Real for E {}

/// A card, ready.
pub struct Card {
    /// What runs on it.
    pub stream: Arc<CudaStream>,
    queue: Queue,
}

/// Output `[rows, heads, head_dim]` and natural-log LSE `[rows, heads]` in a card's memory.
pub struct OnCard<E> {
    /// Output.
    pub out: CudaSlice<E>,
    /// LSE.
    pub lse: CudaSlice<f32>,
}

/// Output and LSE in the host's memory.
pub type Answer<E> = (Vec<E>, Vec<f32>);

impl Card {
    /// The machine's first two, or an error that says which of them is not there.
    pub fn two() -> Result<[Self; 2]> {
        let open = |ordinal| Self::open(ordinal).context("this wants two cards");
        Ok([open(0)?, open(1)?])
    }

    fn open(ordinal: usize) -> Result<Self> {
        let context = onekv::cuda::context(ordinal)?;
        let stream = context.new_stream()?;
        let queue = Queue::new(&Kernels::new(&context)?, &stream)?;
        Ok(Self { stream, queue })
    }

    /// Queues attention on this card; does not wait for it.
    fn attend<E: Real>(
        &self,
        spec: ProblemSpec,
        options: &PlanOptions,
        [q, k, v]: [&[E]; 3],
    ) -> Result<OnCard<E>> {
        let problem = Problem::new(spec)?;
        let plan = Plan::new(&problem, E::DTYPE, self.queue.kernels().facts(), options)?;
        let prepared = self.queue.prepare(&plan)?;
        // A part may have no keys, and a card gives no memory for no elements: one more, which is never read.
        let upload = |x: &[E]| self.stream.clone_htod(&[x, &[E::from_f32(0.0)]].concat());
        let [q, k, v] = [upload(q)?, upload(k)?, upload(v)?];
        let mut out = self.stream.alloc_zeros::<E>(problem.query_shape().elements())?;
        let mut lse = self.stream.alloc_zeros::<f32>(problem.lse_shape().elements())?;
        prepared.run(
            View::contiguous(problem.query_shape(), q.as_view()),
            SharedKv::contiguous(problem.kv_shape(), k.as_view(), v.as_view()),
            View::contiguous(problem.query_shape(), out.as_view_mut()),
            Some(View::contiguous(problem.lse_shape(), lse.as_view_mut())),
        )?;
        Ok(OnCard { out, lse })
    }

    /// Joins attention over two parts of the keys, output and LSE of each in this card's memory.
    pub fn join<E: Real>(
        &self,
        spec: &ProblemSpec,
        parts: [(CudaView<'_, E>, CudaView<'_, f32>); 2],
    ) -> Result<OnCard<E>> {
        let shape = [spec.row_offsets[spec.row_offsets.len() - 1], spec.heads, spec.head_dim];
        let lse_shape = [shape[0], shape[1]];
        let mut out = self.stream.alloc_zeros::<E>(shape.iter().product())?;
        let mut lse = self.stream.alloc_zeros::<f32>(lse_shape.iter().product())?;
        self.queue.merge_states(
            &parts.map(|(out, lse)| PartialState::contiguous(shape, out, lse)),
            View::contiguous(shape, out.as_view_mut()),
            Some(View::contiguous(lse_shape, lse.as_view_mut())),
        )?;
        Ok(OnCard { out, lse })
    }

    /// Waits for this card, and copies what it found to the host.
    pub fn read<E: Real>(&self, from: &OnCard<E>) -> Result<Answer<E>> {
        Ok((self.stream.clone_dtoh(&from.out)?, self.stream.clone_dtoh(&from.lse)?))
    }
}

/// All of it on one card: `q` is `[rows, heads, head_dim]`, `k` and `v` are `[keys, kv_heads, head_dim]`.
pub fn whole<E: Real>(
    card: &Card,
    spec: &ProblemSpec,
    options: &PlanOptions,
    operands: [&[E]; 3],
) -> Result<Answer<E>> {
    card.read(&card.attend(spec.clone(), options, operands)?)
}

/// Half of the heads on each card, with the heads of K and V that they read.
pub fn heads_apart<E: Real>(
    cards: &[Card; 2],
    spec: &ProblemSpec,
    options: &PlanOptions,
    [q, k, v]: [&[E]; 3],
) -> Result<[OnCard<E>; 2]> {
    ensure!(spec.kv_heads.is_multiple_of(2), "kv_heads is {}, allowed: an even number", spec.kv_heads);
    let half = ProblemSpec { heads: spec.heads / 2, kv_heads: spec.kv_heads / 2, ..spec.clone() };
    // A card's heads alone, as layers would leave them whose weights are shared out by heads (tensor parallelism).
    let part = |all: &[E], heads: usize, card: usize| -> Vec<E> {
        let own = heads / 2 * spec.head_dim;
        all.chunks(2 * own).flat_map(|token| &token[card * own..][..own]).copied().collect()
    };
    let [first, second] = [0, 1].map(|card| {
        let (q, k, v) =
            (part(q, spec.heads, card), part(k, spec.kv_heads, card), part(v, spec.kv_heads, card));
        cards[card].attend(half.clone(), options, [&q, &k, &v])
    });
    Ok([first?, second?])
}

/// The heads of both cards, by row. (An engine would not: the output projection goes on with each card's heads and adds
/// up.)
pub fn side_by_side<E: Real>(spec: &ProblemSpec, [first, second]: [Answer<E>; 2]) -> Answer<E> {
    fn interleave<T: Copy>(len: usize, first: &[T], second: &[T]) -> Vec<T> {
        first.chunks(len).zip(second.chunks(len)).flat_map(|(a, b)| a.iter().chain(b)).copied().collect()
    }
    let heads = spec.heads / 2;
    (interleave(heads * spec.head_dim, &first.0, &second.0), interleave(heads, &first.1, &second.1))
}

/// Of each input the first `cuts` keys on the first card, the others on the second.
pub fn keys_apart<E: Real>(
    cards: &[Card; 2],
    spec: &ProblemSpec,
    options: &PlanOptions,
    [q, k, v]: [&[E]; 3],
    cuts: &[usize],
) -> Result<[OnCard<E>; 2]> {
    let Keys::Packed { offsets } = &spec.keys else { bail!("keys are in slots, allowed: packed") };
    let inputs = offsets.len() - 1;
    ensure!(cuts.len() == inputs, "cuts has {} entries, allowed: {inputs}, one per input", cuts.len());
    let mut parts: [Vec<Range<usize>>; 2] = Default::default();
    for (keys, &cut) in offsets.windows(2).zip(cuts) {
        let most = keys[1] - keys[0];
        ensure!(cut <= most, "a cut is {cut}, allowed: up to {most}, the keys of its input");
        parts[0].push(keys[0]..keys[0] + cut);
        parts[1].push(keys[0] + cut..keys[1]);
    }
    let token = spec.kv_heads * spec.head_dim;
    let [first, second] = [0, 1].map(|card| {
        let part = |all: &[E]| -> Vec<E> {
            parts[card].iter().flat_map(|keys| &all[keys.start * token..keys.end * token]).copied().collect()
        };
        let mut offsets = vec![0];
        parts[card].iter().for_each(|keys| offsets.push(offsets[offsets.len() - 1] + keys.len()));
        let spec = ProblemSpec { keys: Keys::Packed { offsets }, ..spec.clone() };
        cards[card].attend(spec, options, [q, &part(k), &part(v)])
    });
    Ok([first?, second?])
}

/// [`heads_apart`], and what comes of it side by side.
pub fn by_heads<E: Real>(
    cards: &[Card; 2],
    spec: &ProblemSpec,
    options: &PlanOptions,
    operands: [&[E]; 3],
) -> Result<Answer<E>> {
    let [first, second] = heads_apart(cards, spec, options, operands)?;
    Ok(side_by_side(spec, [cards[0].read(&first)?, cards[1].read(&second)?]))
}

/// [`keys_apart`], and what comes of it joined on the first card.
pub fn by_keys<E: Real>(
    cards: &[Card; 2],
    spec: &ProblemSpec,
    options: &PlanOptions,
    operands: [&[E]; 3],
    cuts: &[usize],
) -> Result<Answer<E>> {
    let [here, there] = keys_apart(cards, spec, options, operands, cuts)?;
    // A peer copy, for which the first card's stream waits for the second's. The driver makes it over NVLink, PCIe or
    // the host.
    let stream = &cards[0].stream;
    let brought = OnCard { out: stream.clone_dtod(&there.out)?, lse: stream.clone_dtod(&there.lse)? };
    // The second's stream waits for the copy in turn: cudarc frees what was copied in the order of that stream.
    cards[1].stream.join(stream)?;
    drop(there);
    let parts = [&here, &brought].map(|part| (part.out.as_view(), part.lse.as_view()));
    cards[0].read(&cards[0].join(spec, parts)?)
}

/// Runs both ways on made-up numbers, and holds heads to one card and both to the definition in f64.
pub fn show(
    cards: &[Card; 2],
    by_heads: impl Fn(&[Card; 2], &ProblemSpec, &PlanOptions, [&[f32]; 3]) -> Result<Answer<f32>>,
    by_keys: impl Fn(&[Card; 2], &ProblemSpec, &PlanOptions, [&[f32]; 3], &[usize]) -> Result<Answer<f32>>,
) -> Result<()> {
    // 30 prompts over 700 keys, and 4 over 100; 8 query heads share 2 of K and V.
    let spec = ProblemSpec {
        heads: 8,
        kv_heads: 2,
        head_dim: 64,
        scale: 0.125,
        softcap: None,
        row_offsets: vec![0, 30, 34],
        keys: Keys::Packed { offsets: vec![0, 700, 800] },
    };
    let noise = |len: usize, seed: usize| {
        (0..len).map(|i| ((i * 7919 + seed) % 8191) as f32 / 4095.5 - 1.0).collect::<Vec<f32>>()
    };
    let problem = Problem::new(spec.clone())?;
    let (query_shape, kv_shape) = (problem.query_shape(), problem.kv_shape());
    let q = noise(query_shape.elements(), 1);
    let (k, v) = (noise(kv_shape.elements(), 2), noise(kv_shape.elements(), 3));
    let mut want = vec![0.0; q.len()];
    reference::attend(
        &problem,
        View::contiguous(query_shape, &q[..]),
        SharedKv::contiguous(kv_shape, &k[..], &v[..]),
        View::contiguous(query_shape, &mut want[..]),
        None,
    )?;
    let worst = |got: &[f32]| got.iter().zip(&want).map(|(a, b)| (a - b).abs()).fold(0.0f32, f32::max);

    // The same tiles and splits on both cards as on one: then the bits are the same, too.
    let (options, operands) =
        (PlanOptions::default().with_split_keys(256).with_tile_rows(16), [&q[..], &k, &v]);
    let one = whole(&cards[0], &spec, &options, operands)?;
    let heads = by_heads(cards, &spec, &options, operands)?;
    println!("4 heads on each card: largest difference from f64 {:.1e}", worst(&heads.0));
    ensure!(heads == one, "the heads of two cards are not those of one, bit by bit");
    // The second input's keys all lie on the second card.
    let keys = by_keys(cards, &spec, &options, operands, &[350, 0])?;
    println!("350 and 450 keys on the cards: largest difference from f64 {:.1e}", worst(&keys.0));
    ensure!(worst(&heads.0) < 1e-5 && worst(&keys.0) < 1e-5, "two cards do not find what attention is");
    Ok(())
}

/// With peer copies between the cards (`interop/nccl` does it with NCCL).
pub fn main() -> Result<()> {
    show(&Card::two()?, by_heads, by_keys)
}
