//! A module's text with one kernel of several.

use super::{SyntaxError, tokens};

/// The text without the bodies of other kernels than `kernel`; lines keep their numbers.
pub fn excerpt(text: &str, kernel: &str) -> Result<String, SyntaxError> {
    let tokens = tokens(text)?;
    let mut kept = String::new();
    let (mut at, mut depth, mut from) = (0, 0, 0);
    while let Some(token) = tokens.get(at) {
        match token.text {
            "{" => depth += 1,
            "}" => depth -= 1,
            ".entry" if depth == 0 && tokens.get(at + 1).is_some_and(|name| name.text != kernel) => {
                let linkage = at.checked_sub(1).and_then(|before| tokens.get(before));
                let start = linkage.filter(|t| matches!(t.text, ".visible" | ".weak")).unwrap_or(token).at;
                let end = end_of(tokens[at..].iter().map(|t| t.text)).map_or(tokens.len(), |n| at + n);
                let after = tokens.get(end).map_or(text.len(), |t| t.at);
                kept.push_str(&text[from..start]);
                kept.extend(text[start..after].chars().filter(|c| *c == '\n'));
                (at, from) = (end, after);
                continue;
            }
            _ => {}
        }
        at += 1;
    }
    kept.push_str(&text[from..]);
    Ok(kept)
}

/// Tokens of a function, which ends with its body, or with a semicolon where it has none.
fn end_of<'a>(tokens: impl Iterator<Item = &'a str>) -> Option<usize> {
    let mut depth = 0;
    for (at, token) in tokens.enumerate() {
        match token {
            "{" => depth += 1,
            "}" if depth == 1 => return Some(at + 1),
            "}" => depth -= 1,
            ";" if depth == 0 => return Some(at + 1),
            _ => {}
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn other_kernels_go_and_lines_stay() {
        let text = ".version 8.0\n.target sm_80\n.address_size 64\n.global .b32 g[2] = {1, 2};\n\
            .visible .entry a(.param .u64 p) .maxntid 32 {\n{\nret;\n}\n}\n.entry b() {\nret;\n}\n\
            .weak .entry c() {\nret;\n}\n.func f() {\nret;\n}\n";
        let kept = excerpt(text, "b").unwrap();
        let module = super::super::parse(&kept).unwrap();
        let names: Vec<_> = module.functions.iter().map(|f| (f.name.as_str(), f.line)).collect();
        assert_eq!((names, module.variables.len()), (vec![("b", 10), ("f", 16)], 1));
        assert_eq!(kept.lines().count(), text.lines().count());
        assert!(!kept.contains(".maxntid"), "{kept}");
        assert_eq!(excerpt(&kept, "b").unwrap(), kept);
    }
}
