//! Plans cover their problem exactly, fit their card, are those of a full search, and say no clearly.

use proptest::prelude::*;

use super::*;
use crate::problem::{Keys, ProblemSpec};

pub(crate) const A100: DeviceFacts = DeviceFacts {
    compute_capability: (8, 0),
    multiprocessors: 108,
    shared_bytes_per_block: 163 << 10,
    shared_bytes_per_multiprocessor: 164 << 10,
    threads_per_multiprocessor: 2048,
};

const RTX4090: DeviceFacts = DeviceFacts {
    compute_capability: (8, 9),
    multiprocessors: 128,
    shared_bytes_per_block: 99 << 10,
    shared_bytes_per_multiprocessor: 100 << 10,
    threads_per_multiprocessor: 1536,
};

const H200: DeviceFacts = DeviceFacts {
    compute_capability: (9, 0),
    multiprocessors: 132,
    shared_bytes_per_block: 227 << 10,
    shared_bytes_per_multiprocessor: 228 << 10,
    threads_per_multiprocessor: 2048,
};

const B200: DeviceFacts = DeviceFacts { compute_capability: (10, 0), multiprocessors: 148, ..H200 };

const RTX5090: DeviceFacts = DeviceFacts { compute_capability: (12, 0), multiprocessors: 170, ..RTX4090 };

fn problem(heads: usize, kv_heads: usize, head_dim: usize, inputs: &[(usize, usize)]) -> Problem {
    let offsets = |f: fn(&(usize, usize)) -> usize| {
        inputs.iter().fold(vec![0], |mut all, input| {
            all.push(all[all.len() - 1] + f(input));
            all
        })
    };
    Problem::new(ProblemSpec {
        heads,
        kv_heads,
        head_dim,
        scale: 1.0,
        softcap: None,
        row_offsets: offsets(|i| i.0),
        keys: Keys::Packed { offsets: offsets(|i| i.1) },
    })
    .unwrap()
}

proptest! {
    /// Every (folded row, key) pair of every input and K/V head is in exactly one block; partial states are written
    /// once and combined once.
    #[test]
    fn work_covers_the_problem_once(
        inputs in prop::collection::vec((0..200usize, 0..700usize), 0..5),
        (heads, kv_heads) in prop::sample::select(vec![(1, 1), (6, 2), (8, 8)]),
        split_keys in prop::option::of(1..600usize),
        (tile_rows, cluster, facts) in prop_oneof![
            (
                prop::option::of(prop::sample::select(vec![16usize, 32, 64, 128])),
                Just(None),
                prop::sample::select(vec![A100, RTX4090, H200, B200, RTX5090]),
            ),
            (Just(Some(128)), Just(Some(2)), Just(H200)),
        ],
    ) {
        let problem = problem(heads, kv_heads, 64, &inputs);
        let options = PlanOptions { split_keys, tile_rows, cluster, ..PlanOptions::default() };
        let plan = Plan::new(&problem, DType::Bf16, &facts, &options).unwrap();
        prop_assert_eq!(&plan, &Plan::new(&problem, DType::Bf16, &facts, &options).unwrap());
        prop_assert!(cluster.is_none_or(|cluster| plan.variant().cluster == cluster));
        // Blocks of a cluster differ in their tile alone, so that they need the same tiles of K and V.
        let (clusters, rest) = plan.work().as_chunks::<2>();
        if plan.variant().cluster == 2 {
            prop_assert!(rest.is_empty());
            for [first, second] in clusters {
                let rows = plan.variant().tile_rows;
                let tile_start = first.tile_start + rows;
                prop_assert!(first.tile_start < first.rows && first.tile_start % (2 * rows) == 0);
                prop_assert_eq!(second, &Work { tile_start, state: second.state, ..first.clone() });
                prop_assert_eq!(second.state.is_some(), first.state.is_some() && tile_start < second.rows);
            }
        }
        for input in problem.inputs() {
            for kv_head in 0..kv_heads {
                let rows = input.rows.len() * problem.group();
                let mut covered = vec![0usize; rows];
                for w in plan.work() {
                    if w.row_base == input.rows.start && w.rows == rows && w.kv_head == kv_head && rows > 0 {
                        prop_assert!(w.keys.start >= input.keys.start && w.keys.end <= input.keys.end);
                        for row in covered.iter_mut().skip(w.tile_start).take(plan.variant().tile_rows) {
                            *row += w.keys.len();
                        }
                    }
                }
                prop_assert!(covered.iter().all(|keys| *keys == input.keys.len()), "{:?}", covered);
            }
        }
        let mut written: Vec<usize> = plan.work().iter().filter_map(|w| w.state).collect();
        written.sort();
        let combined: Vec<usize> = plan.combines().iter().flat_map(|c| c.states.clone()).collect();
        prop_assert_eq!(&written, &combined);
        prop_assert_eq!(written, (0..plan.partial_states()).collect::<Vec<_>>());
        prop_assert!(plan.combines().iter().all(|c| c.states.len() > 1));
    }
}

