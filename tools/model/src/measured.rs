//! Plans that were timed, as tools/report/lines.py reads them from results/, and the shapes that they are of.

use std::path::PathBuf;

use anyhow::Result;
use onekv::DType;
use serde::{Deserialize, Deserializer};

use crate::scripts;
use crate::shapes::{Model, Shape};

/// A plan of ours on a shape of a sweep.
#[derive(Clone, Deserialize)]
pub struct Line {
    pub file: String,
    pub folder: String,
    pub sweep: String,
    pub card: String,
    pub compute_capability: String,
    pub multiprocessors: usize,
    pub date: Option<String>,
    #[serde(flatten, deserialize_with = "shape")]
    pub shape: Shape,
    pub kernel: String,
    pub tile_rows: usize,
    pub split_keys: usize,
    /// Blocks of a cluster that share out a tile's keys.
    pub split_cluster: usize,
    /// By the cost model; else it was asked for.
    pub by_cost: bool,
    /// With cold L2.
    pub us: f64,
}

/// Without a softcap, which changes no plan.
fn shape<'de, D: Deserializer<'de>>(line: D) -> Result<Shape, D::Error> {
    #[derive(Deserialize)]
    struct Fields {
        model: String,
        heads: usize,
        kv_heads: usize,
        head_dim: usize,
        inputs: usize,
        rows: usize,
        keys: usize,
        e4m3_kv: bool,
    }
    let Fields { model, heads, kv_heads, head_dim, inputs, rows, keys, e4m3_kv } = Fields::deserialize(line)?;
    // The benchmark's names are constants: a few letters of a program that ends soon.
    let model = Model { model: model.leak(), heads, kv_heads, head_dim, softcap: None };
    Ok(Shape { model, inputs, rows, keys, e4m3_kv, dtype: DType::Bf16 })
}

/// The plans of these sweeps, or of all cards of a folder of results. Those of a shape of a file stand together.
pub fn plans(paths: &[PathBuf]) -> Result<Vec<Line>> {
    scripts::lines("report/lines.py", &["plans"], paths)
}

/// A shape as tables name it.
pub fn title(shape: &Shape) -> String {
    let Shape { model, inputs, rows, keys, e4m3_kv, .. } = shape;
    let kv = if *e4m3_kv { ", K/V in e4m3" } else { "" };
    format!("{}, b = {inputs}, U = {rows}, n = {keys}{kv}", model.model)
}

#[cfg(test)]
pub mod tests {
    use std::path::Path;

    use onekv::plan::Plan;
    use serde_json::{Value, json};

    use super::*;

    /// A card that does not exist: compute capability as files and as plans have it, and multiprocessors.
    pub type Card = (&'static str, (u32, u32), usize);
    pub const HOPPER: Card = ("9.0", (9, 0), 132);
    pub const AMPERE: Card = ("8.0", (8, 0), 108);

    pub fn shape(head_dim: usize, inputs: usize, rows: usize, keys: usize) -> Shape {
        let model = Model { model: "made-up", heads: 12, kv_heads: 12, head_dim, softcap: None };
        Shape { model, inputs, rows, keys, e4m3_kv: false, dtype: DType::Bf16 }
    }

    pub fn line(card: Card, shape: &Shape, plan: &Plan, by_cost: bool, us: f64) -> Line {
        Line {
            file: "results/made-up/attention-fit.jsonl".into(),
            folder: "made-up".into(),
            sweep: "fit".into(),
            card: "Made-up card of a test".into(),
            compute_capability: card.0.into(),
            multiprocessors: card.2,
            date: Some("1999-12-31".into()),
            shape: *shape,
            kernel: plan.variant().kernel(),
            tile_rows: plan.variant().tile_rows,
            split_keys: plan.split_keys(),
            split_cluster: plan.split_cluster(),
            by_cost,
            us,
        }
    }

    /// A results file of a card, with a line for each of these.
    fn written(folder: &Path, simulated: bool, lines: &[Value]) -> PathBuf {
        let machine = json!({ "card": "A card", "compute_capability": "9.0", "multiprocessors": 7, "simulated": simulated });
        let head = json!({
            "machine": machine, "sweep": "full", "copy_bytes_per_s": 4e12, "empty_pair_us": { "median": 3.0 },
        });
        let path = folder.join("a-card/attention-full.jsonl");
        std::fs::create_dir_all(folder.join("a-card")).unwrap();
        let text: String = std::iter::once(&head).chain(lines).map(|line| format!("{line}\n")).collect();
        std::fs::write(&path, text).unwrap();
        path
    }

    #[test]
    fn lines_are_read_as_the_script_prints_them() {
        let line = json!({
            "system": "onekv, K/V in e4m3", "layout": "e4m3", "model": "é", "heads": 8, "kv_heads": 4, "head_dim": 64,
            "inputs": 2, "rows": 3, "keys": 16, "kernel": "k", "tile_rows": 32, "split_keys": 9, "split_cluster": 1,
            "chosen": false, "bytes": 1.0, "flops": 1.0, "cold_us": { "median": 5.0 },
        });
        let folder = tempfile::tempdir().unwrap();
        let file = written(folder.path(), false, std::slice::from_ref(&line));
        for path in [folder.path().to_path_buf(), file.clone()] {
            let [line] = &plans(&[path]).unwrap()[..] else { panic!("one line") };
            let Shape { model, inputs, rows, keys, e4m3_kv, .. } = line.shape;
            assert_eq!((model.model, model.heads, model.kv_heads, model.head_dim), ("é", 8, 4, 64));
            assert_eq!((inputs, rows, keys, e4m3_kv), (2, 3, 16, true));
            assert_eq!(title(&line.shape), "é, b = 2, U = 3, n = 16, K/V in e4m3");
            assert_eq!((line.file.as_str(), line.folder.as_str()), (file.to_str().unwrap(), "a-card"));
            assert_eq!(
                (line.sweep.as_str(), line.card.as_str(), line.date.as_ref()),
                ("full", "A card", None)
            );
            assert_eq!((line.compute_capability.as_str(), line.multiprocessors), ("9.0", 7));
            assert_eq!((line.kernel.as_str(), line.tile_rows, line.split_keys), ("k", 32, 9));
            assert_eq!((line.split_cluster, line.by_cost, line.us), (1, false, 5.0));
        }
        let file = written(folder.path(), true, &[line]);
        let error = plans(std::slice::from_ref(&file)).err().expect("should be refused").to_string();
        assert!(error.starts_with(file.to_str().unwrap()), "{error}");
        assert!(error.contains("machine.simulated is true (A card)"), "{error}");
    }
}
