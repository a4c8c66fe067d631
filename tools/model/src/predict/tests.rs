//! The model moves the right way, stays above its floors, and is held to what is measured.

use onekv::plan::{Variant, variants};

use super::*;
use crate::attention::{floor_us, tile};
use crate::measured::tests::{HOPPER, line};

fn tiles() -> Vec<Counts> {
    counted().unwrap()
}

/// With K and V in 16 bits, and few rows in e4m3 too.
fn all_shapes() -> Vec<Shape> {
    let own = Sweep::MustShow.shapes();
    let few = own.iter().filter(|shape| shape.folded_rows() <= 64).map(Shape::with_e4m3_kv);
    own.iter().copied().chain(few).collect()
}

/// Times of all shapes and of T5's step.
fn times(a: &Assumptions, tiles: &[Counts]) -> Vec<f64> {
    let times =
        all_shapes().iter().filter_map(|s| Some(predicted(s, a, tiles).unwrap().1?.us)).collect::<Vec<_>>();
    times.into_iter().chain(xl_step(a, tiles).unwrap().map(|step| step.us)).collect()
}

#[test]
fn the_page_is_of_todays_counts_plans_and_assumptions() {
    let written = std::fs::read_to_string(root().join(PAGE)).unwrap();
    assert!(written == page(&tiles()).unwrap(), "{PAGE} is stale; run `cargo xtask model --write`");
}

#[test]
fn the_page_says_everywhere_that_it_is_a_prediction() {
    let page = page(&tiles()).unwrap();
    let headings = page.lines().filter(|line| line.starts_with('#'));
    let rows =
        page.lines().filter(|line| line.starts_with("| ") && line.contains(|c: char| c.is_ascii_digit()));
    let rows = rows.filter(|line| !line.contains("not predicted"));
    assert!(rows.clone().count() > 100);
    headings.chain(rows).for_each(|line| assert!(line.contains(LABEL), "{line}"));
}

#[test]
fn every_assumption_moves_times_the_right_way() {
    let tiles = tiles();
    let hopper = CARDS[0];
    let before = times(&hopper, &tiles);
    for (name, worse) in WORSE {
        let mut a = hopper;
        worse(&mut a, 16.0);
        let after = times(&a, &tiles);
        assert!(
            before.iter().zip(&after).all(|(before, after)| after >= before),
            "{name} makes a shape quicker"
        );
        assert!(before.iter().sum::<f64>() < after.iter().sum(), "{name} changes nothing");
    }
    for hidden in [Assumptions { start_hidden: 1.0, ..hopper }, Assumptions { early: 1.0, ..hopper }] {
        let after = times(&hidden, &tiles);
        assert!(before.iter().zip(&after).all(|(before, after)| after <= before) && before != after);
    }
}

/// T5-base on 8 inputs of 8192 keys.
fn base(rows: usize) -> Shape {
    let model = Model { model: "t5-base", heads: 12, kv_heads: 12, head_dim: 64, softcap: None };
    Shape { model, inputs: 8, rows, keys: 8192, e4m3_kv: false, dtype: DType::Bf16 }
}

/// Bytes that are read twice as fast take half as long where they are most of what is done, and less nowhere.
#[test]
fn twice_the_bandwidth_helps_few_rows_and_hardly_many() {
    let tiles = tiles();
    let fast = Assumptions {
        memory_bytes_per_s: 2.0 * CARDS[0].memory_bytes_per_s,
        l2_bytes_per_clock: 48.0,
        ..CARDS[0]
    };
    let gain = |shape: &Shape| {
        let [slow, fast] = [&CARDS[0], &fast].map(|a| predicted(shape, a, &tiles).unwrap().1.unwrap().us);
        slow / fast
    };
    let few = base(8);
    assert!(gain(&few) > 1.6 && gain(&Shape { rows: 2048, keys: 2048, ..few }) < 1.05);
}

#[test]
fn more_instructions_take_no_less() {
    let tiles = tiles();
    for shape in all_shapes() {
        let (plan, now) = predicted(&shape, &CARDS[0], &tiles).unwrap();
        let counts = counts_of(&tiles, &plan.variant().kernel(), "9.0").unwrap();
        let Counts { address, exponentials, fp32, all, .. } = counts;
        let [address, exponentials, fp32, all] = [address, exponentials, fp32, all].map(|count| 2 * count);
        let twice = Counts { address, exponentials, fp32, all, ..counts.clone() };
        let more = predict(&shape, &plan, &twice, &CARDS[0]).unwrap();
        assert!(more.us >= now.unwrap().us, "{}", title(&shape));
    }
}

