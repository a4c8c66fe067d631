//! The outside of a PTX module: version, target, kernels with their parameters and shared memory,
//! module variables. Bodies are skipped, only their shared and local declarations are read.

use std::collections::BTreeMap;

use super::KernelFacts;

/// What a module shows to the API.
#[derive(Default)]
pub(crate) struct Interface {
    /// Ten times the PTX version.
    pub(crate) version: u32,
    /// Ten times the compute capability of the target, and whether it is an architecture-specific one.
    pub(crate) target: u32,
    pub(crate) specific: bool,
    pub(crate) kernels: BTreeMap<String, KernelFacts>,
    pub(crate) variables: Vec<Variable>,
}

/// A variable in global or constant memory.
pub(crate) struct Variable {
    pub(crate) name: String,
    pub(crate) contents: Vec<u8>,
}

/// A line and what is wrong there.
pub(crate) type Wrong = (usize, String);

struct Token<'a> {
    text: &'a str,
    line: usize,
}

struct Reader<'a> {
    tokens: Vec<Token<'a>>,
    at: usize,
}

/// One declaration: bytes in all, alignment, element bytes.
struct Declaration {
    name: String,
    bytes: usize,
    alignment: usize,
    element: usize,
}

/// Reads the outside of a module.
pub(crate) fn read(text: &str) -> Result<Interface, Wrong> {
    let mut reader = Reader {
        tokens: tokens(text)?,
        at: 0,
    };
    let mut module = Interface::default();
    while let Some(word) = reader.peek() {
        let line = reader.line();
        reader.at += 1;
        match word {
            ".version" => {
                module.version =
                    decimal(reader.next()?).ok_or((line, "no PTX version".to_owned()))?
            }
            ".target" => {
                let name = reader.next()?;
                let (digits, specific) = match name
                    .strip_prefix("sm_")
                    .map(|rest| rest.strip_suffix(['a', 'f']))
                {
                    Some(Some(digits)) => (digits, true),
                    Some(None) => (&name[3..], false),
                    None => return Err((line, format!("target `{name}`"))),
                };
                module.target = digits
                    .parse()
                    .map_err(|_| (line, format!("target `{name}`")))?;
                module.specific = specific;
                while reader.peek() == Some(",") {
                    reader.at += 2;
                }
            }
            ".address_size" => {
                if reader.next()? != "64" {
                    return Err((line, "only 64-bit addresses are supported".to_owned()));
                }
            }
            ".visible" | ".extern" | ".weak" | ".common" => {}
            ".entry" => {
                let (name, facts) = reader.entry()?;
                module.kernels.insert(name, facts);
            }
            ".func" => reader.function()?,
            ".global" | ".const" => module.variables.push(reader.variable()?),
            ".shared" => drop(reader.declaration()?),
            ".file" | ".loc" => {
                while reader.peek().is_some() && reader.line() == line {
                    reader.at += 1;
                }
            }
            ".section" => {
                reader.next()?;
                reader.block()?;
            }
            ".pragma" => while reader.next()? != ";" {},
            ";" => {}
            other => return Err((line, format!("unexpected `{other}` outside of a function"))),
        }
    }
    if module.version == 0 || module.target == 0 {
        return Err((1, "not PTX: no .version and .target".to_owned()));
    }
    Ok(module)
}

