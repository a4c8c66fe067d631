//! `cargo xtask peers ptxsim`: the virtual GPU held to kernels that the world already runs.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::run::{cargo, command, date, nvcc, output, root, step};
use crate::setup;
use crate::virtual_gpu::optimised_driver;

const REQUIREMENTS: &str = "tools/ptxsim-peers/requirements.txt";

/// What came of a kernel.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Outcome {
    Right,
    /// ptxsim says that it does not run an instruction or a call.
    Unsupported,
    /// The result is not the reference's.
    Wrong,
    /// A check of ptxsim's failed, or anything that nobody expected.
    Blamed,
}

const OUTCOMES: [(Outcome, &str); 4] = [
    (Outcome::Right, "right"),
    (Outcome::Unsupported, "unsupported"),
    (Outcome::Wrong, "wrong"),
    (Outcome::Blamed, "blamed"),
];

/// One kernel on one card, as tools/ptxsim-peers/run.py writes it.
#[derive(Debug, Clone, Serialize, Deserialize)]
struct Row {
    package: String,
    version: String,
    kernel: String,
    card: String,
    outcome: Outcome,
    message: String,
}

/// `results/ptxsim/peers.json`.
#[derive(Serialize)]
struct Results<'a> {
    date: &'a str,
    rows: &'a [Row],
}

pub fn run(only: Option<&str>, jobs: Option<usize>, venv: Option<&Path>) -> Result<()> {
    let python = match venv {
        Some(folder) => folder.join("bin/python"),
        // All are named there: what they ask for by themselves would be several GB more, for kernels that do not need it.
        None => setup::python("ptxsim-peers-venv", REQUIREMENTS, &["--no-deps"])?,
    };
    let folder = root().join("target/ptxsim-peers");
    let gpu = optimised_driver(&folder.join("gpu"))?;
    let rows = folder.join("rows.json");
    let _ = std::fs::remove_file(&rows);
    let mut script = command(&python.to_string_lossy(), &["tools/ptxsim-peers/run.py", "--out"]);
    script.arg(&rows).arg("--logs").arg(folder.join("logs"));
    script.arg("--only").arg(only.unwrap_or_default());
    if let Some(jobs) = jobs {
        script.args(["--jobs", &jobs.to_string()]);
    }
    script.env("NVCC", nvcc()?.context("no CUDA compiler; run `cargo xtask setup`, or set NVCC")?);
    let mut metadata = cargo(&["metadata", "--format-version", "1", "--locked", "--all-features"]);
    let metadata = serde_json::from_str(&output("find candle-kernels and cudarc", &mut metadata)?)?;
    script.env("CANDLE_KERNELS", source(&metadata, "candle-kernels")?);
    script.env("CUDARC_TESTS", cudarc_tests(&source(&metadata, "cudarc")?, &folder)?);
    script.env("LD_LIBRARY_PATH", &gpu).env("TRITON_LIBCUDA_PATH", &gpu);
    script.env("PEERS_CACHE", folder.join("cache"));
    // Rows run side by side.
    script.env("PTXSIM_THREADS", "1");
    step("run the kernels of others on the virtual GPU", &mut script)?;

    let text = std::fs::read_to_string(&rows)?;
    let rows: Vec<Row> = serde_json::from_str(&text).context("tools/ptxsim-peers/run.py wrote no rows")?;
    if rows.is_empty() {
        bail!("no row's package, kernel or card contains {:?}", only.unwrap_or_default());
    }
    println!("{}", totals(&rows));
    if only.is_none() {
        let folder = root().join("results/ptxsim");
        std::fs::create_dir_all(&folder)?;
        let date = date()?;
        let json = serde_json::to_string_pretty(&Results { date: &date, rows: &rows })? + "\n";
        std::fs::write(folder.join("peers.json"), json)?;
        std::fs::write(folder.join("README.md"), page(&rows, &date))?;
        println!("{}", folder.join("README.md").display());
    }
    judge(&rows)
}

