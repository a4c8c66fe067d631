//! Launches: every limit is checked here, before the work is queued.

use std::sync::Arc;

use super::library::resolve;
use crate::backend::{Device, Launch, MAX_PARAMETER_BYTES, MAX_THREADS};
use crate::guard::driver_api;
use crate::host;
use crate::schedule::relieve;
use crate::state::{Function, lock};
use crate::status::{Code, Outcome};
use crate::work::Work;

/// Keys of the `extra` array.
const EXTRA_END: usize = 0;
const EXTRA_BUFFER: usize = 1;
const EXTRA_BYTES: usize = 2;

/// Launch attributes that change what is run, by their number in the header.
const COOPERATIVE: u32 = 2;
const CLUSTER_DIMENSION: u32 = 4;
const PROGRAMMATIC_STREAM_SERIALIZATION: u32 = 6;
/// Bytes of one launch attribute: number, padding, 64 bytes of value.
const ATTRIBUTE_BYTES: usize = 72;

/// Cluster sizes that all cards with clusters take, and with the kernel's consent.
const PORTABLE_CLUSTER: u32 = 8;
const LARGEST_CLUSTER: u32 = 16;

/// A launch as it was asked for.
pub(crate) struct Request {
    pub(crate) grid: [u32; 3],
    pub(crate) block: [u32; 3],
    pub(crate) cluster: [u32; 3],
    pub(crate) shared_bytes: u32,
    pub(crate) cooperative: bool,
    pub(crate) overlaps: bool,
}

impl Request {
    /// Threads of a block, whatever its sizes are.
    pub(crate) fn threads(&self) -> u32 {
        self.block.iter().fold(1, |threads, size| threads.saturating_mul(*size))
    }

    /// Reads the driver's CUlaunchConfig; its stream comes with it.
    pub(crate) fn read(config: usize) -> Outcome<(Request, usize)> {
        let mut words = [0u32; 13];
        host::read_into(config, &mut words)?;
        let long = |at: usize| words[at] as usize | (words[at + 1] as usize) << 32;
        let (stream, attributes, count) = (long(8), long(10), words[12]);
        let mut request = Request {
            grid: [words[0], words[1], words[2]],
            block: [words[3], words[4], words[5]],
            cluster: [0; 3],
            shared_bytes: words[6],
            cooperative: false,
            overlaps: false,
        };
        if count > 64 {
            return Err(Code::INVALID_VALUE.because(format!("{count} launch attributes")));
        }
        for at in 0..count as usize {
            let attribute = attributes.wrapping_add(at * ATTRIBUTE_BYTES);
            let value = attribute.wrapping_add(8);
            match host::read::<u32>(attribute)? {
                CLUSTER_DIMENSION => host::read_into(value, &mut request.cluster)?,
                COOPERATIVE => request.cooperative = host::read::<i32>(value)? != 0,
                PROGRAMMATIC_STREAM_SERIALIZATION => request.overlaps = host::read::<i32>(value)? != 0,
                // Nothing, and hints on caching, clusters' places, priority, domains, preferred clusters, shared memory and
                // links: results do not depend on them.
                0 | 1 | 5 | 8..=11 | 14 | 16 => {}
                other @ (7 | 12 | 13 | 15 | 17 | 18) => {
                    return Err(Code::NOT_SUPPORTED.because(format!("launch attribute {other}")));
                }
                other => {
                    return Err(
                        Code::INVALID_VALUE.because(format!("launch attribute {other}: there is none"))
                    );
                }
            }
        }
        Ok((request, stream))
    }

