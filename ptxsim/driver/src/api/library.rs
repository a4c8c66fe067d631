//! Libraries: images that belong to no context and are loaded into each that uses them, and their kernels.

use std::collections::HashMap;
use std::sync::Arc;

use super::{function, module};
use crate::backend::Program;
use crate::guard::driver_api;
use crate::host;
use crate::image;
use crate::state::{Driver, Kernel, Library, LoadedModule, Settings, lock};
use crate::status::{Code, Failure, Outcome};
use crate::work::Handle;

/// Library options: a table of functions on the host, and the promise that the image stays where it is. An image is copied
/// when it is loaded, promise or not.
const HOST_TABLE: i32 = 0;
const BINARY_IS_PRESERVED: i32 = 1;
/// There are fewer options.
const OPTION_LIMIT: u32 = 64;

/// What cuLibraryLoadData and cuLibraryLoadFromFile take beside the image.
struct LoadOptions {
    jit: (usize, usize, u32),
    library: (usize, u32),
}

fn load(out: usize, image: usize, options: LoadOptions) -> Outcome {
    let device = lock().any_device()?;
    let (keys, count) = options.library;
    if count > OPTION_LIMIT {
        return Err(Code::INVALID_VALUE.because(format!("{count} options, allowed are {OPTION_LIMIT}")));
    }
    for key in host::read_many::<i32>(keys, count as usize)? {
        match key {
            BINARY_IS_PRESERVED => {}
            HOST_TABLE => return Err(Code::NOT_SUPPORTED.because("a library's table of host functions")),
            _ => return Err(Code::INVALID_VALUE.because(format!("no library option {key}"))),
        }
    }
    let (keys, values, count) = options.jit;
    let jit = image::Options::read(count, keys, values, &device)?;
    let mut text = String::new();
    let load = || {
        text = image::text(image, &device)?;
        device.inspect(&text)
    };
    let contents = jit.run(load, Program::to_string)?;
    let mut driver = lock();
    let handle = driver.handle();
    host::write(out, handle)?;
    let (kernels, modules) = (HashMap::new(), HashMap::new());
    driver
        .libraries
        .insert(handle, Library { text: text.into(), contents: Arc::new(contents), kernels, modules });
    Ok(())
}

fn stale(library: usize) -> Failure {
    Code::INVALID_HANDLE.because(format!("{library:#x} is not a live library"))
}

fn find(driver: &Driver, library: usize) -> Outcome<&Library> {
    driver.any_device()?;
    driver.libraries.get(&(library as Handle)).ok_or_else(|| stale(library))
}

fn find_kernel(driver: &Driver, kernel: usize) -> Outcome<&Kernel> {
    let found = driver.kernels.get(&(kernel as Handle));
    found.ok_or_else(|| Code::INVALID_HANDLE.because(format!("{kernel:#x} is not a live kernel")))
}

/// A library's kernel.
fn kernel_of(driver: &mut Driver, library: usize, name: &str) -> Outcome<Handle> {
    let found = find(driver, library)?;
    if let Some(known) = found.kernels.get(name) {
        return Ok(*known);
    }
    module::check_kernel(&found.contents, name)?;
    let kernel = Kernel {
        library: library as Handle,
        name: name.into(),
        symbol: module::symbol(name)?,
        facts: found.contents.kernels[name].clone(),
        settings: vec![Settings::default(); driver.devices.0.len()],
    };
    let handle = driver.handle();
    driver.kernels.insert(handle, kernel);
    if let Some(found) = driver.libraries.get_mut(&(library as Handle)) {
        found.kernels.insert(name.to_owned(), handle);
    }
    Ok(handle)
}

/// The module of a library in the current context, which is loaded where it is not yet there.
fn module_of(library: usize) -> Outcome<Handle> {
    let driver = lock();
    let (device, context) = (driver.ready()?, driver.context()?);
    let found = find(&driver, library)?;
    if let Some(known) = found.modules.get(&context) {
        return Ok(*known);
    }
    let text = found.text.clone();
    drop(driver);
    let program = Arc::new(device.load(&text)?);
    let mut driver = lock();
    let handle = driver.handle();
    // Another thread may have unloaded the library meanwhile, or have loaded it here.
    let modules = driver.libraries.get_mut(&(library as Handle)).map(|found| &mut found.modules);
    let modules = modules.ok_or_else(|| stale(library)).inspect_err(|_| device.unload(&program))?;
    let module = *modules.entry(context).or_insert(handle);
    if module == handle {
        let (library, card, functions) = (Some(library as Handle), device.ordinal, HashMap::new());
        driver.modules.insert(handle, LoadedModule { context, card, program, library, functions });
    } else {
        device.unload(&program);
    }
    Ok(module)
}

/// The function in the current context that a handle names: that of a kernel, or the function itself.
pub(super) fn resolve(function: usize) -> Outcome<usize> {
    let driver = lock();
    let Some(kernel) = driver.kernels.get(&(function as Handle)) else { return Ok(function) };
    let (library, name) = (kernel.library as usize, kernel.name.clone());
    drop(driver);
    let module = module_of(library)?;
    Ok(module::function_of(&mut lock(), module, &name)? as usize)
}

