//! Devices and their attributes: `PTXSIM_DEVICES` cards of the kind `PTXSIM_DEVICE`.

use std::sync::Arc;

use crate::backend::{Device, MAX_THREADS, RESERVED_SHARED_BYTES};
use crate::guard::driver_api;
use crate::host;
use crate::state::lock;
use crate::status::{Code, Outcome};

/// Fixed identity of a virtual device: "ptxsim", the compute capability and the ordinal.
fn uuid(device: &Device) -> [u8; 16] {
    let mut id = *b"ptxsim-gpu-00-00";
    id[11] = b'0' + device.card.compute_capability.0 as u8 % 10;
    id[14] = b'0' + device.card.compute_capability.1 as u8 % 10;
    id[15] = b'0' + device.ordinal as u8;
    id
}

pub(crate) fn get(ordinal: i32) -> Outcome<Arc<Device>> {
    let driver = lock();
    driver.any_device()?;
    let devices = &driver.devices.0;
    let found = usize::try_from(ordinal).ok().and_then(|ordinal| devices.get(ordinal));
    found.cloned().ok_or_else(|| {
        Code::INVALID_DEVICE.because(format!("device {ordinal}, allowed: 0 to {}", devices.len() - 1))
    })
}

driver_api! {
    fn cuDeviceGetCount(count: usize) {
        let driver = lock();
        driver.any_device()?;
        host::write(count, driver.devices.0.len() as i32)
    }

    fn cuDeviceGet(device: usize, ordinal: i32) {
        get(ordinal)?;
        host::write(device, ordinal)
    }

    fn cuDeviceGetName(name: usize, length: i32, device: i32) {
        let card = get(device)?;
        let room = usize::try_from(length).unwrap_or(0);
        if room == 0 {
            return Err(Code::INVALID_VALUE.because("no room for the name"));
        }
        let full = format!("ptxsim {}", card.card.name);
        let mut text = full.into_bytes();
        text.truncate(room - 1);
        text.push(0);
        host::write_bytes(name, &text)
    }

    fn cuDeviceGetUuid(id: usize, device: i32) {
        host::write_bytes(id, &uuid(&*get(device)?))
    }

    fn cuDeviceGetUuid_v2(id: usize, device: i32) {
        host::write_bytes(id, &uuid(&*get(device)?))
    }

    fn cuDeviceTotalMem_v2(bytes: usize, device: i32) {
        host::write(bytes, get(device)?.card.memory_bytes as usize)
    }

    fn cuDeviceComputeCapability(major: usize, minor: usize, device: i32) {
        let (high, low) = get(device)?.card.compute_capability;
        host::write(major, high as i32)?;
        host::write(minor, low as i32)
    }

    fn cuDeviceGetPCIBusId(text: usize, length: i32, device: i32) {
        let id = format!("0000:{:02x}:00.0\0", get(device)?.ordinal);
        if usize::try_from(length).unwrap_or(0) < id.len() {
            return Err(Code::INVALID_VALUE.because(format!("room for {length} bytes, {} needed", id.len())));
        }
        host::write_bytes(text, id.as_bytes())
    }

    fn cuDeviceGetAttribute(value: usize, attribute: i32, device: i32) {
        let device = get(device)?;
        let found = attribute_value(&device, attribute)
            .ok_or_else(|| Code::INVALID_VALUE.because(format!("no device attribute {attribute}")))?;
        host::write(value, i32::try_from(found).unwrap_or(i32::MAX))
    }

    fn cuDeviceCanAccessPeer(can: usize, device: i32, peer: i32) {
        get(device)?;
        get(peer)?;
        host::write(can, 0i32)
    }
}

/// A device attribute by its number in the header; `None` for numbers it does not have.
fn attribute_value(device: &Device, attribute: i32) -> Option<u64> {
    let card = &device.card;
    let (major, minor) = card.compute_capability;
    let hopper = u64::from(major >= 9);
    Some(match attribute {
        1 => u64::from(MAX_THREADS),
        2 | 3 => 1024,
        4 => 64,
        5 => 0x7fff_ffff,
        6 | 7 => 65_535,
        8 => u64::from(card.shared_per_block),
        9 => 65_536,
        10 => 32,
        11 => 0x7fff_ffff,
        12 | 82 => 65_536,
        14 => 512,
        16 => u64::from(card.multiprocessors),
        38 => card.l2_bytes,
        39 => u64::from(card.threads_per_multiprocessor),
        // Textures do not exist here; their limits are 0 below.
        30 | 51 => 32,
        33 => device.ordinal as u64,
        // Overlap, mapped host memory, concurrent kernels, unified addresses, priorities, caching, managed memory, also while
        // kernels run, preemption, cooperative launches, registered host memory, stream-ordered pools.
        15 | 19 | 31 | 41 | 78 | 79 | 80 | 83 | 89 | 90 | 95 | 99 | 115 => 1,
        40 => 3,
        75 => u64::from(major),
        76 => u64::from(minor),
        81 => u64::from(card.shared_per_multiprocessor),
        97 => u64::from(card.shared_per_block_optin),
        106 => u64::from(card.blocks_per_multiprocessor),
        111 => u64::from(RESERVED_SHARED_BYTES),
        120 | 127 => hopper,
        // What the header has and the simulator lacks: clocks, textures, IPC and the rest.
        0 | 162.. | i32::MIN..0 => return None,
        _ => 0,
    })
}
