//! Functions: kernels of a module, and their attributes.

use crate::backend::{Device, KernelFacts, MAX_THREADS, Program};
use crate::guard::driver_api;
use crate::host;
use crate::state::{Settings, lock};
use crate::status::{Code, Outcome};
use crate::work::Handle;

/// Kernel attributes by their number in the header.
mod attribute {
    pub(super) const MAX_THREADS: i32 = 0;
    pub(super) const STATIC_SHARED: i32 = 1;
    pub(super) const CONSTANT: i32 = 2;
    pub(super) const LOCAL: i32 = 3;
    pub(super) const REGISTERS: i32 = 4;
    pub(super) const PTX_VERSION: i32 = 5;
    pub(super) const BINARY_VERSION: i32 = 6;
    pub(super) const CACHE_MODE: i32 = 7;
    pub(super) const DYNAMIC_SHARED: i32 = 8;
    pub(super) const CARVEOUT: i32 = 9;
    pub(super) const CLUSTER_REQUIRED: i32 = 10;
    pub(super) const CLUSTER_WIDTH: i32 = 11;
    pub(super) const CLUSTER_DEPTH: i32 = 13;
    pub(super) const LARGE_CLUSTERS: i32 = 14;
    pub(super) const CLUSTER_POLICY: i32 = 15;
}

/// The cache configurations there are.
pub(super) fn check_cache_config(config: i32) -> Outcome {
    if !(0..=3).contains(&config) {
        return Err(Code::INVALID_VALUE.because(format!("cache configuration {config}, allowed are 0 to 3")));
    }
    Ok(())
}

/// The value of a kernel's attribute.
pub(super) fn get(
    attribute: i32,
    facts: &KernelFacts,
    program: &Program,
    settings: &Settings,
    device: &Device,
) -> Outcome<i32> {
    let cluster = facts.cluster.unwrap_or(settings.required_cluster);
    Ok(match attribute {
        attribute::MAX_THREADS => facts.max_threads.unwrap_or(MAX_THREADS),
        attribute::STATIC_SHARED => facts.static_shared_bytes,
        // PTX names no hardware registers and no constant banks.
        attribute::CONSTANT | attribute::REGISTERS | attribute::CACHE_MODE => 0,
        attribute::LOCAL => facts.local_bytes,
        attribute::PTX_VERSION => program.target,
        attribute::BINARY_VERSION => device.architecture(),
        attribute::DYNAMIC_SHARED => settings.dynamic_limit(facts, device),
        attribute::CARVEOUT => settings.carveout as u32,
        attribute::CLUSTER_REQUIRED => u32::from(facts.cluster.is_some()),
        attribute::CLUSTER_WIDTH..=attribute::CLUSTER_DEPTH => {
            cluster[(attribute - attribute::CLUSTER_WIDTH) as usize]
        }
        attribute::LARGE_CLUSTERS => u32::from(settings.large_clusters),
        attribute::CLUSTER_POLICY => settings.cluster_policy as u32,
        _ => return Err(Code::INVALID_VALUE.because(format!("no kernel attribute {attribute}"))),
    } as i32)
}

/// Sets a kernel's attribute.
pub(super) fn set(
    settings: &mut Settings,
    attribute: i32,
    value: i32,
    facts: &KernelFacts,
    device: &Device,
) -> Outcome {
    let most = device.card.shared_per_block_optin.saturating_sub(facts.static_shared_bytes);
    let wrong = |allowed: &str| {
        Err(Code::INVALID_VALUE
            .because(format!("kernel attribute {attribute} is {value}, allowed is {allowed}")))
    };
    match attribute {
        attribute::DYNAMIC_SHARED => match u32::try_from(value) {
            Ok(bytes) if bytes <= most => settings.raised_shared_bytes = Some(bytes),
            _ => return wrong(&format!("0 to {most} bytes on this card")),
        },
        attribute::CARVEOUT if (-1..=100).contains(&value) => settings.carveout = value,
        attribute::CARVEOUT => return wrong("-1 to 100"),
        attribute::CLUSTER_WIDTH..=attribute::CLUSTER_DEPTH if value >= 0 => {
            settings.required_cluster[(attribute - attribute::CLUSTER_WIDTH) as usize] = value as u32;
        }
        attribute::LARGE_CLUSTERS if (0..=1).contains(&value) => settings.large_clusters = value == 1,
        attribute::CLUSTER_POLICY if (0..=2).contains(&value) => settings.cluster_policy = value,
        _ => return wrong("a writable attribute in its range"),
    }
    Ok(())
}

/// Writes where among the parameters one is, and its bytes.
pub(super) fn parameter(facts: &KernelFacts, index: usize, offset: usize, bytes: usize) -> Outcome {
    let found = facts.parameters.get(index);
    let found = found.ok_or_else(|| {
        Code::INVALID_VALUE.because(format!("parameter {index} of {}", facts.parameters.len()))
    })?;
    host::write(offset, found.offset)?;
    host::write_optional(bytes, found.bytes)
}

driver_api! {
    fn cuFuncGetModule(out: usize, function: usize) {
        let driver = lock();
        host::write(out, driver.function(function)?.module)
    }

    fn cuFuncIsLoaded(state: usize, function: usize) {
        lock().function(function)?;
        host::write(state, 1i32)
    }

    fn cuFuncLoad(function: usize) {
        lock().function(function).map(|_| ())
    }

    fn cuFuncGetParamInfo(function: usize, index: usize, offset: usize, bytes: usize) {
        let driver = lock();
        parameter(&driver.function(function)?.facts, index, offset, bytes)
    }

    fn cuFuncSetCacheConfig(function: usize, config: i32) {
        check_cache_config(config)?;
        lock().function(function).map(|_| ())
    }

    fn cuFuncGetName(name: usize, function: usize) {
        let driver = lock();
        host::write(name, driver.function(function)?.symbol.as_ptr() as usize)
    }

    fn cuFuncGetParamCount(function: usize, count: usize) {
        let driver = lock();
        host::write(count, driver.function(function)?.facts.parameters.len())
    }

    fn cuFuncGetAttribute(value: usize, attribute: i32, function: usize) {
        let driver = lock();
        let device = driver.ready()?;
        let found = driver.function(function)?;
        host::write(value, get(attribute, &found.facts, &found.program, &found.settings, &device)?)
    }

    fn cuFuncSetAttribute(function: usize, attribute: i32, value: i32) {
        let mut driver = lock();
        let device = driver.ready()?;
        driver.function(function)?;
        let found = driver.functions.get_mut(&(function as Handle)).ok_or(Code::INVALID_HANDLE)?;
        set(&mut found.settings, attribute, value, &found.facts, &device)
    }
}
