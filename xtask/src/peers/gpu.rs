//! `cargo xtask peers gpu`: the GPU kit on this machine's own card, its results into `results/`.

use std::path::Path;

use anyhow::{Context as _, Result, bail};
use serde_json::Value;

use crate::run::{root, step};
use crate::{kit, setup};

/// Runs stages of the kit and keeps the figures under the card's name.
pub fn run(stages: &[String], venv: Option<&Path>) -> Result<()> {
    if !Path::new("/dev/nvidiactl").exists() {
        bail!(
            "this machine has no NVIDIA card; `cargo xtask gpu-kit` makes a folder to run where there is one"
        );
    }
    // Before what takes minutes.
    let script = root().join("tools/kit/run.sh");
    step("which stages", std::process::Command::new(script).arg("--dry-run").args(stages))?;
    let python = setup::peers_python(venv)?;
    let folder = root().join("target/peers-gpu");
    kit::release(&folder.join("kit"), kit::ARCHS)?;
    let results = folder.join("results");
    if results.exists() {
        std::fs::remove_dir_all(&results)?;
    }
    let mut script = std::process::Command::new(folder.join("kit/run.sh"));
    script.arg("--out").arg(&results).args(stages).env("PYTHON", &python);
    // What did not fail is kept all the same.
    let ran = step("run the kit", &mut script);
    let text =
        std::fs::read_to_string(results.join("stages.jsonl")).context("the kit left no stages.jsonl")?;
    keep(&results, &card(&text)?)?;
    ran
}

/// Name of the card's folder under `results/`.
fn card(stages: &str) -> Result<String> {
    let head = stages.lines().next().unwrap_or_default();
    let head: Value = serde_json::from_str(head).context("stages.jsonl begins with no JSON")?;
    let machine = &head["machine"];
    let name = machine["card"].as_str().context("stages.jsonl names no card")?;
    if machine["simulated"] != false {
        bail!("{name} is a simulator: its times are none, and are not kept");
    }
    let name = name.trim_start_matches("NVIDIA ").to_lowercase();
    Ok(name
        .split(|c: char| !c.is_ascii_alphanumeric())
        .filter(|part| !part.is_empty())
        .collect::<Vec<_>>()
        .join("-"))
}

fn keep(from: &Path, card: &str) -> Result<()> {
    let folder = root().join("results").join(card);
    std::fs::create_dir_all(&folder)?;
    for entry in std::fs::read_dir(from)? {
        let path = entry?.path();
        let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        if name == "t5.jsonl" || name == "crossover.jsonl" || name.starts_with("attention-") {
            std::fs::copy(&path, folder.join(name))?;
            println!("{}", folder.join(name).display());
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::card;

    #[test]
    fn folders_are_named_after_cards_and_simulators_have_none() {
        let of = |name: &str, simulated: &str| {
            card(&format!("{{\"machine\": {{\"card\": \"{name}\"{simulated}}}}}\n{{}}\n"))
                .map_err(|error| error.to_string())
        };
        assert_eq!(of("NVIDIA H200", r#", "simulated": false"#).as_deref(), Ok("h200"));
        assert_eq!(of("NVIDIA H100 80GB HBM3", r#", "simulated": false"#).as_deref(), Ok("h100-80gb-hbm3"));
        assert!(of("ptxsim h200", r#", "simulated": true"#).is_err());
        assert!(of("NVIDIA H200", "").is_err(), "a file that does not say is not trusted");
    }
}
