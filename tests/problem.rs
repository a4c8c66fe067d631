//! Everything that a problem or its operands refuse, and the words they refuse it with.

use onekv::cpu::{attend, merge_states};
use onekv::{Error, Keys, PartialState, Problem, ProblemSpec, Shape, SharedKv, Strides, View};

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
        let keys = p.inputs().iter().map(|i| (i.slot, i.keys.clone())).collect::<Vec<_>>();
        (keys, p.key_positions(), p.kv_shape())
    };
    assert_eq!(
        ranges(Keys::Packed { offsets: vec![0, 5, 9, 9] }),
        (vec![(0, 0..5), (0, 5..9), (0, 9..9)], 9, [9, 2, 64].into())
    );
    assert_eq!(
        ranges(Keys::Padded { max_keys: 4, lengths: vec![3, 0, 4] }),
        (vec![(0, 0..3), (1, 0..0), (2, 0..4)], 12, [3, 4, 2, 64].into())
    );
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
        format!("keys x kv_heads x head_dim {huge}")
    );
    // Of an empty batch too, whose operands have no memory that heads would have to fit into.
    let most = "allowed: at most 65536";
    let empty = |s: &mut ProblemSpec| {
        (s.row_offsets, s.keys) = (vec![0, 0], Keys::Packed { offsets: vec![0, 0] });
    };
    for heads in [65_538, 1 << 40, usize::MAX - 1] {
        assert_eq!(refused(|s| s.heads = heads), format!("heads is {heads}, {most}"));
        let wide = |s: &mut ProblemSpec| (s.heads, s.kv_heads) = (heads, heads);
        assert_eq!(refused(|s| (empty(s), wide(s)).0), format!("heads is {heads}, {most}"));
    }
}

/// The operands of a call.
struct Call {
    problem: Problem,
    q: View<Vec<f32>>,
    k: View<Vec<f32>>,
    v: View<Vec<f32>>,
    out: View<Vec<f32>>,
    lse: View<Vec<f32>>,
}

impl Call {
    fn new(spec: ProblemSpec) -> Self {
        let problem = Problem::new(spec).unwrap();
        let of = |shape: Shape| View::contiguous(shape, vec![7.0; shape.elements()]);
        let (q, kv, lse) = (of(problem.query_shape()), of(problem.kv_shape()), of(problem.lse_shape()));
        Self { problem, k: kv.clone(), v: kv, out: q.clone(), q, lse }
    }

    /// With something changed; nothing may be written when it is refused.
    fn with(mut self, change: impl FnOnce(&mut Self)) -> Result<(), Error> {
        fn read(of: &View<Vec<f32>>) -> View<&[f32]> {
            View::strided(of.shape, of.strides, &of.data)
        }
        fn write(of: &mut View<Vec<f32>>) -> View<&mut [f32]> {
            View::strided(of.shape, of.strides, &mut of.data)
        }
        change(&mut self);
        let Self { problem, q, k, v, mut out, mut lse } = self;
        let kv = SharedKv { k: read(&k), v: read(&v) };
        let result = attend(&problem, read(&q), kv, write(&mut out), Some(write(&mut lse)));
        if result.is_err() {
            assert!(out.data.iter().chain(&lse.data).all(|x| *x == 7.0), "a refused call has written");
        }
        result
    }

    fn refused(self, change: impl FnOnce(&mut Self)) -> String {
        self.with(change).expect_err("must be refused").to_string()
    }
}

/// Three rows, nine keys of two heads.
fn call(change: impl FnOnce(&mut Call)) -> Result<(), Error> {
    Call::new(spec()).with(change)
}

/// Two slots of 100 keys.
fn padded() -> Call {
    Call::new(ProblemSpec { keys: Keys::Padded { max_keys: 100, lengths: vec![100, 7] }, ..spec() })
}

#[test]
fn shapes_are_the_problems() {
    let refused = |change: fn(&mut Call)| Call::new(spec()).refused(change);
    call(|_| {}).unwrap();
    assert_eq!(refused(|c| c.q.shape.tokens = 4), "q is [4, 4, 64], allowed: [3, 4, 64]");
    assert_eq!(refused(|c| c.k.shape = [160, 2, 64].into()), "k is [160, 2, 64], allowed: [9, 2, 64]");
    assert_eq!(refused(|c| c.v.shape = [9, 4, 64].into()), "v is [9, 4, 64], allowed: [9, 2, 64]");
    assert_eq!(refused(|c| c.v.shape = [1, 9, 2, 32].into()), "v is [9, 2, 32], allowed: [9, 2, 64]");
    assert_eq!(refused(|c| c.out.shape = [3, 2, 64].into()), "out is [3, 2, 64], allowed: [3, 4, 64]");
    assert_eq!(refused(|c| c.lse.shape = [2, 4].into()), "lse is [2, 4, 1], allowed: [3, 4, 1]");

    let refused = |change: fn(&mut Call)| padded().refused(change);
    padded().with(|_| {}).unwrap();
    // A cache of another capacity, of other heads, and slots one after the other.
    let allowed = "allowed: [2, 100, 2, 64]";
    assert_eq!(refused(|c| c.k.shape.tokens = 160), format!("k is [2, 160, 2, 64], {allowed}"));
    assert_eq!(refused(|c| c.v.shape.heads = 4), format!("v is [2, 100, 4, 64], {allowed}"));
    assert_eq!(refused(|c| c.k.shape = [200, 2, 64].into()), format!("k is [200, 2, 64], {allowed}"));
    assert_eq!(refused(|c| c.k.shape.inputs = 3), format!("k is [3, 100, 2, 64], {allowed}"));
}

