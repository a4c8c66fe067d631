//! Text to ids and back: `tokenizer.json`, or bytes for ByT5, whose folders have none.

use std::path::Path;

use anyhow::{Result, anyhow, bail};
use tokenizers::Tokenizer;

use crate::config::Config;

/// ByT5: ids 0, 1, 2 are special and byte `b` is `b + 3`.
const BYTE_OFFSET: u32 = 3;
/// 3 special ids, 256 bytes and 125 sentinels.
const BYT5_VOCAB: usize = 384;

/// The tokenizer of a model folder.
pub enum Text {
    Pieces(Box<Tokenizer>),
    Bytes { eos: u32 },
}

impl Text {
    pub fn read(folder: &Path, config: &Config) -> Result<Self> {
        let path = folder.join("tokenizer.json");
        if !path.exists() {
            if config.vocab == BYT5_VOCAB {
                return Ok(Self::Bytes { eos: config.eos });
            }
            bail!(
                "{} does not exist, allowed: a tokenizers file (or --ids, which needs none)",
                path.display()
            );
        }
        let tokenizer =
            Tokenizer::from_file(&path).map_err(|e| anyhow!("{} is not a tokenizer: {e}", path.display()))?;
        Ok(Self::Pieces(Box::new(tokenizer)))
    }

    /// The encoder's ids, EOS at the end.
    pub fn input(&self, text: &str) -> Result<Vec<u32>> {
        match self {
            Self::Pieces(_) => self.encode(text, true),
            Self::Bytes { eos } => {
                let mut ids = self.encode(text, false)?;
                ids.push(*eos);
                Ok(ids)
            }
        }
    }

    /// A prompt's ids, without special ids.
    pub fn prompt(&self, text: &str) -> Result<Vec<u32>> {
        self.encode(text, false)
    }

    fn encode(&self, text: &str, special: bool) -> Result<Vec<u32>> {
        match self {
            Self::Pieces(tokenizer) => {
                let encoding =
                    tokenizer.encode(text, special).map_err(|e| anyhow!("cannot tokenize {text:?}: {e}"))?;
                Ok(encoding.get_ids().to_vec())
            }
            Self::Bytes { .. } => Ok(text.bytes().map(|b| u32::from(b) + BYTE_OFFSET).collect()),
        }
    }

    /// Text of the ids, special ids left out.
    pub fn decode(&self, ids: &[u32]) -> Result<String> {
        match self {
            Self::Pieces(tokenizer) => tokenizer.decode(ids, true).map_err(|e| anyhow!("cannot decode: {e}")),
            Self::Bytes { .. } => {
                let bytes: Vec<u8> = ids
                    .iter()
                    .filter_map(|id| id.checked_sub(BYTE_OFFSET).and_then(|b| u8::try_from(b).ok()))
                    .collect();
                Ok(String::from_utf8_lossy(&bytes).into_owned())
            }
        }
    }
}
