//! Images of modules and libraries, and the options that they are loaded with.

use std::time::Instant;

use crate::backend::Device;
use crate::fatbin;
use crate::host;
use crate::status::{Code, Failure, Outcome};

/// No PTX text is longer.
const TEXT_LIMIT: usize = 1 << 28;
/// There are fewer options.
const OPTION_LIMIT: u32 = 64;

/// JIT options by their number in the header.
mod option {
    pub(super) const WALL_TIME: i32 = 2;
    pub(super) const INFO_LOG: i32 = 3;
    pub(super) const INFO_LOG_BYTES: i32 = 4;
    pub(super) const ERROR_LOG: i32 = 5;
    pub(super) const ERROR_LOG_BYTES: i32 = 6;
    pub(super) const OPTIMIZATION: i32 = 7;
    pub(super) const TARGET: i32 = 9;
    pub(super) const CACHE_MODE: i32 = 14;
}

/// The PTX text behind the address a program passed as an image.
pub(crate) fn text(image: usize, device: &Device) -> Outcome<String> {
    let corrupt = |error: fatbin::FatbinError| Code::INVALID_IMAGE.because(error.to_string());
    let mut start = [0u8; 4];
    host::read_bytes(image, &mut start)?;
    let word = u32::from_le_bytes(start);
    if word == fatbin::WRAPPER_MAGIC {
        return text(host::read::<usize>(image.wrapping_add(8))?, device);
    }
    if word == fatbin::MAGIC {
        let mut header = [0u8; fatbin::HEADER_BYTES];
        host::read_bytes(image, &mut header)?;
        let total = fatbin::total_bytes(&header).map_err(corrupt)?;
        let bytes: Vec<u8> = host::read_many(image, total)
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
        return Err(Code::NO_BINARY_FOR_GPU.because(
            "machine code without PTX: the simulator runs PTX only. nvJitLink makes machine code; Numba, for one, links \
             without it where it is not installed, and cuLinkComplete of this driver gives PTX",
        ));
    }
    let text = host::read_c_string(image, TEXT_LIMIT)?;
    String::from_utf8(text).map_err(|_| Code::INVALID_IMAGE.because("neither PTX text nor a fatbin"))
}

/// The bytes of a file, as `whole` gives them.
pub(crate) fn file(path: &str) -> Outcome<Vec<u8>> {
    let bytes = std::fs::read(path);
    whole(bytes.map_err(|error| Code::FILE_NOT_FOUND.because(format!("{path}: {error}")))?)
}

/// The bytes of an image, closed as text must be. A cut fatbin is refused: it must not be read past its end.
pub(crate) fn whole(mut bytes: Vec<u8>) -> Outcome<Vec<u8>> {
    if let Ok(expected) = fatbin::total_bytes(&bytes)
        && expected > bytes.len()
    {
        return Err(Code::INVALID_IMAGE
            .because(format!("an image of {} bytes, its header says {expected}", bytes.len())));
    }
    bytes.push(0);
    Ok(bytes)
}

/// The options of a load, and where the caller has their values.
pub(crate) struct Options {
    keys: Vec<i32>,
    values: usize,
    start: Instant,
}

impl Options {
    /// Reads options, and checks those that ask for what PTX run as it is cannot give.
    pub(crate) fn read(count: u32, keys: usize, values: usize, device: &Device) -> Outcome<Options> {
        if count > OPTION_LIMIT {
            return Err(Code::INVALID_VALUE.because(format!("{count} options, allowed are {OPTION_LIMIT}")));
        }
        let options = Options { keys: host::read_many(keys, count as usize)?, values, start: Instant::now() };
        for key in options.keys.iter().copied() {
            let value = options.value(key)?.unwrap_or(0) as u32;
            let wrong = |allowed: &str| {
                Err(Code::INVALID_VALUE.because(format!("JIT option {key} is {value}, allowed is {allowed}")))
            };
            match key {
                option::OPTIMIZATION if value > 4 => return wrong("0 to 4"),
                option::CACHE_MODE if value > 2 => return wrong("0 to 2"),
                // Numbers are ten times the compute capability; marks of specific targets stand above.
                option::TARGET if value & 0xffff != device.architecture() => {
                    return Err(Code::NOT_SUPPORTED.because(format!(
                        "JIT target {value}; this card runs what is for {}",
                        device.architecture()
                    )));
                }
                // Of the other options these name registers, optimisation, debug and line information, caching and threads
                // of the compiler: results do not depend on them.
                0..=16 | 30 | 31 | 34 => {}
                17..=29 | 32 | 33 => {
                    return Err(Code::NOT_SUPPORTED
                        .because(format!("JIT option {key}: the simulator neither links nor recompiles")));
                }
                _ => return Err(Code::INVALID_VALUE.because(format!("no JIT option {key}"))),
            }
        }
        Ok(options)
    }

    fn slot(&self, key: i32) -> Option<usize> {
        let at = self.keys.iter().position(|other| *other == key)?;
        Some(self.values.wrapping_add(at * size_of::<usize>()))
    }

    fn value(&self, key: i32) -> Outcome<Option<usize>> {
        self.slot(key).map(host::read).transpose()
    }

    /// Does the work, and tells the caller's logs how it went.
    pub(crate) fn run<T>(
        &self,
        work: impl FnOnce() -> Outcome<T>,
        info: impl FnOnce(&T) -> String,
    ) -> Outcome<T> {
        let result = work();
        let (info, error) = match &result {
            Ok(done) => (info(done), String::new()),
            Err(failure) => (String::new(), failure.message.clone().unwrap_or_default()),
        };
        self.log(option::INFO_LOG, option::INFO_LOG_BYTES, info)?;
        self.log(option::ERROR_LOG, option::ERROR_LOG_BYTES, error)?;
        if let Some(slot) = self.slot(option::WALL_TIME) {
            host::write(slot, self.start.elapsed().as_secs_f32() * 1e3)?;
        }
        result
    }

    /// Writes a log as far as there is room, and in the place of the room how many bytes it has.
    fn log(&self, buffer: i32, room: i32, text: String) -> Outcome {
        let (Some(to), Some(bytes)) = (self.value(buffer)?, self.value(room)?) else { return Ok(()) };
        let bytes = bytes as u32 as usize;
        if to == 0 || bytes == 0 {
            return Ok(());
        }
        let mut text = text.into_bytes();
        text.truncate(bytes - 1);
        text.push(0);
        host::write_bytes(to, &text)?;
        self.slot(room).map_or(Ok(()), |slot| host::write(slot, text.len()))
    }
}
