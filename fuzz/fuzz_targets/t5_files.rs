//! See `onekv_fuzz::t5_files`.
#![cfg_attr(fuzzing, no_main)]

onekv_fuzz::target!(t5_files);
