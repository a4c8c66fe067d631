//! See `onekv_fuzz::plan`.
#![cfg_attr(fuzzing, no_main)]

onekv_fuzz::target!(plan);
