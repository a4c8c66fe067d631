//! Everything that a problem or its operands refuse, and the words they refuse it with.

use onekv::cpu::{PartialState, attend, merge_states};
use onekv::{Error, Keys, Lse, Output, Problem, ProblemSpec, Queries, SharedKv, StateShape, Strides};

fn spec() -> ProblemSpec {
    ProblemSpec {
        heads: 4,
        kv_heads: 2,
        head_dim: 64,
        scale: 1.0,
        softcap: None,
        row_offsets: vec![0, 2, 3],
        keys: Keys::Packed { offsets: vec![0, 5, 9] },
    }
}

fn refused(change: impl FnOnce(&mut ProblemSpec)) -> String {
    let mut spec = spec();
    change(&mut spec);
    Problem::new(spec).expect_err("must be refused").to_string()
}

#[test]
fn specs() {
    assert_eq!(refused(|s| s.heads = 0), "heads is 0, allowed: 1 or more");
    assert_eq!(refused(|s| s.kv_heads = 0), "kv_heads is 0, allowed: 1 or more");
    assert_eq!(refused(|s| s.head_dim = 0), "head_dim is 0, allowed: 1 or more");
    assert_eq!(refused(|s| s.head_dim = 513), "head_dim is 513, allowed: at most 512");
    assert_eq!(refused(|s| s.kv_heads = 3), "heads is 4, allowed: a multiple of kv_heads, which is 3");
    for scale in [0.0, -1.0, f32::NAN, f32::INFINITY] {
        assert_eq!(
            refused(|s| s.scale = scale),
            format!("scale is {scale}, allowed: a finite number above 0")
        );
    }
    assert_eq!(refused(|s| s.softcap = Some(0.0)), "softcap is 0, allowed: a finite number above 0");
    assert_eq!(
        refused(|s| s.row_offsets = vec![]),
        "row_offsets[0] is missing, allowed: 0 (offsets hold one entry more than there are inputs)"
    );
    assert_eq!(
        refused(|s| s.row_offsets = vec![1, 2, 3]),
        "row_offsets[0] is 1, allowed: 0 (offsets hold one entry more than there are inputs)"
    );
    assert_eq!(
        refused(|s| s.row_offsets = vec![0, 3, 2]),
        "row_offsets[2] is 2, allowed: 3 or more, the offset before it"
    );
    assert_eq!(
        refused(|s| s.keys = Keys::Packed { offsets: vec![0, 5, 4] }),
        "keys.offsets[2] is 4, allowed: 5 or more, the offset before it"
    );
    assert_eq!(
        refused(|s| s.keys = Keys::Packed { offsets: vec![0, 5] }),
        "keys.offsets describes 1 inputs, allowed: 2, as many as row_offsets"
    );
    assert_eq!(
        refused(|s| s.keys = Keys::Padded { max_keys: 4, lengths: vec![4, 5] }),
        "keys.lengths[1] is 5, allowed: at most keys.max_keys, which is 4"
    );
    assert_eq!(
        refused(|s| s.keys = Keys::Padded { max_keys: 4, lengths: vec![4] }),
        "keys.lengths describes 1 inputs, allowed: 2, as many as row_offsets"
    );
}

/// The geometry, which backends and the oracle take from the problem alike.
#[test]
fn inputs_stand_where_offsets_and_slots_say() {
    let ranges = |keys: Keys| {
        let p = Problem::new(ProblemSpec { row_offsets: vec![0, 2, 2, 3], keys, ..spec() }).unwrap();
        assert_eq!(p.inputs().iter().map(|i| i.rows.clone()).collect::<Vec<_>>(), [0..2, 2..2, 2..3]);
        (p.inputs().iter().map(|i| i.keys.clone()).collect::<Vec<_>>(), p.key_positions())
    };
    assert_eq!(ranges(Keys::Packed { offsets: vec![0, 5, 9, 9] }), (vec![0..5, 5..9, 9..9], 9));
    assert_eq!(ranges(Keys::Padded { max_keys: 4, lengths: vec![3, 0, 4] }), (vec![0..3, 4..4, 8..12], 12));
}

