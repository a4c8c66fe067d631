//! The driver's linker: one image with PTX goes in, and PTX comes out.

use std::sync::Arc;

use super::module;
use crate::guard::driver_api;
use crate::host;
use crate::image;
use crate::state::{Driver, Link, lock};
use crate::status::{Code, Outcome};
use crate::work::Handle;

/// Kinds of input by their number in the header.
const INPUTS: [&str; 6] = ["a cubin", "PTX", "a fatbin", "an object", "a library", "NVVM code"];
const PTX: i32 = 1;
const FATBIN: i32 = 2;
/// No input is larger.
const INPUT_LIMIT: usize = 1 << 30;

fn find(driver: &mut Driver, link: usize) -> Outcome<&mut Link> {
    let found = driver.links.get_mut(&(link as Handle));
    found.ok_or_else(|| Code::INVALID_HANDLE.because(format!("{link:#x} is not a live link")))
}

fn add(link: usize, kind: i32, bytes: &[u8], options: (u32, usize, usize)) -> Outcome {
    let mut driver = lock();
    let device = driver.ready()?;
    let (count, keys, values) = options;
    image::Options::read(count, keys, values, &device)?;
    let found = find(&mut driver, link)?;
    let input = INPUTS.get(kind as usize);
    let input = input.ok_or_else(|| Code::INVALID_VALUE.because(format!("no kind {kind} of input")))?;
    let options = found.options.clone();
    options.run(
        || {
            // A cubin of this driver's linker is PTX.
            if !matches!(kind, 0 | PTX | FATBIN) {
                return Err(
                    Code::NOT_SUPPORTED.because(format!("linking {input}: allowed are PTX and fatbins"))
                );
            }
            if found.text.is_some() {
                return Err(Code::NOT_SUPPORTED.because("linking two images: the simulator links one"));
            }
            let text = image::text(bytes.as_ptr() as usize, &device)?;
            device.inspect(&text)?;
            found.text = Some(text.into_bytes().into_iter().chain([0]).collect());
            Ok(())
        },
        |()| String::new(),
    )
}

driver_api! {
    fn cuLinkCreate_v2(count: u32, keys: usize, values: usize, out: usize) {
        let mut driver = lock();
        let options = Arc::new(image::Options::read(count, keys, values, &*driver.ready()?)?);
        let handle = driver.handle();
        host::write(out, handle)?;
        driver.links.insert(handle, Link { options, text: None });
        Ok(())
    }

    fn cuLinkAddData_v2(
        link: usize, kind: i32, data: usize, bytes: usize, _name: usize, count: u32, keys: usize, values: usize,
    ) {
        if bytes == 0 || bytes > INPUT_LIMIT {
            return Err(Code::INVALID_VALUE.because(format!("{bytes} bytes to link, allowed are 1 to {INPUT_LIMIT}")));
        }
        add(link, kind, &image::whole(host::read_many(data, bytes)?)?, (count, keys, values))
    }

    fn cuLinkAddFile_v2(link: usize, kind: i32, path: usize, count: u32, keys: usize, values: usize) {
        add(link, kind, &image::file(&module::name_at(path)?)?, (count, keys, values))
    }

    fn cuLinkComplete(link: usize, image: usize, bytes: usize) {
        let mut driver = lock();
        let found = find(&mut driver, link)?;
        found.options.run(
            || {
                let text = found.text.as_ref().ok_or_else(|| Code::INVALID_VALUE.because("nothing to link"))?;
                // The link keeps it until it is destroyed.
                host::write(image, text.as_ptr() as usize)?;
                host::write_optional(bytes, text.len())
            },
            |()| "ptxsim: one image of PTX, as it came".to_owned(),
        )
    }

    fn cuLinkDestroy(link: usize) {
        let mut driver = lock();
        find(&mut driver, link)?;
        driver.links.remove(&(link as Handle));
        Ok(())
    }
}
