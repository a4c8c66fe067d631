//! Finds nvcc and compiles `cuda/**/*.cu` of a package to fatbins: again only what changed, once for a profile's sets of
//! features. Shared by the build scripts of onekv and of its T5 example.

use std::collections::hash_map::DefaultHasher;
use std::env;
use std::env::consts::EXE_SUFFIX;
use std::error::Error;
use std::ffi::{OsStr, OsString};
use std::hash::{Hash as _, Hasher as _};
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Mutex;
use std::time::SystemTime;

pub type Result<T> = std::result::Result<T, Box<dyn Error>>;

/// Cards that machine code is made for; `ONEKV_CUDA_ARCHS` narrows it, `ptx` leaves PTX only.
const ARCHS: &str = "80,86,89,90,100,120";
/// The first cards that there are kernels for.
const FIRST_ARCH: u32 = 80;
/// The oldest nvcc that compiles the kernels: its PTX has what Hopper's need.
const OLDEST: Release = (12, 4);
/// The first that compresses machine code; drivers from R550 on unpack it.
const COMPRESSES: Release = (12, 8);
/// Variables from which nvcc itself takes flags.
const NVCC_FLAGS: [&str; 2] = ["NVCC_PREPEND_FLAGS", "NVCC_APPEND_FLAGS"];

/// A release of CUDA, major and minor.
pub type Release = (u32, u32);

/// A package whose kernels are compiled; build scripts run in its folder, and paths are relative to it, so that what was
/// compiled is known by its contents, wherever that is.
pub struct Package {
    /// Where onekv is.
    pub onekv: &'static str,
    /// Folders beside `cuda/` that its sources include from.
    pub includes: &'static [&'static str],
    /// The cards that the kernels of a folder under `cuda/` are for; of the top it is the empty name.
    pub cards: fn(folder: &str) -> Cards,
}

/// What a source is compiled for.
#[derive(Clone)]
pub struct Cards {
    /// Compute capabilities times ten, of which those in `ARCHS` get machine code.
    pub machine_code: Range<u32>,
    /// Compute capability of the PTX, for cards that come later and for simulators.
    pub ptx: Option<u32>,
    /// Whether it is compiled for 9.0a in place of 9.0, PTX included: wgmma and setmaxnreg exist there and on nothing after it.
    pub hopper: bool,
}

/// What was compiled, and by whom.
#[allow(dead_code, reason = "T5 knows its kernels by name")]
pub struct Made {
    /// Files `<name>.fatbin` in OUT_DIR.
    pub names: Vec<String>,
    pub release: Release,
    pub compressed: bool,
    pub archs: Vec<u32>,
}

/// Ends a build script: an error in one line, without the backtrace of a panic.
pub fn end(done: Result<()>) {
    if let Err(error) = done {
        println!("cargo::error={error}");
        std::process::exit(1);
    }
}