/// Builds cudarc's own tests of its source `from` in `folder`; the program, and cudarc's version behind a colon.
fn cudarc_tests(from: &Path, folder: &Path) -> Result<String> {
    let name = from.file_name().unwrap_or_default().to_string_lossy().into_owned();
    let copy = folder.join(&name);
    if !copy.exists() {
        let part = folder.join("cudarc-part");
        let _ = std::fs::remove_dir_all(&part);
        let [from, to] = [from, &part].map(|folder| folder.to_string_lossy().into_owned());
        step("copy cudarc", &mut command("cp", &["-r", &from, &to]))?;
        // It is no member of the workspace that it lies in now.
        let manifest = part.join("Cargo.toml");
        std::fs::write(&manifest, std::fs::read_to_string(&manifest)? + "\n[workspace]\n")?;
        std::fs::rename(&part, &copy)?;
    }
    let features = "std,driver,nvrtc,f16,cuda-13000,dynamic-loading";
    let mut build = cargo(&["test", "--lib", "--no-run", "--locked", "--message-format", "json"]);
    build.args(["--no-default-features", "--features", features]).current_dir(&copy);
    build.env("CARGO_TARGET_DIR", folder.join("cudarc-target"));
    let told = output("build cudarc's own tests", &mut build)?;
    let programs = told.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
    let program = programs.filter_map(|line| Some(line["executable"].as_str()?.to_owned())).next_back();
    let program = program.context("cargo names no program of cudarc's tests")?;
    Ok(format!("{program}:{}", name.trim_start_matches("cudarc-")))
}

/// Where cargo keeps a package that Cargo.lock pins, by what `cargo metadata` says.
fn source(metadata: &Value, name: &str) -> Result<PathBuf> {
    let packages = metadata["packages"].as_array().map_or(&[][..], Vec::as_slice);
    let found = packages.iter().find(|package| package["name"] == name);
    let manifest = found.and_then(|package| package["manifest_path"].as_str());
    let folder = manifest.and_then(|manifest| Path::new(manifest).parent());
    Ok(folder.with_context(|| format!("cargo metadata names no {name}"))?.to_path_buf())
}

/// Fails where ptxsim is at fault.
fn judge(rows: &[Row]) -> Result<()> {
    let faults: Vec<String> = rows
        .iter()
        .filter(|row| matches!(row.outcome, Outcome::Wrong | Outcome::Blamed))
        .map(|row| format!("{} on {}: {}", row.kernel, row.card, row.message))
        .collect();
    if faults.is_empty() {
        return Ok(());
    }
    bail!("{} of {} rows are wrong or blamed:\n{}", faults.len(), rows.len(), faults.join("\n"))
}

/// Counts by package, as a Markdown table. A kernel on several cards is one kernel and several rows.
fn totals(rows: &[Row]) -> String {
    let mut packages: BTreeMap<(&str, &str), Vec<&Row>> = BTreeMap::new();
    for row in rows {
        packages.entry((&row.package, &row.version)).or_default().push(row);
    }
    let names = OUTCOMES.map(|(_, name)| name).join(" | ");
    let mut text = format!("| package | version | kernels | rows | {names} |\n|{}\n", " --- |".repeat(8));
    let mut line = |package: &str, version: &str, rows: &[&Row]| {
        let kernels = rows.iter().map(|row| (&row.package, &row.kernel)).collect::<BTreeSet<_>>().len();
        let counts =
            OUTCOMES.map(|(outcome, _)| rows.iter().filter(|row| row.outcome == outcome).count().to_string());
        let _ =
            writeln!(text, "| {package} | {version} | {kernels} | {} | {} |", rows.len(), counts.join(" | "));
    };
    for ((package, version), rows) in &packages {
        line(package, version, rows);
    }
    line("all", "", &rows.iter().collect::<Vec<_>>());
    text
}

