//! The shape that `--shape` of the benchmarks takes, and those of their sweeps.

#[path = "../benches/common/shape.rs"]
mod shape;
#[allow(dead_code)]
#[path = "../benches/card/shapes.rs"]
mod sweeps;

use clap::ValueEnum as _;
use onekv::DType;
use shape::{HELP, OwnShape};
use sweeps::{Model, Sweep};

#[test]
fn fields_in_any_order_and_defaults() {
    let base = OwnShape {
        inputs: 8,
        rows: 30,
        keys: 512,
        heads: 12,
        kv_heads: 12,
        head_dim: 64,
        softcap: None,
        dtype: Some(DType::Bf16),
    };
    assert_eq!("b=8,U=30,n=512,h=12,d=64,dtype=bf16".parse(), Ok(base));
    assert_eq!("dtype=bf16,d=64,h=12,n=512,U=30,b=8".parse(), Ok(base));
    let gemma = OwnShape {
        inputs: 1,
        rows: 1,
        keys: 70,
        heads: 8,
        kv_heads: 4,
        head_dim: 256,
        softcap: Some(50.0),
        dtype: None,
    };
    assert_eq!("U=1,n=70,h=8,kv=4,d=256,softcap=50".parse(), Ok(gemma));
    let problem = base.problem().unwrap();
    assert_eq!((problem.total_rows(), problem.key_positions(), problem.inputs().len()), (240, 4096, 8));
    assert_eq!(problem.scale(), 0.125);
}

#[test]
fn what_is_wrong_is_named() {
    for (text, why) in [
        ("", "`` is no name=value"),
        ("U=1,n=1,h=1,d=64,x=2", "field is `x`, allowed: b, U, n, h, kv, d, softcap, dtype"),
        ("U=1,U=2,n=1,h=1,d=64", "U is there twice, allowed: once"),
        ("U=1,h=1,d=64", "n is missing, allowed: a number above 0"),
        ("U=0,n=1,h=1,d=64", "U is 0, allowed: 1 to 16777216"),
        ("U=1,n=-1,h=1,d=64", "n is -1, allowed: 1 to 16777216"),
        ("U=1,n=1,h=1,d=64,dtype=int8", "dtype is int8, allowed: bf16, f16, f32"),
        ("U=1,n=1,h=1,d=64,softcap=no", "softcap is no, allowed: a number above 0"),
        ("U=1,n=1,h=1,d=64,softcap=-1", "softcap is -1, allowed: a finite number above 0"),
        ("U=1,n=1,h=4,kv=3,d=64", "heads is 4, allowed: a multiple of kv_heads, which is 3"),
        ("U=1,n=1,h=1,d=1000", "head_dim is 1000, allowed: at most 512"),
    ] {
        assert_eq!(text.parse::<OwnShape>(), Err(why.to_owned()), "{text}");
    }
    // Every field is in the help.
    assert!(
        ["b ", "n ", "U ", "h ", "kv ", "d ", "softcap", "dtype"].iter().all(|field| HELP.contains(field))
    );
}

#[test]
fn sweeps_are_of_known_models() {
    let mut models: Vec<Model> = Vec::new();
    for shape in Sweep::value_variants().iter().flat_map(|sweep| sweep.shapes()) {
        if !models.contains(&shape.model) {
            models.push(shape.model);
        }
    }
    let heads = |model: &Model| (model.model, model.heads, model.kv_heads, model.head_dim, model.softcap);
    let want = [
        ("t5-base", 12, 12, 64, None),
        ("t5gemma-2b, softcap", 8, 4, 256, Some(50.0)),
        ("t5-large", 16, 16, 64, None),
        ("flan-t5-xl", 32, 32, 64, None),
        ("t5gemma-2b", 8, 4, 256, None),
        ("llama-3-8b", 32, 8, 128, None),
        ("t5-3b", 32, 32, 128, None),
    ];
    assert_eq!(models.iter().map(heads).collect::<Vec<_>>(), want);
}