#[test]
fn nothing_is_quicker_than_its_floor() {
    let tiles = tiles();
    for a in &CARDS {
        for shape in all_shapes() {
            if let Some(p) = predicted(&shape, a, &tiles).unwrap().1 {
                assert!(p.us > floor_us(&shape, a), "{}: {}", a.card, title(&shape));
            }
        }
        let Some(step) = xl_step(a, &tiles).unwrap() else { continue };
        assert!(step.us > step.floor_us, "{}", a.card);
        // Nor where a product's weights may all come early, and nothing else takes time.
        let none = Assumptions {
            gap_us: 0.0,
            idle_latency_us: 0.0,
            t5_small_us: 0.0,
            t5_positions: 0.0,
            t5_product_end_us: 0.0,
            t5_ring_bytes: 1e12,
            ..*a
        };
        let step = xl_step(&none, &tiles).unwrap().unwrap();
        assert!(step.us > step.floor_us, "{}: {} us, floor {}", a.card, step.us, step.floor_us);
    }
}

/// The guess of what does not hide, against the figures that it was made for: steady state, 40 instructions of addresses.
#[test]
fn the_guess_of_overlap_is_that_of_flash_attention_3() {
    for (head_dim, keys, published) in
        [(64, 128, 500.0..530.0), (128, 176, 650.0..700.0), (256, 80, 700.0..760.0)]
    {
        let like = |v: &&Variant| v.warpgroups && (v.head_dim, v.tile_rows, v.cluster) == (head_dim, 128, 2);
        let mut v = *variants::all().find(like).unwrap();
        v.tile_keys = keys;
        // Of a thread's scores an exponential each, scaled, summed, compared; of its outputs a product.
        let (exponentials, fp32) = (keys / 2 + 2, 3 * keys / 2 + head_dim / 2 + keys / 4);
        let all = 40 + 16 + exponentials + fp32 + 1 + 12 + 4 + 4;
        let [kernel, card] = [v.kernel(), "9.0".to_owned()];
        let counts = Counts { kernel, card, address: 40, exponentials, fp32, all };
        let tile = tile(&v, &counts, 1, &CARDS[1]);
        let clocks =
            tile.parts.iter().map(|part| part.1).fold(0.0, f64::max) + CARDS[1].not_hidden * tile.shorter;
        let tflops = (4 * 128 * keys * head_dim * 132) as f64 / clocks * CARDS[1].products_ghz * 1e-3;
        assert!(published.contains(&tflops), "head_dim {head_dim}: {tflops:.0}");
    }
}

/// Of an H200: two times as predicted, and one that is `times` as long, of K and V in e4m3 or not.
fn made_up(times: f64, e4m3: bool) -> (String, usize) {
    let tiles = tiles();
    let timed = |rows: usize, times: f64, e4m3_kv: bool| {
        let shape = Shape { e4m3_kv, ..base(rows) };
        let (plan, prediction) = predicted(&shape, &CARDS[0], &tiles).unwrap();
        let line = line(HOPPER, &shape, &plan, true, times * prediction.unwrap().us);
        Line { card: "NVIDIA H200".into(), ..line }
    };
    compared(&[timed(1, 1.0, false), timed(16, times, e4m3), timed(16, 1.0, !e4m3)], &tiles).unwrap()
}

#[test]
fn measured_times_that_are_far_off_fail() {
    for (times, e4m3, shape, error) in [
        (1.3, false, "n = 8192: ", "model -23 %"),
        (0.7, false, "n = 8192: ", "model +43 %"),
        (1.3, true, "n = 8192, K/V in e4m3: ", "model -23 %"),
    ] {
        let (text, off) = made_up(times, e4m3);
        assert_eq!((text.matches("model +0 %\n").count(), off), (2, 1), "{text}");
        let line = text.lines().find(|line| line.ends_with(", too far")).unwrap();
        assert!(line.contains(&format!("U = 16, {shape}")) && line.contains(error), "{text}");
        assert!(trusted(off).unwrap_err().to_string().contains("1 measured times are more than 20 %"));
    }
    let (text, off) = made_up(1.15, true);
    assert!(text.contains("model -13 %\n") && trusted(off).is_ok(), "{text}");
}
