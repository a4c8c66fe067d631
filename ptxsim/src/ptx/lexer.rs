//! Text to tokens.

use super::SyntaxError;

/// A word, a string or a punctuation mark, and where it stands (lines count from 1).
#[derive(Debug, Clone, Copy)]
pub struct Token<'a> {
    pub text: &'a str,
    pub line: u32,
    /// Where it starts in the text.
    pub at: usize,
}

/// Words (`ld.global.v4.f32`, `%tid.x`, `0f3F800000`), whole strings, single punctuation marks.
/// Comments go.
pub fn tokens(text: &str) -> Result<Vec<Token<'_>>, SyntaxError> {
    let bytes = text.as_bytes();
    let (mut found, mut at, mut line) = (Vec::new(), 0, 1);
    while at < bytes.len() {
        let start = at;
        let find =
            |from: usize, what: &str| text.get(from..).and_then(|rest| rest.find(what)).map(|n| from + n);
        let here = line;
        match bytes[at] {
            b'\n' => {
                line += 1;
                at += 1;
                continue;
            }
            byte if byte.is_ascii_whitespace() => {
                at += 1;
                continue;
            }
            // A trailing NUL ends PTX images of fatbins.
            0 => break,
            b'/' if bytes.get(at + 1) == Some(&b'/') => {
                at = find(at, "\n").unwrap_or(bytes.len());
                continue;
            }
            b'/' if bytes.get(at + 1) == Some(&b'*') => {
                at = find(at + 2, "*/").ok_or_else(|| SyntaxError::new(here, "a comment without end"))? + 2;
                line += text[start..at].matches('\n').count() as u32;
                continue;
            }
            b'"' => {
                at = find(at + 1, "\"").ok_or_else(|| SyntaxError::new(here, "a string without end"))? + 1;
                line += text[start..at].matches('\n').count() as u32;
            }
            byte if is_word(byte) => {
                loop {
                    match bytes.get(at) {
                        // `.reg.b32` is two directives without a space, as CUDA's own headers write them.
                        Some(b'.') if byte == b'.' && at > start => break,
                        Some(byte) if is_word(*byte) => at += 1,
                        // `shared::cta` is one word, `label:` is not.
                        Some(b':') if bytes.get(at + 1) == Some(&b':') => at += 2,
                        _ => break,
                    }
                }
            }
            byte if byte.is_ascii_graphic() => at += 1,
            byte => return Err(SyntaxError::new(here, format!("byte {byte:#04x} in PTX text"))),
        }
        // Only ASCII was stepped over, so both ends are character boundaries, except within strings.
        let text = text.get(start..at).ok_or_else(|| SyntaxError::new(here, "text is not PTX"))?;
        found.push(Token { text, line: here, at: start });
    }
    Ok(found)
}

fn is_word(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'$' | b'%' | b'.')
}
