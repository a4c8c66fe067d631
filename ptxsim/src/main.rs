//! `ptxsim run`, `lint`, `replay` and `mutate`.

mod commands {
    pub mod mutate;
    pub mod replay;
}

use std::io::{ErrorKind, Write as _};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::str::FromStr;

use anyhow::{Context as _, Result, bail};
use clap::{Parser, Subcommand};
use ptxsim::{Card, Counters, GlobalMemory, LaunchConfig, LaunchError, Module, Options};

/// Runs PTX on a virtual GPU
#[derive(Parser)]
#[command(version, about)]
struct Cli {
    #[command(subcommand)]
    task: Task,
}

#[derive(Subcommand)]
enum Task {
    /// Launch a kernel once; prints what it did, or the check that it failed
    Run(Run),
    /// Launch a recorded kernel again; prints what it did, or the check that it failed
    Replay(commands::replay::Replay),
    /// Edit recorded kernels by rule, one mistake at a time, and see which mistakes are noticed
    Mutate(commands::mutate::Mutate),
    /// List the instructions of a PTX file that the simulator does not run
    Lint {
        /// PTX file
        file: PathBuf,
        /// Card to play: a100, rtx4090, h100, h200, b200, rtx5090 [default: one that takes the file]
        #[arg(long)]
        device: Option<String>,
    },
}

#[derive(clap::Args)]
struct Run {
    /// PTX file
    file: PathBuf,
    /// Kernel [default: the file's only one]
    #[arg(long)]
    kernel: Option<String>,
    /// Blocks: x, or x,y,z
    #[arg(long, default_value = "1")]
    grid: Extent,
    /// Threads of a block: x, or x,y,z
    #[arg(long, default_value = "32")]
    block: Extent,
    /// Blocks of a cluster: x, or x,y,z [default: the kernel's own, or 1]
    #[arg(long)]
    cluster: Option<Extent>,
    /// Dynamic shared memory of a block, in bytes
    #[arg(long, default_value_t = 0)]
    shared: u32,
    /// The kernel's arguments in order: i32=N, u32=N, i64=N, u64=N, f32=X, f64=X, or a buffer in device
    /// memory: space=BYTES (unwritten), zeros=BYTES, file=PATH
    #[arg(long = "arg", value_name = "KIND=VALUE")]
    arguments: Vec<Argument>,
    /// Write a buffer to a file after the launch; N counts arguments from 0
    #[arg(long = "dump", value_name = "N=PATH")]
    dumps: Vec<Dump>,
    /// Card to play: a100, rtx4090, h100, h200, b200, rtx5090 [default: one that takes the file]
    #[arg(long)]
    device: Option<String>,
    /// Print the counters as JSON
    #[arg(long)]
    json: bool,
}

#[derive(Clone)]
struct Extent([u32; 3]);

impl FromStr for Extent {
    type Err = String;

    fn from_str(text: &str) -> std::result::Result<Self, String> {
        let mut size = [1; 3];
        let parts: Vec<&str> = text.split(',').collect();
        if parts.len() > 3 {
            return Err(format!("`{text}` has {} dimensions, allowed are 1 to 3", parts.len()));
        }
        for (place, part) in size.iter_mut().zip(parts) {
            *place = part.parse().map_err(|_| format!("`{part}` is not a number"))?;
        }
        Ok(Self(size))
    }
}

#[derive(Clone)]
enum Argument {
    Value(Vec<u8>),
    Space(u64),
    Zeros(u64),
    File(PathBuf),
}

impl FromStr for Argument {
    type Err = String;