    /// Checks the launch against the card and the kernel; gives the cluster to run with.
    pub(crate) fn check(&self, function: &Function, device: &Device) -> Outcome<[u32; 3]> {
        let facts = &function.facts;
        let wrong =
            |what: String| Err(Code::INVALID_VALUE.because(format!("launch of `{}`: {what}", function.name)));
        for (axis, (size, most)) in
            ["x", "y", "z"].iter().zip(self.grid.iter().zip([0x7fff_ffff, 65_535, 65_535]))
        {
            if *size == 0 || *size > most {
                return wrong(format!("grid {axis} is {size}, allowed is 1 to {most}"));
            }
        }
        for (axis, (size, most)) in ["x", "y", "z"].iter().zip(self.block.iter().zip([1024, 1024, 64])) {
            if *size == 0 || *size > most {
                return wrong(format!("block {axis} is {size}, allowed is 1 to {most}"));
            }
        }
        let threads = self.threads();
        let most = facts.max_threads.unwrap_or(MAX_THREADS).min(MAX_THREADS);
        if threads > most {
            return wrong(format!("{threads} threads per block, allowed are {most}"));
        }
        let limit = function.settings.dynamic_limit(facts, device);
        if self.shared_bytes > limit {
            return wrong(format!(
                "{} bytes of dynamic shared memory, allowed are {limit}; CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES raises it to {} on this card",
                self.shared_bytes,
                device.card.shared_per_block_optin.saturating_sub(facts.static_shared_bytes)
            ));
        }
        let cluster = self.cluster(function, device)?;
        if self.cooperative {
            let fit = device.blocks_per_multiprocessor(facts, threads, self.shared_bytes)
                * device.card.multiprocessors;
            let blocks: u64 = self.grid.iter().map(|size| u64::from(*size)).product();
            if blocks > u64::from(fit) {
                return Err(
                    Code::COOPERATIVE_LAUNCH_TOO_LARGE.because(format!("{blocks} blocks, {fit} fit at once"))
                );
            }
        }
        Ok(cluster)
    }

    fn cluster(&self, function: &Function, device: &Device) -> Outcome<[u32; 3]> {
        let asked = [Some(self.cluster), function.facts.cluster, Some(function.settings.required_cluster)];
        let Some(cluster) = asked.into_iter().flatten().find(|size| size.iter().any(|n| *n != 0)) else {
            return Ok([1; 3]);
        };
        let wrong = |what: String| {
            Err(Code::INVALID_CLUSTER_SIZE
                .because(format!("launch of `{}`: cluster {cluster:?} {what}", function.name)))
        };
        if let Some(fixed) = function.facts.cluster
            && fixed != cluster
        {
            return wrong(format!("differs from the kernel's own {fixed:?}"));
        }
        let size = cluster.iter().try_fold(1u32, |product, n| product.checked_mul(*n)).unwrap_or(u32::MAX);
        if size == 0 {
            return wrong("has a zero".to_owned());
        }
        if size > 1 && device.card.compute_capability.0 < 9 {
            return Err(Code::NOT_SUPPORTED.because(format!(
                "clusters need compute capability 9.0, the card has {}",
                device.architecture() as f32 / 10.0
            )));
        }
        let most = if function.settings.large_clusters { LARGEST_CLUSTER } else { PORTABLE_CLUSTER };
        if size > most {
            return wrong(format!("has {size} blocks, allowed are {most}"));
        }
        if self.grid.iter().zip(&cluster).any(|(grid, n)| grid % n != 0) {
            return wrong(format!("does not divide the grid {:?}", self.grid));
        }
        Ok(cluster)
    }
}

