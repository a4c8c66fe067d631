//! The counts are what the paper says, and callgrind's files are read as they are.

use t5::cost::Cost;

use super::cpu::Events;
use super::points::{PROMPTS, points};
use super::*;

fn committed() -> Intensity {
    serde_json::from_str(&std::fs::read_to_string(root().join("results/intensity.json")).unwrap()).unwrap()
}

impl<L> Point<L> {
    fn intensity(&self) -> f64 {
        Cost { flops: self.flops, bytes: self.read_bytes + self.written_bytes }.intensity()
    }

    /// The same where each byte counts once for a launch, however many blocks ask for it.
    fn intensity_once(&self) -> Option<f64> {
        self.distinct_bytes.map(|bytes| Cost { flops: self.flops, bytes }.intensity())
    }
}

impl<L: Copy + PartialEq> Backend<L> {
    fn point(&self, layout: L, prompts: usize) -> Option<&Point<L>> {
        self.points.iter().find(|point| (point.layout, point.prompts) == (layout, prompts))
    }
}

#[test]
fn every_backend_has_every_point() {
    let names: Vec<String> = committed().backends.into_iter().map(|backend| backend.name).collect();
    assert_eq!(names, ["CPU", "virtual h200", "virtual a100"]);
    for backend in &committed().backends {
        for (layout, prompts) in points() {
            let point = backend.point(layout, prompts).unwrap();
            let model = layout.model(prompts, &backend.dtype).unwrap();
            assert_eq!((point.flops, point.model_bytes), (model.flops, model.bytes), "{point:?}");
        }
    }
}

/// Bytes of memory: 0.7 to 1.02 times as many FLOP for each as in the model, which has no partial results; and without sharing,
/// where they are few, 0.9 to 1.02.
#[test]
fn intensity_rises_with_prompts_that_share_and_with_no_others() {
    for backend in &committed().backends {
        let counted = |layout, prompts| {
            let point = backend.point(layout, prompts).unwrap();
            point.intensity_once().unwrap_or(point.intensity())
        };
        for (layout, prompts) in points() {
            let least = if layout == Layout::Shared { 0.7 } else { 0.9 };
            let of_model =
                counted(layout, prompts) / layout.model(prompts, &backend.dtype).unwrap().intensity();
            assert!(
                (least..1.02).contains(&of_model),
                "{}, {layout:?}, U = {prompts}: {of_model}",
                backend.name
            );
        }
        let gain = counted(Layout::Shared, 64) / counted(Layout::Replicated, 64);
        assert!(gain > 20.0, "{}: {gain}", backend.name);
    }
}

/// What multiprocessors ask for is no less than what there is, and at most K and V for each 16 rows.
#[test]
fn cards_are_asked_for_k_and_v_once_per_tile() {
    for backend in committed().backends.iter().filter(|backend| backend.dtype == "bf16") {
        for point in &backend.points {
            let once = point.distinct_bytes.unwrap();
            let most = once * point.prompts.div_ceil(16) as u64;
            let asked = point.read_bytes + point.written_bytes;
            // Every block that shares out a head's keys asks for Q, and for the lists.
            let range = 0.99 * once as f64..1.15 * most as f64;
            assert!(range.contains(&(asked as f64)), "{}: {point:?}", backend.name);
            assert!(point.tensor_flops.unwrap() >= point.flops, "{}: {point:?}", backend.name);
        }
    }
}

const FILE: &str = "# callgrind format\nversion: 1\nevents: Ir Dr Dw I1mr D1mr D1mw ILmr DLmr DLmw ILdmr DLdmr DLdmw\n\
                    fn=(1) main\n3 7 1\ntotals: 1000 300 200 9 80 70 5 40 30";

#[test]
fn callgrinds_totals_are_read() {
    // Zeros at the end are left out: nothing was written back.
    assert_eq!(
        Events::read(FILE).unwrap(),
        Events { instructions: 1000, loaded_lines: 5 + 40 + 30, written_lines: 0 }
    );
    let all = Events::read(&(FILE.to_owned() + " 1 20 300\n")).unwrap();
    assert_eq!(all.written_lines, 321);
}

#[test]
fn what_a_file_lacks_is_named() {
    let error = |text: &str| Events::read(text).unwrap_err().to_string();
    assert_eq!(error("events: Ir\n"), "it has no line \"totals:\"");
    assert_eq!(error("events: Ir Dr\ntotals: 1 2\n"), "it counts no ILmr, but Ir, Dr");
}

fn behind_prefix() -> prefix::DecoderOnly {
    committed().decoder_only
}

#[test]
fn the_decoder_only_case_has_every_point() {
    let results = behind_prefix();
    let names: Vec<&str> = results.backends.iter().map(|backend| backend.name.as_str()).collect();
    assert_eq!(names, ["virtual h200", "virtual a100"]);
    let shape = [results.heads, results.kv_heads, results.head_dim, results.prefix_keys, results.suffix_keys];
    assert_eq!(shape, [32, 8, 64, 512, 32]);
    for backend in &results.backends {
        for (layout, prompts) in prefix::points() {
            let point = backend.point(layout, prompts).unwrap();
            assert_eq!(point.flops, (4 * prompts * (512 + 32) * 32 * 64) as u64, "{point:?}");
            assert_eq!(point.model_bytes, layout.model(prompts).bytes, "{point:?}");
            // Splits of a launch are joined by a kernel of its own.
            let launched = |what: &str| point.kernels.iter().filter(|kernel| kernel.contains(what)).count();
            let (merges, joins) = (launched("merge"), launched("combine"));
            let attentions = point.kernels.len() - merges - joins;
            let want = if layout == prefix::Layout::Shared { (2, 1) } else { (1, 0) };
            assert_eq!((attentions, merges), want, "{point:?}");
        }
    }
}

/// What is touched is no less than K, V, Q and the output, by what there is of partial results more.
#[test]
fn a_shared_prefix_is_read_once() {
    for backend in &behind_prefix().backends {
        let once = |layout, prompts| backend.point(layout, prompts).unwrap().distinct_bytes.unwrap() as f64;
        for (layout, prompts) in prefix::points() {
            let most = if layout == prefix::Layout::Shared { 1.8 } else { 1.15 };
            let of_model = once(layout, prompts) / layout.model(prompts).bytes as f64;
            assert!(
                (0.99..most).contains(&of_model),
                "{}, {layout:?}, U = {prompts}: {of_model}",
                backend.name
            );
        }
        let gain = |prompts| once(prefix::Layout::Copied, prompts) / once(prefix::Layout::Shared, prompts);
        // One has nothing to share; with many, the suffixes are what is left, and the gain is at most 544 / 32.
        assert!((0.9..1.2).contains(&gain(1)), "{}: {}", backend.name, gain(1));
        assert!((8.0..17.0).contains(&gain(128)), "{}: {}", backend.name, gain(128));
        assert!(PROMPTS.windows(2).all(|pair| gain(pair[0]) < gain(pair[1])), "{}", backend.name);
    }
}
