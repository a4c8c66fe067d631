//! A Llama on the CPU, in f32: RMSNorm, RoPE, grouped-query attention, SwiGLU. All but attention is the T5 example's.

use anyhow::Result;
use indicatif::ProgressBar;
use t5::backend::Backend as _;
use t5::backend::cpu::{Cpu, Matrix};
use t5::config::{Activated, Activation};
use t5::model::Source;

use crate::attention::Sequences;
use crate::config::Config;

type Linear = <Cpu as t5::backend::Backend>::Linear;

struct Layer {
    attention_norm: Vec<f32>,
    /// To q, k and v: `[(heads + 2 kv_heads) head_dim, d_model]`.
    qkv: Linear,
    out: Linear,
    feed_forward_norm: Vec<f32>,
    /// To the gate and to what it is multiplied with: `[2 d_ff, d_model]`.
    gate_up: Linear,
    down: Linear,
}

pub struct Model {
    pub config: Config,
    cpu: Cpu,
    embedding: Matrix,
    layers: Vec<Layer>,
    norm: Vec<f32>,
    head: Linear,
}

impl Model {
    /// Takes every tensor from `source`, by the names that Hugging Face has for them behind `prefix`; `progress` advances by
    /// layer. The head, if it has its own, has that name without the prefix.
    ///
    /// # Errors
    /// Those of `source`.
    pub fn load(
        config: Config,
        source: &mut dyn Source,
        prefix: &str,
        progress: &ProgressBar,
    ) -> Result<Self> {
        progress.set_length(config.layers as u64);
        let (cpu, d) = (Cpu::new(), config.d_model);
        let (q, kv) = (config.heads * config.head_dim, config.kv_heads * config.head_dim);
        // First, so that a file that should have one and has none is told so.
        let head = match config.tied {
            true => None,
            false => Some(source.take("lm_head.weight", &[config.vocab, d])?),
        };
        let embedding = source.take(&format!("{prefix}embed_tokens.weight"), &[config.vocab, d])?;
        let head = cpu.linear_weights(head.unwrap_or_else(|| embedding.clone()), d)?;
        let mut layer = |i| {
            progress.inc(1);
            let mut take = |name: &str, shape: &[usize]| {
                source.take(&format!("{prefix}layers.{i}.{name}.weight"), shape)
            };
            let qkv = [
                take("self_attn.q_proj", &[q, d])?,
                take("self_attn.k_proj", &[kv, d])?,
                take("self_attn.v_proj", &[kv, d])?,
            ];
            let gate_up =
                [take("mlp.gate_proj", &[config.d_ff, d])?, take("mlp.up_proj", &[config.d_ff, d])?];
            Ok(Layer {
                attention_norm: take("input_layernorm", &[d])?,
                qkv: cpu.linear_weights(qkv.concat(), d)?,
                out: cpu.linear_weights(take("self_attn.o_proj", &[d, q])?, q)?,
                feed_forward_norm: take("post_attention_layernorm", &[d])?,
                gate_up: cpu.linear_weights(gate_up.concat(), d)?,
                down: cpu.linear_weights(take("mlp.down_proj", &[d, config.d_ff])?, config.d_ff)?,
            })
        };
        let layers = (0..config.layers).map(&mut layer).collect::<Result<_>>()?;
        let norm = source.take(&format!("{prefix}norm.weight"), &[d])?;
        let embedding = cpu.table(embedding, d)?;
        Ok(Self { config, cpu, embedding, layers, norm, head })
    }

    /// The device and its arithmetic, in one line.
    pub fn device(&self) -> String {
        self.cpu.facts().name
    }

