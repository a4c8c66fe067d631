//! See `onekv_fuzz::problem`.
#![cfg_attr(fuzzing, no_main)]

onekv_fuzz::target!(problem);
