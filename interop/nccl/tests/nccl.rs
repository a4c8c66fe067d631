//! What the program says where there is no NCCL.

/// An error that names what is missing, no panic.
#[test]
fn missing_nccl_is_told() {
    // SAFETY: NVIDIA's library, of which nothing but its code for being loaded and unloaded runs.
    if unsafe { cudarc::nccl::sys::is_culib_present() } {
        println!("not tested, as there is an NCCL");
        return;
    }
    let run = std::process::Command::new(env!("CARGO_BIN_EXE_onekv-nccl")).output().unwrap();
    let said = String::from_utf8_lossy(&run.stderr);
    assert_eq!(run.status.code(), Some(1), "{said}");
    assert!(said.starts_with("Error: this wants two cards and NCCL\n"), "{said}");
    assert!(said.contains("NVIDIA's NCCL was not found: cudarc asks for libnccl.so,"), "{said}");
}
