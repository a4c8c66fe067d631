//! Modules, functions and module variables.

use std::collections::HashMap;
use std::sync::Arc;

use crate::backend::Device;
use crate::fatbin;
use crate::guard::driver_api;
use crate::host;
use crate::state::{Function, Handle, LoadedModule, lock};
use crate::status::{Code, Failure, Outcome};

/// No PTX text is longer.
const TEXT_LIMIT: usize = 1 << 28;
const NAME_LIMIT: usize = 1 << 16;

/// JIT options that give the caller's buffer for errors, and its size in bytes.
const ERROR_LOG: i32 = 5;
const ERROR_LOG_BYTES: i32 = 6;

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

/// The PTX text behind the address a program passed as a module image.
fn image_text(image: usize, device: &Device) -> Outcome<String> {
    let corrupt = |error: fatbin::FatbinError| Code::INVALID_IMAGE.because(error.to_string());
    let mut start = [0u8; 4];
    host::read_bytes(image, &mut start)?;
    let word = u32::from_le_bytes(start);
    if word == fatbin::WRAPPER_MAGIC {
        return image_text(host::read::<usize>(image.wrapping_add(8))?, device);
    }
    if word == fatbin::MAGIC {
        let mut header = [0u8; fatbin::HEADER_BYTES];
        host::read_bytes(image, &mut header)?;
        let mut bytes = vec![0; fatbin::total_bytes(&header).map_err(corrupt)?];
        host::read_bytes(image, &mut bytes)
            .map_err(|failure| Failure { code: Code::INVALID_IMAGE, ..failure })?;
        let entries = fatbin::entries(&bytes).map_err(corrupt)?;
        let chosen = fatbin::choose(&entries, device.architecture()).ok_or_else(|| {
            let has: Vec<String> = entries
                .iter()
                .map(|entry| {
                    format!(
                        "{:?} {}{}",
                        entry.kind,
                        entry.architecture,
                        if entry.specific { "a" } else { "" }
                    )
                })
                .collect();
            Code::NO_BINARY_FOR_GPU.because(format!(
                "no PTX for compute capability {}; the fatbin has {}",
                device.architecture(),
                has.join(", ")
            ))
        })?;
        return chosen.text().map_err(corrupt);
    }
    if &start == b"\x7fELF" {
        return Err(Code::NO_BINARY_FOR_GPU.because("machine code without PTX: the simulator runs PTX only"));
    }
    let text = host::read_c_string(image, TEXT_LIMIT)?;
    String::from_utf8(text).map_err(|_| Code::INVALID_IMAGE.because("neither PTX text nor a fatbin"))
}

fn load(out: usize, text: &str) -> Outcome {
    let device = lock().ready()?;
    let program = Arc::new(device.load(text)?);
    let mut driver = lock();
    let handle = driver.handle();
    host::write(out, handle)?;
    let context = driver.context()?;
    driver
        .modules
        .insert(handle, LoadedModule { context, card: device.ordinal, program, functions: HashMap::new() });
    Ok(())
}

fn load_image(out: usize, image: usize) -> Outcome {
    let device = lock().ready()?;
    load(out, &image_text(image, &device)?)
}

/// Copies a load error into the caller's JIT log, where it gave one.
fn log_error(failure: &Failure, count: u32, options: usize, values: usize) -> Outcome {
    let options: Vec<i32> = host::read_many(options, count as usize)?;
    let values: Vec<usize> = host::read_many(values, count as usize)?;
    let value = |wanted| options.iter().position(|option| *option == wanted).map(|at| values[at]);
    if let (Some(buffer), Some(room)) = (value(ERROR_LOG), value(ERROR_LOG_BYTES))
        && room > 0
    {
        let mut text = failure.message.clone().unwrap_or_default().into_bytes();
        text.truncate((room & 0xffff_ffff) - 1);
        text.push(0);
        host::write_bytes(buffer, &text)?;
    }
    Ok(())
}

