//! PTX text: parsed, decoded and, where it is a module, launched.
//!
//! Promised: no panic; errors say a line or a name; memory is that of the text and of what the launch may have; a launch ends
//! by its limit of instructions, with no more than a fault.

use ptxsim::{Card, Checks, GlobalMemory, LaunchConfig, Module, Options};

/// Bytes of the virtual card's memory.
const CARD_BYTES: u64 = 1 << 20;
/// Most instructions of a warp.
const INSTRUCTIONS: u64 = 4000;
/// Most kernels of a module that are launched.
const KERNELS: usize = 3;

pub fn run(data: &[u8]) {
    let Some((first, text)) = data.split_first() else { return };
    let text = String::from_utf8_lossy(text);
    let names = ["a100", "h200", "b200", "rtx5090"];
    let card = Card::by_name(names[usize::from(first & 3)]).expect("a card of that name");
    let memory = GlobalMemory::new(CARD_BYTES);
    let module = match Module::load(&text, card, &memory) {
        Ok(module) => module,
        Err(error) => return assert!(!error.to_string().is_empty()),
    };
    let buffer = memory.allocate(4096).ok();
    let names: Vec<String> = module.kernels().take(KERNELS).map(String::from).collect();
    for name in &names {
        let facts = match module.facts(name) {
            Ok(facts) => facts,
            Err(error) => {
                assert!(error.to_string().contains(name.as_str()), "{error} does not name {name}");
                continue;
            }
        };
        // Each parameter may be a pointer.
        let words = buffer.unwrap_or(0).to_le_bytes();
        let parameters: Vec<u8> = words.into_iter().cycle().take(facts.parameter_bytes).collect();
        let mut config = LaunchConfig::new([2, 1, 1], [u32::from(first >> 2 & 1) * 32 + 32, 1, 1]);
        config.cluster = facts.cluster.unwrap_or([1; 3]);
        config.dynamic_shared_bytes = 1024;
        config.overlaps = first & 16 != 0;
        let checks = if first & 8 != 0 { Checks::ALL } else { Checks::default() };
        let seed = (first & 32 != 0).then_some(u64::from(*first));
        let options =
            Options { checks, seed, threads: 1, instruction_limit: INSTRUCTIONS, ..Options::default() };
        match module.launch(name, &config, &parameters, &memory, options) {
            // Two blocks of at most two warps.
            Ok(counters) => assert!(counters.warp_instructions <= 2 * 2 * INSTRUCTIONS),
            Err(error) => assert!(error.to_string().contains(name.as_str()), "{error} does not name {name}"),
        }
    }
    module.unload(&memory);
}
