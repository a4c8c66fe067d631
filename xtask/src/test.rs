//! `cargo xtask test`: everything that can be tested on this machine.

use std::path::Path;
use std::process::Command;

use anyhow::{Result, bail};

use crate::run::{cargo, command, nvcc, side_by_side, step, target, workspace};
use crate::virtual_gpu::{on_virtual_card, virtual_driver, with_candle};
use crate::{bindings, report, setup};

const BENCHES: [&str; 6] = ["--bench", "attention", "--bench", "plan", "--bench", "speed"];
/// Cards that the virtual GPU plays for the CUDA tests; whether cudarc tracks events: what concerns streams is tested in both
/// ways on each; and a seed for what is tested in another order than the usual one.
const CARDS: [(&str, bool, u64); 3] = [("a100", false, 1), ("rtx4090", true, 2), ("h200", true, 3)];
/// Cards that the kernels for the copy engine are tested on besides.
const NEWER_CARDS: [(&str, u64); 2] = [("b200", 4), ("rtx5090", 5)];
/// On which driver calls are made to fail: what they do then is no matter of the card.
const FAILING_CARD: &str = "h200";
/// On which all else is tested, T5, candle's tensors, cust's buffers and programs in C: launches overlap on one alone.
const OTHER_CARDS: [&str; 2] = ["a100", "h200"];

/// Checks the prerequisites, then runs every test of the workspace; `transformers`: also those that need it.
pub fn run(transformers: bool) -> Result<()> {
    // Some crates link with the C compiler; Rust alone is not enough to link on every system.
    if command("cc", &["--version"]).output().is_err() {
        bail!("no linker: `cc` was not found. Install one, e.g. `apt-get install gcc`, and try again");
    }
    // nvcc preprocesses with it.
    if std::env::var_os("CXX").is_none() && command("c++", &["--version"]).output().is_err() {
        bail!("no C++ compiler: `c++` was not found. Install one, e.g. `apt-get install g++`, or set CXX");
    }
    // The tools' tables are TOML.
    if !setup::runs("python3", &["-c", "import tomllib"]) {
        bail!(
            "no Python for the tools' tests: `python3` is missing or older than 3.11. Install a newer one, and try again"
        );
    }
    if nvcc()?.is_none() {
        setup::run()?;
    }
    // It takes minutes, most of them waiting: meanwhile the rest is built and tested.
    let python = (transformers && setup::has_venv()).then(|| {
        std::thread::spawn(|| setup::python("transformers-venv", "tools/goldens/requirements-5.txt", &[]))
    });
    // So does this, of less than 100 MB.
    let figures = setup::has_venv().then(|| std::thread::spawn(report::check));
    let driver = virtual_driver()?;
    // By itself: builds without CUDA and with it put T5's program in the same place.
    step(
        "test the library, the T5 example, the virtual GPU, the tools and the documentation's examples",
        &mut workspace("test", "", &[]),
    )?;
    compile(&driver)?;
    eprintln!("==> is what was generated fresh?");
    bindings::run(true)?;
    side_by_side(steps(&driver)?)?;
    match python.map(std::thread::JoinHandle::join) {
        None if transformers => {
            eprintln!("not tested, as Python has no venv or pip: folders that are converted")
        }
        None => eprintln!("not tested, as asked: folders that are converted"),
        Some(Ok(python)) => convert(&python?)?,
        Some(Err(_)) => bail!("the thread that installs transformers panicked"),
    }
    match figures.map(std::thread::JoinHandle::join) {
        None => eprintln!("not tested, as Python has no venv or pip: figures of the results"),
        Some(Ok(checked)) => checked?,
        Some(Err(_)) => bail!("the thread that checks the figures panicked"),
    }
    if Path::new("/dev/nvidiactl").exists() {
        step("test the CUDA kernels on this machine's card", &mut cuda_tests(&CUDA_TESTS))?;
        let mut two_cards = cuda_tests(&["two_cards"]);
        step("test two cards, if it has them", two_cards.env_remove("ONEKV_REQUIRE_CUDA"))?;
        step("test T5 on this machine's card", &mut cuda_tests(&["t5_cuda"]))?;
        step("test programs in C on this machine's card", &mut cuda_tests(&["c_programs"]))?;
    }
    Ok(())
}

/// The rest, as steps that run side by side would wait for each other's builds.
fn compile(driver: &Path) -> Result<()> {
    step("compile the benchmarks that need no card", workspace("test", "", &BENCHES).arg("--no-run"))?;
    let others = ["two_cards", "failing_driver", "t5_cuda", "t5_failing", "c_programs"];
    let mut tests = cuda_tests(&[&CUDA_TESTS[..], &others].concat());
    on_virtual_card(&mut tests, driver, FAILING_CARD);
    // And what the kit takes along.
    step("compile the tests on virtual cards", tests.args(["--bench", "card", "--no-run"]))?;
    let mut tests = candle_cuda(driver, OTHER_CARDS[0], &["--test", "candle", "--no-run"])?;
    step("compile those of candle's tensors", &mut tests)?;
    step("compile those of cust's buffers", cust_tests(driver, OTHER_CARDS[0]).arg("--no-run"))
}

