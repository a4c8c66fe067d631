//! Plans, for cards that exist and for others.
//!
//! Promised: no panic, no overflow; no more memory than the largest plan's lists take, whatever the problem; the same
//! plan from the same request; every key of every row in exactly one block, and every partial state written and
//! combined once.

use std::collections::BTreeMap;
use std::ops::Range;

use onekv::plan::{Architecture, DeviceFacts, Plan, PlanOptions};
use onekv::{DType, Problem};

use crate::bytes::Bytes;
use crate::operands::{assert_named, spec};

const FIELDS: [&str; 8] = [
    "split_keys",
    "rows x heads / kv_heads",
    "key positions",
    "head_dim",
    "no kernel for",
    "blocks",
    "multiprocessors",
    "inputs",
];
/// Most blocks of a plan whose blocks are looked at one by one.
const FEW: usize = 1 << 16;

pub fn run(data: &[u8]) {
    let mut bytes = Bytes::new(data);
    let facts = facts(&mut bytes);
    let options = options(&mut bytes);
    let dtype = bytes.one_of(&[DType::F32, DType::Bf16, DType::F16]);
    let e4m3 = bytes.once_in(4);
    let Ok(problem) = Problem::new(spec(&mut bytes)) else { return };
    let plan = |problem, options| match e4m3 {
        true => Plan::with_e4m3_kv(problem, dtype, &facts, options),
        false => Plan::new(problem, dtype, &facts, options),
    };
    let first = match plan(&problem, &options) {
        Ok(first) => first,
        Err(error) => return assert_named(&error, &FIELDS),
    };
    assert!(first.explain().contains(&first.variant().kernel()));
    assert_eq!(first.workspace_bytes(), 4 * first.workspace_len());
    if first.work().len() > FEW {
        return;
    }
    assert_eq!(plan(&problem, &options).as_ref(), Ok(&first), "the same once more");
    assert_eq!(plan(&problem, &PlanOptions::like(&first)).as_ref(), Ok(&first), "like itself");
    covers(&first);
}

fn facts(bytes: &mut Bytes) -> DeviceFacts {
    let known = [
        ((8, 0), 108, 163 << 10, 164 << 10, 2048),
        ((8, 9), 128, 99 << 10, 100 << 10, 1536),
        ((9, 0), 132, 227 << 10, 228 << 10, 2048),
        ((10, 0), 148, 227 << 10, 228 << 10, 2048),
        ((12, 0), 170, 99 << 10, 100 << 10, 1536),
    ];
    let (compute_capability, multiprocessors, block_shared, shared, threads) = bytes.one_of(&known);
    let mut any = |usual| if bytes.once_in(8) { bytes.number() } else { usual };
    DeviceFacts {
        multiprocessors: any(multiprocessors),
        shared_bytes_per_block: any(block_shared),
        shared_bytes_per_multiprocessor: any(shared),
        threads_per_multiprocessor: any(threads),
        compute_capability: match any(0) {
            0 => compute_capability,
            other => (other as u32, (other >> 32) as u32),
        },
    }
}

fn options(bytes: &mut Bytes) -> PlanOptions {
    let mut options = PlanOptions::default();
    if bytes.once_in(3) {
        options = options.with_split_keys(bytes.count(100));
    }
    if bytes.once_in(3) {
        options = options.with_tile_rows(match bytes.below(8) {
            0 => bytes.number(),
            _ => bytes.one_of(&[16, 32, 64, 128, 192]),
        });
    }
    if bytes.once_in(4) {
        options = options.with_cluster(bytes.count(3));
    }
    if bytes.once_in(3) {
        options = options.with_split_cluster(bytes.count(8));
    }
    if bytes.once_in(4) {
        use Architecture::{Sm80, Sm90, Sm90a, Sm120};
        options = options.with_architecture(bytes.one_of(&[Sm80, Sm90, Sm90a, Sm120]));
    }
    options
}

/// Every row, head and key once; every state written once and combined once.
fn covers(plan: &Plan) {
    let (problem, variant) = (plan.problem(), plan.variant());
    let mut keys: BTreeMap<(usize, usize, usize), Vec<Range<usize>>> = BTreeMap::new();
    let mut states = vec![None; plan.partial_states()];
    for work in plan.work().iter().filter(|work| work.tile_start < work.rows) {
        let tile = (work.row_base, work.kv_head, work.tile_start);
        keys.entry(tile).or_default().push(work.keys.clone());
        if let Some(state) = work.state {
            assert_eq!(states[state].replace(tile), None, "state {state} is written twice");
        }
    }
    let mut combined = vec![false; plan.partial_states()];
    for combine in plan.combines() {
        for state in combine.states.clone() {
            let tile = (combine.row_base, combine.kv_head, combine.tile_start);
            assert_eq!(states[state], Some(tile), "state {state}");
            assert!(!std::mem::replace(&mut combined[state], true), "state {state} is combined twice");
        }
    }
    assert!(combined.iter().all(|combined| *combined), "a state is not combined");
    let mut tiles = 0;
    for input in problem.inputs() {
        for kv_head in 0..if input.rows.is_empty() { 0 } else { problem.kv_heads() } {
            for tile in (0..input.rows.len() * problem.group()).step_by(variant.tile_rows) {
                let of_tile =
                    keys.get_mut(&(input.rows.start, kv_head, tile)).expect("a tile without a block");
                of_tile.sort_by_key(|keys| (keys.start, keys.end));
                let mut at = input.keys.start;
                for keys in of_tile.iter().filter(|keys| !keys.is_empty()) {
                    assert_eq!(keys.start, at, "keys {at} on");
                    at = keys.end;
                }
                assert_eq!(at, input.keys.end, "the last key");
                tiles += 1;
            }
        }
    }
    assert_eq!(tiles, keys.len(), "tiles, and those that have blocks");
}