    fn from_str(text: &str) -> std::result::Result<Self, String> {
        fn number<T: FromStr>(text: &str) -> std::result::Result<T, String> {
            text.parse().map_err(|_| format!("`{text}` is not a number of this type"))
        }
        let (kind, value) = text.split_once('=').ok_or_else(|| format!("`{text}` is not KIND=VALUE"))?;
        Ok(match kind {
            "i32" => Self::Value(number::<i32>(value)?.to_le_bytes().to_vec()),
            "u32" => Self::Value(number::<u32>(value)?.to_le_bytes().to_vec()),
            "i64" => Self::Value(number::<i64>(value)?.to_le_bytes().to_vec()),
            "u64" => Self::Value(number::<u64>(value)?.to_le_bytes().to_vec()),
            "f32" => Self::Value(number::<f32>(value)?.to_le_bytes().to_vec()),
            "f64" => Self::Value(number::<f64>(value)?.to_le_bytes().to_vec()),
            "space" => Self::Space(number(value)?),
            "zeros" => Self::Zeros(number(value)?),
            "file" => Self::File(value.into()),
            other => {
                let allowed = "i32, u32, i64, u64, f32, f64, space, zeros, file";
                return Err(format!("kind `{other}`, allowed are {allowed}"));
            }
        })
    }
}

#[derive(Clone)]
struct Dump(usize, PathBuf);

impl FromStr for Dump {
    type Err = String;

    fn from_str(text: &str) -> std::result::Result<Self, String> {
        let (number, path) = text.split_once('=').ok_or_else(|| format!("`{text}` is not N=PATH"))?;
        Ok(Self(number.parse().map_err(|_| format!("`{number}` is not a number"))?, path.into()))
    }
}

fn main() -> ExitCode {
    let done = match Cli::parse().task {
        Task::Run(run) => launch(&run).map(|()| true),
        Task::Replay(replay) => {
            commands::replay::run(&replay).and_then(|counters| show(&counters, replay.json)).map(|()| true)
        }
        Task::Mutate(mutate) => commands::mutate::run(&mutate).and_then(|text| say(&text)).map(|()| true),
        Task::Lint { file, device } => lint(&file, device.as_deref()),
    };
    match done {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("ptxsim: {error:#}");
            ExitCode::from(2)
        }
    }
}

fn load<'d>(file: &Path, device: Option<&'d str>) -> Result<(Module, GlobalMemory)> {
    let text = std::fs::read_to_string(file).with_context(|| format!("cannot read {}", file.display()))?;
    let names: Vec<&'d str> = device.map_or_else(|| Card::names().to_vec(), |name| vec![name]);
    let mut last = None;
    for name in names {
        let Some(card) = Card::by_name(name) else {
            bail!("--device {name}, allowed are {}", Card::names().join(", "));
        };
        let memory = GlobalMemory::new(card.memory_bytes);
        match Module::load(&text, card, &memory) {
            Ok(module) => return Ok((module, memory)),
            Err(error) => last = Some(error),
        }
    }
    match last {
        Some(error) => Err(error).with_context(|| file.display().to_string()),
        None => bail!("no card"),
    }
}

/// Prints to stdout; whoever reads it may stop early.
fn say(text: &str) -> Result<()> {
    match std::io::stdout().lock().write_all(text.as_bytes()) {
        Err(error) if error.kind() != ErrorKind::BrokenPipe => Err(error).context("cannot write to stdout"),
        _ => Ok(()),
    }
}

fn lint(file: &Path, device: Option<&str>) -> Result<bool> {
    let (module, _) = load(file, device)?;
    let mut clean = true;
    for kernel in module.kernels() {
        match module.facts(kernel) {
            Ok(_) => say(&format!("{kernel}: ok\n"))?,
            Err(LaunchError::Unsupported { errors, .. }) => {
                clean = false;
                for error in errors {
                    say(&format!("{kernel}: {error}\n"))?;
                }
            }
            Err(other) => return Err(other.into()),
        }
    }
    Ok(clean)
}

