//! Spans for profilers, with the feature `tracing`; without it nothing.

/// A span of `tracing`'s to the end of the block. Fields are evaluated where somebody listens.
macro_rules! span {
    ($($name_and_fields:tt)*) => {
        #[cfg(feature = "tracing")]
        let _span = tracing::debug_span!(target: "onekv", $($name_and_fields)*).entered();
    };
}
pub(crate) use span;
