//! Text to ids and back: `tokenizer.json`, or bytes for ByT5, whose folders have none.

use std::cell::Cell;
use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::sync::Once;

use anyhow::{Context as _, Result, anyhow, bail};
use serde_json::{Value, json};
use tokenizers::{AddedToken, Tokenizer};

use crate::config::Config;
use crate::convert;

/// ByT5: ids 0, 1, 2 are special and byte `b` is `b + 3`.
const BYTE_OFFSET: u32 = 3;
/// 3 special ids, 256 bytes and 125 sentinels.
const BYT5_VOCAB: usize = 384;
const SENTINELS: u64 = 125;

/// What loses its spaces by `clean_up_tokenization_spaces`, one after the other.
const CLEAN: [&str; 10] = [" .", " ?", " !", " ,", " ' ", " n't", " 'm", " 's", " 've", " 're"];

/// The tokenizer of a model folder.
pub struct Text {
    tokenizer: Box<Tokenizer>,
    /// ByT5, whose pieces are bytes.
    bytes: bool,
    /// Whether spaces before punctuation are taken out of answers.
    clean: bool,
    vocab: usize,
    /// What ends an input, where the tokenizer does not say how inputs are ended.
    eos: Option<u32>,
}

impl Text {
    pub fn read(folder: &Path, config: &Config) -> Result<Self> {
        let settings = optional(&folder.join("tokenizer_config.json"))?;
        let path = folder.join("tokenizer.json");
        let model = optional(&folder.join("config.json"))?;
        let class = settings["tokenizer_class"].as_str().or(model["tokenizer_class"].as_str());
        let bytes =
            !path.exists() && class.map_or(config.vocab == BYT5_VOCAB, |class| class.starts_with("ByT5"));
        let map = optional(&folder.join("special_tokens_map.json"))?;
        let named: Vec<AddedToken> = [&settings, &map].into_iter().flat_map(named).collect();
        let mut tokenizer = if bytes {
            byt5(&settings, &map, &named)?
        } else if path.exists() {
            let text = crate::read::text("tokenizer", &path)?;
            parse(&text).with_context(|| format!("{} is not a tokenizer", path.display()))?
        } else {
            bail!(
                "{} does not exist, allowed: a tokenizers file (or --ids, which needs none){}",
                path.display(),
                convert::tokenizer(folder, class)
            );
        };
        // A file may hold settings of its last use. Here texts are whole, and nothing is padded.
        tokenizer.with_padding(None).with_truncation(None).map_err(|e| anyhow!("{e}"))?;
        let own = class.is_none_or(|class| class.starts_with("T5Tokenizer"));
        if !bytes {
            let t5s = if own { of_t5(&settings) } else { Vec::new() };
            let added = added(&settings).into_iter().map(|(_, token)| token);
            add(&mut tokenizer, added.chain(t5s).chain(named))?;
        }
        let clean = settings["clean_up_tokenization_spaces"].as_bool().unwrap_or(false);
        let name = token_of(&settings["eos_token"], true).map_or("</s>".to_string(), |token| token.content);
        let eos = tokenizer.token_to_id(&name).unwrap_or(config.eos);
        let eos = (tokenizer.get_post_processor().is_none() && (own || bytes)).then_some(eos);
        if let Some(id) = eos.filter(|id| *id as usize >= config.vocab) {
            bail!(
                "the tokenizer has id {id} for {name:?}, which ends inputs, allowed: 0 to {} by vocab_size in config.json",
                config.vocab - 1
            );
        }
        Ok(Self { tokenizer: Box::new(tokenizer), bytes, clean, vocab: config.vocab, eos })
    }

    /// The encoder's ids, EOS at the end.
    pub fn input(&self, text: &str) -> Result<Vec<u32>> {
        let mut ids = self.encode(text, true)?;
        ids.extend(self.eos.filter(|eos| ids.last() != Some(eos)));
        Ok(ids)
    }

    /// A prompt's ids, without special ids but those that it names.
    pub fn prompt(&self, text: &str) -> Result<Vec<u32>> {
        self.encode(text, false)
    }

