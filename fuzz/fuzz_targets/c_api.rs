//! See `onekv_fuzz::c_api`.
#![cfg_attr(fuzzing, no_main)]

onekv_fuzz::target!(c_api);
