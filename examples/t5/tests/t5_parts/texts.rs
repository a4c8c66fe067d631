//! Text and ids: ByT5's as transformers 4.57.6 and 5.24.0 have them, and what is refused.

use serde_json::json;

use crate::load::Shape;
use crate::tokenize::{Text, guarded};

#[test]
fn byt5_text_and_ids() {
    let folder = tempfile::tempdir().unwrap();
    // A vocabulary of 384, and no tokenizer: ByT5.
    let text = Text::read(folder.path(), &Shape::Tiny.config().unwrap()).unwrap();
    let bytes = |text: &str| text.bytes().map(|b| u32::from(b) + 3).collect::<Vec<_>>();
    assert_eq!(text.prompt("h\u{e9}").unwrap(), bytes("h\u{e9}"));
    assert_eq!(text.input("a").unwrap(), [100, 1]);
    // White space beside these is dropped, beside sentinels it is not; the input ends once.
    assert_eq!(text.prompt("a </s> b").unwrap(), [100, 1, 101]);
    assert_eq!(text.prompt("a <pad>b").unwrap(), [100, 0, 101]);
    assert_eq!(text.input("a</s>").unwrap(), [100, 1]);
    assert_eq!(text.prompt("<extra_id_3> b").unwrap(), [262, 35, 101]);
    assert_eq!(text.prompt("<extra_id_124>").unwrap(), [383]);
    assert_eq!(text.prompt("<extra_id_125>").unwrap(), bytes("<extra_id_125>"));

    // Special ids, bytes that are no UTF-8 and ids that nothing is known of are left out, and nothing else.
    let replacement = bytes("\u{fffd}");
    let broken = [&[100, 3 + 0xc3, 101, 3 + 0x80, 1, 0, 260, 390, 9_999][..], &replacement, &[102]].concat();
    assert_eq!(text.decode(&broken).unwrap(), "ab\u{fffd}c");
}

/// As transformers 5.24.0 saves them: the special ids are no special tokens of the list, but named beside it. Settings of
/// sentinels, tokens of one's own.
#[test]
fn byt5_settings() {
    let folder = tempfile::tempdir().unwrap();
    let read = |settings: serde_json::Value| {
        std::fs::write(folder.path().join("tokenizer_config.json"), settings.to_string()).unwrap();
        Text::read(folder.path(), &Shape::Tiny.config().unwrap()).unwrap()
    };
    let plain = |text: &str| json!({"content": text, "special": false, "lstrip": false, "rstrip": false});
    let saved_by_5 = read(json!({
        "tokenizer_class": "ByT5Tokenizer", "eos_token": "</s>", "pad_token": "<pad>", "unk_token": "<unk>",
        "extra_special_tokens": ["<extra_id_0>"],
        "added_tokens_decoder": {"0": plain("<pad>"), "1": plain("</s>"), "2": plain("<unk>"), "259": plain("<extra_id_0>")},
    }));
    assert_eq!(saved_by_5.decode(&[100, 259, 101, 1]).unwrap(), "ab");
    assert_eq!(saved_by_5.prompt("a </s> b").unwrap(), [100, 35, 1, 35, 101]);
    // Without sentinels their names are bytes; a token of one's own comes next.
    let none = read(
        json!({"tokenizer_class": "ByT5Tokenizer", "extra_ids": 0, "additional_special_tokens": ["<new>"]}),
    );
    assert_eq!(none.prompt("x <new> y").unwrap(), [123, 35, 259, 35, 124]);
    assert_eq!(none.prompt("<extra_id_0>").unwrap().len(), 12);
    let ten = read(json!({"tokenizer_class": "ByT5Tokenizer", "extra_ids": 10}));
    assert_eq!(ten.prompt("<extra_id_9>").unwrap(), [268]);
    assert_eq!(ten.prompt("<extra_id_99>").unwrap().len(), 13);
}

/// A token of one's own comes behind the vocabulary, where the model has no embedding for it: not as what ends inputs, either.
#[test]
fn an_end_beyond_the_vocabulary_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let tokenizer = json!({
        "version": "1.0", "model": {"type": "WordLevel", "vocab": {"a": 0, "</s>": 383}, "unk_token": "a"},
    });
    std::fs::write(folder.path().join("tokenizer.json"), tokenizer.to_string()).unwrap();
    let settings = json!({"tokenizer_class": "T5Tokenizer", "extra_ids": 400, "eos_token": "<end>"});
    std::fs::write(folder.path().join("tokenizer_config.json"), settings.to_string()).unwrap();
    let refused = Text::read(folder.path(), &Shape::Tiny.config().unwrap()).err().unwrap().to_string();
    let allowed = "allowed: 0 to 383 by vocab_size in config.json";
    assert!(refused.contains("for \"<end>\", which ends inputs") && refused.ends_with(allowed), "{refused}");
}

#[test]
fn a_panic_of_the_library_is_an_error() {
    let error = guarded::<()>(|| panic!("not for users")).unwrap_err().to_string();
    assert!(error.starts_with("a part of tokenizer.json is damaged, allowed: "), "{error}");
    assert_eq!(guarded(|| Ok(3)).unwrap(), 3);
    assert_eq!(guarded::<()>(|| Err("no".into())).unwrap_err().to_string(), "no");
}
