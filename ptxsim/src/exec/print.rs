//! Device printf and assertions.

use std::io::Write as _;

use super::access::Site;
use super::machine::Machine;
use super::warp::{Warp, lanes_of};
use crate::fault::{FaultKind, Outcome, Trouble};
use crate::ir::Window;

/// Longest string that is read from device memory.
const MOST: u64 = 4096;
/// Widest field and longest fraction of a number.
const MOST_WIDTH: usize = 1024;

impl Machine<'_, '_> {
    fn byte(&self, warp: &Warp, address: u64, lane: usize) -> Outcome<u8> {
        match self.site(warp, Window::Generic, address)? {
            Site::Global(at) => {
                let a = self.allocation(&mut None, at, 1)?;
                Ok(a.load(at - a.base, 1) as u8)
            }
            Site::Shared(cta, offset) => {
                let memory = &self.state.ctas[cta].shared;
                memory.check(offset, 1)?;
                Ok(memory.peek(offset, 1) as u8)
            }
            Site::Local(offset) => {
                let each = self.grid.code.local_bytes as usize;
                let found =
                    warp.local.get(each * lane + offset as usize).filter(|_| (offset as usize) < each);
                found
                    .copied()
                    .ok_or_else(|| Trouble::new(FaultKind::OutOfBounds, "printf reads past local memory"))
            }
            Site::Param(_) => {
                Err(Trouble::new(FaultKind::IllegalInstruction, "printf of a parameter's address"))
            }
        }
    }

    fn text(&self, warp: &Warp, address: u64, lane: usize) -> Outcome<String> {
        let mut bytes = Vec::new();
        for i in 0..MOST {
            match self.byte(warp, address.wrapping_add(i), lane)? {
                0 => break,
                byte => bytes.push(byte),
            }
        }
        Ok(String::from_utf8_lossy(&bytes).into_owned())
    }

    fn number(&self, warp: &Warp, address: u64, bytes: u64, lane: usize) -> Outcome<u64> {
        (0..bytes).try_fold(0, |sum, i| {
            Ok(sum | u64::from(self.byte(warp, address.wrapping_add(i), lane)?) << (8 * i))
        })
    }

    /// Eight bytes of a call parameter.
    fn parameter(&self, warp: &Warp, offset: u32, lane: usize) -> u64 {
        let from = self.grid.code.local_bytes as usize * lane + offset as usize;
        warp.local.iter().skip(from).take(8).rev().fold(0, |sum, byte| sum << 8 | u64::from(*byte))
    }

    pub fn printf(
        &mut self,
        warp: &mut Warp,
        format: u32,
        arguments: u32,
        result: Option<u32>,
        exec: u32,
    ) -> Outcome {
        for lane in lanes_of(exec) {
            let text = self.text(warp, self.parameter(warp, format, lane), lane)?;
            let line = self.formatted(warp, &text, self.parameter(warp, arguments, lane), lane)?;
            // Losing output is no reason to fail a launch.
            let _ = std::io::stdout().lock().write_all(line.as_bytes());
            if let Some(result) = result {
                let from = self.local_range(warp, result, 4, lane)?;
                warp.local[from..from + 4].copy_from_slice(&(line.len() as u32).to_le_bytes());
                warp.local_written[from..from + 4].fill(true);
            }
        }
        Ok(())
    }

