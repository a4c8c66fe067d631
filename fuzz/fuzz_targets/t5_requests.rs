//! See `onekv_fuzz::t5_requests`.
#![cfg_attr(fuzzing, no_main)]

onekv_fuzz::target!(t5_requests);