/// Sizes of inputs, rows and keys: ragged, of few sizes, all the same, some without rows or keys.
fn inputs() -> impl Strategy<Value = Vec<(usize, usize)>> {
    let rows = || prop_oneof![Just(0), 1..70usize, 1..600usize];
    let keys = || prop_oneof![Just(0), 1..700usize, 1..20_000usize, (1..150usize).prop_map(|n| n * 64)];
    let input = || (rows(), keys());
    prop_oneof![
        prop::collection::vec(input(), 0..24),
        (input(), 1..70usize).prop_map(|(input, count)| vec![input; count]),
        (prop::collection::vec(input(), 1..4), 1..20usize).prop_map(|(some, count)| some.repeat(count)),
    ]
}

/// Real cards, and one of few multiprocessors, where the rounding of waves and loads weighs more.
fn cards() -> impl Strategy<Value = DeviceFacts> {
    let real = prop::sample::select(vec![A100, RTX4090, H200, B200, RTX5090]);
    prop_oneof![
        4 => real.clone(),
        1 => (real, 1..9usize).prop_map(|(card, multiprocessors)| DeviceFacts { multiprocessors, ..card }),
    ]
}

proptest! {
    #![proptest_config(match std::env::var_os("PROPTEST_CASES") {
        // As many as it says.
        Some(_) => ProptestConfig::default(),
        None => ProptestConfig::with_cases(4000),
    })]

    /// The search leaves out only what it would not choose, and the lists come in the order of the sorted ones.
    #[test]
    fn plans_are_those_of_the_full_search(
        inputs in inputs(),
        (heads, kv_heads) in prop::sample::select(vec![(1, 1), (6, 2), (8, 8), (12, 12), (32, 4)]),
        head_dim in prop::sample::select(variants::HEAD_DIMS.to_vec()),
        dtype in prop::sample::select(vec![DType::Bf16, DType::F16, DType::F32]),
        e4m3 in prop::bool::weighted(0.2),
        facts in cards(),
        split_keys in prop::option::weighted(0.1, 1..3000usize),
        tile_rows in prop::option::weighted(0.1, prop::sample::select(vec![16usize, 32, 64, 128])),
        cluster in prop::option::weighted(0.1, 1..3usize),
        split_cluster in prop::option::weighted(0.2, prop::sample::select(vec![1usize, 2, 3, 4, 8])),
        architecture in prop::option::weighted(0.1, prop::sample::select(vec![Architecture::Sm80, Architecture::Sm90])),
    ) {
        let problem = problem(heads, kv_heads, head_dim, &inputs);
        let options = PlanOptions { split_keys, tile_rows, cluster, split_cluster, architecture };
        let kv_bytes = if e4m3 { 1 } else { dtype.size_bytes() };
        let plan = match e4m3 {
            true => Plan::with_e4m3_kv(&problem, dtype, &facts, &options),
            false => Plan::new(&problem, dtype, &facts, &options),
        };
        let made = plan.ok().map(|p| (p.variant, p.split_keys, p.split_cluster, p.work, p.combines, p.partial_states));
        prop_assert_eq!(made, oracle::plan(&problem, dtype, kv_bytes, &facts, &options));
    }
}

