//! Sweeps made here from known constants, of a card that does not exist.

use onekv::DType;
use rand::rngs::StdRng;
use rand::{Rng as _, SeedableRng as _};

use super::*;
use crate::measured::tests::{AMPERE, Card, HOPPER, line, shape};

/// Every plan of a shape, at the times that `truth` gives them, but for noise.
fn shape_lines(card: Card, shape: &Shape, truth: &Constants, random: &mut StdRng) -> Vec<Line> {
    let facts = cards::facts(card.0, card.2).unwrap();
    let splits = (0..).map(|power| shape.keys.div_ceil(1 << power)).take_while(|keys| *keys >= 64);
    let mut plans = vec![(true, shape.plan(&facts, &PlanOptions::default()).unwrap())];
    for split_keys in splits {
        for variant in variants::all().filter(|v| {
            let wanted = (DType::Bf16, shape.e4m3_kv, shape.model.head_dim);
            (v.dtype, v.e4m3_kv(), v.head_dim) == wanted && !superseded(v, &facts)
        }) {
            let options = PlanOptions::of(variant).with_split_keys(split_keys);
            if let Ok(plan) = shape.plan(&facts, &options)
                && !plans.iter().any(|(chosen, other)| !chosen && *other == plan)
            {
                plans.push((false, plan));
            }
        }
    }
    let timed = |(by_cost, plan): &(bool, Plan)| {
        let splits = (plan.split_keys(), plan.split_cluster());
        let us = estimate(plan.problem(), plan.variant(), splits, &facts, truth);
        line(card, shape, plan, *by_cost, us * random.random_range(0.995..1.005))
    };
    plans.iter().map(timed).collect()
}

fn sweep(card: Card, truth: &Constants) -> Vec<Line> {
    let mut random = StdRng::seed_from_u64(7);
    let mut lines = Vec::new();
    for head_dim in [64, 128, 256] {
        for inputs in [1, 16] {
            for keys in [512, 8192] {
                for rows in [1, 30, 64, 512] {
                    let shape = shape(head_dim, inputs, rows, keys);
                    lines.extend(shape_lines(card, &shape, truth, &mut random));
                    if card == HOPPER && rows <= 64 {
                        lines.extend(shape_lines(card, &shape.with_e4m3_kv(), truth, &mut random));
                    }
                }
            }
        }
    }
    lines
}

/// A shape's lines on Hopper.
fn some_lines(keys: usize, truth: &Constants) -> Vec<Line> {
    shape_lines(HOPPER, &shape(64, 1, 16, keys), truth, &mut StdRng::seed_from_u64(7))
}

/// Whether a card has a newer kernel for the same.
fn superseded(variant: &onekv::plan::Variant, facts: &DeviceFacts) -> bool {
    variants::all().any(|v| v.fits(facts) && v.supersedes(variant))
}

/// Constants as another card may have them, far enough from today's that these choose badly.
fn truth(card: Card) -> Constants {
    let now = Constants::of(card.1);
    let (block, merge, bytes, mma) = match card {
        AMPERE => (0.2, 4.0, 1.5, 0.15),
        _ => (3.0, 0.4, 0.5, 0.3),
    };
    Constants {
        block_us: now.block_us * block,
        combine_us: now.combine_us * merge,
        join_us: now.join_us * merge,
        bytes_per_us: now.bytes_per_us * bytes,
        mma_flops_per_us: now.mma_flops_per_us * mma,
        wgmma_flops_per_us: now.wgmma_flops_per_us * 1.4,
        // So that they are what takes longest, though memory is slow.
        instructions_per_us: now.instructions_per_us * 0.1,
        exponentials_per_us: now.exponentials_per_us * 1.5,
        not_hidden: 0.4,
        ..*now
    }
}

#[test]
fn constants_behind_a_sweep_are_recovered() {
    for card in [HOPPER, AMPERE] {
        let shapes = shapes(&sweep(card, &truth(card))).unwrap();
        let e4m3 = shapes.iter().filter(|m| m.shape.e4m3_kv).count();
        assert_eq!(
            (shapes.len() - e4m3, e4m3),
            (3 * 2 * 2 * 4, if card == HOPPER { 3 * 2 * 2 * 3 } else { 0 })
        );
        for measured in &shapes {
            let fits = |plan: &Plan| plan.variant().e4m3_kv() == measured.shape.e4m3_kv;
            assert!(measured.plans.iter().all(|(plan, _)| fits(plan)), "{}", title(&measured.shape));
        }
        let current = Constants::of(card.1);
        let fitted = fit(&shapes, current, 8);
        let [before, after] = [current, &fitted].map(|constants| regrets(&shapes, constants));
        assert!(mean(&before) > 0.02 && worst(&before) > 0.15, "{} {}", mean(&before), worst(&before));
        assert!(mean(&after) < 0.01 && worst(&after) < 0.1, "{} {}", mean(&after), worst(&after));
        let shown = table(&shapes, &before, &after).to_string();
        for mean_regret in [mean(&before), mean(&after)] {
            assert!(shown.contains(&format!("{:.1} %", mean_regret * 100.0)), "{shown}");
        }
        // Predicted times come along.
        let error = shapes.iter().map(|m| m.error(&fitted)).sum::<f64>() / shapes.len() as f64;
        assert!(error.sqrt() < 0.05, "{}", error.sqrt());
        assert_eq!(fitted.fma_flops_per_us, current.fma_flops_per_us, "the sweep has no f32");
        if card == HOPPER {
            let found = fitted.instructions_per_us / truth(card).instructions_per_us;
            assert!((0.8..1.25).contains(&found), "e4m3 says what instructions cost: {found}");
        }
        if card == AMPERE {
            let none = [fitted.warpgroups_us, fitted.join_us];
            assert_eq!(none, [0.0; 2], "what the architecture does not have");
        }
    }
}