driver_api! {
    fn cuLibraryLoadData(
        out: usize, image: usize, jit: usize, jit_values: usize, jit_count: u32,
        options: usize, _values: usize, count: u32,
    ) {
        load(out, image, LoadOptions { jit: (jit, jit_values, jit_count), library: (options, count) })
    }

    fn cuLibraryLoadFromFile(
        out: usize, path: usize, jit: usize, jit_values: usize, jit_count: u32,
        options: usize, _values: usize, count: u32,
    ) {
        let bytes = image::file(&module::name_at(path)?)?;
        let options = LoadOptions { jit: (jit, jit_values, jit_count), library: (options, count) };
        load(out, bytes.as_ptr() as usize, options)
    }

    fn cuLibraryUnload(library: usize) {
        let mut driver = lock();
        find(&driver, library)?;
        let gone = driver.libraries.remove(&(library as Handle)).ok_or_else(|| stale(library))?;
        driver.kernels.retain(|_, kernel| kernel.library != library as Handle);
        drop(driver);
        gone.modules.into_values().try_for_each(module::unload)
    }

    fn cuLibraryGetKernel(out: usize, library: usize, name: usize) {
        let name = module::name_at(name)?;
        host::write(out, kernel_of(&mut lock(), library, &name)?)
    }

    fn cuLibraryGetKernelCount(count: usize, library: usize) {
        let driver = lock();
        host::write(count, find(&driver, library)?.contents.kernels.len() as u32)
    }

    fn cuLibraryEnumerateKernels(kernels: usize, count: u32, library: usize) {
        let mut driver = lock();
        let names: Vec<String> = find(&driver, library)?.contents.kernels.keys().take(count as usize).cloned().collect();
        for (at, name) in names.iter().enumerate() {
            let kernel = kernel_of(&mut driver, library, name)?;
            host::write(kernels.wrapping_add(at * size_of::<usize>()), kernel)?;
        }
        Ok(())
    }

    fn cuLibraryGetModule(out: usize, library: usize) {
        host::write(out, module_of(library)?)
    }

    fn cuLibraryGetGlobal(address: usize, bytes: usize, library: usize, name: usize) {
        module::global(address, bytes, module_of(library)?, &module::name_at(name)?)
    }

    fn cuLibraryGetManaged(_address: usize, _bytes: usize, library: usize, name: usize) {
        find(&lock(), library)?;
        Err(Code::NOT_FOUND.because(format!("no managed variable `{}`: the simulator has none", module::name_at(name)?)))
    }

    fn cuKernelGetFunction(out: usize, kernel: usize) {
        find_kernel(&lock(), kernel)?;
        host::write(out, resolve(kernel)?)
    }

    fn cuKernelGetLibrary(out: usize, kernel: usize) {
        let driver = lock();
        host::write(out, find_kernel(&driver, kernel)?.library)
    }

    fn cuKernelGetName(name: usize, kernel: usize) {
        let driver = lock();
        host::write(name, find_kernel(&driver, kernel)?.symbol.as_ptr() as usize)
    }

    fn cuKernelGetParamCount(kernel: usize, count: usize) {
        let driver = lock();
        host::write(count, find_kernel(&driver, kernel)?.facts.parameters.len())
    }

    fn cuKernelGetParamInfo(kernel: usize, index: usize, offset: usize, bytes: usize) {
        let driver = lock();
        function::parameter(&find_kernel(&driver, kernel)?.facts, index, offset, bytes)
    }

    fn cuKernelGetAttribute(value: usize, attribute: i32, kernel: usize, device: i32) {
        let device = super::device::get(device)?;
        let driver = lock();
        let found = find_kernel(&driver, kernel)?;
        let contents = &find(&driver, found.library as usize)?.contents;
        let settings = &found.settings[device.ordinal];
        host::write(value, function::get(attribute, &found.facts, contents, settings, &device)?)
    }

    fn cuKernelSetAttribute(attribute: i32, value: i32, kernel: usize, device: i32) {
        let device = super::device::get(device)?;
        let mut driver = lock();
        let found = find_kernel(&driver, kernel)?;
        let (library, name, facts) = (found.library, found.name.clone(), found.facts.clone());
        if let Some(found) = driver.kernels.get_mut(&(kernel as Handle)) {
            function::set(&mut found.settings[device.ordinal], attribute, value, &facts, &device)?;
        }
        // Its functions in contexts of that card follow.
        let own = |module: &LoadedModule| module.library == Some(library) && module.card == device.ordinal;
        let functions = driver.modules.values().filter(|module| own(module)).filter_map(|m| m.functions.get(&*name));
        for function in functions.copied().collect::<Vec<_>>() {
            if let Some(found) = driver.functions.get_mut(&function) {
                function::set(&mut found.settings, attribute, value, &facts, &device)?;
            }
        }
        Ok(())
    }

    fn cuKernelSetCacheConfig(kernel: usize, config: i32, device: i32) {
        super::device::get(device)?;
        function::check_cache_config(config)?;
        find_kernel(&lock(), kernel).map(|_| ())
    }
}
