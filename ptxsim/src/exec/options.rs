//! Which checks run, and how a launch is scheduled.

/// What is checked of a launch beside what is always on. [`Checks::default`] blames no correct program. Those from `loads` on
/// are stricter: what they find, cards and `ptxas` are known to bear, though most of it is a fault by the letter of the PTX ISA.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Checks {
    /// `written`: memory that nothing has written decides where a program goes or what it touches.
    pub written: bool,
    /// `races`: two threads use shared memory, one writes, nothing orders them.
    pub races: bool,
    /// `async`: use of what asynchronous work has not finished with, and missing `fence.proxy.async`.
    pub asynchronous: bool,
    /// `loads`: loads of memory that nothing has written, whatever becomes of the value.
    pub loads: bool,
    /// `same-word`: lanes of one store that write different values to one word of shared memory. One of them stays, which one
    /// is undefined (CUDA C++ Programming Guide, "SIMT Architecture").
    pub same_word: bool,
    /// `copy-fence`: `fence.proxy.async` between a `cp.async` and asynchronous work on its bytes. "Async proxy" names bulk
    /// copies and `wgmma` only, so `cp.async` needs one; kernels in production leave it out and get right numbers.
    pub copy_fence: bool,
    /// `init-fence`: a fence between `mbarrier.init` and copies of the same block that complete on it. Between blocks of a
    /// cluster it is asked for by `async`.
    pub init_fence: bool,
    /// `wgmma-registers`: `wgmma.fence` before a product, `wgmma.wait_group` before other uses of its registers. `ptxas`
    /// mends both, by products that run one by one.
    pub wgmma_registers: bool,
}

impl Checks {
    /// Every check.
    pub const ALL: Self = Self {
        written: true,
        races: true,
        asynchronous: true,
        loads: true,
        same_word: true,
        copy_fence: true,
        init_fence: true,
        wgmma_registers: true,
    };
    /// None of them.
    pub const NONE: Self = Self {
        written: false,
        races: false,
        asynchronous: false,
        loads: false,
        same_word: false,
        copy_fence: false,
        init_fence: false,
        wgmma_registers: false,
    };

    /// `all`, `none`, or a list of names with commas between.
    ///
    /// # Errors
    ///
    /// Another name, and those that are allowed.
    pub fn parse(list: &str) -> Result<Self, String> {
        match list.trim() {
            "all" => return Ok(Self::ALL),
            "none" => return Ok(Self::NONE),
            _ => {}
        }
        let mut checks = Self::NONE;
        for name in list.split(',').map(str::trim) {
            let check = match name {
                "written" => &mut checks.written,
                "races" => &mut checks.races,
                "async" => &mut checks.asynchronous,
                "loads" => &mut checks.loads,
                "same-word" => &mut checks.same_word,
                "copy-fence" => &mut checks.copy_fence,
                "init-fence" => &mut checks.init_fence,
                "wgmma-registers" => &mut checks.wgmma_registers,
                _ => {
                    return Err(format!(
                        "`{name}` is no check; allowed: all, none, or a list of written, races, async, loads, \
                         same-word, copy-fence, init-fence, wgmma-registers"
                    ));
                }
            };
            *check = true;
        }
        Ok(checks)
    }
}

impl Default for Checks {
    fn default() -> Self {
        Self { written: true, races: true, asynchronous: true, ..Self::NONE }
    }
}

/// How matrix products of floats, but f64, add up. The PTX ISA leaves order and rounding open.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Accumulation {
    /// `sequential`: in f32, one product after the other in order of k.
    #[default]
    Sequential,
    /// `truncate`: as tensor cores are reported to, several at once and cut off below the largest.
    Truncate,
}

impl Accumulation {
    /// `sequential` or `truncate`.
    ///
    /// # Errors
    ///
    /// Another name, and those that are allowed.
    pub fn parse(name: &str) -> Result<Self, String> {
        match name.trim() {
            "sequential" => Ok(Self::Sequential),
            "truncate" => Ok(Self::Truncate),
            other => Err(format!("`{other}` is no way to add up; allowed: sequential, truncate")),
        }
    }
}

