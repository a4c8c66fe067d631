//! See `onekv_fuzz::ptx`.
#![cfg_attr(fuzzing, no_main)]

onekv_fuzz::target!(ptx);
