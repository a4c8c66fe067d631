//! `cargo xtask report tiny`: the built-in models' accuracy and cost, as the paper's table.

use anyhow::{Context as _, Result, bail};
use comfy_table::Table;
use comfy_table::presets::ASCII_MARKDOWN;
use serde::Deserialize;
use serde_json::Value;

use crate::run::{cargo, command, output, root, step};

#[derive(Deserialize)]
struct HeldOut {
    prompts: Vec<String>,
    dialogues: Vec<Dialogue>,
}

#[derive(Deserialize)]
struct Dialogue {
    text: String,
    answers: Vec<String>,
}

/// Sums over all dialogues of one method.
#[derive(Default)]
struct Score {
    slots: usize,
    right: usize,
    filled: usize,
    filled_right: usize,
    joint: usize,
    flops: f64,
    seconds: f64,
    kv_bytes: f64,
}

pub fn run() -> Result<()> {
    let assets = root().join("examples/t5/assets");
    let path = assets.join("heldout.json");
    let text = std::fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))?;
    let held_out: HeldOut = serde_json::from_str(&text)?;
    step("build the T5 example", &mut cargo(&["build", "--release", "--package", "t5"]))?;
    let program = root().join("target/release/t5").to_string_lossy().into_owned();
    let folder = root().join("target/report-tiny");
    std::fs::create_dir_all(&folder)?;
    let input = folder.join("dialogue.txt");
    let prompts = folder.join("prompts.txt");
    std::fs::write(&prompts, held_out.prompts.join("\n"))?;

    let mut scores = [("pid", Score::default()), ("pie", Score::default())];
    let progress = indicatif::ProgressBar::new(held_out.dialogues.len() as u64);
    for dialogue in &held_out.dialogues {
        std::fs::write(&input, &dialogue.text)?;
        let out = command(&program, &["--json", "--input"])
            .arg(&input)
            .arg("--prompts")
            .arg(&prompts)
            .output()
            .context("cannot run the T5 example")?;
        if !out.status.success() {
            bail!("the T5 example failed: {}", String::from_utf8_lossy(&out.stderr));
        }
        let answer: Value = serde_json::from_slice(&out.stdout)?;
        for (method, score) in &mut scores {
            score.add(method, &answer, &dialogue.answers)?;
        }
        progress.inc(1);
    }
    progress.finish_and_clear();

    let dialogues = held_out.dialogues.len();
    let mut table = Table::new();
    table.load_style(ASCII_MARKDOWN);
    table.set_header(["", "PID", "PIE"]);
    let mut row = |name: &str, cell: &dyn Fn(&Score) -> String| {
        table.add_row([name.to_string(), cell(&scores[0].1), cell(&scores[1].1)]);
    };
    let percent = |part: usize, whole: usize| format!("{:.1} %", 100.0 * part as f64 / whole.max(1) as f64);
    row("slot accuracy", &|s| percent(s.right, s.slots));
    row("slot accuracy, filled slots", &|s| percent(s.filled_right, s.filled));
    row("joint accuracy (all 30 slots)", &|s| percent(s.joint, dialogues));
    row("MFLOPs per dialogue", &|s| format!("{:.1}", s.flops / dialogues as f64 / 1e6));
    row("latency per dialogue, ms", &|s| format!("{:.1}", s.seconds / dialogues as f64 * 1e3));
    row("cross-attention K/V, kB", &|s| format!("{:.0}", s.kv_bytes / dialogues as f64 / 1e3));
    let commit = output("the commit", &mut command("git", &["rev-parse", "--short", "HEAD"]))?;
    let text = format!(
        "# The built-in models on {dialogues} held-out dialogues\n\n{table}\n\nGreedy decoding on the CPU, \
         values of names and times not seen in training. Made by `cargo xtask report tiny` at {}.\n",
        commit.trim()
    );
    let path = root().join("results/cpu/tiny.md");
    std::fs::create_dir_all(root().join("results/cpu"))?;
    std::fs::write(&path, &text)?;
    println!("{text}\n{}", path.display());
    Ok(())
}

impl Score {
    fn add(&mut self, method: &str, answer: &Value, want: &[String]) -> Result<()> {
        let outputs = answer["inputs"][0]["outputs"].as_array().context("no outputs")?;
        if outputs.len() != want.len() {
            bail!("{} outputs for {} slots", outputs.len(), want.len());
        }
        let mut wrong = 0;
        for (got, want) in outputs.iter().zip(want) {
            let right = got[method] == want.as_str();
            let filled = want != "none";
            self.slots += 1;
            self.right += usize::from(right);
            self.filled += usize::from(filled);
            self.filled_right += usize::from(filled && right);
            wrong += usize::from(!right);
        }
        self.joint += usize::from(wrong == 0);
        let figures = &answer["figures"][method];
        let number = |name: &str| figures[name].as_f64().with_context(|| format!("no {name}"));
        self.flops += number("flops_predicted")?;
        self.seconds += number("total_s")?;
        self.kv_bytes += number("cross_kv_bytes")?;
        Ok(())
    }
}
