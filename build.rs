//! Compiles `cuda/*.cu` to fatbins, with feature `cuda`. Only what changed is compiled again.

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

fn main() {
    println!("cargo:rerun-if-changed=build.rs");
    if env::var_os("CARGO_FEATURE_CUDA").is_none() {
        return;
    }
    if let Err(error) = compile_all() {
        // One line, without the backtrace of a panic.
        println!("cargo::error={error}");
        std::process::exit(1);
    }
}

fn compile_all() -> Result<()> {
    for name in ["NVCC", "CUDA_HOME", "CUDA_PATH", "PATH", "ONEKV_CUDA_ARCHS"] {
        println!("cargo:rerun-if-env-changed={name}");
    }
    println!("cargo:rerun-if-changed=cuda");
    let root = PathBuf::from(env::var("CARGO_MANIFEST_DIR")?);
    let out = PathBuf::from(env::var("OUT_DIR")?);
    let nvcc = find_nvcc(&root)?;
    let flags = flags()?;
    let mut sources: Vec<PathBuf> = std::fs::read_dir(root.join("cuda"))?
        .map(|entry| Ok(entry?.path()))
        .collect::<Result<Vec<_>>>()?
        .into_iter()
        .filter(|path| path.extension().is_some_and(|e| e == "cu"))
        .collect();
    sources.sort();

    let jobs: usize = env::var("NUM_JOBS").ok().and_then(|n| n.parse().ok()).unwrap_or(1);
    let queue = Mutex::new(sources.iter());
    let errors = Mutex::new(Vec::new());
    std::thread::scope(|scope| {
        for _ in 0..jobs.clamp(1, sources.len().max(1)) {
            scope.spawn(|| {
                loop {
                    let next = queue.lock().ok().and_then(|mut queue| queue.next());
                    let Some(source) = next else { break };
                    if let Err(error) = compile(&nvcc, &flags, source, &out)
                        && let Ok(mut errors) = errors.lock()
                    {
                        errors.push(format!("{}: {error}", source.display()));
                    }
                }
            });
        }
    });
    let errors = errors.into_inner().map_err(|_| "a compiling thread panicked")?;
    if let Some(error) = errors.first() {
        return Err(error.clone().into());
    }

    let mut list = String::from(
        "/// Every fatbin: name and contents.\npub(super) static FATBINS: &[(&str, &[u8])] = &[\n",
    );
    for source in &sources {
        let name = stem(source)?;
        writeln!(list, "    ({name:?}, include_bytes!({:?})),", out.join(format!("{name}.fatbin")))?;
    }
    list.push_str("];\n");
    std::fs::write(out.join("fatbins.rs"), list)?;
    Ok(())
}

fn stem(source: &Path) -> Result<String> {
    let stem = source.file_stem().and_then(|s| s.to_str()).ok_or("a source file without a name")?;
    Ok(stem.to_owned())
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

/// Flags that all sources share.
fn flags() -> Result<Vec<String>> {
    let archs = env::var("ONEKV_CUDA_ARCHS").unwrap_or_else(|_| ARCHS.to_owned());
    let mut flags = vec!["-fatbin".to_owned(), "-O3".to_owned(), "-std=c++17".to_owned()];
    for arch in archs.split(',').map(str::trim).filter(|arch| !arch.is_empty() && *arch != "ptx") {
        if !arch.chars().all(|c| c.is_ascii_digit()) {
            let allowed = format!("numbers like {ARCHS}, or ptx");
            return Err(format!("ONEKV_CUDA_ARCHS has `{arch}`, allowed: {allowed}").into());
        }
        flags.extend(["-gencode".to_owned(), format!("arch=compute_{arch},code=sm_{arch}")]);
    }
    flags.extend(["-gencode".to_owned(), format!("arch=compute_{PTX_ARCH},code=compute_{PTX_ARCH}")]);
    let compiler = cc::Build::new().cpp(true).try_get_compiler()?;
    flags.extend(["-ccbin".to_owned(), compiler.path().display().to_string()]);
    Ok(flags)
}

/// Compiles one source, unless flags and contents of all it includes are as last time.
fn compile(nvcc: &Path, flags: &[String], source: &Path, out: &Path) -> Result<()> {
    let name = stem(source)?;
    let file = |extension: &str| out.join(format!("{name}.{extension}"));
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
        .arg(source)
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
    (nvcc, flags).hash(&mut hasher);
    let files = depends.split_once(':').map_or("", |(_, files)| files);
    for file in files.split_whitespace().filter(|word| *word != "\\") {
        file.hash(&mut hasher);
        std::fs::read(file)?.hash(&mut hasher);
    }
    Ok(format!("{:016x}", hasher.finish()))
}