    fn encode(&self, text: &str, special: bool) -> Result<Vec<u32>> {
        let encoding = guarded(|| self.tokenizer.encode(text, special))
            .with_context(|| format!("cannot tokenize {text:?}"))?;
        let ids = encoding.get_ids();
        if let Some((id, piece)) =
            ids.iter().zip(encoding.get_tokens()).find(|(id, _)| **id as usize >= self.vocab)
        {
            bail!(
                "the tokenizer has id {id} for {piece:?}, allowed: 0 to {} by vocab_size in config.json",
                self.vocab - 1
            );
        }
        Ok(ids.to_vec())
    }

    /// Text of the ids, special ids left out.
    pub fn decode(&self, ids: &[u32]) -> Result<String> {
        let text = if self.bytes {
            self.decode_bytes(ids)
        } else {
            guarded(|| self.tokenizer.decode(ids, true)).context("cannot decode")?
        };
        let clean = |text: String, spaced: &&str| text.replace(spaced, spaced.trim());
        Ok(if self.clean { CLEAN.iter().fold(text, clean) } else { text })
    }

    /// Bytes that are no UTF-8 are left out, as are ids that nothing is known of.
    fn decode_bytes(&self, ids: &[u32]) -> String {
        let added = self.tokenizer.get_added_tokens_decoder();
        let mut bytes = Vec::new();
        for id in ids {
            match (added.get(id), id.checked_sub(BYTE_OFFSET).map(u8::try_from)) {
                (Some(token), _) if token.special => {}
                (Some(token), _) => bytes.extend_from_slice(token.content.as_bytes()),
                (None, Some(Ok(byte))) => bytes.push(byte),
                (None, _) => {}
            }
        }
        bytes.utf8_chunks().map(|chunk| chunk.valid()).collect()
    }
}

/// A JSON file that need not be there.
fn optional(path: &Path) -> Result<Value> {
    if !path.exists() {
        return Ok(Value::Null);
    }
    let text = crate::read::text("tokenizer settings", path)?;
    serde_json::from_str(&text).with_context(|| format!("{} is not JSON", path.display()))
}

/// The library's tokenizer of a text.
fn parse(text: &str) -> Result<Tokenizer> {
    guarded(|| text.parse::<Tokenizer>())
}

/// What a call of the library gives. On some damage of tokenizer.json it panics, when it reads it or only where that is used.
pub fn guarded<T>(call: impl FnOnce() -> tokenizers::Result<T>) -> Result<T> {
    thread_local! {
        static QUIET: Cell<bool> = const { Cell::new(false) };
    }
    // Of other threads panics are shown as ever.
    static HOOK: Once = Once::new();
    HOOK.call_once(|| {
        let shown = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |panic| {
            if !QUIET.get() {
                shown(panic)
            }
        }));
    });
    let before = QUIET.replace(true);
    let done = catch_unwind(AssertUnwindSafe(call));
    QUIET.set(before);
    let known = "of kinds that are known and parts that are there";
    done.map_err(|_| anyhow!("a part of tokenizer.json is damaged, allowed: {known}"))?
        .map_err(|e| anyhow!("{e}"))
}