#[test]
fn operands() {
    let refused = |change: fn(&mut Call)| Call::new(spec()).refused(change);
    let short = "for its shape and strides";
    assert_eq!(
        refused(|c| c.q.data.truncate(767)),
        format!("q has 767 elements, allowed: 768 or more {short}")
    );
    assert_eq!(refused(|c| c.v.data.clear()), format!("v has 0 elements, allowed: 1152 or more {short}"));
    let apart = "so that no two vectors overlap";
    assert_eq!(
        refused(|c| c.k.strides.head = 60),
        format!("k.strides.head is 60, allowed: 64 or more, {apart}")
    );
    assert_eq!(
        refused(|c| c.out.strides.row = 252),
        format!("out.strides.row is 252, allowed: 256 or more, {apart}")
    );
    assert_eq!(
        refused(|c| c.out.strides = Strides::new(64, 128)),
        format!("out.strides.head is 128, allowed: 192 or more, {apart}")
    );
    assert_eq!(
        refused(|c| c.out.strides = Strides::new(0, 64)),
        format!("out.strides.row is 0, allowed: 64 or more, {apart}")
    );
    assert_eq!(
        refused(|c| c.lse.strides.head = 0),
        format!("lse.strides.head is 0, allowed: 1 or more, {apart}")
    );
    let aligned = "allowed: a multiple of 16 bytes";
    assert_eq!(
        refused(|c| (c.q.strides.row, c.q.data) = (258, vec![0.0; 800])),
        format!("q.strides.row is 1032 bytes, {aligned}")
    );
    let overflows = "overflows the address space; allowed: at most isize::MAX bytes";
    assert_eq!(refused(|c| c.k.strides.row = usize::MAX / 8), format!("k {overflows}"));

    // The distance from slot to slot: of the last keys, of heads in between, in bytes, to the end.
    let refused = |change: fn(&mut Call)| padded().refused(change);
    assert_eq!(
        refused(|c| c.k.strides.input = 99 * 128),
        format!("k.strides.input is 12672, allowed: 12800 or more, {apart}")
    );
    assert_eq!(
        refused(|c| c.v.strides.input = 0),
        format!("v.strides.input is 0, allowed: 64 or more, {apart}")
    );
    assert_eq!(
        refused(|c| c.v.strides = Strides { input: 64, row: 256, head: 64 }),
        format!("v.strides.input is 64, allowed: 128 or more, {apart}")
    );
    assert_eq!(
        refused(|c| (c.k.strides.input, c.k.data) = (12802, vec![0.0; 26000])),
        format!("k.strides.input is 51208 bytes, {aligned}")
    );
    assert_eq!(
        refused(|c| c.v.strides.input = 12804),
        format!("v has 25600 elements, allowed: 25604 or more {short}")
    );
    assert_eq!(refused(|c| c.v.strides.input = usize::MAX / 2), format!("v {overflows}"));
}

/// Strides without neighbours and dimensions in another order are fine.
#[test]
fn operands_that_are_fine() {
    call(|c| c.out.strides = Strides::new(64, 192)).unwrap();
    padded().with(|c| c.k.strides = Strides { input: 12800, row: 64, head: 6400 }).unwrap();
    padded().with(|c| c.v.strides = Strides { input: 64, row: 256, head: 128 }).unwrap();
    let mut spec = spec();
    (spec.heads, spec.kv_heads, spec.row_offsets) = (1, 1, vec![0, 1, 1]);
    for input in [0, 3, usize::MAX] {
        for (row, head) in [(0, 3), (usize::MAX, usize::MAX)] {
            let anything = Strides { input, row, head };
            Call::new(spec.clone())
                .with(|c| (c.q.strides, c.out.strides, c.k.strides.input) = (anything, anything, input))
                .unwrap();
            let keys = Keys::Packed { offsets: vec![0, 1, 1] };
            Call::new(ProblemSpec { keys, ..spec.clone() })
                .with(|c| (c.k.strides, c.v.strides) = (anything, anything))
                .unwrap();
        }
    }
}

/// Without keys their strides do not matter, whatever they are.
#[test]
fn strides_of_nothing() {
    let strides = Strides { input: usize::MAX, row: usize::MAX, head: usize::MAX / 64 * 64 };
    for keys in [Keys::Packed { offsets: vec![0, 0, 0] }, Keys::Padded { max_keys: 0, lengths: vec![0, 0] }] {
        let p = Problem::new(ProblemSpec { keys, ..spec() }).unwrap();
        let nothing = View::strided(p.kv_shape(), strides, &[][..]);
        let q = vec![1.0f32; 3 * 256];
        let mut out = vec![7.0f32; 3 * 256];
        attend(
            &p,
            View::contiguous(p.query_shape(), &q[..]),
            SharedKv { k: nothing, v: nothing },
            View::contiguous(p.query_shape(), &mut out[..]),
            None,
        )
        .unwrap();
        assert!(out.iter().all(|x| *x == 0.0));
    }
}