#[test]
fn sizes_that_overflow() {
    let huge = "overflows the address space; allowed: at most isize::MAX bytes";
    assert_eq!(
        refused(|s| s.row_offsets = vec![0, 1, usize::MAX / 64]),
        format!("rows x heads x head_dim {huge}")
    );
    assert_eq!(
        refused(|s| s.keys = Keys::Packed { offsets: vec![0, 1, usize::MAX] }),
        format!("keys x kv_heads x head_dim {huge}")
    );
    assert_eq!(
        refused(|s| s.keys = Keys::Padded { max_keys: usize::MAX, lengths: vec![1, 1] }),
        format!("keys.max_keys {huge}")
    );
    assert_eq!(refused(|s| s.heads = usize::MAX - 1), format!("rows x heads x head_dim {huge}"));
    // Nor may the strides of an empty batch overflow.
    let empty = |s: &mut ProblemSpec| {
        (s.row_offsets, s.keys) = (vec![0, 0], Keys::Packed { offsets: vec![0, 0] });
    };
    let wide = |s: &mut ProblemSpec| (s.heads, s.kv_heads) = (usize::MAX - 1, 2);
    assert_eq!(refused(|s| (empty(s), wide(s)).0), format!("rows x heads x head_dim {huge}"));
    let wide = |s: &mut ProblemSpec| (s.heads, s.kv_heads) = (usize::MAX / 64, usize::MAX / 64);
    assert_eq!(refused(|s| (empty(s), wide(s)).0), format!("rows x heads x head_dim {huge}"));
}

/// Runs a call with one operand changed; nothing may be written when it is refused.
fn call(
    change: impl FnOnce(&mut Queries<'_, f32>, &mut SharedKv<'_, f32>, &mut Strides, &mut Strides),
) -> Result<(), Error> {
    let p = Problem::new(spec()).unwrap();
    let q = vec![0.0f32; 3 * 4 * 64 + 8];
    let k = vec![0.0f32; 9 * 2 * 64 + 8];
    let v = k.clone();
    let mut out = vec![7.0f32; q.len()];
    let mut lse = vec![7.0f32; 3 * 4];
    let mut queries = Queries::contiguous(&p, &q);
    let mut kv = SharedKv::contiguous(&p, &k, &v);
    let (mut out_strides, mut lse_strides) = (p.query_strides(), Strides::contiguous(4, 1));
    change(&mut queries, &mut kv, &mut out_strides, &mut lse_strides);
    let result = attend(
        &p,
        queries,
        kv,
        Output { data: &mut out, strides: out_strides },
        Some(Lse { data: &mut lse, strides: lse_strides }),
    );
    if result.is_err() {
        assert!(out.iter().chain(&lse).all(|x| *x == 7.0), "a refused call has written");
    }
    result
}

#[test]
fn operands() {
    let text = |r: Result<(), Error>| r.expect_err("must be refused").to_string();
    call(|_, _, _, _| {}).unwrap();
    assert_eq!(
        text(call(|q, _, _, _| q.data = &q.data[..767])),
        "q has 767 elements, allowed: 768 or more for its shape and strides"
    );
    assert_eq!(
        text(call(|_, kv, _, _| kv.v = &kv.v[..0])),
        "v has 0 elements, allowed: 1152 or more for its shape and strides"
    );
    assert_eq!(
        text(call(|_, kv, _, _| kv.k_strides.head = 60)),
        "k.strides.head is 60, allowed: 64 or more, so that no two vectors overlap"
    );
    assert_eq!(
        text(call(|_, _, out, _| out.row = 252)),
        "out.strides.row is 252, allowed: 256 or more, so that no two vectors overlap"
    );
    assert_eq!(
        text(call(|_, _, out, _| *out = Strides { row: 64, head: 128 })),
        "out.strides.head is 128, allowed: 192 or more, so that no two vectors overlap"
    );
    assert_eq!(
        text(call(|_, _, out, _| *out = Strides { row: 0, head: 64 })),
        "out.strides.row is 0, allowed: 64 or more, so that no two vectors overlap"
    );
    assert_eq!(
        text(call(|_, _, _, lse| lse.head = 0)),
        "lse.strides.head is 0, allowed: 1 or more, so that no two vectors overlap"
    );
    assert_eq!(
        text(call(|q, _, _, _| q.strides.row = 258)),
        "q.strides.row is 1032 bytes, allowed: a multiple of 16 bytes"
    );
    let misaligned = text(call(|q, _, _, _| q.data = &q.data[1..]));
    assert!(
        misaligned.starts_with("q.data is ") && misaligned.ends_with("allowed: a multiple of 16 bytes"),
        "{misaligned}"
    );
    assert_eq!(
        text(call(|_, kv, _, _| kv.k_strides.row = usize::MAX / 8)),
        "k overflows the address space; allowed: at most isize::MAX bytes"
    );
}