impl<'a> Reader<'a> {
    fn peek(&self) -> Option<&'a str> {
        self.tokens.get(self.at).map(|token| token.text)
    }

    fn line(&self) -> usize {
        self.tokens
            .get(self.at)
            .or(self.tokens.last())
            .map_or(1, |token| token.line)
    }

    fn next(&mut self) -> Result<&'a str, Wrong> {
        let word = self
            .peek()
            .ok_or((self.line(), "the text ends too early".to_owned()))?;
        self.at += 1;
        Ok(word)
    }

    fn expect(&mut self, wanted: &str) -> Result<(), Wrong> {
        let line = self.line();
        match self.next()? {
            word if word == wanted => Ok(()),
            word => Err((line, format!("`{word}` where `{wanted}` is expected"))),
        }
    }

    fn number(&mut self) -> Result<usize, Wrong> {
        let line = self.line();
        let word = self.next()?;
        integer(word)
            .and_then(|n| usize::try_from(n).ok())
            .filter(|n| *n <= 1 << 40)
            .ok_or((line, format!("`{word}` where a number is expected")))
    }

    /// Skips a block with all that is nested in it.
    fn block(&mut self) -> Result<(), Wrong> {
        self.expect("{")?;
        let mut depth = 1;
        while depth > 0 {
            match self.next()? {
                "{" => depth += 1,
                "}" => depth -= 1,
                _ => {}
            }
        }
        Ok(())
    }

    /// `[.align n] .type name [dimensions]`, after the state space.
    fn declaration(&mut self) -> Result<Declaration, Wrong> {
        let (mut alignment, mut element, mut vector) = (0, 0, 1);
        loop {
            let line = self.line();
            match self.next()? {
                ".align" => alignment = self.number()?,
                ".ptr" | ".global" | ".const" | ".shared" | ".local" | ".attribute"
                | ".managed" | "(" | ")" => {}
                ".v2" => vector = 2,
                ".v4" => vector = 4,
                word if word.starts_with('.') => {
                    element = type_bytes(word).ok_or((line, format!("no type `{word}`")))?;
                }
                name => {
                    let mut count = 1usize;
                    while self.peek() == Some("[") {
                        self.at += 1;
                        let size = if self.peek() == Some("]") {
                            0
                        } else {
                            self.number()?
                        };
                        self.expect("]")?;
                        count = count.saturating_mul(size);
                    }
                    let element = element * vector;
                    let bytes = count
                        .checked_mul(element)
                        .filter(|bytes| *bytes <= 1 << 32)
                        .ok_or((line, format!("`{name}` is too large")))?;
                    let alignment = if alignment == 0 {
                        element.max(1)
                    } else {
                        alignment
                    };
                    return Ok(Declaration {
                        name: name.to_owned(),
                        bytes,
                        alignment,
                        element,
                    });
                }
            }
        }
    }

    fn entry(&mut self) -> Result<(String, KernelFacts), Wrong> {
        let name = self.next()?.to_owned();
        let mut facts = KernelFacts::default();
        if self.peek() == Some("(") {
            self.at += 1;
            while self.peek() != Some(")") {
                self.expect(".param")?;
                let parameter = self.declaration()?;
                let offset = facts.parameter_bytes.next_multiple_of(parameter.alignment);
                facts.parameters.push((offset, parameter.bytes));
                facts.parameter_bytes = offset + parameter.bytes;
                if self.peek() == Some(",") {
                    self.at += 1;
                }
            }
            self.at += 1;
        }
        while self.peek() != Some("{") {
            let line = self.line();
            match self.next()? {
                ".maxntid" | ".reqntid" => {
                    let threads: usize = self.numbers()?.iter().product();
                    facts.max_threads = Some(u32::try_from(threads).unwrap_or(u32::MAX));
                }
                ".reqnctapercluster" => {
                    let mut size = self.numbers()?;
                    size.resize(3, 1);
                    facts.cluster = Some([size[0] as u32, size[1] as u32, size[2] as u32]);
                }
                ".minnctapersm" | ".maxnctapersm" | ".maxnreg" | ".maxclusterrank" => {
                    drop(self.numbers()?)
                }
                ".explicitcluster" | ".noreturn" => {}
                ".pragma" => while self.next()? != ";" {},
                ";" => return Ok((name, facts)),
                other => {
                    return Err((
                        line,
                        format!("unexpected `{other}` before the body of `{name}`"),
                    ));
                }
            }
        }
        self.body(&mut facts)?;
        Ok((name, facts))
    }

    fn numbers(&mut self) -> Result<Vec<usize>, Wrong> {
        let mut found = vec![self.number()?];
        while self.peek() == Some(",") {
            self.at += 1;
            found.push(self.number()?);
        }
        Ok(found)
    }

    fn body(&mut self, facts: &mut KernelFacts) -> Result<(), Wrong> {
        self.expect("{")?;
        let mut depth = 1;
        while depth > 0 {
            match self.next()? {
                "{" => depth += 1,
                "}" => depth -= 1,
                ".shared" => {
                    let held = self.declaration()?;
                    let offset =
                        (facts.static_shared_bytes as usize).next_multiple_of(held.alignment);
                    facts.static_shared_bytes =
                        u32::try_from(offset + held.bytes).unwrap_or(u32::MAX);
                }
                ".local" => {
                    facts.local_bytes = facts
                        .local_bytes
                        .saturating_add(self.declaration()?.bytes as u32)
                }
                _ => {}
            }
        }
        Ok(())
    }

    fn function(&mut self) -> Result<(), Wrong> {
        while !matches!(self.peek(), Some("{" | ";")) {
            self.next()?;
        }
        if self.peek() == Some(";") {
            self.at += 1;
            return Ok(());
        }
        self.block()
    }

    fn variable(&mut self) -> Result<Variable, Wrong> {
        let held = self.declaration()?;
        let mut contents = vec![0; held.bytes];
        let line = self.line();
        if self.peek() == Some("=") {
            self.at += 1;
            let mut at = 0;
            while self.peek() != Some(";") {
                let word = self.next()?;
                if matches!(word, "{" | "}" | ",") {
                    continue;
                }
                let bits = integer(word).or_else(|| float_bits(word)).ok_or((
                    line,
                    format!("initial value `{word}` of `{}` is not supported", held.name),
                ))?;
                let place = contents
                    .get_mut(at..at + held.element)
                    .ok_or((line, format!("too many initial values for `{}`", held.name)))?;
                place.copy_from_slice(&bits.to_le_bytes()[..held.element]);
                at += held.element;
            }
        }
        self.expect(";")?;
        Ok(Variable {
            name: held.name,
            contents,
        })
    }
}

