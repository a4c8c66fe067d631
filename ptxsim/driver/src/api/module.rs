//! Modules and their variables.

use std::collections::HashMap;
use std::ffi::CString;
use std::sync::Arc;

use crate::backend::Program;
use crate::guard::driver_api;
use crate::host;
use crate::image;
use crate::schedule::{Goal, wait};
use crate::state::{Driver, Function, LoadedModule, lock};
use crate::status::{Code, Failure, Outcome};
use crate::work::Handle;

const NAME_LIMIT: usize = 1 << 16;

/// Loads an image into the current context.
fn load(out: usize, image: usize, count: u32, options: usize, values: usize) -> Outcome {
    let device = lock().ready()?;
    let options = image::Options::read(count, options, values, &device)?;
    let program = Arc::new(options.run(|| device.load(&image::text(image, &device)?), Program::to_string)?);
    let mut driver = lock();
    let handle = driver.handle();
    host::write(out, handle)?;
    let context = driver.context()?;
    let (card, functions) = (device.ordinal, HashMap::new());
    driver.modules.insert(handle, LoadedModule { context, card, program, library: None, functions });
    Ok(())
}

/// The name at an address of the caller's.
pub(super) fn name_at(address: usize) -> Outcome<String> {
    let name = host::read_c_string(address, NAME_LIMIT)?;
    String::from_utf8(name).map_err(|_| Code::INVALID_VALUE.because("a name that is not text"))
}

/// Refuses a name that is no kernel's, or that of a kernel which cannot run.
pub(super) fn check_kernel(program: &Program, name: &str) -> Outcome {
    if let Some(why) = program.unsupported.get(name) {
        return Err(Code::NOT_SUPPORTED.because(why.clone()));
    }
    if !program.kernels.contains_key(name) {
        let has: Vec<&str> = program.kernels.keys().map(String::as_str).collect();
        return Err(Code::NOT_FOUND.because(format!("no kernel `{name}`; there are {}", has.join(", "))));
    }
    Ok(())
}

fn stale(module: usize) -> Failure {
    Code::INVALID_HANDLE.because(format!("{module:#x} is not a live module"))
}

/// The function of a module's kernel.
pub(super) fn function_of(driver: &mut Driver, module: Handle, name: &str) -> Outcome<Handle> {
    let fresh = driver.handle();
    let loaded = driver.modules.get_mut(&module).ok_or_else(|| stale(module as usize))?;
    if let Some(known) = loaded.functions.get(name) {
        return Ok(*known);
    }
    check_kernel(&loaded.program, name)?;
    let (program, context) = (loaded.program.clone(), loaded.context);
    let facts = program.kernels[name].clone();
    loaded.functions.insert(name.to_owned(), fresh);
    // What was set on the library's kernel holds for the functions made of it.
    let kernel = loaded.library.and_then(|library| driver.libraries.get(&library)?.kernels.get(name));
    let settings =
        kernel.and_then(|kernel| driver.kernels.get(kernel)).map(|k| k.settings[loaded.card].clone());
    let settings = settings.unwrap_or_default();
    let symbol = symbol(name)?;
    let function = Function { program, module, context, name: name.into(), symbol, facts, settings };
    driver.functions.insert(fresh, function);
    Ok(fresh)
}

/// A name as C has it.
pub(super) fn symbol(name: &str) -> Outcome<Arc<std::ffi::CStr>> {
    Ok(CString::new(name).map_err(|_| Code::INVALID_VALUE)?.into())
}

/// Takes a module from the tables, and from the card's memory once what is queued there has run.
pub(super) fn unload(module: Handle) -> Outcome {
    let mut driver = lock();
    let gone = driver.modules.remove(&module).ok_or_else(|| stale(module as usize))?;
    driver.functions.retain(|_, function| function.module != module);
    let device = driver.devices.0[gone.card].clone();
    drop(driver);
    // Launches still queued use the variables. A fault of theirs stays in the context.
    let _ = wait(Goal::Card(gone.card));
    device.unload(&gone.program);
    Ok(())
}

/// Writes where a module's variable is.
pub(super) fn global(address: usize, bytes: usize, module: Handle, name: &str) -> Outcome {
    let driver = lock();
    let loaded = driver.modules.get(&module).ok_or_else(|| stale(module as usize))?;
    let found = loaded.program.globals.get(name);
    let (at, length) =
        found.ok_or_else(|| Code::NOT_FOUND.because(format!("no module variable `{name}`")))?;
    host::write_optional(address, *at)?;
    host::write_optional(bytes, *length)
}

driver_api! {
    fn cuModuleLoadData(out: usize, image: usize) {
        load(out, image, 0, 0, 0)
    }

    fn cuModuleLoadDataEx(out: usize, image: usize, count: u32, options: usize, values: usize) {
        load(out, image, count, options, values)
    }

    fn cuModuleLoadFatBinary(out: usize, image: usize) {
        load(out, image, 0, 0, 0)
    }

    fn cuModuleLoad(out: usize, path: usize) {
        load(out, image::file(&name_at(path)?)?.as_ptr() as usize, 0, 0, 0)
    }

    fn cuModuleUnload(module: usize) {
        let handle = module as Handle;
        if lock().modules.get(&handle).is_some_and(|loaded| loaded.library.is_some()) {
            return Err(Code::NOT_PERMITTED.because("the module is a library's, and goes with it"));
        }
        unload(handle)
    }

    fn cuModuleGetFunction(out: usize, module: usize, name: usize) {
        let name = name_at(name)?;
        let mut driver = lock();
        driver.ready()?;
        host::write(out, function_of(&mut driver, module as Handle, &name)?)
    }

    fn cuModuleEnumerateFunctions(functions: usize, count: u32, module: usize) {
        let mut driver = lock();
        driver.ready()?;
        let loaded = driver.modules.get(&(module as Handle)).ok_or_else(|| stale(module))?;
        let names: Vec<String> = loaded.program.kernels.keys().take(count as usize).cloned().collect();
        for (at, name) in names.iter().enumerate() {
            let function = function_of(&mut driver, module as Handle, name)?;
            host::write(functions.wrapping_add(at * size_of::<usize>()), function)?;
        }
        Ok(())
    }

    fn cuModuleGetFunctionCount(count: usize, module: usize) {
        let driver = lock();
        let loaded = driver.modules.get(&(module as Handle)).ok_or_else(|| stale(module))?;
        host::write(count, loaded.program.kernels.len() as u32)
    }

    fn cuModuleGetGlobal_v2(address: usize, bytes: usize, module: usize, name: usize) {
        lock().ready()?;
        global(address, bytes, module as Handle, &name_at(name)?)
    }

    fn cuModuleGetLoadingMode(mode: usize) {
        // 1: eager.
        host::write(mode, 1i32)
    }
}
