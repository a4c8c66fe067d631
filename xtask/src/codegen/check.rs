//! What the kernels are held to, by `cuda/codegen.md`.

use std::path::Path;

use anyhow::{Context as _, Result, bail};
use onekv::plan::{Architecture, Variant, variants};

use super::cards::{ARCHS, Multiprocessor, capability, facts};
use super::sass::{ADDRESS, CLASSES, Counts, FP32};
use super::table::{self, HOPPER_COLUMN, MACHINE_CODE, NONE, OF_ARCHS, OR, row};
use super::{COMPILERS, EARLY, ENDS, HIDDEN, MULTICAST, PRODUCT, ROWS_OUT, digest, sources};

/// The most instructions of a class, or of all, that a tile of keys may take in some kernels.
struct Bound {
    warpgroups: bool,
    kv_bytes: usize,
    head_dim: usize,
    /// Folded rows; 0: any.
    tile_rows: usize,
    /// `None`: all.
    class: Option<usize>,
    most: usize,
}

const fn warpgroups(head_dim: usize, class: usize, most: usize) -> Bound {
    Bound { warpgroups: true, kv_bytes: 2, head_dim, tile_rows: 0, class: Some(class), most }
}

const fn stream(kv_bytes: usize, head_dim: usize, tile_rows: usize, most: usize) -> Bound {
    Bound { warpgroups: false, kv_bytes, head_dim, tile_rows, class: None, most }
}

/// On Hopper. Warpgroups issue these between their products, which wait for them: what was counted, rounded up. A stream's
/// are slots that pass while its bytes arrive, at 20 bytes a clock: the parts of them that docs/kernels.md has.
const BOUNDS: [Bound; 18] = [
    // Of them 32, 48 and 74 are the descriptors of products, 6 the shifts of polynomials; clusters of two take 7 to 11 more.
    warpgroups(64, ADDRESS, 70),
    warpgroups(128, ADDRESS, 90),
    warpgroups(256, ADDRESS, 103),
    // As long as no tile rescales the output.
    warpgroups(64, FP32, 312),
    warpgroups(128, FP32, 312),
    warpgroups(256, FP32, 168),
    stream(2, 64, 16, 243),
    stream(2, 64, 32, 388),
    stream(2, 128, 16, 216),
    stream(2, 128, 32, 340),
    stream(2, 256, 16, 287),
    stream(2, 256, 32, 290),
    // 31, 27 and 21 % of what can be issued while their bytes come; with 32 rows 47, 39 and 35.
    stream(1, 64, 16, 508),
    stream(1, 128, 16, 445),
    stream(1, 256, 16, 706),
    stream(1, 64, 32, 767),
    stream(1, 128, 32, 641),
    stream(1, 256, 32, 577),
];

impl Bound {
    fn holds(&self, v: &Variant) -> bool {
        let rows = self.tile_rows == 0 || self.tile_rows == v.tile_rows;
        let does = (self.warpgroups, self.kv_bytes, self.head_dim) == (v.warpgroups, v.kv_bytes, v.head_dim);
        does && rows && v.architecture < Architecture::Sm120
    }
}

/// The table is of today's sources and compilers, no kernel spills, and each is what it is meant to be.
pub fn check() -> Result<()> {
    let [made, code, tiles] = table::read()?;
    if !made.contains(&format!("Sources: `{}`", digest(sources())?)) {
        bail!("cuda/codegen.md is of other sources than there are now; run `cargo xtask codegen`");
    }
    if let Some(version) = COMPILERS.iter().find(|version| !made.contains(&format!(" V{version}."))) {
        bail!("cuda/codegen.md has nothing of nvcc {version}; run `cargo xtask codegen`");
    }
    if let Some(line) = made.lines().find(|line| line.contains("spills") && line.starts_with('|')) {
        bail!("cuda/codegen.md has a kernel that spills registers or has a stack frame: {line}");
    }
    for variant in variants::all() {
        let row_of_made = row(&made, &variant.kernel())?;
        let cells = ARCHS.iter().zip(&row_of_made[OF_ARCHS..]).filter(|(_, cell)| **cell != NONE);
        cells.clone().try_for_each(|(m, cell)| check_resident(variant, m, cell))?;
        if cells.count() == 0 {
            bail!("cuda/codegen.md has {} on no card", variant.kernel());
        }
        if variant.architecture > Architecture::Sm80 {
            let row = row(&code, &variant.kernel())?;
            row[MACHINE_CODE].split(OR).try_for_each(|code| check_machine_code(variant, code))?;
            let counts = table::per_tile(&tiles, &variant.kernel(), "9.0")?;
            let none = || format!("cuda/codegen.md has no instructions of a tile of {}", variant.kernel());
            check_tile(variant, &counts.with_context(none)?)?;
        }
    }
    sources().iter().try_for_each(|path| check_bounds(path))?;
    for name in code.lines().filter_map(|line| line.strip_prefix("| ")?.split(' ').next()) {
        if name.starts_with(PRODUCT) {
            row(&code, name)?[MACHINE_CODE].split(OR).try_for_each(|code| check_product(name, code))?;
            // As `GemmShape` in examples/t5/cuda/gemm_sm90a.cu has it: a block begins beside those of the product before.
            let beside = if name.ends_with("_256") { 1 } else { 2 };
            let cell = row(&made, name)?[OF_ARCHS + HOPPER_COLUMN];
            if blocks(cell)? < beside {
                bail!("{name} is meant to have {beside} blocks on a multiprocessor: {cell}");
            }
        }
    }
    Ok(())
}