/// Words, numbers and single punctuation marks; comments go, strings stay whole.
fn tokens(text: &str) -> Result<Vec<Token<'_>>, Wrong> {
    let bytes = text.as_bytes();
    let (mut found, mut at, mut line) = (Vec::new(), 0, 1);
    while at < bytes.len() {
        let start = at;
        let find = |from: usize, what: &str| {
            text.get(from..)
                .and_then(|rest| rest.find(what))
                .map(|n| from + n)
        };
        match bytes[at] {
            b'\n' => {
                line += 1;
                at += 1;
            }
            byte if byte.is_ascii_whitespace() => at += 1,
            b'/' if bytes.get(at + 1) == Some(&b'/') => at = find(at, "\n").unwrap_or(bytes.len()),
            b'/' if bytes.get(at + 1) == Some(&b'*') => {
                at = find(at + 2, "*/").ok_or((line, "a comment without end".to_owned()))? + 2;
                line += text[start..at].matches('\n').count();
            }
            b'"' => {
                at = find(at + 1, "\"").ok_or((line, "a string without end".to_owned()))? + 1;
                found.push(Token {
                    text: &text[start..at],
                    line,
                });
            }
            byte if is_word(byte) => {
                while at < bytes.len() && is_word(bytes[at]) {
                    at += 1;
                }
                found.push(Token {
                    text: &text[start..at],
                    line,
                });
            }
            byte if byte.is_ascii_graphic() => {
                at += 1;
                found.push(Token {
                    text: &text[start..at],
                    line,
                });
            }
            byte => return Err((line, format!("byte {byte:#04x} in PTX text"))),
        }
    }
    Ok(found)
}