/// What a prepared launch is for: other lengths on the same kernel, without a search.
#[test]
fn a_plan_like_another_has_nothing_to_choose() {
    let plan = |inputs: &[(usize, usize)], options: &PlanOptions| {
        let before = cost::ESTIMATES.get();
        let plan = Plan::with_e4m3_kv(&problem(12, 12, 64, inputs), DType::F16, &H200, options).unwrap();
        (plan, cost::ESTIMATES.get() - before)
    };
    let (first, estimates) = plan(&[(30, 4096); 2], &PlanOptions::default().with_split_cluster(1));
    assert!(estimates > 1 && !first.combines().is_empty(), "{estimates}: {}", first.explain());
    let like = PlanOptions::like(&first);
    assert_eq!(plan(&[(30, 4096); 2], &like), (first.clone(), 0));
    // Lengths that would be planned otherwise.
    let others = [(1, 300), (500, 9), (0, 40)];
    assert_ne!(plan(&others, &PlanOptions::default()).0.split_keys(), first.split_keys());
    let (other, estimates) = plan(&others, &like);
    assert_eq!((other.variant(), other.split_keys(), estimates), (first.variant(), first.split_keys(), 0));
    let clusters = PlanOptions { cluster: Some(2), tile_rows: Some(128), ..PlanOptions::default() };
    let pairs = Plan::new(&problem(2, 2, 128, &[(256, 64)]), DType::Bf16, &H200, &clusters).unwrap();
    let few =
        Plan::new(&problem(2, 2, 128, &[(1, 64)]), DType::Bf16, &H200, &PlanOptions::like(&pairs)).unwrap();
    assert_eq!(few.variant(), pairs.variant());
}

#[test]
fn few_rows_take_small_tiles_and_split_many_rows_do_not() {
    // One prompt of T5-base over 4096 keys: 12 blocks would leave most of the card idle.
    let few =
        Plan::new(&problem(12, 12, 64, &[(1, 4096)]), DType::Bf16, &A100, &PlanOptions::default()).unwrap();
    assert_eq!(few.variant().tile_rows, 16);
    assert!(few.work().len() > 50, "{}", few.explain());
    let batch = vec![(256, 512); 64];
    let many = Plan::new(&problem(12, 12, 64, &batch), DType::Bf16, &A100, &PlanOptions::default()).unwrap();
    assert!(many.variant().tile_rows >= 64 && many.combines().is_empty(), "{}", many.explain());
}

/// Hopper's kernels by the number of rows: streams where the keys are what takes time, warpgroups above.
#[test]
fn hopper_takes_its_own_kernels() {
    let plan = |rows, keys, facts: &DeviceFacts, options: &PlanOptions| {
        Plan::new(&problem(12, 12, 64, &[(rows, keys); 8]), DType::Bf16, facts, options).unwrap()
    };
    let default = PlanOptions::default();
    for (rows, least, most) in [(1, 16, 16), (30, 32, 32), (64, 64, 64), (128, 64, 128), (2048, 128, 192)] {
        let plan = plan(rows, 4096, &H200, &default);
        let variant = plan.variant();
        let architecture = if variant.warpgroups { Architecture::Sm90a } else { Architecture::Sm90 };
        assert_eq!(variant.architecture, architecture, "{}", plan.explain());
        assert!((least..=most).contains(&variant.tile_rows), "{rows} rows: {}", plan.explain());
        assert_eq!(variant.warpgroups, variant.tile_rows >= 64);
    }
    let ours = PlanOptions { architecture: Some(Architecture::Sm80), ..default };
    assert_eq!(plan(30, 512, &H200, &ours).variant().architecture, Architecture::Sm80);
    // No other card has wgmma, and those before it no copy engine.
    for (facts, few) in [
        (A100, Architecture::Sm80),
        (RTX4090, Architecture::Sm80),
        (B200, Architecture::Sm90),
        (DeviceFacts { compute_capability: (10, 3), ..B200 }, Architecture::Sm90),
        (DeviceFacts { compute_capability: (11, 0), multiprocessors: 20, ..B200 }, Architecture::Sm90),
        (RTX5090, Architecture::Sm120),
        (DeviceFacts { compute_capability: (12, 1), multiprocessors: 48, ..RTX5090 }, Architecture::Sm120),
    ] {
        for rows in [1, 16, 30, 64, 512] {
            let plan = plan(rows, 4096, &facts, &default);
            let architecture = if plan.variant().tile_rows <= 32 { few } else { Architecture::Sm80 };
            assert_eq!(plan.variant().architecture, architecture, "{facts:?}: {}", plan.explain());
            assert!(rows > 30 || plan.variant().tile_rows <= 32, "{facts:?}: {}", plan.explain());
        }
        let hopper = PlanOptions { architecture: Some(Architecture::Sm90a), ..default };
        let refused = Plan::new(&problem(2, 2, 64, &[(1, 1)]), DType::Bf16, &facts, &hopper).unwrap_err();
        let of_hopper = Some(Architecture::Sm90a);
        assert!(
            matches!(refused, Error::NoKernel { architecture, .. } if architecture == of_hopper),
            "{refused}"
        );
    }
}