    /// C's printf, for the conversions that devices have; values lie at their natural alignment.
    fn formatted(&self, warp: &Warp, format: &str, mut at: u64, lane: usize) -> Outcome<String> {
        let mut out = String::new();
        let mut rest = format.chars().peekable();
        while let Some(c) = rest.next() {
            if c != '%' {
                out.push(c);
                continue;
            }
            let mut spec = String::new();
            let kind = loop {
                match rest.next() {
                    None => break '%',
                    Some(c)
                        if c.is_ascii_alphabetic() && !matches!(c, 'l' | 'h' | 'z' | 'j' | 't')
                            || c == '%' =>
                    {
                        break c;
                    }
                    Some(c) => spec.push(c),
                }
            };
            if kind == '%' {
                out.push('%');
                continue;
            }
            let wide = spec.contains(['l', 'z', 'j', 't'])
                || matches!(kind, 'p' | 's' | 'f' | 'e' | 'g' | 'E' | 'G' | 'F');
            let bytes = if wide { 8 } else { 4 };
            at = at.checked_next_multiple_of(bytes).unwrap_or(u64::MAX);
            let bits = self.number(warp, at, bytes, lane)?;
            at = at.wrapping_add(bytes);
            let signed = if wide { bits as i64 } else { i64::from(bits as u32 as i32) };
            let shape: String = spec.chars().filter(|c| !c.is_ascii_alphabetic()).collect();
            let (flags, digits) = shape.split_once('.').unwrap_or((&shape, ""));
            let precision = digits.parse::<usize>().ok().map(|p| p.min(MOST_WIDTH));
            let (negative, body) = match kind {
                'd' | 'i' => (signed < 0, signed.unsigned_abs().to_string()),
                'u' => (false, bits.to_string()),
                'x' => (false, format!("{bits:x}")),
                'X' => (false, format!("{bits:X}")),
                'o' => (false, format!("{bits:o}")),
                'p' => (false, format!("{bits:#x}")),
                'c' => (false, char::from(bits as u8).to_string()),
                's' => (false, self.text(warp, bits, lane)?),
                _ => {
                    let x = f64::from_bits(bits);
                    (x.is_sign_negative() && !x.is_nan(), float(kind, x.abs(), precision.unwrap_or(6)))
                }
            };
            let sign = match () {
                () if negative => "-",
                () if flags.starts_with('+')
                    && matches!(kind, 'd' | 'i' | 'e' | 'E' | 'f' | 'F' | 'g' | 'G') =>
                {
                    "+"
                }
                () => "",
            };
            let width = flags.trim_start_matches(['-', '+', '0', ' ', '#']).parse::<usize>().unwrap_or(0);
            let width = width.min(MOST_WIDTH);
            match () {
                () if flags.starts_with('-') => out.push_str(&format!("{:<width$}", format!("{sign}{body}"))),
                () if flags.starts_with('0') => {
                    let rest = width.saturating_sub(sign.len());
                    out.push_str(&format!("{sign}{body:0>rest$}"));
                }
                () => out.push_str(&format!("{:>width$}", format!("{sign}{body}"))),
            }
        }
        Ok(out)
    }

    pub fn assertion(&mut self, warp: &mut Warp, message: u32, file: u32, line: u32, exec: u32) -> Trouble {
        let lane = exec.trailing_zeros() as usize;
        let text = |offset| self.text(warp, self.parameter(warp, offset, lane), lane).unwrap_or_default();
        let number = self.parameter(warp, line, lane) as u32;
        let what = format!("assertion `{}` failed at {}:{number}", text(message), text(file));
        Trouble::new(FaultKind::Assert, what).by(lane)
    }
}

/// A number that is not negative, as C's `%f`, `%e` and `%g` have it.
fn float(kind: char, x: f64, precision: usize) -> String {
    if !x.is_finite() {
        return if x.is_nan() { "nan" } else { "inf" }.to_owned();
    }
    // Rust's exponents have no sign and as few digits as they need.
    let scientific = |digits: usize| -> (String, i32) {
        let text = format!("{x:.digits$e}");
        let (mantissa, exponent) = text.split_once('e').unwrap_or((&text, "0"));
        (mantissa.to_owned(), exponent.parse().unwrap_or(0))
    };
    let joined = |(mantissa, exponent): (&str, i32)| {
        format!("{mantissa}e{}{:02}", if exponent < 0 { '-' } else { '+' }, exponent.abs())
    };
    let short = |text: String| match text.contains('.') {
        true => text.trim_end_matches('0').trim_end_matches('.').to_owned(),
        false => text,
    };
    let text = match kind {
        'e' | 'E' => {
            let (mantissa, exponent) = scientific(precision);
            joined((&mantissa, exponent))
        }
        'g' | 'G' => {
            let digits = precision.max(1) as i32;
            let (mantissa, exponent) = scientific(digits as usize - 1);
            match (-4..digits).contains(&exponent) {
                true => short(format!("{x:.*}", (digits - 1 - exponent) as usize)),
                false => joined((&short(mantissa), exponent)),
            }
        }
        _ => format!("{x:.precision$}"),
    };
    if kind.is_ascii_uppercase() { text.to_uppercase() } else { text }
}
