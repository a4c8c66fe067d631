//! Why a call fails.

/// A status, and words for stderr.
pub type Refusal = (u32, String);

pub fn refuse<T>(status: u32, why: impl Into<String>) -> Result<T, Refusal> {
    Err((status, why.into()))
}