fn is_word(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'$' | b'%' | b'.' | b'-')
}

fn type_bytes(word: &str) -> Option<usize> {
    Some(match word {
        ".b8" | ".u8" | ".s8" => 1,
        ".b16" | ".u16" | ".s16" | ".f16" | ".bf16" => 2,
        ".b32" | ".u32" | ".s32" | ".f32" | ".f16x2" => 4,
        ".b64" | ".u64" | ".s64" | ".f64" => 8,
        ".b128" => 16,
        _ => return None,
    })
}

/// A number with one decimal, times ten.
fn decimal(word: &str) -> Option<u32> {
    let (whole, tenth) = word.split_once('.')?;
    let (whole, tenth): (u32, u32) = (whole.parse().ok()?, tenth.parse().ok()?);
    (whole < 1000 && tenth < 10).then_some(whole * 10 + tenth)
}

fn integer(word: &str) -> Option<u64> {
    let (negative, digits) = word
        .strip_prefix('-')
        .map_or((false, word), |rest| (true, rest));
    let digits = digits.strip_suffix('U').unwrap_or(digits);
    let value = match digits.strip_prefix("0x").or(digits.strip_prefix("0X")) {
        Some(hex) => u64::from_str_radix(hex, 16).ok()?,
        None => digits.parse().ok()?,
    };
    Some(if negative {
        value.wrapping_neg()
    } else {
        value
    })
}

fn float_bits(word: &str) -> Option<u64> {
    let (kind, digits) = (word.get(..2)?, word.get(2..)?);
    matches!(kind, "0f" | "0F" | "0d" | "0D").then(|| u64::from_str_radix(digits, 16).ok())?
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Sizes and offsets as nvcc laid the kernels of scale.cu out.
    #[test]
    fn the_outside_of_nvcc_output() {
        let module = read(include_str!("../../tests/data/scale.ptx")).unwrap();
        assert_eq!(
            (module.version, module.target, module.specific),
            (90, 80, false)
        );
        assert_eq!(
            module.kernels.keys().collect::<Vec<_>>(),
            ["add_one", "read_table", "reverse", "scale"]
        );
        assert_eq!(
            module.kernels["scale"].parameters,
            [(0, 8), (8, 8), (16, 4), (20, 4)]
        );
        assert_eq!(module.kernels["scale"].parameter_bytes, 24);
        assert_eq!(module.kernels["reverse"].max_threads, Some(128));
        assert_eq!(
            module.variables[0].contents,
            [1, 0, 0, 0, 2, 0, 0, 0, 3, 0, 0, 0, 4, 0, 0, 0]
        );
    }

    #[test]
    fn shared_memory_adds_up_with_alignment() {
        let text = ".version 8.0\n.target sm_90a\n.address_size 64\n.visible .entry k(.param .align 16 .b8 p[40], .param .u32 q)\n.reqntid 32, 4, 1\n{ .shared .align 4 .b8 a[5]; .shared .align 16 .f32 b[2]; ret; }";
        let module = read(text).unwrap();
        let kernel = &module.kernels["k"];
        assert!(module.specific);
        assert_eq!(kernel.parameters, [(0, 40), (40, 4)]);
        assert_eq!(kernel.static_shared_bytes, 24);
        assert_eq!(kernel.max_threads, Some(128));
    }

    #[test]
    fn broken_text_is_an_error_with_its_line() {
        let whole = include_str!("../../tests/data/scale.ptx");
        let cut = whole.rfind('}').unwrap();
        assert!(read(&whole[..cut]).is_err(), "a body without end");
        assert_eq!(
            read(".version 9.0\n.target sm_80\nhello").err().unwrap().0,
            3
        );
        assert!(read("").is_err());
        assert!(read(".version 9.0\n.target sm_80\n.entry k(.param .u77 x) {}").is_err());
        for length in (0..whole.len()).step_by(13) {
            let _ = read(&whole[..length]);
        }
    }
}
