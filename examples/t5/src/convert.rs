//! Folders that lack a file that is read here: the one command that makes it of what they have. None of them changes
//! another file: what transformers 5 saves anew, other programs read wrongly.

use std::path::Path;

/// What makes `model.safetensors`.
pub fn weights(folder: &Path) -> String {
    let names = names(folder);
    let first = |prefix: &str, suffix: &str| {
        names.iter().find(|name| name.starts_with(prefix) && name.ends_with(suffix)).map(String::as_str)
    };
    // pytorch_model.bin, its shards, and what is called a variant: model.fp16.safetensors.
    let (name, load) = match (first("pytorch_model", ".bin"), first("model.", ".safetensors")) {
        (Some(name), _) => (name, "torch.load(f, weights_only=True)"),
        (None, Some(name)) => (name, "s.load_file(f)"),
        (None, None) => return String::new(),
    };
    let files = match name.split_once("-0000") {
        Some((stem, _)) => format!("{stem}-*.{}", name.rsplit('.').next().unwrap_or_default()),
        None => name.to_string(),
    };
    let python = format!(
        "import glob, torch, safetensors.torch as s; s.save_file({{k: t.clone().contiguous() for f in \
         glob.glob('{files}') for k, t in {load}.items() if torch.is_tensor(t)}}, 'model.safetensors', {{'format': 'pt'}})"
    );
    command(folder, name, &python, "torch safetensors numpy")
}

/// What makes `tokenizer.json`; `class` is the one that the folder names.
pub fn tokenizer(folder: &Path, class: Option<&str>) -> String {
    let names = names(folder);
    let has = |wanted: &str| names.iter().any(|name| name == wanted);
    let bpe = has("vocab.json") && has("merges.txt");
    let (name, class, packages) = match class {
        _ if has("spiece.model") => {
            ("spiece.model", "T5Tokenizer", "'transformers>=5' sentencepiece protobuf")
        }
        Some(_) if bpe => ("vocab.json and merges.txt", "AutoTokenizer", "'transformers>=5'"),
        // AutoTokenizer would make a tokenizer of T5's special tokens and nothing else.
        None if bpe => ("vocab.json and merges.txt", "RobertaTokenizer", "'transformers>=5'"),
        _ => return String::new(),
    };
    let python = format!(
        "from transformers import {class} as T; T.from_pretrained('.').backend_tokenizer.save('tokenizer.json')"
    );
    command(folder, name, &python, packages)
}

/// The names of the files, in order.
fn names(folder: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
    let mut names: Vec<String> =
        entries.filter_map(|entry| entry.file_name().to_str().map(String::from)).collect();
    names.sort();
    names
}

fn command(folder: &Path, of: &str, python: &str, packages: &str) -> String {
    let folder = folder.display().to_string().replace('\'', "'\\''");
    format!("; this makes it of {of} (pip install {packages}): cd '{folder}' && python3 -c \"{python}\"")
}