/// Strides without neighbours and head-major memory are fine.
#[test]
fn operands_that_are_fine() {
    call(|_, _, out, _| *out = Strides { row: 64, head: 192 }).unwrap();
    let mut spec = spec();
    (spec.heads, spec.kv_heads, spec.row_offsets) = (1, 1, vec![0, 1, 1]);
    let p = Problem::new(spec).unwrap();
    let (q, k) = (vec![0.0f32; 64], vec![0.0f32; 9 * 64]);
    let mut out = vec![0.0f32; 64];
    for anything in [Strides { row: 0, head: 3 }, Strides { row: usize::MAX, head: usize::MAX }] {
        attend(
            &p,
            Queries { data: &q, strides: anything },
            SharedKv::contiguous(&p, &k, &k),
            Output { data: &mut out, strides: anything },
            None,
        )
        .unwrap();
    }
}

/// Without keys their strides do not matter, whatever they are.
#[test]
fn strides_of_nothing() {
    let mut spec = spec();
    spec.keys = Keys::Packed { offsets: vec![0, 0, 0] };
    let p = Problem::new(spec).unwrap();
    let q = vec![1.0f32; 3 * 256];
    let mut out = vec![7.0f32; 3 * 256];
    let k_strides = Strides { row: usize::MAX, head: usize::MAX / 64 * 64 };
    attend(
        &p,
        Queries::contiguous(&p, &q),
        SharedKv { k: &[], v: &[], k_strides, v_strides: k_strides },
        Output::contiguous(&p, &mut out),
        None,
    )
    .unwrap();
    assert!(out.iter().all(|x| *x == 0.0));
}

#[test]
fn merges() {
    let shape = StateShape { rows: 2, heads: 1, head_dim: 4 };
    let (out, lse) = ([0.0f32; 8], [0.0f32; 2]);
    let strides = Strides::contiguous(1, 4);
    let state =
        PartialState { out: &out, out_strides: strides, lse: &lse, lse_strides: Strides::contiguous(1, 1) };
    let merge = |shape: StateShape, states: &[PartialState<'_, f32>]| {
        let mut merged = [0.0f32; 8];
        merge_states(shape, states, Output { data: &mut merged, strides }, None).map_err(|e| e.to_string())
    };
    merge(shape, &[state]).unwrap();
    assert_eq!(merge(shape, &[]).unwrap_err(), "states is empty, allowed: at least one partial state");
    assert_eq!(
        merge(StateShape { heads: 0, ..shape }, &[state]).unwrap_err(),
        "heads is 0, allowed: 1 or more"
    );
    for (rows, head_dim) in [(0, usize::MAX), (0, 1 << 62), (2, 513)] {
        assert_eq!(
            merge(StateShape { rows, head_dim, ..shape }, &[state]).unwrap_err(),
            format!("head_dim is {head_dim}, allowed: at most 512")
        );
    }
    assert_eq!(
        merge(shape, &[state, PartialState { lse: &lse[..1], ..state }]).unwrap_err(),
        "states.lse has 1 elements, allowed: 2 or more for its shape and strides"
    );
}

/// A part with LSE -inf has no weight, whatever stands in its output.
#[test]
fn merging_reads_no_output_of_empty_parts() {
    let strides = Strides::contiguous(1, 2);
    let lse_strides = Strides::contiguous(1, 1);
    let (full, poison) = ([1.0f32, 2.0], [f32::NAN; 2]);
    let part = |out, lse| PartialState { out, out_strides: strides, lse, lse_strides };
    let (mut out, mut lse) = ([0.0f32; 2], [0.0f32]);
    let shape = StateShape { rows: 1, heads: 1, head_dim: 2 };
    let empty = [f32::NEG_INFINITY];
    let states = [part(&poison, &empty), part(&full, &[3.0])];
    let merged_lse = Lse { data: &mut lse, strides: lse_strides };
    merge_states(shape, &states, Output { data: &mut out, strides }, Some(merged_lse)).unwrap();
    assert_eq!((out, lse), ([1.0, 2.0], [3.0]));
    // A part with keys is read, however little it weighs: NaN among its values must not vanish.
    let states = [part(&poison, &[-300.0]), part(&full, &[3.0])];
    merge_states(shape, &states, Output { data: &mut out, strides }, None).unwrap();
    assert!(out.iter().all(|x| x.is_nan()));
}
