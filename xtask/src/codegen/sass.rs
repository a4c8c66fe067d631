//! What nvdisasm shows of kernels: their instructions, the loop over tiles of keys, and what a pass of it takes.

#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Context as _, Result, bail};

/// Kinds of instructions, in the order of [`Counts`] and of the table.
pub const CLASSES: [&str; 8] =
    ["address", "products", "exponentials", "FP32", "shared", "barriers", "branches", "other"];
/// Instructions of a kind.
pub type Counts = [usize; CLASSES.len()];

pub const ADDRESS: usize = 0;
pub const PRODUCTS: usize = 1;
pub const EXPONENTIALS: usize = 2;
pub const FP32: usize = 3;

/// The kind of an instruction, by its name without what follows a point.
fn class(opcode: &str) -> usize {
    match opcode.split('.').next().unwrap_or_default() {
        // Arithmetic on integers and predicates, moves: of lanes, and of the uniform datapath, whose names begin with U.
        "IMAD" | "IADD" | "IADD3" | "LEA" | "LOP3" | "SHF" | "VIADD" | "VIADDMNMX" | "VIMNMX" | "VIMNMX3"
        | "IMNMX" | "IABS" | "ISETP" | "PLOP3" | "SEL" | "PRMT" | "MOV" | "CS2R" | "S2R" | "S2UR"
        | "R2UR" | "R2P" | "P2R" | "LDC" | "LEPC" | "BMSK" | "SGXT" | "POPC" | "FLO" => ADDRESS,
        "HGMMA" | "HMMA" => PRODUCTS,
        "MUFU" => EXPONENTIALS,
        "FFMA" | "FMUL" | "FADD" | "FMNMX" | "FMNMX3" | "FSEL" | "FSETP" | "FSET" | "FCHK" | "F2F"
        | "F2FP" | "F2I" | "I2F" | "I2FP" | "HADD2" | "HMUL2" | "HFMA2" | "HSETP2" | "HMNMX2" => FP32,
        "LDS" | "STS" | "LDSM" | "STSM" | "LDGSTS" | "ATOMS" => 4,
        "SYNCS" | "BAR" | "DEPBAR" | "LDGDEPBAR" | "ELECT" | "WARPSYNC" | "WARPGROUP" | "WARPGROUPSET"
        | "MEMBAR" | "FENCE" | "ERRBAR" | "CGAERRBAR" | "CCTL" | "UCGABAR_ARV" | "UCGABAR_WAIT"
        | "ACQBULK" | "PREEXIT" | "ENDCOLLECTIVE" | "NANOSLEEP" => 5,
        "BRA" | "BRX" | "BSSY" | "BSYNC" | "BREAK" | "CALL" | "RET" | "EXIT" | "YIELD" | "JMP" => 6,
        name if name.starts_with('U') && !name.starts_with("UTMA") => ADDRESS,
        _ => 7,
    }
}

pub struct Instruction<'t> {
    /// Name with all that belongs to it, and the whole text behind a predicate.
    pub opcode: &'t str,
    pub text: &'t str,
    predicated: bool,
    /// The label of a branch.
    target: Option<&'t str>,
}

/// A kernel's machine code.
#[derive(Default)]
pub struct Kernel<'t> {
    pub instructions: Vec<Instruction<'t>>,
    /// What may come behind an instruction, and before it.
    after: Vec<Vec<usize>>,
    before: Vec<Vec<usize>>,
}

