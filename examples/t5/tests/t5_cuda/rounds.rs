//! Rounds back to back: nothing waits for the host, kernels are set up while those before them end, and what one round leaves
//! in memory the next one overwrites.

use anyhow::Result;
use half::bf16;
use onekv::cuda::{Kernels, Prepared};
use onekv::plan::{Plan, PlanOptions};
use onekv::{DType, Keys, Problem, ProblemSpec};

use crate::backend::Backend as _;
use crate::backend::cuda::kernels::Matrix;
use crate::backend::cuda::{CrossKv, Cuda};
use crate::model::offsets;
use crate::support::{cards, matrix, noise};

/// How much one test does.
struct Size {
    heads: usize,
    /// Query rows and keys of each input.
    inputs: &'static [(usize, usize)],
    /// In one recording.
    rounds: usize,
    replays: usize,
}

/// 10,000 rounds of more blocks than a card holds at once.
const ON_A_CARD: Size = Size { heads: 12, inputs: &[(30, 512); 8], rounds: 50, replays: 200 };
const ON_A_VIRTUAL_CARD: Size = Size { heads: 2, inputs: &[(5, 150), (3, 80)], rounds: 4, replays: 2 };

/// What every round multiplies and attends to, and for each round other rows that come in.
struct Operands {
    problem: Problem,
    rows: usize,
    width: usize,
    to_q: Matrix,
    to_out: Matrix,
    kv: CrossKv,
    xs: Vec<Matrix>,
}

impl Operands {
    fn new(cuda: &mut Cuda, size: &Size) -> Self {
        let (dim, width) = (64, 64 * size.heads);
        let row_offsets = offsets(size.inputs.iter().map(|input| input.0));
        let key_offsets = offsets(size.inputs.iter().map(|input| input.1));
        let problem = Problem::new(ProblemSpec {
            heads: size.heads,
            kv_heads: size.heads,
            head_dim: dim,
            scale: 0.125,
            softcap: None,
            row_offsets,
            keys: Keys::Packed { offsets: key_offsets },
        })
        .unwrap();
        let (rows, keys) = (problem.total_rows(), problem.key_positions());
        let mut values = |seed, rows, cols| {
            matrix(cuda, &noise(seed, rows * cols, 1.0, DType::Bf16), rows, cols, DType::Bf16)
        };
        let [to_q, to_out] = [1, 2].map(|seed| values(seed, width, width));
        let [memory, to_kv] = [(3, keys), (4, 2 * width)].map(|(seed, rows)| values(seed, rows, width));
        let xs = (0..size.rounds as u64).map(|round| values(5 + round, rows, width)).collect();
        let mut kv = cuda.cross_kv(keys, width).unwrap();
        cuda.project(&mut kv, 0, &memory, &to_kv).unwrap();
        Self { problem, rows, width, to_q, to_out, kv, xs }
    }

    /// Room for what all rounds give.
    fn results(&self, cuda: &Cuda) -> CrossKv {
        cuda.cross_kv(self.xs.len() * self.rows, self.width / 2).unwrap()
    }

    fn read(&self, cuda: &Cuda, results: &CrossKv) -> Vec<u16> {
        let values = cuda.pool.download::<bf16>(&results.data, self.xs.len() * self.rows * self.width);
        values.unwrap().into_iter().map(bf16::to_bits).collect()
    }

    /// Product, attention, product; `settle` after each.
    fn rounds(
        &self,
        cuda: &Cuda,
        plan: &Prepared,
        results: &mut CrossKv,
        settle: impl Fn() -> Result<()>,
    ) -> Result<()> {
        for (i, x) in self.xs.iter().enumerate() {
            let q = cuda.linear(x, &self.to_q)?;
            settle()?;
            let attended = cuda.attend_cross(&q, &self.kv, plan)?;
            settle()?;
            cuda.project(results, i * self.rows, &attended, &self.to_out)?;
            settle()?;
        }
        Ok(())
    }
}

/// Product, attention in splits that a second launch or a cluster joins, product: no round differs by a bit from one whose
/// kernels ran one at a time.
#[test]
fn rounds_have_the_bits_of_kernels_one_at_a_time() {
    let virtual_card = std::env::var_os("PTXSIM_DEVICE").is_some();
    let size = if virtual_card { ON_A_VIRTUAL_CARD } else { ON_A_CARD };
    for (products, mut cuda) in cards() {
        let operands = Operands::new(&mut cuda, &size);
        let kernels = Kernels::new(&cuda.driver.context).unwrap();
        for &blocks in if cuda.driver.hopper { &[1, 4][..] } else { &[1] } {
            cuda.plans = PlanOptions::default().with_split_keys(32).with_split_cluster(blocks);
            let plan = Plan::new(&operands.problem, DType::Bf16, kernels.facts(), &cuda.plans).unwrap();
            assert_eq!((plan.combines().is_empty(), plan.split_cluster()), (blocks > 1, blocks));
            let plan = cuda.plan_cross(&operands.problem).unwrap();

            let [mut one_at_a_time, mut back_to_back, zeros] = [(); 3].map(|()| operands.results(&cuda));
            operands.rounds(&cuda, &plan, &mut one_at_a_time, || cuda.synchronize()).unwrap();
            let want = operands.read(&cuda, &one_at_a_time);
            assert!(
                want.iter().filter(|bits| bf16::from_bits(**bits) != bf16::ZERO).count() > want.len() / 2
            );
            let mut recording = None;
            for replay in 0..size.replays {
                cuda.copy(&zeros, 0..size.rounds * operands.rows, &mut back_to_back, 0).unwrap();
                let mut step = || operands.rounds(&cuda, &plan, &mut back_to_back, || Ok(()));
                cuda.repeat(&mut recording, 1, &mut step).unwrap();
                let got = operands.read(&cuda, &back_to_back);
                let differ = got.iter().zip(&want).filter(|(got, want)| got != want).count();
                let what = format!("{products:?}, joined by {blocks}, replay {replay} of {}", size.replays);
                assert_eq!(differ, 0, "{what}: of {} results", want.len());
            }
            let done = size.rounds * size.replays;
            println!("{products:?}, splits joined by {blocks} blocks: {done} rounds with equal bits");
        }
    }
}