/// Few rows have a kernel of the copy engine at every head_dim that e4m3 has, for 16-bit and e4m3 K and V, in the shared memory of every
/// card from 9.0 on.
#[test]
fn few_rows_use_the_copy_engine_from_9_0_on() {
    for facts in [H200, B200, RTX5090] {
        for (head_dim, tile_rows) in variants::E4M3_HEAD_DIMS.into_iter().flat_map(|d| [(d, 16), (d, 32)]) {
            for dtype in [DType::Bf16, DType::F16] {
                let options = PlanOptions::default().with_tile_rows(tile_rows);
                let problem = problem(2, 2, head_dim, &[(tile_rows, 500)]);
                for plan in [Plan::new, Plan::with_e4m3_kv] {
                    let variant = plan(&problem, dtype, &facts, &options).unwrap().variant();
                    assert!(variant.architecture >= Architecture::Sm90, "{facts:?}: {}", variant.kernel());
                    assert!(variant.shared_bytes <= facts.shared_bytes_per_block && !variant.warpgroups);
                }
            }
        }
    }
}

/// Clusters where L2 would hold the tensor cores up, and never for one row tile per K/V head.
#[test]
fn clusters_where_row_tiles_share() {
    let plan = |head_dim, rows, options: &PlanOptions| {
        Plan::new(&problem(16, 16, head_dim, &[(rows, 4096); 4]), DType::Bf16, &H200, options).unwrap()
    };
    let default = PlanOptions::default();
    for head_dim in [128, 256] {
        let many = plan(head_dim, 2048, &default);
        assert_eq!((many.variant().tile_rows, many.variant().cluster), (128, 2), "{}", many.explain());
        for rows in [1, 30, 64, 128] {
            let few = plan(head_dim, rows, &default);
            assert_eq!(few.variant().cluster, 1, "{}", few.explain());
        }
    }
    for (rows, cluster) in [(2048, 1), (5, 2)] {
        let fixed = plan(128, rows, &default.with_cluster(cluster));
        let Variant { architecture, tile_rows, cluster: chosen, .. } = *fixed.variant();
        assert_eq!(
            (architecture, tile_rows, chosen),
            (Architecture::Sm90a, 128, cluster),
            "{}",
            fixed.explain()
        );
    }
}

/// Two plans that differ in the row tiles that share K and V: where L2 is slow the cluster is worth more.
#[test]
fn a_cluster_halves_what_comes_from_l2() {
    let cost = |cluster, l2_bytes_per_us| {
        let options = PlanOptions {
            split_keys: Some(4096),
            tile_rows: Some(128),
            cluster: Some(cluster),
            ..PlanOptions::default()
        };
        let plan = Plan::new(&problem(16, 16, 128, &[(2048, 4096)]), DType::Bf16, &H200, &options).unwrap();
        let constants = Constants { l2_bytes_per_us, ..*Constants::of((9, 0)) };
        cost::estimate(&plan.problem, plan.variant, (plan.split_keys, plan.split_cluster), &H200, &constants)
    };
    assert_eq!(cost(2, 10_000.0), cost(1, 20_000.0));
    assert!(cost(2, 10_000.0) < 0.6 * cost(1, 10_000.0));
}

