//! What kernels are compiled for.

/// What kernels are compiled for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Architecture {
    /// Compute capability 8.0 and all that came after it.
    Sm80,
    /// Hopper, compute capability 9.0: the copy engine, wgmma. Nothing newer runs these.
    Sm90a,
}

impl Architecture {
    /// Whether a card of this compute capability (major, minor) runs it.
    pub fn runs_on(self, capability: (u32, u32)) -> bool {
        match self {
            Self::Sm80 => capability >= (8, 0),
            Self::Sm90a => capability == (9, 0),
        }
    }
}

/// As in names of kernels and compilers: `sm_80`, `sm_90a`.
impl std::fmt::Display for Architecture {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        out.write_str(match self {
            Self::Sm80 => "sm_80",
            Self::Sm90a => "sm_90a",
        })
    }
}