/// The kernels of what `nvdisasm -c` wrote, by name.
pub fn kernels(text: &str) -> Result<BTreeMap<&str, Kernel<'_>>> {
    let mut kernels: BTreeMap<&str, Kernel<'_>> = BTreeMap::new();
    let mut labels: BTreeMap<&str, usize> = BTreeMap::new();
    let mut open: Option<(&str, Vec<Instruction<'_>>)> = None;
    for line in text.lines().chain([".section"]) {
        let section = line.trim_start().starts_with(".section");
        if line.starts_with(".text.") || section {
            if let Some((name, instructions)) = open.take() {
                let kernel = Kernel::new(instructions, &labels).with_context(|| name.to_owned())?;
                kernels.insert(name, kernel);
                labels.clear();
            }
            open =
                line.strip_prefix(".text.").map(|name| (name.trim_end().trim_end_matches(':'), Vec::new()));
        } else if let Some((_, instructions)) = &mut open {
            match line.split_once("*/") {
                Some((_, code)) => instructions.extend(instruction(code)),
                None => {
                    if let Some(label) = line.trim_end().strip_suffix(':') {
                        labels.insert(label, instructions.len());
                    }
                }
            }
        }
    }
    Ok(kernels)
}

/// `  @!P0 BRA `(.L_x_7) ;`
fn instruction(code: &str) -> Option<Instruction<'_>> {
    let text = code.split_once(';')?.0.trim();
    let predicated = text.starts_with('@');
    let text = if predicated { text.split_once(char::is_whitespace)?.1.trim_start() } else { text };
    let target = text.split_once("`(").and_then(|(_, label)| Some(label.split_once(')')?.0));
    Some(Instruction { opcode: text.split_whitespace().next()?, text, predicated, target })
}

impl<'t> Kernel<'t> {
    fn new(instructions: Vec<Instruction<'t>>, labels: &BTreeMap<&str, usize>) -> Result<Self> {
        let count = instructions.len();
        let (mut after, mut before) = (vec![Vec::new(); count], vec![Vec::new(); count]);
        for (i, instruction) in instructions.iter().enumerate() {
            let name = instruction.opcode.split('.').next().unwrap_or_default();
            let mut next = Vec::new();
            // `BRA.U UP0, ...` and the like have their condition among what follows the name.
            let mut goes_on =
                instruction.predicated || !matches!(name, "BRA" | "EXIT" | "RET" | "BRX" | "JMP");
            if let ("BRA", Some(label)) = (name, instruction.target) {
                next.push(
                    *labels.get(label).with_context(|| format!("a branch to {label}, which is nowhere"))?,
                );
                goes_on |= !instruction.text.starts_with("BRA `(");
            }
            next.extend(goes_on.then_some(i + 1));
            for to in next.into_iter().filter(|to| *to < count) {
                after[i].push(to);
                before[to].push(i);
            }
        }
        Ok(Self { instructions, after, before })
    }

    /// Multiplications and additions in pairs of a product, as its name has them: `HGMMA.64x128x16.F32.BF16`, and for
    /// `mma.sync` without crosses, `HMMA.16816.F32.BF16`. Of a warpgroup or of a warp; 0 of other instructions.
    fn products(&self, i: usize) -> usize {
        let mut parts = self.instructions[i].opcode.split('.');
        match (parts.next(), parts.next()) {
            (Some("HGMMA"), Some(shape)) => shape.split('x').map_while(|n| n.parse::<usize>().ok()).product(),
            (Some("HMMA"), Some("16816")) => 16 * 8 * 16,
            (Some("HMMA"), Some("1688")) => 16 * 8 * 8,
            _ => 0,
        }
    }

    /// All that is reached from `from` by one step of `steps` or more, without leaving `within` or passing `past`.
    fn reached(
        steps: &[Vec<usize>],
        from: usize,
        within: &BTreeSet<usize>,
        past: Option<usize>,
    ) -> BTreeSet<usize> {
        let mut reached = BTreeSet::new();
        let mut open = vec![from];
        while let Some(i) = open.pop() {
            for &to in &steps[i] {
                if within.contains(&to) && Some(to) != past && reached.insert(to) {
                    open.push(to);
                }
            }
        }
        reached
    }