/// Gathers the parameter bytes from `kernelParams` or from `extra`.
fn parameters(function: &Function, values: usize, extra: usize) -> Outcome<Vec<u8>> {
    let facts = &function.facts;
    if facts.parameter_bytes > MAX_PARAMETER_BYTES {
        return Err(Code::INVALID_VALUE.because(format!("{} bytes of parameters", facts.parameter_bytes)));
    }
    let mut bytes = vec![0u8; facts.parameter_bytes];
    if values != 0 && extra != 0 {
        return Err(Code::INVALID_VALUE.because("both kernelParams and extra are given"));
    }
    if extra != 0 {
        let (mut buffer, mut length) = (0, 0);
        for pair in 0..4 {
            let key: usize = host::read(extra.wrapping_add(pair * 16))?;
            if key == EXTRA_END {
                break;
            }
            let value: usize = host::read(extra.wrapping_add(pair * 16 + 8))?;
            match key {
                EXTRA_BUFFER => buffer = value,
                EXTRA_BYTES => length = host::read::<usize>(value)?,
                other => {
                    return Err(Code::INVALID_VALUE.because(format!("no launch option {other}")));
                }
            }
        }
        if length != bytes.len() {
            return Err(Code::INVALID_VALUE.because(format!(
                "`{}` takes {} bytes of parameters, the buffer has {length}",
                function.name,
                bytes.len()
            )));
        }
        host::read_bytes(buffer, &mut bytes)?;
        return Ok(bytes);
    }
    if values == 0 && !facts.parameters.is_empty() {
        return Err(Code::INVALID_VALUE.because(format!(
            "`{}` takes {} parameters, none are given",
            function.name,
            facts.parameters.len()
        )));
    }
    for (index, parameter) in facts.parameters.iter().enumerate() {
        let into = &mut bytes[parameter.offset..parameter.offset + parameter.bytes];
        let at = values.wrapping_add(index * size_of::<usize>());
        host::read::<usize>(at).and_then(|at| host::read_bytes(at, into)).map_err(|failure| {
            let why = failure.message.unwrap_or_default();
            Code::INVALID_VALUE.because(format!(
                "`{}` takes {} parameters; number {index} cannot be read ({why})",
                function.name,
                facts.parameters.len()
            ))
        })?;
    }
    Ok(bytes)
}

fn launch(function: usize, request: &Request, stream: usize, values: usize, extra: usize) -> Outcome {
    let function = resolve(function)?;
    let mut driver = lock();
    let device = driver.ready()?;
    let stream = driver.own_stream(stream)?;
    let found = driver.function(function)?;
    if found.context != driver.context()? {
        return Err(
            Code::INVALID_HANDLE.because(format!("`{}` is of a module of another context", found.name))
        );
    }
    let cluster = request.check(found, &device)?;
    let launch = Launch {
        card: device.ordinal,
        program: found.program.clone(),
        kernel: found.name.clone(),
        grid: request.grid,
        block: request.block,
        cluster,
        dynamic_shared_bytes: request.shared_bytes,
        overlaps: request.overlaps,
        parameters: parameters(found, values, extra)?,
    };
    driver.issue(stream, Work::Launch(Arc::new(launch)))?;
    drop(driver);
    relieve(stream)
}

driver_api! {
    fn cuLaunchKernel as cuLaunchKernel_ptsz(
        function: usize, grid_x: u32, grid_y: u32, grid_z: u32, block_x: u32, block_y: u32, block_z: u32,
        shared_bytes: u32, stream: usize, values: usize, extra: usize,
    ) {
        let request = Request {
            grid: [grid_x, grid_y, grid_z], block: [block_x, block_y, block_z], cluster: [0; 3], shared_bytes,
            cooperative: false, overlaps: false,
        };
        launch(function, &request, stream, values, extra)
    }

    fn cuLaunchKernelEx as cuLaunchKernelEx_ptsz(config: usize, function: usize, values: usize, extra: usize) {
        let (request, stream) = Request::read(config)?;
        launch(function, &request, stream, values, extra)
    }

    fn cuLaunchCooperativeKernel as cuLaunchCooperativeKernel_ptsz(
        function: usize, grid_x: u32, grid_y: u32, grid_z: u32, block_x: u32, block_y: u32, block_z: u32,
        shared_bytes: u32, stream: usize, values: usize,
    ) {
        let request = Request {
            grid: [grid_x, grid_y, grid_z], block: [block_x, block_y, block_z], cluster: [0; 3], shared_bytes,
            cooperative: true, overlaps: false,
        };
        launch(function, &request, stream, values, 0)
    }
}