fn launch(run: &Run) -> Result<()> {
    let (module, memory) = load(&run.file, run.device.as_deref())?;
    let kernel = match &run.kernel {
        Some(name) => name.clone(),
        None => match module.kernels().collect::<Vec<_>>().as_slice() {
            [one] => (*one).to_owned(),
            all => bail!("{} kernels in the file, choose one by --kernel: {}", all.len(), all.join(", ")),
        },
    };
    let facts = module.facts(&kernel)?;
    if facts.parameters.len() != run.arguments.len() {
        bail!("`{kernel}` takes {} arguments, {} are given", facts.parameters.len(), run.arguments.len());
    }
    let mut parameters = vec![0; facts.parameter_bytes];
    let mut buffers = Vec::new();
    for (number, (argument, place)) in run.arguments.iter().zip(&facts.parameters).enumerate() {
        let (bytes, buffer) = place_argument(argument, &memory)?;
        if bytes.len() != place.bytes {
            bail!("argument {number} has {} bytes, `{kernel}` takes {}", bytes.len(), place.bytes);
        }
        parameters[place.offset..place.offset + place.bytes].copy_from_slice(&bytes);
        buffers.push(buffer);
    }
    let config = LaunchConfig {
        grid: run.grid.0,
        block: run.block.0,
        cluster: run.cluster.as_ref().map(|size| size.0).or(facts.cluster).unwrap_or([1; 3]),
        dynamic_shared_bytes: run.shared,
        overlaps: false,
    };
    let options = Options::from_environment().map_err(anyhow::Error::msg)?;
    let counters = module.launch(&kernel, &config, &parameters, &memory, options)?;
    for Dump(number, path) in &run.dumps {
        let Some(Some((address, bytes))) = buffers.get(*number) else {
            bail!("--dump {number}: argument {number} is no buffer");
        };
        let mut data = vec![0; usize::try_from(*bytes)?];
        memory.read(*address, &mut data)?;
        std::fs::write(path, data).with_context(|| format!("cannot write {}", path.display()))?;
    }
    show(&counters, run.json)
}

fn show(counters: &Counters, json: bool) -> Result<()> {
    if json { say(&(serde_json::to_string_pretty(counters)? + "\n")) } else { say(&table(counters)) }
}

/// Address and size of a buffer.
type Buffer = (u64, u64);

/// An argument's bytes, and the buffer behind it.
fn place_argument(argument: &Argument, memory: &GlobalMemory) -> Result<(Vec<u8>, Option<Buffer>)> {
    let contents = match argument {
        Argument::Value(bytes) => return Ok((bytes.clone(), None)),
        Argument::File(path) => {
            std::fs::read(path).with_context(|| format!("cannot read {}", path.display()))?
        }
        Argument::Space(_) | Argument::Zeros(_) => Vec::new(),
    };
    let size = match argument {
        Argument::Space(size) | Argument::Zeros(size) => *size,
        _ => contents.len() as u64,
    };
    let address = memory.allocate(size)?;
    memory.write(address, &contents)?;
    if let Argument::Zeros(_) = argument {
        let zeros = [0; 4096];
        for at in (0..size).step_by(zeros.len()) {
            memory.write(address + at, &zeros[..zeros.len().min((size - at) as usize)])?;
        }
    }
    Ok((address.to_le_bytes().to_vec(), Some((address, size))))
}

fn table(counters: &Counters) -> String {
    let rows = [
        ("thread instructions", counters.thread_instructions),
        ("warp instructions", counters.warp_instructions),
        ("global bytes loaded", counters.global_load_bytes),
        ("global bytes stored", counters.global_store_bytes),
        ("sectors loaded", counters.global_load_sectors),
        ("sectors stored", counters.global_store_sectors),
        ("distinct bytes", counters.distinct_bytes),
        ("shared wavefronts", counters.shared_wavefronts),
        ("bank conflicts", counters.bank_conflicts),
        ("tensor-core FLOPs", counters.tensor_flops),
        ("barrier arrivals", counters.barriers),
        ("bytes copied async.", counters.async_copy_bytes),
    ];
    let rows = rows.map(|(name, value)| format!("{name:22}{value:>14}\n"));
    let lines = counters.bank_conflicts_by_line.iter();
    rows.into_iter().chain(lines.map(|(line, n)| format!("bank conflicts, line {line}: {n}\n"))).collect()
}
