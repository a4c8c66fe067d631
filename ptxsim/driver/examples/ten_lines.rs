//! Doubles four numbers on the card.

use cudarc::driver::{CudaContext, LaunchConfig, PushKernelArg};

const PTX: &str = "
    .version 8.0
    .target sm_80
    .address_size 64
    .visible .entry double_it(.param .u64 numbers) {
        .reg .b64 %at; .reg .b64 %step; .reg .b32 %i; .reg .f32 %x;
        ld.param.u64 %at, [numbers];
        mov.u32 %i, %tid.x;
        mul.wide.u32 %step, %i, 4;
        add.u64 %at, %at, %step;
        ld.global.f32 %x, [%at];
        add.f32 %x, %x, %x;
        st.global.f32 [%at], %x;
        ret;
    }";

/// Needs a card, or the virtual one.
pub fn main() -> Result<(), Box<dyn std::error::Error>> {
    let card = CudaContext::new(0)?;
    let stream = card.default_stream();
    let kernel = card.load_module(PTX.into())?.load_function("double_it")?;
    let mut numbers = stream.clone_htod(&[1.0f32, 2.0, 3.0, 4.0])?;
    let config = LaunchConfig { grid_dim: (1, 1, 1), block_dim: (4, 1, 1), shared_mem_bytes: 0 };
    // SAFETY: each of the four threads doubles its own number.
    unsafe { stream.launch_builder(&kernel).arg(&mut numbers).launch(config)? };
    assert_eq!(stream.clone_dtoh(&numbers)?, [2.0, 4.0, 6.0, 8.0]);
    println!("doubled on {}", card.name()?);
    Ok(())
}