/// Every kernel's launch bounds name the blocks that a multiprocessor holds: without, a compiler may lose one silently.
pub fn check_bounds(path: &Path) -> Result<()> {
    let text = std::fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))?;
    for bounds in text.split("__launch_bounds__(").skip(1) {
        // A line holds all of it, and a kernel's name.
        let line = bounds.lines().next().unwrap_or_default();
        let name = line.find(") ").map_or(line, |end| &line[..end]);
        if !name.contains(',') {
            bail!("{}: __launch_bounds__({name}) has no number of blocks", path.display());
        }
    }
    Ok(())
}

/// The fewest blocks of `registers, blocks` by either compiler.
fn blocks(cell: &str) -> Result<usize> {
    let blocks = cell.split(OR).map(|made| made.split(", ").nth(1)?.parse::<usize>().ok());
    blocks.min().flatten().with_context(|| format!("cuda/codegen.md: cannot read `{cell}`"))
}

/// As many blocks fit on a multiprocessor as the plan counts on.
fn check_resident(variant: &Variant, m: &Multiprocessor, cell: &str) -> Result<()> {
    let (capability, facts) = (capability(m.arch), facts(&capability(m.arch), 1)?);
    let (found, wanted) = (blocks(cell)?, variant.resident(&facts));
    if variant.shared_bytes <= facts.shared_bytes_per_block && found < wanted {
        let kernel = variant.kernel();
        bail!(
            "{kernel} on {capability}: the plan counts on {wanted} blocks of a multiprocessor, found: {cell}"
        );
    }
    Ok(())
}

/// A kernel of Hopper's uses what it is there for.
fn check_machine_code(variant: &Variant, code: &str) -> Result<()> {
    let kernel = variant.kernel();
    let products = if variant.warpgroups { "HGMMA" } else { "HMMA" };
    let copies = if variant.cluster > 1 { MULTICAST } else { "UTMALDG" };
    // The exponentials of a thread's scores: those that a softcap adds stand behind a branch. One of every fifth pair of a
    // row's weights is a polynomial.
    let polynomials = if variant.head_dim <= 128 { 2 * ((variant.tile_keys / 8 + 2) / 5) } else { 0 };
    if variant.warpgroups && count(code, HIDDEN) != Some(variant.tile_keys + 2 - polynomials) {
        bail!("the exponentials of {kernel} do not run beside its products: {code}");
    }
    for meant in [products, copies, ROWS_OUT] {
        if count(code, meant).is_none() {
            bail!("the machine code of {kernel} has no {meant}: {code}");
        }
    }
    check_groups(&kernel, code)
}

/// No more instructions of a tile than are claimed where the kernels are described.
pub fn check_tile(variant: &Variant, counts: &Counts) -> Result<()> {
    for bound in BOUNDS.iter().filter(|bound| bound.holds(variant)) {
        let found = bound.class.map_or(counts.iter().sum(), |class| counts[class]);
        if found > bound.most {
            let (kernel, what) = (variant.kernel(), bound.class.map_or("all", |class| CLASSES[class]));
            bail!("{kernel} takes {found} instructions a tile of keys ({what}), allowed: {}", bound.most);
        }
    }
    Ok(())
}

/// Products of a group are in flight together.
fn check_groups(kernel: &str, code: &str) -> Result<()> {
    if count(code, "HGMMA").is_some() && count(code, ENDS) >= count(code, "HGMMA") {
        bail!("the products of {kernel} wait for each other: {code}");
    }
    Ok(())
}

/// What the wait for the work before is there to hide: copies that all come before some wait may all come behind
/// another.
fn check_product(name: &str, code: &str) -> Result<()> {
    if count(code, EARLY).is_none() || count(code, EARLY) >= count(code, "UTMALDG") {
        bail!("{name} waits before it fetches weights: {code}");
    }
    if count(code, "HGMMA").is_none() {
        bail!("the machine code of {name} has no HGMMA: {code}");
    }
    check_groups(name, code)
}

/// How often `opcode` occurs, of what `Made::code` in table.rs wrote.
fn count(code: &str, opcode: &str) -> Option<usize> {
    code.split(", ").find_map(|item| item.strip_suffix(opcode)?.trim_end().parse().ok())
}
