//! The tensors of `model.safetensors`, whole or sharded with an index, read one by one as f32: of the file nothing else
//! is ever in memory.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::fs::File;
use std::io::{Read as _, Seek as _, SeekFrom};
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail};
use half::slice::HalfFloatSliceExt as _;
use half::{bf16, f16};
use rayon::prelude::*;
use safetensors::Dtype;
use safetensors::tensor::{Metadata, TensorInfo};
use serde_json::Value;

use crate::config::MERGE;
use crate::convert;
use crate::model::Source;

/// What tools put before the names of a model's tensors when they wrap it.
const PREFIXES: [&str; 3] = ["_orig_mod.", "module.", "model."];
/// The embedding's names: modules that share it. Files have one of them or several.
const EMBEDDINGS: [&str; 3] = ["shared.weight", "encoder.embed_tokens.weight", "decoder.embed_tokens.weight"];
const HEAD: &str = "lm_head.weight";
/// 16-bit elements that are converted at a time.
const PIECE: usize = 1 << 20;

/// Where a tensor is.
struct Place {
    file: usize,
    /// Bytes from the beginning of the file.
    start: u64,
    info: TensorInfo,
}

/// What `lm_head.weight` is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Head {
    Own,
    /// The same numbers once more.
    Embedding,
}

/// The tensors of a folder, by name.
pub struct Weights {
    folder: PathBuf,
    files: Vec<(PathBuf, RefCell<File>)>,
    /// Those that nobody took so far.
    tensors: BTreeMap<String, Place>,
}

impl Weights {
    /// Reads what the files of the folder say of their tensors.
    pub fn open(folder: &Path) -> Result<Self> {
        let mut weights = Self { folder: folder.into(), files: Vec::new(), tensors: BTreeMap::new() };
        for path in files(folder)? {
            let (file, first, header) = open(&path)?;
            for (name, info) in header.tensors() {
                let start = first + info.data_offsets.0 as u64;
                let place = Place { file: weights.files.len(), start, info: info.clone() };
                if weights.tensors.insert(name.clone(), place).is_some() {
                    bail!("tensor {name} in {} is in an earlier file too, allowed: once", path.display());
                }
            }
            weights.files.push((path, RefCell::new(file)));
        }
        if let Some(name) = weights.tensors.keys().find(|name| name.contains("lora_")) {
            bail!("tensor {name} in {} is an adapter's; {MERGE}", folder.display());
        }
        while let Some(prefix) = weights.prefix() {
            let strip = |(name, place): (String, Place)| (name[prefix.len()..].to_string(), place);
            weights.tensors = std::mem::take(&mut weights.tensors).into_iter().map(strip).collect();
        }
        weights.join_embeddings()?;
        Ok(weights)
    }

    /// What all names begin with, beside their own.
    fn prefix(&self) -> Option<&'static str> {
        let all = |prefix: &&str| self.tensors.keys().all(|name| name.starts_with(prefix));
        PREFIXES.into_iter().filter(|_| !self.tensors.is_empty()).find(all)
    }

    /// Leaves one embedding, by its first name, and refuses several that differ: transformers 4 takes the first, and 5
    /// takes each where its name says.
    fn join_embeddings(&mut self) -> Result<()> {
        let there = EMBEDDINGS.into_iter().filter(|name| self.tensors.contains_key(*name));
        let [first, others @ ..] = &there.collect::<Vec<_>>()[..] else { return Ok(()) };
        for other in others {
            if !self.equal(first, other)? {
                bail!("{first} and {other} differ in {}, allowed: one embedding", self.folder.display());
            }
            self.tensors.remove(*other);
        }
        let place = self.tensors.remove(*first);
        self.tensors.extend(place.map(|place| (EMBEDDINGS[0].to_string(), place)));
        Ok(())
    }

    /// The head that the file has, if it has one.
    pub fn head(&mut self) -> Result<Option<Head>> {
        if !self.tensors.contains_key(EMBEDDINGS[0]) {
            bail!("tensor {} is missing in {}", EMBEDDINGS[0], self.folder.display());
        }
        if !self.tensors.contains_key(HEAD) {
            return Ok(None);
        }
        if !self.equal(EMBEDDINGS[0], HEAD)? {
            return Ok(Some(Head::Own));
        }
        self.tensors.remove(HEAD);
        Ok(Some(Head::Embedding))
    }

    fn equal(&self, a: &str, b: &str) -> Result<bool> {
        let (first, second) = (&self.tensors[a], &self.tensors[b]);
        Ok(first.info.shape == second.info.shape && self.read(a, first)? == self.read(b, second)?)
    }

    fn read(&self, name: &str, place: &Place) -> Result<Vec<f32>> {
        let (path, file) = &self.files[place.file];
        let what = || format!("tensor {name} in {}", path.display());
        let mut data = vec![0.0; place.info.shape.iter().product()];
        let mut file = file.borrow_mut();
        file.seek(SeekFrom::Start(place.start)).with_context(what)?;
        match place.info.dtype {
            Dtype::F32 => file.read_exact(bytemuck::cast_slice_mut(&mut data)).with_context(what)?,
            dtype @ (Dtype::F16 | Dtype::BF16) => {
                let mut piece = vec![0u16; PIECE.min(data.len())];
                for data in data.chunks_mut(PIECE) {
                    let bits = &mut piece[..data.len()];
                    file.read_exact(bytemuck::cast_slice_mut(bits)).with_context(what)?;
                    if dtype == Dtype::F16 {
                        bytemuck::cast_slice::<u16, f16>(bits).convert_to_f32_slice(data);
                    } else {
                        bytemuck::cast_slice::<u16, bf16>(bits).convert_to_f32_slice(data);
                    }
                }
            }
            other => bail!("{}: dtype is {other:?}, allowed: F32, F16, BF16", what()),
        }
        match data.par_iter().with_min_len(1 << 16).find_any(|x| !x.is_finite()) {
            None => Ok(data),
            Some(value) => bail!("{} holds {value}, allowed: finite numbers", what()),
        }
    }

    /// Tensors that nobody took. T5 v1.0 was published with a table that nothing uses.
    pub fn unused(self) -> Vec<String> {
        let known = "EncDecAttention.relative_attention_bias.weight";
        self.tensors.into_keys().filter(|name| !name.ends_with(known)).collect()
    }
}