/// Without rows nothing is written, and strides do not matter either: 0 is one.
#[test]
fn strides_of_no_rows() {
    for (row, head) in [(0, 0), (0, 64), (256, 0), (usize::MAX, 0)] {
        let (strides, none) = (Strides::new(row, head), Shape::from([0, 4, 64]));
        let p = Problem::new(ProblemSpec { row_offsets: vec![0, 0, 0], ..spec() }).unwrap();
        let kv = vec![1.0f32; p.kv_shape().elements()];
        attend(
            &p,
            View::strided(none, strides, &[][..]),
            SharedKv::contiguous(p.kv_shape(), &kv[..], &kv[..]),
            View::strided(none, strides, &mut [][..]),
            Some(View::strided(p.lse_shape(), strides, &mut [][..])),
        )
        .unwrap();
    }
}

#[test]
fn shapes_are_written_from_the_outermost_dimension() {
    let written = |shape: Shape| shape.to_string();
    assert_eq!(written([2, 100, 4, 64].into()), "[2, 100, 4, 64]");
    assert_eq!(written([0, 100, 4, 64].into()), "[0, 100, 4, 64]");
    assert_eq!(written([1, 100, 4, 64].into()), "[100, 4, 64]");
    assert_eq!(written([100, 4, 64].into()), "[100, 4, 64]");
    assert_eq!(written([30, 4].into()), "[30, 4, 1]");
}

#[test]
fn merges() {
    let shape = [2, 1, 4];
    let (out, lse) = ([0.0f32; 8], [0.0f32; 2]);
    let state = PartialState::contiguous(shape, &out[..], &lse[..]);
    let merge = |shape: Shape, states: &[PartialState<&[f32], &[f32]>]| {
        let mut merged = [0.0f32; 8];
        merge_states(states, View::contiguous(shape, &mut merged[..]), None).map_err(|e| e.to_string())
    };
    let refused = |shape: Shape, states: &[_]| merge(shape, states).expect_err("must be refused");
    merge(shape.into(), &[state]).unwrap();
    assert_eq!(refused(shape.into(), &[]), "states is empty, allowed: at least one partial state");
    assert_eq!(refused([2, 0, 4].into(), &[state]), "heads is 0, allowed: 1 or more");
    for (rows, head_dim) in [(0, usize::MAX), (0, 1 << 62), (2, 513)] {
        assert_eq!(
            refused([rows, 1, head_dim].into(), &[state]),
            format!("head_dim is {head_dim}, allowed: at most 512")
        );
    }
    assert_eq!(refused([2, 2, 1, 4].into(), &[state]), "inputs is 2, allowed: at most 1");
    assert_eq!(refused([1, 1, 4].into(), &[state]), "states.out is [2, 1, 4], allowed: [1, 1, 4]");
    let mut of_one_row = state;
    of_one_row.lse.shape.tokens = 1;
    assert_eq!(refused(shape.into(), &[state, of_one_row]), "states.lse is [1, 1, 1], allowed: [2, 1, 1]");
    let mut short = state;
    short.lse.data = &lse[..1];
    assert_eq!(
        refused(shape.into(), &[state, short]),
        "states.lse has 1 elements, allowed: 2 or more for its shape and strides"
    );
    let (mut merged, mut of_one_row) = ([0.0f32; 8], [0.0f32; 1]);
    let merged_lse = Some(View::contiguous([1, 1], &mut of_one_row[..]));
    let refused = merge_states(&[state], View::contiguous(shape, &mut merged[..]), merged_lse).unwrap_err();
    assert_eq!(refused.to_string(), "lse is [1, 1, 1], allowed: [2, 1, 1]");
}

/// A part with LSE -inf has no weight, whatever stands in its output.
#[test]
fn merging_reads_no_output_of_empty_parts() {
    const FULL: &[f32] = &[1.0, 2.0];
    const POISON: &[f32] = &[f32::NAN; 2];
    let shape = [1, 1, 2];
    let (mut out, mut lse) = ([0.0f32; 2], [0.0f32]);
    let part = |out: &'static [f32], lse: &'static [f32]| PartialState::contiguous(shape, out, lse);
    let states = [part(POISON, &[f32::NEG_INFINITY]), part(FULL, &[3.0])];
    let merged_lse = View::contiguous([1, 1], &mut lse[..]);
    merge_states(&states, View::contiguous(shape, &mut out[..]), Some(merged_lse)).unwrap();
    assert_eq!((out, lse), ([1.0, 2.0], [3.0]));
    // A part with keys is read, however little it weighs: NaN among its values must not vanish.
    let states = [part(POISON, &[-300.0]), part(FULL, &[3.0])];
    merge_states(&states, View::contiguous(shape, &mut out[..]), None).unwrap();
    assert!(out.iter().all(|x| x.is_nan()));
}
