//! See `onekv_fuzz::fatbin`.
#![cfg_attr(fuzzing, no_main)]

onekv_fuzz::target!(fatbin);