/// K and V in e4m3: cards from 9.0 on have the kernels, which count half of the bytes.
#[test]
fn e4m3_plans_count_half_of_the_bytes() {
    let problem = problem(16, 8, 128, &[(8, 8192)]);
    let options = PlanOptions::default();
    let wide = Plan::new(&problem, DType::F16, &H200, &options).unwrap();
    let narrow = Plan::with_e4m3_kv(&problem, DType::F16, &H200, &options).unwrap();
    assert_eq!((wide.variant().kernel(), wide.variant().kv_bytes), ("onekv_sm90_f16_128_16".to_owned(), 2));
    assert_eq!(narrow.variant().kernel(), "onekv_sm90_f16_e4m3_128_16");
    let cost = |plan: &Plan| {
        let constants = Constants::of((9, 0));
        cost::estimate(&plan.problem, plan.variant, (plan.split_keys, plan.split_cluster), &H200, constants)
    };
    // Few rows wait for the bytes; starting and merging stay.
    assert!(cost(&narrow) < 0.75 * cost(&wide), "{}\n{}", narrow.explain(), wide.explain());
    for (dtype, facts) in [(DType::Bf16, A100), (DType::Bf16, RTX4090), (DType::F32, H200)] {
        let refused = Plan::with_e4m3_kv(&problem, dtype, &facts, &options).unwrap_err().to_string();
        assert!(refused.starts_with(&format!("no kernel for {dtype} with e4m3 K/V")), "{refused}");
        assert!(
            refused.ends_with("9.0 or newer, 16 or 32 tile_rows, cluster 1, split_cluster 1, 2, 4 or 8"),
            "{refused}"
        );
    }
}

/// Few rows: how much e4m3 saves of a long stream, and that the instructions of its conversions count.
#[test]
fn few_rows_cost_less_in_e4m3() {
    for (head_dim, rows, most) in
        [(64, 16, 0.65), (128, 16, 0.65), (256, 16, 0.65), (64, 32, 0.75), (128, 32, 0.75), (256, 32, 0.75)]
    {
        let problem = problem(16, 16, head_dim, &[(rows, 32 << 10); 4]);
        let options = PlanOptions { tile_rows: Some(rows), ..PlanOptions::default() };
        let cost = |plan: Plan, constants: &Constants| {
            cost::estimate(
                &plan.problem,
                plan.variant,
                (plan.split_keys, plan.split_cluster),
                &H200,
                constants,
            )
        };
        let wide = || Plan::new(&problem, DType::Bf16, &H200, &options).unwrap();
        let narrow = || Plan::with_e4m3_kv(&problem, DType::Bf16, &H200, &options).unwrap();
        let constants = Constants::of((9, 0));
        let ratio = cost(narrow(), constants) / cost(wide(), constants);
        assert!((0.5..most).contains(&ratio), "{rows} rows of {head_dim}: {ratio}");
        // Where an eighth of the instructions can be issued, they are what e4m3 waits for.
        let slow = Constants { instructions_per_us: constants.instructions_per_us / 8.0, ..*constants };
        assert_eq!(cost(wide(), &slow), cost(wide(), constants));
        assert!(cost(narrow(), &slow) > 1.3 * cost(narrow(), constants), "{rows} rows of {head_dim}");
    }
}

/// One long input beside many short ones: it is split finely enough to end with the others.
#[test]
fn a_long_input_is_split_for_the_others() {
    let mut inputs = vec![(16, 512); 63];
    inputs.push((16, 32 << 10));
    let problem = problem(12, 12, 64, &inputs);
    let plan = Plan::new(&problem, DType::Bf16, &H200, &PlanOptions::default()).unwrap();
    let tiles = |w: &Work| w.keys.len().div_ceil(plan.variant().tile_keys);
    let (all, most) =
        (plan.work().iter().map(tiles).sum::<usize>(), plan.work().iter().map(tiles).max().unwrap());
    // No block is longer than what every multiprocessor has to do, and short inputs are left whole.
    assert!(most <= all / 132, "{}", plan.explain());
    assert!(plan.combines().iter().all(|c| c.row_base == 63 * 16), "{}", plan.explain());
}

#[test]
fn every_card_has_a_kernel_for_every_head_dim() {
    for facts in [A100, RTX4090, H200, B200, RTX5090] {
        for dtype in [DType::Bf16, DType::F16, DType::F32] {
            for head_dim in variants::HEAD_DIMS {
                let plan =
                    Plan::new(&problem(4, 2, head_dim, &[(30, 500)]), dtype, &facts, &PlanOptions::default());
                assert!(plan.unwrap().variant().shared_bytes <= facts.shared_bytes_per_block);
            }
        }
    }
}