impl Source for Weights {
    fn take(&mut self, name: &str, shape: &[usize]) -> Result<Vec<f32>> {
        let Some(place) = self.tensors.remove(name) else {
            bail!("tensor {name} is missing in {}, allowed: shape {shape:?}", self.folder.display());
        };
        if place.info.shape != shape {
            bail!("tensor {name} has shape {:?}, allowed: {shape:?} by config.json", place.info.shape);
        }
        self.read(name, &place)
    }
}

/// The files that hold the weights.
fn files(folder: &Path) -> Result<Vec<PathBuf>> {
    let (whole, index) = (folder.join("model.safetensors"), folder.join("model.safetensors.index.json"));
    if whole.exists() {
        return Ok(vec![whole]);
    }
    if !index.exists() {
        bail!("{} does not exist, allowed: a safetensors file{}", whole.display(), convert::weights(folder));
    }
    let text = crate::read::text("weight index", &index)?;
    let parsed: Value = serde_json::from_str(&text).unwrap_or_default();
    let names = parsed["weight_map"].as_object().map(|map| map.values().map(Value::as_str).collect());
    let Some(Some(mut names)) = names else { bail!("{} is not a weight index", index.display()) };
    let names: &mut Vec<&str> = &mut names;
    names.sort();
    names.dedup();
    if let Some(name) = names.iter().find(|name| name.contains(['/', '\\'])) {
        bail!("weight_map in {} names {name:?}, allowed: file names beside the index", index.display());
    }
    Ok(names.iter().map(|name| folder.join(name)).collect())
}

/// A file, where its tensors begin, and what it says of them.
fn open(path: &Path) -> Result<(File, u64, Metadata)> {
    let cannot = || format!("cannot read {}", path.display());
    let found = std::fs::metadata(path).with_context(cannot)?;
    // Anything else might not end.
    if !found.is_file() {
        bail!("{} is not a file, allowed: a safetensors file", path.display());
    }
    if cfg!(target_endian = "big") {
        bail!("{} is little-endian, allowed: a machine that is, too", path.display());
    }
    let not_whole = || format!("{} is not a whole safetensors file", path.display());
    let mut file = File::open(path).with_context(cannot)?;
    let mut length = [0; 8];
    file.read_exact(&mut length).with_context(not_whole)?;
    let first = 8u64.saturating_add(u64::from_le_bytes(length));
    if first > found.len() {
        bail!("{}: its header ends at byte {first} of {}", not_whole(), found.len());
    }
    let mut header = Vec::new();
    file.by_ref().take(first - 8).read_to_end(&mut header).with_context(cannot)?;
    let header: Metadata = serde_json::from_slice(&header).with_context(not_whole)?;
    if first + header.data_len() as u64 != found.len() {
        bail!(
            "{}: its tensors end at byte {} of {}",
            not_whole(),
            first + header.data_len() as u64,
            found.len()
        );
    }
    Ok((file, first, header))
}