    /// The innermost cycles that hold products: of what lies on a cycle together, the ways in are taken out, and what is
    /// still on one is a loop inside it. Wherever ptxas enters a loop, and whatever it peeled off, this finds it.
    fn innermost(&self, within: &BTreeSet<usize>) -> Vec<BTreeSet<usize>> {
        let mut found: Vec<BTreeSet<usize>> = Vec::new();
        let mut seen: BTreeSet<usize> = BTreeSet::new();
        for &product in within.iter().filter(|i| self.products(**i) > 0) {
            if seen.contains(&product) {
                continue;
            }
            let behind = Self::reached(&self.after, product, within, None);
            let mut body = Self::reached(&self.before, product, within, None);
            body.retain(|i| behind.contains(i));
            if !body.contains(&product) {
                continue;
            }
            seen.extend(&body);
            let is_entry = |i: &usize| *i == 0 || self.before[*i].iter().any(|from| !body.contains(from));
            let rest: BTreeSet<usize> = body.iter().copied().filter(|i| !is_entry(i)).collect();
            // What is never entered is never left either.
            let inner = if rest.len() < body.len() { self.innermost(&rest) } else { Vec::new() };
            found.extend(if inner.is_empty() { vec![body] } else { inner });
        }
        found
    }

    /// What every pass of a loop takes, and where it fetches and releases, though that be behind a branch that is taken by
    /// one lane or but near the end. Left out is what waits again, masks keys and caps scores.
    fn pass(&self, body: &BTreeSet<usize>) -> Result<Vec<usize>> {
        let anchor = body.iter().copied().find(|i| self.products(*i) > 0).context("no products")?;
        let mut always = BTreeSet::from([anchor]);
        let mut last = None;
        for &i in body {
            let only = |steps: &[usize], one: usize| steps == [one];
            let follows = i > 0
                && body.contains(&(i - 1))
                && only(&self.after[i - 1], i)
                && only(&self.before[i], i - 1);
            let is = match last {
                Some(is) if follows && i - 1 != anchor && i != anchor => is,
                _ => i == anchor || !Self::reached(&self.after, anchor, body, Some(i)).contains(&anchor),
            };
            last = Some(is);
            if is {
                always.insert(i);
            }
        }
        let mut left: BTreeSet<usize> = body.difference(&always).copied().collect();
        let around: Vec<Vec<usize>> = self
            .after
            .iter()
            .zip(&self.before)
            .map(|(after, before)| [&after[..], before].concat())
            .collect();
        while let Some(first) = left.first().copied() {
            let mut region = Self::reached(&around, first, &left, None);
            region.insert(first);
            left.retain(|i| !region.contains(i));
            let counts = |i: &usize| {
                let opcode = self.instructions[*i].opcode;
                self.products(*i) > 0 || opcode.starts_with("UTMALDG") || opcode.starts_with("SYNCS.ARRIVE")
            };
            if region.iter().any(counts) {
                always.extend(region);
            }
        }
        Ok(always.into_iter().collect())
    }

    /// Instructions of a warp for a tile whose products are this many pairs of a multiplication and an addition.
    ///
    /// # Errors
    /// Where there is no loop with whole tiles of products.
    pub fn per_tile(&self, products: usize) -> Result<Counts> {
        let all = (0..self.instructions.len()).collect();
        let mut best: Option<(usize, Vec<usize>)> = None;
        for body in self.innermost(&all) {
            let pass = self.pass(&body)?;
            let done = pass.iter().map(|i| self.products(*i)).sum::<usize>();
            // The one that most is done in; the shortest of equals.
            if best.as_ref().is_none_or(|(most, least)| (done, least.len()) > (*most, pass.len())) {
                best = Some((done, pass));
            }
        }
        let (done, pass) =
            best.context("its products are in no loop: no branch leads back to before them")?;
        if !done.is_multiple_of(products) {
            bail!(
                "a pass of its loop multiplies {done} pairs, allowed: a multiple of {products}, those of a tile"
            );
        }
        let mut counts = Counts::default();
        pass.iter().for_each(|i| counts[class(self.instructions[*i].opcode)] += 1);
        Ok(counts.map(|count| count.div_ceil(done / products)))
    }
}
