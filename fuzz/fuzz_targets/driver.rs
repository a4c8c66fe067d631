//! See `onekv_fuzz::driver`.
#![cfg_attr(fuzzing, no_main)]

onekv_fuzz::target!(driver);
