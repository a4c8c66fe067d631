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
pub struct Text {
    /// None for ByT5, whose pieces are bytes.
    pieces: Option<Box<Tokenizer>>,
    vocab: usize,
    eos: u32,
}

impl Text {
    pub fn read(folder: &Path, config: &Config) -> Result<Self> {
        let path = folder.join("tokenizer.json");
        let pieces = if path.exists() {
            let text = crate::read::text("tokenizer", &path)?;
            let mut tokenizer: Tokenizer =
                text.parse().map_err(|e| anyhow!("{} is not a tokenizer: {e}", path.display()))?;
            // A file may hold settings of its last use. Here texts are whole, and nothing is padded.
            tokenizer.with_padding(None).with_truncation(None).map_err(|e| anyhow!("{e}"))?;
            Some(Box::new(tokenizer))
        } else if config.vocab == BYT5_VOCAB {
            None
        } else {
            bail!(
                "{} does not exist, allowed: a tokenizers file (or --ids, which needs none)",
                path.display()
            );
        };
        Ok(Self { pieces, vocab: config.vocab, eos: config.eos })
    }

    /// The encoder's ids, EOS at the end.
    pub fn input(&self, text: &str) -> Result<Vec<u32>> {
        let mut ids = self.encode(text, true)?;
        if ids.last() != Some(&self.eos) {
            ids.push(self.eos);
        }
        Ok(ids)
    }

    /// A prompt's ids, without special ids.
    pub fn prompt(&self, text: &str) -> Result<Vec<u32>> {
        self.encode(text, false)
    }

    fn encode(&self, text: &str, special: bool) -> Result<Vec<u32>> {
        let Some(tokenizer) = &self.pieces else {
            return Ok(text.bytes().map(|b| u32::from(b) + BYTE_OFFSET).collect());
        };
        let encoding =
            tokenizer.encode(text, special).map_err(|e| anyhow!("cannot tokenize {text:?}: {e}"))?;
        let ids = encoding.get_ids();
        if let Some((id, piece)) =
            ids.iter().zip(encoding.get_tokens()).find(|(id, _)| **id as usize >= self.vocab)
        {
            bail!(
                "tokenizer.json has id {id} for {piece:?}, allowed: 0 to {} by vocab_size in config.json",
                self.vocab - 1
            );
        }
        Ok(ids.to_vec())
    }

    /// Text of the ids, special ids left out.
    pub fn decode(&self, ids: &[u32]) -> Result<String> {
        if let Some(tokenizer) = &self.pieces {
            return tokenizer.decode(ids, true).map_err(|e| anyhow!("cannot decode: {e}"));
        }
        let byte = |id: &u32| id.checked_sub(BYTE_OFFSET).and_then(|b| u8::try_from(b).ok());
        let bytes: Vec<u8> = ids.iter().filter_map(byte).collect();
        Ok(String::from_utf8_lossy(&bytes).into_owned())
    }
}
