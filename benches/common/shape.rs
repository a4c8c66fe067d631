//! A shape of the caller's own: `--shape b=8,U=30,n=512,h=12,d=64,dtype=bf16`.

use std::str::FromStr;

use onekv::{DType, Keys, Problem, ProblemSpec};

/// What `--help` says of it.
pub const HELP: &str = "b inputs [1] of n keys, each read by U query rows (prompts x beams x tokens); h query heads, kv K/V \
                        heads [as many], d head_dim; softcap [none]; dtype bf16, f16 or f32";

/// `inputs` inputs of `keys` keys, each read by `rows` query rows.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct OwnShape {
    pub inputs: usize,
    pub rows: usize,
    pub keys: usize,
    pub heads: usize,
    pub kv_heads: usize,
    pub head_dim: usize,
    pub softcap: Option<f32>,
    /// As the caller says; each benchmark has a default of its own.
    pub dtype: Option<DType>,
}

impl OwnShape {
    pub fn problem(&self) -> onekv::Result<Problem> {
        let Self { inputs, rows, keys, heads, kv_heads, head_dim, softcap, .. } = *self;
        let offsets = |each: usize| (0..=inputs).map(|input| input * each).collect();
        Problem::new(ProblemSpec {
            heads,
            kv_heads,
            head_dim,
            scale: (head_dim as f32).sqrt().recip(),
            softcap,
            row_offsets: offsets(rows),
            keys: Keys::Packed { offsets: offsets(keys) },
        })
    }
}

impl FromStr for OwnShape {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        const FIELDS: [&str; 8] = ["b", "U", "n", "h", "kv", "d", "softcap", "dtype"];
        let mut values: [Option<&str>; 8] = [None; 8];
        for part in text.split(',') {
            let (name, value) = part.split_once('=').ok_or(format!("`{part}` is no name=value"))?;
            let at = FIELDS.iter().position(|field| *field == name);
            let at = at.ok_or(format!("field is `{name}`, allowed: {}", FIELDS.join(", ")))?;
            if values[at].replace(value).is_some() {
                return Err(format!("{name} is there twice, allowed: once"));
            }
        }
        let [b, u, n, h, kv, d, softcap, dtype] = values;
        let count = |name: &str, value: Option<&str>, default: Option<usize>| {
            let Some(value) = value else {
                return default.ok_or(format!("{name} is missing, allowed: a number above 0"));
            };
            // Larger ones are no shape of a benchmark, and their products may overflow.
            let number = value.parse().ok().filter(|number| (1..=1 << 24).contains(number));
            number.ok_or(format!("{name} is {value}, allowed: 1 to {}", 1 << 24))
        };
        let heads = count("h", h, None)?;
        let dtype = match dtype {
            None => None,
            Some("bf16") => Some(DType::Bf16),
            Some("f16") => Some(DType::F16),
            Some("f32") => Some(DType::F32),
            Some(other) => return Err(format!("dtype is {other}, allowed: bf16, f16, f32")),
        };
        let softcap = match softcap.map(|value| value.parse().map_err(|_| value)) {
            None => None,
            Some(Ok(number)) => Some(number),
            Some(Err(value)) => return Err(format!("softcap is {value}, allowed: a number above 0")),
        };
        let shape = Self {
            inputs: count("b", b, Some(1))?,
            rows: count("U", u, None)?,
            keys: count("n", n, None)?,
            heads,
            kv_heads: count("kv", kv, Some(heads))?,
            head_dim: count("d", d, None)?,
            softcap,
            dtype,
        };
        shape.problem().map_err(|error| error.to_string())?;
        Ok(shape)
    }
}
