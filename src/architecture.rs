/// What kernels are compiled for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[non_exhaustive]
pub enum Architecture {
    /// Compute capability 8.0 and all that came after it.
    Sm80,
    /// 9.0 and newer, with the shared memory of data-centre cards: the copy engine, launches that overlap.
    Sm90,
    /// Hopper, 9.0, alone: wgmma. Nothing newer runs these.
    Sm90a,
    /// 12.0 and newer: as [`Architecture::Sm90`], in the 99 KiB of shared memory that a block has there.
    Sm120,
}

impl Architecture {
    /// Whether a card of this compute capability (major, minor) runs it.
    pub fn runs_on(self, capability: (u32, u32)) -> bool {
        match self {
            Self::Sm80 => capability >= (8, 0),
            Self::Sm90 => ((9, 0)..(12, 0)).contains(&capability),
            Self::Sm90a => capability == (9, 0),
            Self::Sm120 => capability >= (12, 0),
        }
    }

    /// Whether its kernels fetch with the copy engine, by tensor maps, and wait by themselves for what was launched before.
    pub(crate) fn has_copy_engine(self) -> bool {
        self >= Self::Sm90
    }
}

/// As in names of kernels and compilers: `sm_80`, `sm_90a`.
impl std::fmt::Display for Architecture {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        out.write_str(match self {
            Self::Sm80 => "sm_80",
            Self::Sm90 => "sm_90",
            Self::Sm90a => "sm_90a",
            Self::Sm120 => "sm_120",
        })
    }
}