    /// One pass over the `next` tokens of every sequence, which some may have none of: the residual stream
    /// `[tokens, d_model]`, sequence after sequence.
    ///
    /// # Errors
    /// What [`Sequences::attend`] refuses.
    pub fn pass(&self, next: &[Vec<u32>], sequences: &mut Sequences) -> Result<Matrix> {
        let (cpu, c) = (&self.cpu, &self.config);
        let new: Vec<usize> = next.iter().map(Vec::len).collect();
        let positions = (0..next.len())
            .flat_map(|s| (0..new[s]).map(move |i| (s, i)))
            .map(|(s, i)| sequences.position(s) + i);
        let rotations: Vec<Vec<(f32, f32)>> = positions.map(|position| self.rotation(position)).collect();
        let swiglu = Activated { activation: Activation::Silu, gated: true };
        // Backends that fuse an addition with the norm behind it are told that norm. This one does not: any will do.
        let any_norm = &self.norm;
        let mut x = cpu.embed(&self.embedding, &next.concat(), any_norm)?;
        for (i, layer) in self.layers.iter().enumerate() {
            let normed = cpu.rms_norm(&mut x, &layer.attention_norm, c.epsilon)?;
            let qkv = cpu.to_host(&cpu.linear(&normed, &layer.qkv)?)?;
            let (q, k, v) = self.split(&qkv, &rotations);
            let attended = sequences.attend(c, i, (&q, &k, &v), &new)?;
            let attended = cpu.table(attended, c.heads * c.head_dim)?;
            cpu.add(&mut x, &attended, &layer.out, any_norm)?;
            let normed = cpu.rms_norm(&mut x, &layer.feed_forward_norm, c.epsilon)?;
            let hidden = cpu.linear_activated(&normed, &layer.gate_up, swiglu)?;
            cpu.add(&mut x, &hidden, &layer.down, any_norm)?;
        }
        sequences.own.advance(&new);
        Ok(x)
    }

    /// Logits of some rows of the residual stream, `[rows, vocab]`.
    ///
    /// # Errors
    /// None on the CPU.
    pub fn logits(&self, x: &Matrix, rows: &[u32]) -> Result<Vec<f32>> {
        let cpu = &self.cpu;
        // `embed` picks rows of any matrix.
        let mut rows = cpu.embed(x, rows, &self.norm)?;
        let normed = cpu.rms_norm(&mut rows, &self.norm, self.config.epsilon)?;
        cpu.to_host(&cpu.logits(&normed, &self.head)?)
    }

    /// Cosine and sine of each pair's angle at a position.
    fn rotation(&self, position: usize) -> Vec<(f32, f32)> {
        let dim = self.config.head_dim;
        let angle = |i| position as f64 * self.config.rope.frequency(i, dim);
        (0..dim / 2).map(|i| angle(i).sin_cos()).map(|(sin, cos)| (cos as f32, sin as f32)).collect()
    }

    /// q, k and v of `[tokens, (heads + 2 kv_heads) head_dim]`, q and k turned by the position of their token. A pair are
    /// elements `i` and `head_dim / 2 + i` of a head, as in Hugging Face's weights.
    fn split(&self, qkv: &[f32], rotations: &[Vec<(f32, f32)>]) -> (Vec<f32>, Vec<f32>, Vec<f32>) {
        let (heads, kv_heads, dim) = (self.config.heads, self.config.kv_heads, self.config.head_dim);
        let turned = |heads: &[f32], rotation: &[(f32, f32)], to: &mut Vec<f32>| {
            for head in heads.chunks_exact(dim) {
                let (a, b) = head.split_at(dim / 2);
                let pairs = || a.iter().zip(b).zip(rotation);
                to.extend(pairs().map(|((a, b), (cos, sin))| a * cos - b * sin));
                to.extend(pairs().map(|((a, b), (cos, sin))| b * cos + a * sin));
            }
        };
        let (mut q, mut k, mut v) = (Vec::new(), Vec::new(), Vec::new());
        for (token, rotation) in qkv.chunks_exact((heads + 2 * kv_heads) * dim).zip(rotations) {
            let (of_q, rest) = token.split_at(heads * dim);
            let (of_k, of_v) = rest.split_at(kv_heads * dim);
            turned(of_q, rotation, &mut q);
            turned(of_k, rotation, &mut k);
            v.extend_from_slice(of_v);
        }
        (q, k, v)
    }
}