/// A tokenizer whose pieces are bytes: ByT5's special tokens, those of `added_tokens_decoder`, and sentinels.
fn byt5(settings: &Value, map: &Value, named: &[AddedToken]) -> Result<Tokenizer> {
    let mut tokens: BTreeMap<u32, AddedToken> = BTreeMap::new();
    for (id, name, text) in [(0, "pad_token", "<pad>"), (1, "eos_token", "</s>"), (2, "unk_token", "<unk>")] {
        let given = [settings, map].map(|settings| &settings[name]).into_iter().find(|v| !v.is_null());
        let given = given.cloned().unwrap_or(json!(text));
        let strips = given.is_string();
        tokens.extend(token_of(&given, true).map(|token| (id, token.lstrip(strips).rstrip(strips))));
    }
    for (id, token) in added(settings) {
        let special = token.special || named.iter().any(|named| named.content == token.content);
        tokens.insert(id, AddedToken { special, ..token });
    }
    let several =
        settings["additional_special_tokens"].is_array() || settings["extra_special_tokens"].is_array();
    let sentinels = if several { 0 } else { settings["extra_ids"].as_u64().unwrap_or(SENTINELS) };
    let sentinels = (0..sentinels.min(1 << 16)).map(|n| AddedToken::from(format!("<extra_id_{n}>"), true));
    for token in sentinels.chain(named.iter().cloned()) {
        if tokens.values().all(|known| known.content != token.content) {
            let next = tokens.last_key_value().map_or(0, |(id, _)| id + 1).max(BYTE_OFFSET + 256);
            tokens.insert(next, token);
        }
    }
    let bytes = (0..256).map(|b| (format!("<0x{b:02X}>"), json!(BYTE_OFFSET + b)));
    let ids = tokens.iter().map(|(id, token)| (token.content.clone(), json!(id)));
    let vocab: serde_json::Map<String, Value> = bytes.chain(ids).collect();
    let model = json!({ "type": "BPE", "byte_fallback": true, "vocab": vocab, "merges": [] });
    let mut tokenizer = parse(&json!({ "version": "1.0", "model": model }).to_string())?;
    add(&mut tokenizer, tokens.into_values())?;
    Ok(tokenizer)
}

/// Tells the tokenizer of added tokens that it does not know as such, or not as special. What its vocabulary lacks comes
/// behind it, as in transformers.
fn add(tokenizer: &mut Tokenizer, tokens: impl Iterator<Item = AddedToken>) -> Result<()> {
    let known = tokenizer.get_added_tokens_decoder();
    let new = |token: AddedToken| match known.values().find(|known| known.content == token.content) {
        Some(known) if known.special || !token.special => None,
        Some(known) => Some(AddedToken { special: true, ..known.clone() }),
        None => Some(token),
    };
    guarded(|| tokenizer.add_tokens(tokens.filter_map(new))).map(drop)
}

/// The `added_tokens_decoder` of a tokenizer_config.json, by id.
fn added(settings: &Value) -> Vec<(u32, AddedToken)> {
    let entries = settings["added_tokens_decoder"].as_object().into_iter().flatten();
    let entry = |(id, token): (&String, &Value)| Some((id.parse().ok()?, token_of(token, false)?));
    let mut added: Vec<(u32, AddedToken)> = entries.filter_map(entry).collect();
    added.sort_by_key(|(id, _)| *id);
    added
}

/// The special tokens of a T5Tokenizer, named or not.
fn of_t5(settings: &Value) -> Vec<AddedToken> {
    let sentinels = settings["extra_ids"].as_u64().unwrap_or(100).min(1 << 16);
    let names = ["</s>", "<unk>", "<pad>"].map(String::from).into_iter();
    let names = names.chain((0..sentinels).map(|n| format!("<extra_id_{n}>")));
    names.map(|name| AddedToken::from(name, true)).collect()
}

/// The special tokens that a tokenizer_config.json or special_tokens_map.json names.
fn named(settings: &Value) -> Vec<AddedToken> {
    const ONE: [&str; 7] =
        ["bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token"];
    let one = ONE.iter().filter_map(|name| token_of(&settings[name], true));
    let list = |name: &str| settings[name].as_array().into_iter().flatten();
    let map = |name: &str| settings[name].as_object().into_iter().flat_map(|map| map.values());
    let several = list("additional_special_tokens").chain(list("extra_special_tokens"));
    let several = several.chain(map("extra_special_tokens")).filter_map(|token| token_of(token, true));
    one.chain(several).collect()
}

/// A token as these files have it: its text, or an object.
fn token_of(value: &Value, special: bool) -> Option<AddedToken> {
    if let Some(text) = value.as_str() {
        return Some(AddedToken::from(text, special));
    }
    let flag = |name: &str| value[name].as_bool().unwrap_or(false);
    let token = AddedToken::from(value["content"].as_str()?, special || flag("special"));
    Some(token.lstrip(flag("lstrip")).rstrip(flag("rstrip")).single_word(flag("single_word")))
}
