//! Sweeps made here from known constants, of a card that does not exist.

use rand::rngs::StdRng;
use rand::{Rng as _, SeedableRng as _};
use serde_json::{Value, json};

use super::*;

const CARD: &str = "Made-up card of a test";

fn file(machine: Value, lines: Vec<Value>) -> Value {
    json!({
        "machine": machine, "sweep": "fit", "copy_bytes_per_s": 4e12, "lines": lines,
        "empty_pair_us": { "median": 3.0, "p10": 3.0, "p90": 3.0, "runs": 21 },
    })
}

/// Compute capability as files and as plans have it, and multiprocessors.
type Card = (&'static str, (u32, u32), usize);
const HOPPER: Card = ("9.0", (9, 0), 132);
const AMPERE: Card = ("8.0", (8, 0), 108);

fn machine((capability, _, multiprocessors): Card) -> Value {
    json!({
        "card": CARD, "compute_capability": capability, "multiprocessors": multiprocessors, "simulated": false,
        "date": "1999-12-31",
    })
}

fn shape(head_dim: usize, inputs: usize, rows: usize, keys: usize) -> Shape {
    let (model, heads) = ("made-up".to_owned(), 12);
    Shape { model, heads, kv_heads: heads, head_dim, inputs, rows, keys, e4m3_kv: false }
}

/// Every plan of a shape, at the times that `truth` gives them, but for noise.
fn shape_lines(card: Card, shape: &Shape, truth: &Constants, random: &mut StdRng) -> Vec<Value> {
    let facts = codegen::facts(card.0, card.2).unwrap();
    let plan = |options: &PlanOptions| shape.plan(onekv::DType::Bf16, &facts, options);
    let splits = (0..).map(|power| shape.keys.div_ceil(1 << power)).take_while(|keys| *keys >= 64);
    let mut plans = vec![(true, plan(&PlanOptions::default()).unwrap())];
    for split_keys in splits {
        for variant in variants::all().filter(|v| {
            let wanted = (onekv::DType::Bf16, shape.e4m3_kv, shape.head_dim);
            (v.dtype, v.e4m3_kv(), v.head_dim) == wanted && !superseded(v, &facts)
        }) {
            let options = PlanOptions::of(variant).with_split_keys(split_keys);
            if let Ok(plan) = plan(&options)
                && !plans.iter().any(|(chosen, other)| !chosen && *other == plan)
            {
                plans.push((false, plan));
            }
        }
    }
    let Shape { heads, kv_heads, head_dim, inputs, rows, keys, .. } = *shape;
    let (system, layout) = if shape.e4m3_kv { ("onekv, K/V in e4m3", "e4m3") } else { ("onekv", "shared") };
    let line = |(chosen, plan): (bool, Plan)| {
        let us = cost(&plan, &facts, truth) * random.random_range(0.995..1.005);
        json!({
            "system": system, "layout": layout, "model": "made-up", "heads": heads, "kv_heads": kv_heads,
            "head_dim": head_dim, "inputs": inputs, "rows": rows, "keys": keys, "kernel": plan.variant().kernel(),
            "tile_rows": plan.variant().tile_rows, "split_keys": plan.split_keys(), "split_cluster": plan.split_cluster(), "chosen": chosen,
            "bytes": 1.0, "flops": 1.0, "cold_us": { "median": us, "p10": us, "p90": us, "runs": 21 },
        })
    };
    plans.into_iter().map(line).collect()
}

fn sweep(card: Card, truth: &Constants) -> Value {
    let mut random = StdRng::seed_from_u64(7);
    let mut lines = Vec::new();
    for head_dim in [64, 128, 256] {
        for inputs in [1, 16] {
            for keys in [512, 8192] {
                for rows in [1, 30, 64, 512] {
                    let shape = shape(head_dim, inputs, rows, keys);
                    lines.extend(shape_lines(card, &shape, truth, &mut random));
                    if card == HOPPER && rows <= 64 {
                        let e4m3 = Shape { e4m3_kv: true, ..shape };
                        lines.extend(shape_lines(card, &e4m3, truth, &mut random));
                    }
                }
            }
        }
    }
    file(machine(card), lines)
}

fn read_all(files: &[Value]) -> Result<Sweeps> {
    let folder = tempfile::tempdir().unwrap();
    let paths: Vec<PathBuf> = (0..files.len()).map(|i| folder.path().join(format!("{i}.json"))).collect();
    for (path, file) in paths.iter().zip(files) {
        std::fs::write(path, file.to_string()).unwrap();
    }
    read(&paths)
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
        let sweeps = read_all(&[sweep(card, &truth(card))]).unwrap();
        let shapes: Vec<&Measured> = sweeps.shapes.iter().collect();
        let e4m3 = shapes.iter().filter(|m| m.shape.e4m3_kv).count();
        assert_eq!(
            (shapes.len() - e4m3, e4m3),
            (3 * 2 * 2 * 4, if card == HOPPER { 3 * 2 * 2 * 3 } else { 0 })
        );
        for measured in &shapes {
            let fits = |plan: &Plan| plan.variant().e4m3_kv() == measured.shape.e4m3_kv;
            assert!(measured.plans.iter().all(|(plan, _)| fits(plan)), "{}", measured.shape);
        }
        let current = Constants::of(card.1);
        let fitted = fit(&shapes, &sweeps.facts, current, 8, &ProgressBar::hidden());
        let before = regrets(&shapes, &sweeps.facts, current);
        let after = regrets(&shapes, &sweeps.facts, &fitted);
        assert!(mean(&before) > 0.02 && worst(&before) > 0.15, "{} {}", mean(&before), worst(&before));
        assert!(mean(&after) < 0.01 && worst(&after) < 0.1, "{} {}", mean(&after), worst(&after));
        let shown = table(&shapes, &sweeps.facts, current, &fitted).to_string();
        for mean_regret in [mean(&before), mean(&after)] {
            assert!(shown.contains(&format!("{:.1} %", mean_regret * 100.0)), "{shown}");
        }
        // Predicted times come along.
        let error = shapes.iter().map(|m| m.error(&sweeps.facts, &fitted)).sum::<f64>() / shapes.len() as f64;
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
    let lines = shape_lines(HOPPER, &shape(64, 1, 16, 2048), now, &mut StdRng::seed_from_u64(7));
    let mut exact = file(machine(HOPPER), lines);
    for line in exact["lines"].as_array_mut().unwrap() {
        // Without noise the plan's own choice is the best one.
        line["cold_us"]["median"] = json!(if line["chosen"] == true { 1.0 } else { 2.0 });
    }
    let sweeps = read_all(&[exact]).unwrap();
    let shapes: Vec<&Measured> = sweeps.shapes.iter().collect();
    assert_eq!(regrets(&shapes, &sweeps.facts, now), [0.0]);
    assert_eq!(fit(&shapes, &sweeps.facts, now, 1, &ProgressBar::hidden()), *now);
}

#[test]
fn only_kernels_that_the_library_takes_are_fitted() {
    let mut random = StdRng::seed_from_u64(7);
    let lines = shape_lines(HOPPER, &shape(64, 1, 16, 2048), &truth(HOPPER), &mut random);
    let own = lines.len() - 1;
    // The same shape by kernels for 8.0, which run on Hopper too, and here take no time.
    let mut older = shape_lines(AMPERE, &shape(64, 1, 16, 2048), &truth(AMPERE), &mut random);
    for line in &mut older {
        line["cold_us"]["median"] = json!(1e-3);
        line["chosen"] = json!(false);
    }
    older.remove(0);
    let sweeps = read_all(&[file(machine(HOPPER), [lines, older].concat())]).unwrap();
    let [measured] = &sweeps.shapes[..] else { panic!("one shape") };
    assert_eq!(measured.others_us, Some(1e-3));
    assert!(measured.best_us > 1.0);
    assert!(measured.plans.iter().all(|(plan, _)| !superseded(plan.variant(), &sweeps.facts)));
    assert!((own..=own + 1).contains(&measured.plans.len()), "{}", measured.plans.len());
}

#[test]
fn what_cannot_be_fitted_is_refused() {
    let refused = |files: &[Value]| format!("{:#}", read_all(files).err().expect("should be refused"));
    let lines = shape_lines(HOPPER, &shape(64, 1, 16, 512), &truth(HOPPER), &mut StdRng::seed_from_u64(7));
    let good = file(machine(HOPPER), lines.clone());
    assert!(read_all(&[good.clone(), good.clone()]).is_ok());

    assert!(
        refused(&[file(machine(HOPPER), lines[..1].to_vec())]).contains("measure with `card --every-plan`")
    );
    let with = |pointer: &str, value: Value| {
        let mut changed = good.clone();
        *changed.pointer_mut(pointer).unwrap() = value;
        changed
    };
    let error = refused(&[with("/machine/simulated", json!(true))]);
    assert!(error.contains("0.json: machine.simulated is true"), "{error}");
    let error = refused(&[good.clone(), with("/machine/card", json!("another"))]);
    assert!(
        error.contains("0.json is of Made-up card of a test") && error.contains("1.json of another"),
        "{error}"
    );
    assert!(
        refused(&[good.clone(), with("/machine/multiprocessors", json!(114))]).contains("one card at a time")
    );
    let error = refused(&[with("/machine/compute_capability", json!("7.5"))]);
    assert!(error.contains("compute_capability is 7.5, allowed: 8.0, "), "{error}");
    let error = refused(&[with("/lines/0/kernel", json!("onekv_of_old"))]);
    assert!(
        error.contains("made-up, b = 1, U = 16, n = 512: kernel onekv_of_old is not one of today's"),
        "{error}"
    );
    let mut e4m3 = good.clone();
    (e4m3["lines"][0]["system"], e4m3["lines"][0]["layout"]) = (json!("onekv, K/V in e4m3"), json!("e4m3"));
    let error = refused(&[e4m3]);
    assert!(
        error.contains("n = 512, K/V in e4m3: tile_rows") && error.contains(", not onekv_sm90_bf16_64_"),
        "{error}"
    );
    let error = refused(&[with("/lines/0/split_keys", json!(3))]);
    assert!(error.contains("split_keys 3 give"), "{error}");
    assert!(refused(&[with("/lines/0/cold_us/median", json!(0.0))]).contains("lines[0].cold_us.median is 0"));
}

#[test]
fn every_constant_is_fitted() {
    let mut constants = *Constants::of((8, 0));
    for (_, field) in FIELDS {
        *field(&mut constants) = -1.0;
    }
    // Without `..`: a constant that is added does not compile until it is here, and in the fit.
    let Constants {
        block_us,
        meeting_bytes_per_us,
        warpgroups_us,
        combine_us,
        join_us,
        bytes_per_us,
        l2_bytes_per_us,
        mma_flops_per_us,
        wgmma_flops_per_us,
        exponentials_per_us,
        instructions_per_us,
        not_hidden,
        fma_flops_per_us,
    } = constants;
    assert_eq!([block_us, meeting_bytes_per_us, warpgroups_us, combine_us, join_us, bytes_per_us], [-1.0; 6]);
    let rates = [
        l2_bytes_per_us,
        mma_flops_per_us,
        wgmma_flops_per_us,
        exponentials_per_us,
        instructions_per_us,
        not_hidden,
        fma_flops_per_us,
    ];
    assert_eq!(rates, [-1.0; 7]);
}

#[test]
fn constants_are_written_where_they_stand() {
    let old = std::fs::read_to_string(root().join("src/plan/cost.rs")).unwrap();
    let machine =
        Machine { date: Some("1999-12-31".to_owned()), ..serde_json::from_value(machine(HOPPER)).unwrap() };
    for (name, card) in [("FROM_8_0", AMPERE), ("FROM_9_0", HOPPER)] {
        assert_eq!(Constants::named(card.1).0, name);
        let text = source(name, &truth(card), &machine, &["results/a.json".to_owned()]);
        let new = replaced(&old, name, &text).unwrap();
        assert!(new.contains(&text), "{new}");
        assert!(text.starts_with(
            "/// Fitted to Made-up card of a test, 1999-12-31: `cargo xtask fit results/a.json`.\n"
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
