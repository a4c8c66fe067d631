//! Rounds back to back: nothing waits for the host, kernels are set up while those before them end, and what one round leaves
//! in memory the next one overwrites.

use half::bf16;
use onekv::cuda::Kernels;
use onekv::plan::{Plan, PlanOptions};
use onekv::{DType, Keys, Problem, ProblemSpec};

use crate::backend::Backend as _;
use crate::backend::cuda::CrossKv;
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

/// Product, attention in splits that a second launch or a cluster joins, product: no round differs by a bit from one whose
/// kernels ran one at a time.
#[test]
fn rounds_have_the_bits_of_kernels_one_at_a_time() {
    let virtual_card = std::env::var_os("PTXSIM_DEVICE").is_some();
    let size = if virtual_card { ON_A_VIRTUAL_CARD } else { ON_A_CARD };
    for (products, mut cuda) in cards() {
        let joined_by = if cuda.driver.hopper { &[1, 4][..] } else { &[1] };
        for &blocks in joined_by {
            let (dim, inner) = (64, 64 * size.heads);
            let ends = |of: fn(&(usize, usize)) -> usize| {
                let ends = size.inputs.iter().map(of).scan(0, |end, len| {
                    *end += len;
                    Some(*end)
                });
                std::iter::once(0).chain(ends).collect::<Vec<usize>>()
            };
            let (row_offsets, offsets) = (ends(|input| input.0), ends(|input| input.1));
            let (rows, keys) = (*row_offsets.last().unwrap(), *offsets.last().unwrap());
            let problem = Problem::new(ProblemSpec {
                heads: size.heads,
                kv_heads: size.heads,
                head_dim: dim,
                scale: 0.125,
                softcap: None,
                row_offsets,
                keys: Keys::Packed { offsets },
            })
            .unwrap();
            cuda.plans = PlanOptions::default().with_split_keys(32).with_split_cluster(blocks);
            let mut values = |seed, rows, cols| {
                matrix(&mut cuda, &noise(seed, rows * cols, 1.0, DType::Bf16), rows, cols, DType::Bf16)
            };
            let [to_q, to_out] = [1, 2].map(|seed| values(seed, inner, inner));
            let [memory, to_kv] = [(3, keys), (4, 2 * inner)].map(|(seed, rows)| values(seed, rows, inner));
            let xs: Vec<_> = (0..size.rounds as u64).map(|round| values(5 + round, rows, inner)).collect();

            let kernels = Kernels::new(&cuda.driver.context).unwrap();
            let plan = Plan::new(&problem, DType::Bf16, kernels.facts(), &cuda.plans).unwrap();
            assert_eq!((plan.combines().is_empty(), plan.split_cluster()), (blocks > 1, blocks));
            let plan = cuda.plan_cross(&problem).unwrap();
            let mut kv = cuda.cross_kv(keys, inner).unwrap();
            cuda.project(&mut kv, 0, &memory, &to_kv).unwrap();

            // Whoever keeps results needs a row of `2 * width` for each.
            let all = size.rounds * rows;
            let results = || cuda.cross_kv(all, inner / 2).unwrap();
            let (mut one_at_a_time, mut back_to_back, zeros) = (results(), results(), results());
            let round = |i: usize, results: &mut _, settle: &dyn Fn()| {
                let q = cuda.linear(&xs[i], &to_q)?;
                settle();
                let attended = cuda.attend_cross(&q, &kv, &plan)?;
                settle();
                cuda.project(results, i * rows, &attended, &to_out)?;
                settle();
                anyhow::Ok(())
            };
            for i in 0..size.rounds {
                round(i, &mut one_at_a_time, &|| cuda.synchronize().unwrap()).unwrap();
            }
            let bits = |results: &CrossKv| cuda.pool.download::<bf16>(&results.data, all * inner).unwrap();
            let want = bits(&one_at_a_time);
            assert!(want.iter().filter(|x| **x != bf16::ZERO).count() > want.len() / 2);
            let mut recording = None;
            for replay in 0..size.replays {
                cuda.copy(&zeros, 0..all, &mut back_to_back, 0).unwrap();
                let mut step = || (0..size.rounds).try_for_each(|i| round(i, &mut back_to_back, &|| ()));
                cuda.repeat(&mut recording, 1, &mut step).unwrap();
                let got = bits(&back_to_back);
                let differ =
                    got.iter().zip(&want).filter(|(got, want)| got.to_bits() != want.to_bits()).count();
                let what = format!("{products:?}, joined by {blocks}, replay {replay} of {}", size.replays);
                assert_eq!(differ, 0, "{what}: of {} results", want.len());
            }
            let done = size.rounds * size.replays;
            println!("{products:?}, splits joined by {blocks} blocks: {done} rounds with equal bits");
        }
    }
}