/// How a launch is run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Options {
    /// What is checked.
    pub checks: Checks,
    /// Without one, warps and blocks take turns in order and copies arrive at once. With one, warps, blocks and the
    /// completion of copies come in an order that the seed chooses: what only holds in one order shows.
    pub seed: Option<u64>,
    /// Host threads; 0 takes one per core.
    pub threads: usize,
    /// Most warp instructions of one cluster of blocks.
    pub instruction_limit: u64,
    /// How matrix products add up.
    pub mma: Accumulation,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            checks: Checks::default(),
            seed: None,
            threads: 0,
            instruction_limit: 20_000_000_000,
            mma: Accumulation::default(),
        }
    }
}

impl Options {
    /// The options of the environment: `PTXSIM_CHECKS` as [`Checks::parse`] takes it, `PTXSIM_MMA` as
    /// [`Accumulation::parse`] does, the numbers `PTXSIM_SEED` and `PTXSIM_THREADS`. An empty variable is as good as none.
    ///
    /// # Errors
    ///
    /// The variable, its value, and what is allowed.
    pub fn from_environment() -> Result<Self, String> {
        let mut options = Self::default();
        let set = |name: &str| std::env::var_os(name).filter(|value| !value.is_empty());
        let value = |name: &str| set(name).map(|value| value.to_string_lossy().into_owned());
        if let Some(list) = value("PTXSIM_CHECKS") {
            options.checks = Checks::parse(&list).map_err(|e| format!("PTXSIM_CHECKS={list}: {e}"))?;
        }
        if let Some(name) = value("PTXSIM_MMA") {
            options.mma = Accumulation::parse(&name).map_err(|e| format!("PTXSIM_MMA={name}: {e}"))?;
        }
        if let Some(seed) = value("PTXSIM_SEED") {
            let number = seed.parse().map_err(|_| format!("PTXSIM_SEED={seed}, allowed: a number from 0"))?;
            options.seed = Some(number);
        }
        if let Some(threads) = value("PTXSIM_THREADS") {
            let refused =
                |_| format!("PTXSIM_THREADS={threads}, allowed: a number from 0 (one for each core)");
            options.threads = threads.parse().map_err(refused)?;
        }
        Ok(options)
    }
}

/// Numbers by a seed (SplitMix64: Steele, Lea, Flood 2014).
#[derive(Debug)]
pub struct Random(u64);

impl Random {
    /// The numbers of a seed.
    pub fn of(seed: u64) -> Self {
        Self(seed)
    }

    /// For one part of a launch, by its number.
    pub(super) fn new(seed: u64, part: u64) -> Self {
        let mut random = Self::of(seed ^ part.wrapping_mul(0xd134_2543_de82_ef95));
        random.next();
        random
    }

    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// A number below `bound`, which is not 0.
    pub fn below(&mut self, bound: usize) -> usize {
        (self.next() % bound as u64) as usize
    }

    /// True once in `times`.
    pub fn once_in(&mut self, times: usize) -> bool {
        self.below(times) == 0
    }

    /// Another order.
    pub fn shuffle<T>(&mut self, list: &mut [T]) {
        for at in (1..list.len()).rev() {
            list.swap(at, self.below(at + 1));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{Accumulation, Checks};

    #[test]
    fn checks_have_names() {
        assert_eq!(Checks::parse("all"), Ok(Checks::ALL));
        assert_eq!(Checks::parse("none"), Ok(Checks::NONE));
        assert_eq!(Checks::parse("written, races,async"), Ok(Checks::default()));
        let strict = Checks { written: false, races: false, asynchronous: false, ..Checks::ALL };
        assert_eq!(Checks::parse("loads,same-word,copy-fence,init-fence,wgmma-registers"), Ok(strict));
        for wrong in ["", "racez", "races,", "all,races"] {
            let told = Checks::parse(wrong).unwrap_err();
            assert!(told.contains("is no check; allowed: all, none"), "{wrong}: {told}");
        }
    }

    #[test]
    fn ways_to_add_up_have_names() {
        assert_eq!(Accumulation::parse("sequential"), Ok(Accumulation::default()));
        assert_eq!(Accumulation::parse("truncate"), Ok(Accumulation::Truncate));
        let told = Accumulation::parse("exact").unwrap_err();
        assert_eq!(told, "`exact` is no way to add up; allowed: sequential, truncate");
    }
}
