//! Compiles `cuda/**/*.cu` to fatbins, with feature `cuda`. Only what changed is compiled again.

use std::collections::hash_map::DefaultHasher;
use std::env;
use std::error::Error;
use std::fmt::Write as _;
use std::hash::{Hash as _, Hasher as _};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Mutex;

type Result<T> = std::result::Result<T, Box<dyn Error>>;

/// Cards that machine code is made for; `ONEKV_CUDA_ARCHS` narrows it, `ptx` leaves PTX only.
const ARCHS: &str = "80,86,89,90,100,120";
/// PTX for cards that come later, and for simulators.
const PTX_ARCH: &str = "80";
/// Folder of what Hopper alone runs: wgmma and setmaxnreg exist on 9.0a and on nothing after it.
const HOPPER: &str = "sm90";
/// Folder of the T5 example's kernels, which the library does without: feature `t5-cuda`.
const T5: &str = "t5";
/// What nvcc itself takes from the environment.
const NVCC_FLAGS: [&str; 2] = ["NVCC_PREPEND_FLAGS", "NVCC_APPEND_FLAGS"];

fn main() {
    println!("cargo:rerun-if-changed=build.rs");
    if env::var_os("CARGO_FEATURE_CUDA").is_none() {
        return;
    }
    // docs.rs has no CUDA compiler, and runs nothing.
    println!("cargo:rerun-if-env-changed=DOCS_RS");
    let made = if env::var_os("DOCS_RS").is_some() { list_fatbins(&[]) } else { compile_all() };
    if let Err(error) = made {
        // One line, without the backtrace of a panic.
        println!("cargo::error={error}");
        std::process::exit(1);
    }
}

fn compile_all() -> Result<()> {
    let known = ["NVCC", "CUDA_HOME", "CUDA_PATH", "PATH", "ONEKV_CUDA_ARCHS"];
    for name in known.iter().chain(&NVCC_FLAGS) {
        println!("cargo:rerun-if-env-changed={name}");
    }
    println!("cargo:rerun-if-changed=cuda");
    let root = PathBuf::from(env::var("CARGO_MANIFEST_DIR")?);
    let out = out_dir()?;
    let nvcc = find_nvcc(&root)?;
    let archs = Archs::new()?;
    let mut sources = Vec::new();
    find(&root.join("cuda"), "", &mut sources)?;
    sources.sort_by(|a, b| a.name.cmp(&b.name));

    let jobs: usize = env::var("NUM_JOBS").ok().and_then(|n| n.parse().ok()).unwrap_or(1);
    let queue = Mutex::new(sources.iter());
    let errors = Mutex::new(Vec::new());
    std::thread::scope(|scope| {
        for _ in 0..jobs.clamp(1, sources.len().max(1)) {
            scope.spawn(|| {
                loop {
                    let next = queue.lock().ok().and_then(|mut queue| queue.next());
                    let Some(source) = next else { break };
                    if let Err(error) = compile(&nvcc, &archs.flags(source), source, &out)
                        && let Ok(mut errors) = errors.lock()
                    {
                        errors.push(format!("{}: {error}", source.path.display()));
                    }
                }
            });
        }
    });
    let errors = errors.into_inner().map_err(|_| "a compiling thread panicked")?;
    if let Some(error) = errors.first() {
        return Err(error.clone().into());
    }

    list_fatbins(&sources)
}

fn out_dir() -> Result<PathBuf> {
    Ok(PathBuf::from(env::var("OUT_DIR")?))
}

/// Writes the library's table of kernels.
fn list_fatbins(sources: &[Source]) -> Result<()> {
    let out = out_dir()?;
    let mut list = String::from(
        "/// Every fatbin: name and contents.\npub(super) static FATBINS: &[(&str, &[u8])] = &[\n",
    );
    for Source { name, .. } in sources.iter().filter(|source| source.folder != T5) {
        writeln!(list, "    ({name:?}, include_bytes!({:?})),", out.join(format!("{name}.fatbin")))?;
    }
    list.push_str("];\n");
    std::fs::write(out.join("fatbins.rs"), list)?;
    Ok(())
}

/// One translation unit.
struct Source {
    path: PathBuf,
    /// Folder under `cuda/`, empty at the top.
    folder: String,
    /// Folder and stem, `sm90_attention_bf16`.
    name: String,
}

/// Every `.cu` file under `cuda/` that this build needs.
fn find(at: &Path, folder: &str, sources: &mut Vec<Source>) -> Result<()> {
    for entry in std::fs::read_dir(at)? {
        let path = entry?.path();
        let stem =
            path.file_stem().and_then(|s| s.to_str()).ok_or("a source file without a name")?.to_owned();
        if path.is_dir() {
            if folder.is_empty() && (stem != T5 || env::var_os("CARGO_FEATURE_T5_CUDA").is_some()) {
                find(&path, &stem, sources)?;
            }
        } else if path.extension().is_some_and(|e| e == "cu") {
            let name = if folder.is_empty() { stem } else { format!("{folder}_{stem}") };
            sources.push(Source { path, folder: folder.to_owned(), name });
        }
    }
    Ok(())
}