#[test]
fn what_does_not_fit_is_refused() {
    let plan = |dim, facts: &DeviceFacts, options: &PlanOptions| {
        Plan::new(&problem(2, 2, dim, &[(1, 1)]), DType::Bf16, facts, options).unwrap_err().to_string()
    };
    let default = PlanOptions::default();
    let advice = |dim, more| {
        format!(
            "; Q, K and V padded with zeros to {dim}, with the same scale, give the same result, and have {more} % more bytes"
        )
    };
    for (dim, advice) in
        [(80, advice(96, 20)), (192, advice(256, 34)), (5, advice(32, 540)), (512, String::new())]
    {
        let words = format!("head_dim is {dim}, allowed on CUDA: 32, 64, 96, 128, 256{advice}");
        assert_eq!(plan(dim, &A100, &default), words);
    }
    let e4m3 = Plan::with_e4m3_kv(&problem(2, 2, 96, &[(1, 1)]), DType::Bf16, &H200, &default).unwrap_err();
    assert_eq!(e4m3.to_string(), format!("head_dim is 96, allowed on CUDA: 64, 128, 256{}", advice(128, 34)));
    let old = DeviceFacts { compute_capability: (7, 5), ..A100 };
    assert!(plan(64, &old, &default).contains("compute capability 7.5"), "{}", plan(64, &old, &default));
    let small = DeviceFacts { shared_bytes_per_block: 1 << 10, ..A100 };
    assert!(plan(64, &small, &default).contains("1024 bytes of shared memory"));
    let options = PlanOptions { tile_rows: Some(48), ..default };
    assert!(plan(64, &A100, &options).contains("tile_rows 48"));
    let options = PlanOptions { cluster: Some(2), ..default };
    assert!(plan(64, &A100, &options).contains("cluster 2 on a card"));
    let options = PlanOptions { split_keys: Some(0), ..default };
    assert_eq!(plan(64, &A100, &options), "split_keys is 0, allowed: 1 or more");
}

/// Lists are made in whole: no spec of a few numbers asks for gigabytes.
#[test]
fn more_blocks_than_memory_should_hold_are_refused() {
    let options = PlanOptions { tile_rows: Some(16), ..PlanOptions::default() };
    let blocks = |rows| {
        let many = problem(64, 64, 64, &[(rows, 1)]);
        Plan::new(&many, DType::Bf16, &A100, &options).map(|plan| plan.work().len())
    };
    assert_eq!(blocks(1 << 20), Ok(1 << 22));
    for (rows, value) in [((1 << 20) + 1, (1 << 22) + 64), (1 << 30, 1usize << 32)] {
        let refused = blocks(rows).unwrap_err().to_string();
        assert_eq!(refused, format!("blocks is {value}, allowed: at most 4194304"));
    }
    // Heads of an input that nobody reads are none.
    let nobody = problem(1 << 16, 1 << 16, 64, &[(0, 1); 1000]);
    let plan = Plan::new(&nobody, DType::Bf16, &A100, &options).unwrap();
    assert!(plan.work().is_empty() && plan.combines().is_empty());
}

#[test]
fn a_split_of_more_keys_than_there_can_be_is_one_part() {
    for split_keys in [1 << 31, usize::MAX] {
        let options = PlanOptions { split_keys: Some(split_keys), ..PlanOptions::default() };
        let plan = Plan::new(&problem(2, 2, 64, &[(5, 300)]), DType::Bf16, &A100, &options).unwrap();
        assert!(plan.combines().is_empty() && plan.work().iter().all(|w| w.keys == (0..300)));
    }
}

#[test]
fn a_fixed_split_does_not_depend_on_the_batch_or_the_card() {
    let options = PlanOptions { split_keys: Some(100), tile_rows: Some(16), ..PlanOptions::default() };
    let alone = Plan::new(&problem(2, 2, 64, &[(5, 300)]), DType::Bf16, &A100, &options).unwrap();
    let beside =
        Plan::new(&problem(2, 2, 64, &[(5, 300), (9, 1000)]), DType::Bf16, &RTX4090, &options).unwrap();
    let ranges = |plan: &Plan| {
        let mut keys: Vec<_> = plan
            .work()
            .iter()
            .filter(|w| w.row_base == 0)
            .map(|w| (w.kv_head, w.keys.start, w.keys.end))
            .collect();
        keys.sort();
        keys
    };
    assert_eq!(ranges(&alone), ranges(&beside));
    assert_eq!(alone.split_keys(), 128);
}