#[test]
fn true_constants_stay() {
    let now = Constants::of((9, 0));
    let mut exact = some_lines(2048, now);
    for line in &mut exact {
        // Without noise the plan's own choice is the best one.
        line.us = if line.by_cost { 1.0 } else { 2.0 };
    }
    let shapes = shapes(&exact).unwrap();
    assert_eq!(regrets(&shapes, now), [0.0]);
    assert_eq!(fit(&shapes, now, 1), *now);
}

#[test]
fn only_kernels_that_the_library_takes_are_fitted() {
    let mut random = StdRng::seed_from_u64(7);
    let shape = shape(64, 1, 16, 2048);
    let lines = shape_lines(HOPPER, &shape, &truth(HOPPER), &mut random);
    let own = lines.len() - 1;
    // The same shape by kernels for 8.0, which run on Hopper too, and here take no time.
    let older = shape_lines(AMPERE, &shape, &truth(AMPERE), &mut random).into_iter().skip(1);
    let on_hopper = |line| Line {
        us: 1e-3,
        by_cost: false,
        compute_capability: "9.0".into(),
        multiprocessors: 132,
        ..line
    };
    let lines: Vec<Line> = lines.into_iter().chain(older.map(on_hopper)).collect();
    let [measured] = &shapes(&lines).unwrap()[..] else { panic!("one shape") };
    assert_eq!(measured.others_us, Some(1e-3));
    assert!(measured.best_us > 1.0);
    assert!(measured.plans.iter().all(|(plan, _)| !superseded(plan.variant(), &measured.facts)));
    assert!((own..=own + 1).contains(&measured.plans.len()), "{}", measured.plans.len());
}

#[test]
fn what_cannot_be_fitted_is_refused() {
    let good = some_lines(512, &truth(HOPPER));
    let of_another_file = |line: &Line| Line { file: "1.jsonl".into(), ..line.clone() };
    let other: Vec<Line> = good.iter().map(of_another_file).collect();
    assert_eq!(shapes(&[&good[..], &other].concat()).unwrap().len(), 2);

    let refused = |lines: &[Line]| format!("{:#}", shapes(lines).err().expect("should be refused"));
    assert!(refused(&[]).contains("measure with `card --every-plan`"));
    assert!(refused(&good[..1]).contains("measure with `card --every-plan`"));
    // Of the first line, or of the first of another file.
    let with = |change: fn(&mut Line)| {
        let mut changed = good.clone();
        change(&mut changed[0]);
        refused(&changed)
    };
    let beside = |change: fn(&mut Line)| {
        let mut changed = other.clone();
        changed.iter_mut().for_each(change);
        refused(&[&good[..], &changed].concat())
    };
    let error = beside(|line| line.card = "another".into());
    assert!(error.contains("fit.jsonl is of Made-up card of a test, 1.jsonl of another"), "{error}");
    assert!(beside(|line| line.multiprocessors = 114).contains("one card at a time"));
    assert!(beside(|line| line.compute_capability = "8.0".into()).contains("one card at a time"));
    let error = with(|line| line.compute_capability = "7.5".into());
    assert!(error.contains("compute_capability is 7.5, allowed: 8.0, "), "{error}");
    let error = with(|line| line.kernel = "onekv_of_old".into());
    assert!(
        error.contains("made-up, b = 1, U = 16, n = 512: kernel onekv_of_old is not one of today's"),
        "{error}"
    );
    let error = with(|line| line.shape.e4m3_kv = true);
    assert!(
        error.contains("n = 512, K/V in e4m3: tile_rows") && error.contains(", not onekv_sm90_bf16_64_"),
        "{error}"
    );
    assert!(with(|line| line.split_keys = 3).contains("split_keys 3 give"));
}

#[test]
fn constants_are_written_where_they_stand() {
    let old = std::fs::read_to_string(root().join("src/plan/cost.rs")).unwrap();
    let line = &some_lines(512, &truth(HOPPER))[0];
    for (name, card) in [("FROM_8_0", AMPERE), ("FROM_9_0", HOPPER)] {
        assert_eq!(Constants::named(card.1).0, name);
        let text = source(name, &truth(card), line, &["results/a.jsonl".into()]);
        let new = replaced(&old, name, &text).unwrap();
        assert!(new.contains(&text), "{new}");
        assert!(text.starts_with(
            "/// Fitted to Made-up card of a test, 1999-12-31: `cargo xtask fit results/a.jsonl`.\n"
        ));
        // All but these constants and their comment is as before, and there is one definition of each.
        for kept in [
            "const FROM_8_0: Constants",
            "const FROM_9_0: Constants",
            "pub fn estimate(",
            "pub struct Constants {",
        ] {
            assert_eq!(new.matches(kept).count(), 1, "{kept}");
        }
        assert_eq!(new.matches("block_us: ").count(), old.matches("block_us: ").count());
        assert_eq!(replaced(&new, name, &text).unwrap(), new);
        let other = if card == AMPERE { "An H200: " } else { "An A100: " };
        assert!(new.contains(other), "the other comment is kept");
    }
    assert!(replaced("fn f() {}", "FROM_8_0", "").unwrap_err().to_string().contains("no `const FROM_8_0"));
    for (value, text) in [
        (14_000.0, "14_000.0"),
        (4_500_000.0, "4_500_000.0"),
        (0.15, "0.15"),
        (2.0, "2.0"),
        (1234.0, "1234.0"),
    ] {
        assert_eq!(literal(value), text);
    }
}