/// `results/ptxsim/README.md`.
fn page(rows: &[Row], date: &str) -> String {
    let mut text = format!(
        "# Kernels of other projects on the virtual GPU\n\nMade by `cargo xtask peers ptxsim` ({date}): public packages, \
         pinned in [tools/ptxsim-peers/](../../tools/ptxsim-peers/requirements.txt), their kernels compiled without a \
         card, run on [ptxsim](../../ptxsim/README.md) and held to NumPy in float64. No card is involved: what is shown \
         is that ptxsim runs them, gets the right numbers and blames nobody. Rows of cudarc are its own tests, of the \
         driver's API more than of kernels.\n\n\
         right: as the reference. unsupported: ptxsim says that it does not run an instruction or a call. wrong: another \
         result. blamed: a check of ptxsim's failed, or something that nobody expected.\n\n{}\n",
        totals(rows)
    );
    let mut listed: BTreeMap<_, Vec<&str>> = BTreeMap::new();
    for row in rows {
        let key = (&row.package, &row.kernel, row.outcome, &row.message);
        listed.entry(key).or_default().push(&row.card);
    }
    text += "| package | kernel | cards | outcome | message |\n| --- | --- | --- | --- | --- |\n";
    for ((package, kernel, outcome, message), cards) in listed {
        let name = OUTCOMES.iter().find(|(o, _)| *o == outcome).map_or("", |(_, name)| name);
        let (cards, message) = (cards.join(", "), message.replace('|', "\\|"));
        let _ = writeln!(text, "| {package} | `{kernel}` | {cards} | {name} | {message} |");
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rows() -> Vec<Row> {
        let row = |package: &str, kernel: &str, card: &str, outcome, message: &str| Row {
            package: package.to_owned(),
            version: "1.0".to_owned(),
            kernel: kernel.to_owned(),
            card: card.to_owned(),
            outcome,
            message: message.to_owned(),
        };
        vec![
            row("b", "m:add", "a100", Outcome::Right, ""),
            row("b", "m:add", "h200", Outcome::Right, ""),
            row("a", "m:add", "h200", Outcome::Unsupported, "no `x.y|z`"),
        ]
    }

    #[test]
    fn rows_are_what_the_script_writes() {
        let text = r#"[{"package": "p", "version": "1", "kernel": "k", "card": "h200", "outcome": "blamed",
            "message": "Race"}]"#;
        let rows: Vec<Row> = serde_json::from_str(text).unwrap();
        assert_eq!(rows[0].outcome, Outcome::Blamed);
        let error = judge(&rows).unwrap_err().to_string();
        assert_eq!(error, "1 of 1 rows are wrong or blamed:\nk on h200: Race");
    }

    #[test]
    fn a_kernel_on_two_cards_is_one_kernel() {
        assert_eq!(
            totals(&rows()),
            "| package | version | kernels | rows | right | unsupported | wrong | blamed |\n\
             | --- | --- | --- | --- | --- | --- | --- | --- |\n\
             | a | 1.0 | 1 | 1 | 0 | 1 | 0 | 0 |\n\
             | b | 1.0 | 1 | 2 | 2 | 0 | 0 | 0 |\n\
             | all |  | 2 | 3 | 2 | 1 | 0 | 0 |\n"
        );
    }

    #[test]
    fn the_page_lists_a_kernel_once_per_outcome() {
        let page = page(&rows(), "2026-01-01");
        assert!(page.contains("| b | `m:add` | a100, h200 | right |  |\n"), "{page}");
        assert!(page.contains("| a | `m:add` | h200 | unsupported | no `x.y\\|z` |\n"), "{page}");
    }

    #[test]
    fn only_ptxsims_faults_fail() {
        assert!(judge(&rows()).is_ok());
        let mut wrong = rows();
        wrong[1].outcome = Outcome::Wrong;
        assert!(judge(&wrong).is_err());
    }
}