/// nvcc by `NVCC`, `CUDA_HOME` or `CUDA_PATH`, `PATH`, the usual places, `cargo xtask setup`.
fn find_nvcc(root: &Path) -> Result<PathBuf> {
    if let Some(nvcc) = env::var_os("NVCC") {
        let nvcc = PathBuf::from(nvcc);
        return if nvcc.exists() {
            Ok(nvcc)
        } else {
            Err(format!("NVCC={} does not exist", nvcc.display()).into())
        };
    }
    let homes = ["CUDA_HOME", "CUDA_PATH"]
        .into_iter()
        .filter_map(env::var_os)
        .map(|home| PathBuf::from(home).join("bin"));
    let path: Vec<PathBuf> = env::var_os("PATH").map(|p| env::split_paths(&p).collect()).unwrap_or_default();
    let usual = ["/usr/local/cuda/bin", "/opt/cuda/bin", "/usr/lib/cuda/bin"].into_iter().map(PathBuf::from);
    let own = std::iter::once(root.join("target/cuda-toolkit/bin"));
    homes
        .chain(path)
        .chain(usual)
        .chain(own)
        .map(|folder| folder.join("nvcc"))
        .find(|nvcc| nvcc.exists())
        .ok_or_else(|| {
            "feature `cuda` needs nvcc (CUDA 12.4 or newer), which was not found. Any of these helps: run \
             `cargo xtask setup` (fetches it from PyPI into target/), install the CUDA toolkit and set CUDA_HOME, or set \
             NVCC to the compiler"
                .into()
        })
}

/// What `ONEKV_CUDA_ARCHS` asks for, and the host compiler.
struct Archs {
    machine: Vec<String>,
    host_compiler: String,
}

impl Archs {
    fn new() -> Result<Self> {
        let archs = env::var("ONEKV_CUDA_ARCHS").unwrap_or_else(|_| ARCHS.to_owned());
        let asked = archs.split(',').map(str::trim).filter(|arch| !arch.is_empty() && *arch != "ptx");
        let machine: Vec<String> = asked.map(str::to_owned).collect();
        if let Some(arch) = machine.iter().find(|arch| !arch.chars().all(|c| c.is_ascii_digit())) {
            let allowed = format!("numbers like {ARCHS}, or ptx");
            return Err(format!("ONEKV_CUDA_ARCHS has `{arch}`, allowed: {allowed}").into());
        }
        let compiler = cc::Build::new().cpp(true).try_get_compiler()?;
        Ok(Self { machine, host_compiler: compiler.path().display().to_string() })
    }

    fn flags(&self, source: &Source) -> Vec<String> {
        let mut flags: Vec<String> =
            ["-fatbin", "-O3", "-std=c++17", "-ccbin", &self.host_compiler].map(str::to_owned).into();
        let mut add = |code: String| flags.extend(["-gencode".to_owned(), code]);
        // T5's run on every card; on Hopper they overlap and use wgmma, also where there is PTX alone.
        if source.folder == HOPPER || source.folder == T5 {
            if self.machine.iter().any(|arch| arch == "90") {
                add("arch=compute_90a,code=sm_90a".to_owned());
            }
            add("arch=compute_90a,code=compute_90a".to_owned());
        }
        if source.folder != HOPPER {
            let other = |arch: &&String| source.folder != T5 || *arch != "90";
            let machine = self.machine.iter().filter(other);
            machine.for_each(|arch| add(format!("arch=compute_{arch},code=sm_{arch}")));
            add(format!("arch=compute_{PTX_ARCH},code=compute_{PTX_ARCH}"));
        }
        flags
    }
}

/// Compiles one source, unless flags and contents of all it includes are as last time.
fn compile(nvcc: &Path, flags: &[String], source: &Source, out: &Path) -> Result<()> {
    let file = |extension: &str| out.join(format!("{}.{extension}", source.name));
    let (fatbin, depfile, keyfile) = (file("fatbin"), file("d"), file("key"));
    if fatbin.exists()
        && let Ok(depends) = std::fs::read_to_string(&depfile)
        && let Ok(key) = std::fs::read_to_string(&keyfile)
        && key_of(nvcc, flags, &depends).is_ok_and(|now| now == key)
    {
        return Ok(());
    }
    // A build that is interrupted leaves no half file under the final name.
    let half = file("half");
    let output = Command::new(nvcc)
        .args(flags)
        .arg(&source.path)
        .arg("-o")
        .arg(&half)
        .args(["-MMD", "-MF"])
        .arg(&depfile)
        .output()
        .map_err(|e| format!("cannot run {}: {e}", nvcc.display()))?;
    if !output.status.success() {
        return Err(format!("nvcc failed:\n{}", String::from_utf8_lossy(&output.stderr)).into());
    }
    std::fs::rename(&half, &fatbin)?;
    std::fs::write(&keyfile, key_of(nvcc, flags, &std::fs::read_to_string(&depfile)?)?)?;
    Ok(())
}

/// Hash of the compiler, the flags and every file of a depfile.
fn key_of(nvcc: &Path, flags: &[String], depends: &str) -> Result<String> {
    let mut hasher = DefaultHasher::new();
    (nvcc, flags, NVCC_FLAGS.map(env::var_os)).hash(&mut hasher);
    let files = depends.split_once(':').map_or("", |(_, files)| files);
    for file in files.split_whitespace().filter(|word| *word != "\\") {
        file.hash(&mut hasher);
        std::fs::read(file)?.hash(&mut hasher);
    }
    Ok(format!("{:016x}", hasher.finish()))
}