/// Compiles every source of a package.
pub fn compile_all(package: &Package) -> Result<Made> {
    let known = ["NVCC", "CUDA_HOME", "CUDA_PATH", "PATH", "NVCC_CCBIN", "ONEKV_CUDA_ARCHS"];
    // Of .cargo/config.toml: two checkouts that build into one folder are told apart.
    println!("cargo:rerun-if-env-changed=ONEKV_CHECKOUT");
    for name in known.iter().chain(&NVCC_FLAGS) {
        println!("cargo:rerun-if-env-changed={name}");
    }
    for folder in ["cuda"].iter().chain(package.includes) {
        println!("cargo:rerun-if-changed={folder}");
    }
    let nvcc = Nvcc::find(package.onekv)?;
    nvcc.refuse_spoiling_flags()?;
    let archs = nvcc.archs()?;
    let mut common: Vec<OsString> =
        package.includes.iter().map(|folder| format!("-I{folder}").into()).collect();
    common.extend(nvcc.host_compiler()?);
    let mut sources = Vec::new();
    find(Path::new("cuda"), "", package, &mut sources)?;
    sources.sort_by(|a, b| a.name.cmp(&b.name));

    let jobs: usize = env::var("NUM_JOBS").ok().and_then(|n| n.parse().ok()).unwrap_or(1);
    let queue = Mutex::new(sources.iter());
    let errors = Mutex::new(Vec::new());
    let out = PathBuf::from(env::var("OUT_DIR")?);
    std::thread::scope(|scope| {
        for _ in 0..jobs.clamp(1, sources.len().max(1)) {
            scope.spawn(|| {
                loop {
                    let next = queue.lock().ok().and_then(|mut queue| queue.next());
                    let Some(source) = next else { break };
                    let flags = [nvcc.flags(&archs, source), common.clone()].concat();
                    if let Err(error) = compile(&nvcc, &flags, source, &out)
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
    let names = sources.into_iter().map(|source| source.name).collect();
    Ok(Made { names, release: nvcc.release, compressed: nvcc.compresses(), archs })
}

/// One translation unit.
struct Source {
    path: PathBuf,
    /// Folder under `cuda/` if it is in one, and stem: `sm90_attention_bf16`.
    name: String,
    cards: Cards,
}

/// Every `.cu` file under `cuda/`.
fn find(at: &Path, folder: &str, package: &Package, sources: &mut Vec<Source>) -> Result<()> {
    for entry in std::fs::read_dir(at)? {
        let path = entry?.path();
        // Editors leave hidden files beside the sources.
        if path.file_name().is_some_and(|name| name.as_encoded_bytes().starts_with(b".")) {
            continue;
        }
        let stem =
            path.file_stem().and_then(|s| s.to_str()).ok_or("a source file without a name")?.to_owned();
        if path.is_dir() {
            if folder.is_empty() {
                find(&path, &stem, package, sources)?;
            }
        } else if path.extension().is_some_and(|e| e == "cu") {
            let name = if folder.is_empty() { stem } else { format!("{folder}_{stem}") };
            sources.push(Source { path, name, cards: (package.cards)(folder) });
        }
    }
    Ok(())
}

/// A compiler that was found.
struct Nvcc {
    /// The program, behind what wraps it (`ccache nvcc`).
    command: Vec<OsString>,
    /// What `--version` prints.
    version: String,
    release: Release,
    /// Flags that the environment gives it, each with the variable it is from.
    told: Vec<(&'static str, String)>,
}

impl Nvcc {
    /// nvcc by `NVCC`, else the first of `CUDA_HOME` or `CUDA_PATH`, `PATH`, the usual places and `cargo xtask setup` that
    /// is new enough.
    fn find(onekv: &str) -> Result<Self> {
        let named = env::var_os("NVCC").map(|named| words(&named)).unwrap_or_default();
        if !named.is_empty() {
            let nvcc = Self::ask(named).map_err(|why| format!("NVCC: {why}"))?;
            return if nvcc.release >= OLDEST { Ok(nvcc) } else { Err(nvcc.too_old().into()) };
        }
        let homes = ["CUDA_HOME", "CUDA_PATH"].into_iter().filter_map(env::var_os);
        let homes = homes.filter(|home| !home.is_empty()).map(|home| PathBuf::from(home).join("bin"));
        let path = env::var_os("PATH").unwrap_or_default();
        let path = env::split_paths(&path).filter(|folder| !folder.as_os_str().is_empty());
        let usual =
            ["/usr/local/cuda/bin", "/opt/cuda/bin", "/usr/lib/cuda/bin"].into_iter().map(PathBuf::from);
        let own = std::iter::once(env::current_dir()?.join(onekv).join("target/cuda-toolkit/bin"));
        let places = homes.chain(path).chain(usual).chain(own);
        let files =
            places.map(|folder| folder.join(format!("nvcc{EXE_SUFFIX}"))).filter(|file| file.exists());
        let mut others = Vec::new();
        for file in files {
            match Self::ask(vec![file.into_os_string()]) {
                Ok(nvcc) if nvcc.release >= OLDEST => {
                    others.iter().for_each(|why| println!("cargo::warning=passed over: {why}"));
                    return Ok(nvcc);
                }
                Ok(nvcc) => others.push(nvcc.too_old()),
                Err(why) => others.push(why),
            }
        }
        let found = if others.is_empty() { "none was found".to_owned() } else { others.join("; ") };
        Err(format!(
            "feature `cuda` needs nvcc of CUDA {} or newer: {found}. Any of these helps: install the CUDA toolkit and set \
             CUDA_HOME, or set NVCC to the compiler, or, in onekv's repository, run `cargo xtask setup`, which fetches it from \
             PyPI into target/",
            dotted(OLDEST)
        )
        .into())
    }

    /// The compiler of a command, if it is one.
    fn ask(command: Vec<OsString>) -> std::result::Result<Self, String> {
        let shown = command.join(OsStr::new(" ")).display().to_string();
        let output = Command::new(&command[0]).args(&command[1..]).arg("--version").output();
        let output = output.map_err(|error| format!("cannot run {shown}: {error}"))?;
        let version = String::from_utf8_lossy(&output.stdout).into_owned();
        let release = version.split("release ").nth(1).and_then(|rest| {
            let (major, minor) = rest.split(',').next()?.split_once('.')?;
            Some((major.parse().ok()?, minor.parse().ok()?))
        });
        let release =
            release.ok_or_else(|| format!("{shown} --version names no release of CUDA; is it nvcc?"))?;
        // Another nvcc may be installed in its place.
        if Path::new(&command[0]).is_file() {
            println!("cargo:rerun-if-changed={}", command[0].display());
        }
        let mut told: Vec<_> =
            command[1..].iter().map(|word| ("NVCC", word.to_string_lossy().into_owned())).collect();
        for name in NVCC_FLAGS {
            let flags = env::var_os(name).unwrap_or_default().to_string_lossy().into_owned();
            told.extend(flags.split_whitespace().map(|word| (name, word.to_owned())));
        }
        Ok(Self { command, version, release, told })
    }

    fn command(&self) -> Command {
        let mut command = Command::new(&self.command[0]);
        command.args(&self.command[1..]);
        command
    }

    fn too_old(&self) -> String {
        let command = self.command.join(OsStr::new(" "));
        format!("{} is {}, allowed: {} or newer", command.display(), dotted(self.release), dotted(OLDEST))
    }

    /// Refuses flags that nvcc takes without an error, and with which it makes Hopper's kernels wait after every product: seen
    /// with 13.0 and 13.5. Others are found by what ptxas says of them ([`compile`]), where it is asked at all.
    fn refuse_spoiling_flags(&self) -> Result<()> {
        const SPOIL: [&str; 13] = [
            "-G",
            "--device-debug",
            "-Ofc",
            "--Ofast-compile",
            "-rdc",
            "--relocatable-device-code",
            "-dc",
            "--device-c",
            "-Xcicc",
            "-sanitize",
            "--sanitize",
            "-fdevice-sanitize",
            "--fdevice-sanitize",
        ];
        for (name, word) in &self.told {
            if SPOIL.iter().any(|bad| word == bad || word.starts_with(&format!("{bad}="))) {
                return Err(format!("{name} has {word}, {ALLOWED_FLAGS}").into());
            }
            if word.starts_with("-optf") || word.starts_with("--options-file") {
                return Err(format!("{name} has {word}, allowed: the flags themselves").into());
            }
        }
        Ok(())
    }

    /// The cards of `ONEKV_CUDA_ARCHS` that machine code is made for: all of them, or, where it is not set, those that this
    /// compiler knows.
    fn archs(&self) -> Result<Vec<u32>> {
        let output = self.command().arg("--list-gpu-code").output()?;
        if !output.status.success() {
            let told = String::from_utf8_lossy(&output.stderr).into_owned();
            return Err(format!("nvcc --list-gpu-code failed: {told}").into());
        }
        let codes = String::from_utf8_lossy(&output.stdout).into_owned();
        let codes = codes.split_whitespace().filter_map(|code| code.strip_prefix("sm_")?.parse().ok());
        let mut known: Vec<u32> = codes.filter(|code| *code >= FIRST_ARCH).collect();
        known.sort_unstable();
        let asked = env::var_os("ONEKV_CUDA_ARCHS").unwrap_or_default().to_string_lossy().into_owned();
        let all = asked.trim().is_empty();
        let (mut archs, mut unknown) = (Vec::new(), Vec::new());
        for word in if all { ARCHS } else { &asked }.split(',').map(str::trim).filter(|word| *word != "ptx") {
            match known.iter().find(|code| code.to_string() == word) {
                Some(code) => archs.push(*code),
                None => unknown.push(word),
            }
        }
        archs.sort_unstable();
        archs.dedup();
        let release = dotted(self.release);
        if !all && let Some(word) = unknown.first() {
            let known: Vec<String> = known.iter().map(u32::to_string).collect();
            let allowed = format!("{}, or ptx", known.join(", "));
            return Err(
                format!("ONEKV_CUDA_ARCHS has `{word}`, allowed with nvcc {release}: {allowed}").into()
            );
        }
        if !unknown.is_empty() {
            let unknown = unknown.join(", ");
            println!(
                "cargo::warning=nvcc {release} knows no {unknown}: such cards get PTX, which the driver compiles when it is loaded"
            );
        }
        Ok(archs)
    }

    /// Whether machine code is compressed as here, and not as the environment says.
    fn compresses(&self) -> bool {
        let chosen = |(_, word): &(&str, String)| word.starts_with('-') && word.contains("compress");
        self.release >= COMPRESSES && !self.told.iter().any(chosen)
    }

    fn flags(&self, archs: &[u32], source: &Source) -> Vec<OsString> {
        let mut flags = vec!["-fatbin".to_owned(), "-O3".to_owned(), "-std=c++17".to_owned()];
        if self.compresses() {
            flags.push("--compress-mode=size".to_owned());
        }
        let mut add = |code: String| flags.extend(["-gencode".to_owned(), code]);
        let Cards { machine_code, ptx, hopper } = &source.cards;
        if *hopper {
            if archs.contains(&90) {
                add("arch=compute_90a,code=sm_90a".to_owned());
            }
            add("arch=compute_90a,code=compute_90a".to_owned());
        }
        for arch in archs.iter().filter(|arch| machine_code.contains(arch) && !(*hopper && **arch == 90)) {
            add(format!("arch=compute_{arch},code=sm_{arch}"));
        }
        if let Some(arch) = ptx {
            add(format!("arch=compute_{arch},code=compute_{arch}"));
        }
        flags.into_iter().map(OsString::from).collect()
    }

    /// What tells nvcc of the C++ compiler that `CXX` names, unless it has been told already.
    fn host_compiler(&self) -> Result<Vec<OsString>> {
        let named = env::var_os("NVCC_CCBIN").is_some_and(|named| !named.is_empty());
        if named || self.told.iter().any(|(_, word)| names_host_compiler(word)) {
            return Ok(Vec::new());
        }
        let compiler = cc::Build::new().cpp(true).try_get_compiler()?;
        let path = compiler.path();
        let why = match Command::new(path).arg("--version").output() {
            Err(error) => error.to_string(),
            // cl.exe has no such option.
            Ok(output) if !output.status.success() && !compiler.is_like_msvc() => output.status.to_string(),
            Ok(_) => return Ok(vec!["-ccbin".into(), path.into()]),
        };
        let named = if env::var_os("CXX").is_some() { "CXX names" } else { "CXX is not set, which means" };
        Err(format!(
            "nvcc needs a C++ compiler: {named} `{}`, which does not run ({why}). Install one, e.g. `apt-get install g++`, and \
             let CXX name it",
            path.display()
        )
        .into())
    }
}

const ALLOWED_FLAGS: &str = "allowed: flags that leave nvcc to optimise the kernels";

fn names_host_compiler(flag: &str) -> bool {
    flag.starts_with("-ccbin") || flag.starts_with("--compiler-bindir")
}

fn dotted((major, minor): Release) -> String {
    format!("{major}.{minor}")
}

/// A file's path, or a program and what it wraps.
fn words(command: &OsStr) -> Vec<OsString> {
    match command.to_str() {
        Some(text) if !Path::new(text).exists() => text.split_whitespace().map(OsString::from).collect(),
        _ => vec![command.to_owned()],
    }
}

/// What compiling a source makes in `out`: the kernels, the names of what was read, the hash of all that decides on them.
fn files_in(out: &Path, source: &Source) -> [PathBuf; 3] {
    ["fatbin", "d", "key"].map(|extension| out.join(format!("{}.{extension}", source.name)))
}

/// Whether compiler, flags and contents of all that a source includes are as they were for what `out` has of it.
fn is_made(nvcc: &Nvcc, flags: &[OsString], source: &Source, out: &Path) -> bool {
    let [fatbin, depfile, keyfile] = files_in(out, source);
    let read = |file| std::fs::read_to_string(file);
    fatbin.exists()
        && read(keyfile).is_ok_and(|key| {
            read(depfile).is_ok_and(|depends| key_of(nvcc, flags, &depends).is_ok_and(|now| now == key))
        })
}

/// Where cargo has this script's results for other features, beside `out`: it lets one build at a time write there.
fn places_beside(out: &Path) -> impl Iterator<Item = PathBuf> {
    let all = out.parent().and_then(Path::parent).and_then(|all| std::fs::read_dir(all).ok());
    all.into_iter().flatten().filter_map(|place| Some(place.ok()?.path().join("out")))
}

/// Compiles one source, unless it is made already, here or for other features.
fn compile(nvcc: &Nvcc, flags: &[OsString], source: &Source, out: &Path) -> Result<()> {
    if is_made(nvcc, flags, source, out) {
        return Ok(());
    }
    let [fatbin, depfile, keyfile] = files_in(out, source);
    // A build that is interrupted leaves no half file under the final name, and no key of another.
    let half = out.join(format!("{}.half", source.name));
    let _ = std::fs::remove_file(&keyfile);
    if let Some(place) = places_beside(out).find(|place| is_made(nvcc, flags, source, place)) {
        let [kernels, depends, key] = files_in(&place, source);
        std::fs::copy(kernels, &half)?;
        std::fs::rename(&half, &fatbin)?;
        std::fs::copy(depends, &depfile)?;
        std::fs::copy(key, &keyfile)?;
        return Ok(());
    }
    let begin = SystemTime::now();
    let output = nvcc
        .command()
        .args(flags)
        .arg(&source.path)
        .arg("-o")
        .arg(&half)
        .args(["-MMD", "-MT", "fatbin", "-MF"])
        .arg(&depfile)
        .output()?;
    let told = String::from_utf8_lossy(&output.stderr).into_owned();
    if !output.status.success() {
        let why = told.lines().find(|line| line.contains("error") || line.contains("fatal"));
        return Err(format!("nvcc failed: {}\n{told}", why.unwrap_or_default()).into());
    }
    // ptxas tells of products that it puts one after the other, and of registers that it does not move, as information.
    if let Some(line) = told.lines().find(|line| line.contains("(C75")) {
        let flags = nvcc.told.iter().filter(|(_, word)| word.starts_with('-') && !names_host_compiler(word));
        let flags: Vec<String> = flags.map(|(name, word)| format!("{name} has {word}")).collect();
        if !flags.is_empty() {
            return Err(format!("{}, {ALLOWED_FLAGS}; ptxas: {line}", flags.join(", ")).into());
        }
        println!("cargo::warning={}: {line}", source.path.display());
    }
    std::fs::rename(&half, &fatbin)?;
    let depends = std::fs::read_to_string(&depfile)?;
    let key = key_of(nvcc, flags, &depends)?;
    // A file that was written meanwhile may not be what was compiled: without a key it is compiled again next time.
    let changed =
        |file: &String| std::fs::metadata(file).and_then(|about| about.modified()).ok() >= Some(begin);
    if !files_of(&depends).iter().any(changed) {
        std::fs::write(&keyfile, key)?;
    }
    Ok(())
}

/// The files that a depfile names: ours by relative paths, the toolkit's by absolute ones. It escapes blanks and line ends by a
/// backslash.
fn files_of(depends: &str) -> Vec<String> {
    let files = depends.split_once(':').map_or("", |(_, files)| files);
    let files = files.replace("\\ ", "\0").replace("\\\n", " ");
    files.split_whitespace().map(|word| word.replace('\0', " ")).collect()
}

/// Hash of the compiler, the flags and every file of a depfile; not of where the sources are, so that another checkout
/// that builds into the same folder is told apart by what it holds.
fn key_of(nvcc: &Nvcc, flags: &[OsString], depends: &str) -> Result<String> {
    let mut hasher = DefaultHasher::new();
    (&nvcc.command, &nvcc.version, flags, NVCC_FLAGS.map(env::var_os), env::var_os("NVCC_CCBIN"))
        .hash(&mut hasher);
    for file in files_of(depends) {
        file.hash(&mut hasher);
        std::fs::read(file)?.hash(&mut hasher);
    }
    Ok(format!("{:016x}", hasher.finish()))
}