/// What runs two at a time, as few of these keep all cores busy.
fn steps(driver: &Path) -> Result<Vec<(String, Command)>> {
    let on = |card: &str, mut tests: Command| {
        on_virtual_card(&mut tests, driver, card);
        tests
    };
    let example = |name: &str| command(&target().join("debug/examples").join(name).to_string_lossy(), &[]);
    // What takes longest begins first.
    let mut steps = Vec::new();
    for card in OTHER_CARDS {
        steps.push((format!("test T5 on a virtual {card}"), on(card, cuda_tests(&["t5_cuda"]))));
    }
    for (card, tracking, seed) in CARDS {
        steps.push(on_card(driver, card, tracking, &["cuda", "streams", "allocations", "soak"], None));
        // Results only: counts of bank conflicts and sectors are of warps that run in step.
        steps.push(on_card(driver, card, tracking, &["attention", "e4m3", "two_cards"], Some(seed)));
    }
    for (card, seed) in NEWER_CARDS {
        steps.push(on_card(driver, card, false, &["cuda", "spans"], None));
        steps.push(on_card(driver, card, false, &["e4m3"], Some(seed)));
    }
    steps.push(on_card(driver, FAILING_CARD, true, &["failing_driver"], None));
    let tests = on(FAILING_CARD, cuda_tests(&["t5_failing"]));
    steps.push(("test T5 on a driver that fails".to_owned(), tests));
    for card in OTHER_CARDS {
        let tests = candle_cuda(driver, card, &["--test", "candle"])?;
        steps.push((format!("test candle's tensors on the CPU and a virtual {card}"), tests));
    }
    let tests = candle_cuda(driver, OTHER_CARDS[0], &["--doc"])?;
    steps.push(("test the documentation's examples with candle".to_owned(), tests));
    for card in OTHER_CARDS {
        let tests = on(card, cuda_tests(&["c_programs"]));
        steps.push((format!("test programs in C and C++ on a virtual {card}"), tests));
    }
    for card in OTHER_CARDS {
        let what = format!("test cust's buffers, and what is said without NCCL, on a virtual {card}");
        steps.push((what, cust_tests(driver, card)));
        steps.push((format!("run the example of cust on a virtual {card}"), on(card, example("attention"))));
    }
    let kit = command(&std::env::current_exe()?.to_string_lossy(), &["gpu-kit", "--check"]);
    steps.push(("run the GPU kit's smoke stage on a virtual card".to_owned(), kit));
    steps.push((
        "run the benchmarks that need no card, each once".to_owned(),
        workspace("test", "", &BENCHES),
    ));
    for name in ["cross_attention", "candle"] {
        steps.push((format!("run the example {name}"), example(name)));
    }
    Ok(steps)
}

/// Tests of the kernels on a virtual card; with a seed, warps, blocks, copies and streams come in an order of its own.
fn on_card(
    driver: &Path,
    card: &str,
    tracking: bool,
    names: &[&'static str],
    seed: Option<u64>,
) -> (String, Command) {
    let mut tests = cuda_tests(names);
    on_virtual_card(&mut tests, driver, card);
    tests.env("ONEKV_EVENT_TRACKING", if tracking { "1" } else { "0" });
    if let Some(seed) = seed {
        tests.env("PTXSIM_SEED", seed.to_string());
    }
    let order = seed.map_or(String::new(), |seed| format!(", in the order of seed {seed}"));
    (format!("test {} on a virtual {card}{order}", names.join(", ")), tests)
}

/// Folders that must be converted first are, by the command that the example prints.
fn convert(python: &Path) -> Result<()> {
    let folders = python.parent().map(Path::to_path_buf).into_iter();
    let path = std::env::var_os("PATH").unwrap_or_default();
    let path = std::env::join_paths(folders.chain(std::env::split_paths(&path)))?;
    let mut tests = workspace("test", "", &["--test", "t5_goldens", "--", "--ignored", "conversions"]);
    step("test T5 on folders that transformers 5 converts", tests.env("PATH", path))
}

const CUDA_TESTS: [&str; 7] = ["attention", "cuda", "e4m3", "streams", "allocations", "soak", "spans"];

fn cuda_tests(names: &[&'static str]) -> Command {
    let names: Vec<&str> = names.iter().flat_map(|name| ["--test", *name]).collect();
    let mut tests = workspace("test", "cuda", &names);
    tests.env("ONEKV_REQUIRE_CUDA", "1");
    tests
}

/// Of onekv alone: the workspace's T5 on candle would be compiled again.
fn candle_cuda(driver: &Path, card: &str, arguments: &[&str]) -> Result<Command> {
    let mut tests = cargo(&["test", "--package", "onekv", "--features", "candle-cuda,tracing"]);
    on_virtual_card(&mut tests, driver, card);
    unoptimised(&mut tests);
    with_candle(&mut tests, driver)?;
    tests.args(arguments);
    Ok(tests)
}

/// As other packages' debug builds have the library: what is inlined into one function must still find room on a thread's stack.
/// Their features have it compiled once more in any case, which is then quick.
fn unoptimised(tests: &mut Command) {
    tests.env("CARGO_PROFILE_DEV_OPT_LEVEL", "0");
}

/// Of cust's buffers, and of what is said without NCCL.
fn cust_tests(driver: &Path, card: &str) -> Command {
    let mut tests = cargo(&["test", "--package", "onekv-cust", "--package", "onekv-nccl"]);
    on_virtual_card(&mut tests, driver, card);
    unoptimised(&mut tests);
    tests.env("CUDA_LIBRARY_PATH", driver);
    tests
}
