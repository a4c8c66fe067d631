//! Numbers in a text.

use super::Operand;

pub fn integer(word: &str) -> Option<u64> {
    let digits = word.strip_suffix('U').unwrap_or(word);
    if !digits.starts_with(|c: char| c.is_ascii_digit()) {
        return None;
    }
    if let Some(hex) = digits.strip_prefix("0x").or(digits.strip_prefix("0X")) {
        return u64::from_str_radix(hex, 16).ok();
    }
    if let Some(binary) = digits.strip_prefix("0b").or(digits.strip_prefix("0B")) {
        return u64::from_str_radix(binary, 2).ok();
    }
    if digits.len() > 1 && digits.starts_with('0') && !digits.contains('.') {
        return u64::from_str_radix(&digits[1..], 8).ok();
    }
    digits.parse().ok()
}

/// `0f` and `0d` literals and decimal fractions.
pub fn literal(word: &str) -> Option<Operand> {
    match word.get(..2) {
        Some("0f" | "0F") => u32::from_str_radix(&word[2..], 16).ok().map(Operand::F32),
        Some("0d" | "0D") => u64::from_str_radix(&word[2..], 16).ok().map(Operand::F64),
        _ if word.starts_with(|c: char| c.is_ascii_digit()) => {
            word.parse::<f64>().ok().map(|x| Operand::F64(x.to_bits()))
        }
        _ => None,
    }
}

pub fn literal_bits(word: &str) -> Option<u64> {
    match literal(word)? {
        Operand::F32(bits) => Some(bits.into()),
        Operand::F64(bits) => Some(bits),
        _ => None,
    }
}
