//! `model.safetensors`, whole or sharded with an index, as f32.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::Read as _;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail};
use half::slice::HalfFloatSliceExt as _;
use indicatif::ProgressBar;
use safetensors::{Dtype, SafeTensors};
use serde::Deserialize;

/// Tensors by name, each with its shape, converted to f32.
pub struct Weights {
    tensors: BTreeMap<String, (Vec<usize>, Vec<f32>)>,
    source: PathBuf,
}

#[derive(Deserialize)]
struct Index {
    weight_map: BTreeMap<String, String>,
}

impl Weights {
    /// Reads every tensor of the folder; `progress` advances by bytes.
    pub fn read(folder: &Path, progress: &ProgressBar) -> Result<Self> {
        let files = Self::files(folder)?;
        let sizes = files.iter().map(|file| size(file)).collect::<Result<Vec<_>>>()?;
        progress.set_length(sizes.iter().sum());
        let mut tensors = BTreeMap::new();
        for (file, size) in files.iter().zip(sizes) {
            progress.set_message(file.file_name().unwrap_or_default().to_string_lossy().into_owned());
            let bytes =
                read(file, size, progress).with_context(|| format!("cannot read {}", file.display()))?;
            let parsed = SafeTensors::deserialize(&bytes)
                .with_context(|| format!("{} is not a whole safetensors file", file.display()))?;
            for (name, view) in parsed.iter() {
                let data = to_f32(view.dtype(), view.data())
                    .with_context(|| format!("tensor {name} in {}", file.display()))?;
                if let Some(value) = data.iter().find(|x| !x.is_finite()) {
                    bail!("tensor {name} in {} holds {value}, allowed: finite numbers", file.display());
                }
                if tensors.insert(name.to_string(), (view.shape().to_vec(), data)).is_some() {
                    bail!("tensor {name} in {} is in an earlier file too, allowed: once", file.display());
                }
            }
        }
        Ok(Self { tensors, source: folder.to_path_buf() })
    }

    fn files(folder: &Path) -> Result<Vec<PathBuf>> {
        let whole = folder.join("model.safetensors");
        let index = folder.join("model.safetensors.index.json");
        if whole.exists() || !index.exists() {
            if !whole.exists() && folder.join("pytorch_model.bin").exists() {
                bail!(
                    "{} has pytorch_model.bin only, allowed: model.safetensors (transformers writes it with \
                     save_pretrained)",
                    folder.display()
                );
            }
            return Ok(vec![whole]);
        }
        let text = crate::read::text("weight index", &index)?;
        let parsed: Index = serde_json::from_str(&text)
            .with_context(|| format!("{} is not a weight index", index.display()))?;
        let mut names: Vec<&String> = parsed.weight_map.values().collect();
        names.sort();
        names.dedup();
        if let Some(name) = names.iter().find(|name| name.contains(['/', '\\'])) {
            bail!("weight_map in {} names {name:?}, allowed: file names beside the index", index.display());
        }
        Ok(names.into_iter().map(|name| folder.join(name)).collect())
    }

    /// Takes the tensor `name` of exactly `shape`.
    pub fn take(&mut self, name: &str, shape: &[usize]) -> Result<Vec<f32>> {
        let Some((found, data)) = self.tensors.remove(name) else {
            bail!("tensor {name} is missing in {}, allowed: shape {shape:?}", self.source.display());
        };
        if found != shape {
            bail!("tensor {name} has shape {found:?}, allowed: {shape:?} by config.json");
        }
        Ok(data)
    }

    /// Refuses layers that nobody took: config.json then describes another model than the weights.
    pub fn check_all_taken(&self) -> Result<()> {
        let mut left = self.tensors.keys().filter(|name| name.contains(".block."));
        // T5 v1.0 was published with this table, which nothing uses.
        match left.find(|name| !name.ends_with("EncDecAttention.relative_attention_bias.weight")) {
            None => Ok(()),
            Some(name) => bail!(
                "tensor {name} in {} is not used, allowed: only the layers of config.json",
                self.source.display()
            ),
        }
    }

    /// Takes the first of `names` that is there.
    pub fn take_any(&mut self, names: &[&str], shape: &[usize]) -> Result<Vec<f32>> {
        let name = names.iter().find(|name| self.tensors.contains_key(**name));
        self.take(name.unwrap_or(&names[0]), shape)
    }
}

/// The bytes of a regular file: anything else might not end.
fn size(path: &Path) -> Result<u64> {
    let found = std::fs::metadata(path).with_context(|| format!("cannot read {}", path.display()))?;
    if !found.is_file() {
        bail!("{} is not a file, allowed: a safetensors file", path.display());
    }
    Ok(found.len())
}

fn read(path: &Path, size: u64, progress: &ProgressBar) -> Result<Vec<u8>> {
    let mut bytes = Vec::new();
    bytes.try_reserve_exact(usize::try_from(size)?)?;
    progress.wrap_read(File::open(path)?).take(size).read_to_end(&mut bytes)?;
    Ok(bytes)
}

fn to_f32(dtype: Dtype, bytes: &[u8]) -> Result<Vec<f32>> {
    Ok(match dtype {
        Dtype::F32 => bytes.chunks_exact(4).map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]])).collect(),
        Dtype::F16 => {
            let halves: Vec<half::f16> =
                bytes.chunks_exact(2).map(|b| half::f16::from_le_bytes([b[0], b[1]])).collect();
            halves.to_f32_vec()
        }
        Dtype::BF16 => {
            bytes.chunks_exact(2).map(|b| half::bf16::from_le_bytes([b[0], b[1]]).to_f32()).collect()
        }
        other => bail!("dtype is {other:?}, allowed: F32, F16, BF16"),
    })
}