fn name_at(address: usize) -> Outcome<String> {
    let name = host::read_c_string(address, NAME_LIMIT)?;
    String::from_utf8(name).map_err(|_| Code::INVALID_VALUE.because("a name that is not text"))
}

driver_api! {
    fn cuModuleLoadData(out: usize, image: usize) {
        load_image(out, image)
    }

    fn cuModuleLoadDataEx(out: usize, image: usize, count: u32, options: usize, values: usize) {
        load_image(out, image).inspect_err(|failure| {
            if count > 0 && count < 64 {
                // The load has failed; a log that cannot be written changes nothing.
                let _ = log_error(failure, count, options, values);
            }
        })
    }

    fn cuModuleLoadFatBinary(out: usize, image: usize) {
        load_image(out, image)
    }

    fn cuModuleLoad(out: usize, path: usize) {
        let device = lock().ready()?;
        let path = name_at(path)?;
        let mut bytes = std::fs::read(&path).map_err(|error| Code::FILE_NOT_FOUND.because(format!("{path}: {error}")))?;
        bytes.push(0);
        // A cut fatbin must not be read past the file's end.
        if let Ok(whole) = fatbin::total_bytes(&bytes) && whole > bytes.len() - 1 {
            return Err(Code::INVALID_IMAGE.because(format!("{path}: {} bytes, its header says {whole}", bytes.len() - 1)));
        }
        load(out, &image_text(bytes.as_ptr() as usize, &device)?)
    }

    fn cuModuleUnload(module: usize) {
        let mut driver = lock();
        let handle = module as Handle;
        let gone = driver.modules.remove(&handle)
            .ok_or_else(|| Code::INVALID_HANDLE.because(format!("{module:#x} is not a live module")))?;
        driver.functions.retain(|_, function| function.module != handle);
        let device = driver.devices.0[gone.card].clone();
        // Launches still queued use the variables. A fault of theirs stays in the context.
        drop(driver);
        let _ = crate::schedule::wait(crate::schedule::Goal::Card(gone.card));
        device.unload(&gone.program);
        Ok(())
    }

    fn cuModuleGetFunction(out: usize, module: usize, name: usize) {
        let name = name_at(name)?;
        let mut driver = lock();
        driver.ready()?;
        let fresh = driver.handle();
        let handle = module as Handle;
        let loaded = driver.modules.get_mut(&handle)
            .ok_or_else(|| Code::INVALID_HANDLE.because(format!("{module:#x} is not a live module")))?;
        if let Some(known) = loaded.functions.get(&name) {
            return host::write(out, *known);
        }
        if let Some(why) = loaded.program.unsupported.get(&name) {
            return Err(Code::NOT_SUPPORTED.because(why.clone()));
        }
        let Some(facts) = loaded.program.kernels.get(&name).cloned() else {
            let has: Vec<&str> = loaded.program.kernels.keys().map(String::as_str).collect();
            return Err(Code::NOT_FOUND.because(format!("no kernel `{name}`; the module has {}", has.join(", "))));
        };
        let (program, context) = (loaded.program.clone(), loaded.context);
        host::write(out, fresh)?;
        loaded.functions.insert(name.clone(), fresh);
        driver.functions.insert(fresh, Function {
            program, module: handle, context, name: name.into(), facts, raised_shared_bytes: None, carveout: -1,
            required_cluster: [0; 3], large_clusters: false,
        });
        Ok(())
    }

    fn cuModuleGetFunctionCount(count: usize, module: usize) {
        let driver = lock();
        let loaded = driver.modules.get(&(module as Handle)).ok_or(Code::INVALID_HANDLE)?;
        host::write(count, loaded.program.kernels.len() as u32)
    }

    fn cuModuleGetGlobal_v2(address: usize, bytes: usize, module: usize, name: usize) {
        let name = name_at(name)?;
        let driver = lock();
        driver.ready()?;
        let loaded = driver.modules.get(&(module as Handle))
            .ok_or_else(|| Code::INVALID_HANDLE.because(format!("{module:#x} is not a live module")))?;
        let (at, length) = loaded.program.globals.get(&name)
            .ok_or_else(|| Code::NOT_FOUND.because(format!("no module variable `{name}`")))?;
        host::write_optional(address, *at)?;
        host::write_optional(bytes, *length)
    }

    fn cuModuleGetLoadingMode(mode: usize) {
        // 1: eager.
        host::write(mode, 1i32)
    }

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
        let found = driver.function(function)?;
        let facts = &found.facts;
        let parameter = facts.parameters.get(index).ok_or_else(|| {
            Code::INVALID_VALUE.because(format!("parameter {index} of {}", facts.parameters.len()))
        })?;
        host::write(offset, parameter.offset)?;
        host::write_optional(bytes, parameter.bytes)
    }

    fn cuFuncSetCacheConfig(function: usize, _config: i32) {
        lock().function(function).map(|_| ())
    }

    fn cuFuncGetAttribute(value: usize, attribute: i32, function: usize) {
        let driver = lock();
        driver.ready()?;
        let found = driver.function(function)?;
        let facts = &found.facts;
        let cluster = facts.cluster.unwrap_or(found.required_cluster);
        let device = driver.any_device()?;
        let answer = match attribute {
            attribute::MAX_THREADS => facts.max_threads.unwrap_or(crate::backend::MAX_THREADS),
            attribute::STATIC_SHARED => facts.static_shared_bytes,
            // PTX names no hardware registers and no constant banks.
            attribute::CONSTANT | attribute::REGISTERS | attribute::CACHE_MODE => 0,
            attribute::LOCAL => facts.local_bytes,
            attribute::PTX_VERSION => found.program.target,
            attribute::BINARY_VERSION => device.architecture(),
            attribute::DYNAMIC_SHARED => found.dynamic_limit(&device),
            attribute::CARVEOUT => found.carveout as u32,
            attribute::CLUSTER_REQUIRED => u32::from(facts.cluster.is_some()),
            attribute::CLUSTER_WIDTH..=attribute::CLUSTER_DEPTH => cluster[(attribute - attribute::CLUSTER_WIDTH) as usize],
            attribute::LARGE_CLUSTERS => u32::from(found.large_clusters),
            attribute::CLUSTER_POLICY => 0,
            _ => return Err(Code::INVALID_VALUE.because(format!("no kernel attribute {attribute}"))),
        };
        host::write(value, answer as i32)
    }

    fn cuFuncSetAttribute(function: usize, attribute: i32, value: i32) {
        let mut driver = lock();
        let device = driver.ready()?;
        let most = device.card.shared_per_block_optin - driver.function(function)?.facts.static_shared_bytes.min(device.card.shared_per_block_optin);
        let found = driver.functions.get_mut(&(function as Handle)).ok_or(Code::INVALID_HANDLE)?;
        let wrong = |allowed: &str| Err(Code::INVALID_VALUE.because(format!("kernel attribute {attribute} is {value}, allowed is {allowed}")));
        match attribute {
            attribute::DYNAMIC_SHARED => match u32::try_from(value) {
                Ok(bytes) if bytes <= most => found.raised_shared_bytes = Some(bytes),
                _ => return wrong(&format!("0 to {most} bytes on this card")),
            },
            attribute::CARVEOUT if (-1..=100).contains(&value) => found.carveout = value,
            attribute::CARVEOUT => return wrong("-1 to 100"),
            attribute::CLUSTER_WIDTH..=attribute::CLUSTER_DEPTH if value >= 0 => {
                found.required_cluster[(attribute - attribute::CLUSTER_WIDTH) as usize] = value as u32;
            }
            attribute::LARGE_CLUSTERS if (0..=1).contains(&value) => found.large_clusters = value == 1,
            attribute::CLUSTER_POLICY if (0..=2).contains(&value) => {}
            _ => return wrong("a writable attribute in its range"),
        }
        Ok(())
    }
}
