//! A Llama by its definition, in f64: every token of a sequence over all before it, no cache, nothing shared.

use std::collections::HashMap;

use anyhow::Result;
use indicatif::ProgressBar;
use shared_prefix::config::Config;
use shared_prefix::load::PREFIX;
use shared_prefix::model::Model;
use t5::load::Random;
use t5::model::Source;

/// Random weights that a model and its reference have alike.
pub struct Weights {
    random: Random,
    drawn: HashMap<String, Vec<f32>>,
}

impl Source for Weights {
    fn take(&mut self, name: &str, shape: &[usize]) -> Result<Vec<f32>> {
        let mut tensor = self.random.take(name, shape)?;
        for (i, x) in tensor.iter_mut().enumerate() {
            match name {
                // Norms: were they all ones, nobody would see that they are left out.
                _ if shape.len() == 1 => *x += 0.4 * (i as f32).sin(),
                // Sharp attention, so that what is read, and from how far away, makes a difference.
                _ if name.contains("q_proj") => *x *= 4.0,
                _ => {}
            }
        }
        self.drawn.insert(name.to_owned(), tensor.clone());
        Ok(tensor)
    }
}

pub struct Reference {
    config: Config,
    weights: HashMap<String, Vec<f32>>,
}

/// A model and its reference.
pub fn both(config: &Config) -> (Model, Reference) {
    let mut source = Weights { random: Random::new(1, config.head_dim), drawn: HashMap::new() };
    let model = Model::load(config.clone(), &mut source, PREFIX, &ProgressBar::hidden()).unwrap();
    (model, Reference { config: config.clone(), weights: source.drawn })
}

impl Reference {
    /// Logits behind each of these tokens, which stand at the positions from `first` on.
    pub fn logits(&self, tokens: &[u32], first: usize) -> Vec<Vec<f64>> {
        let c = &self.config;
        let embedding = self.tensor("model.embed_tokens");
        let row = |id: &u32| embedding[*id as usize * c.d_model..][..c.d_model].iter();
        let mut stream: Vec<Vec<f64>> =
            tokens.iter().map(|id| row(id).map(|x| f64::from(*x)).collect()).collect();
        for layer in 0..c.layers {
            let name = |part: &str| format!("model.layers.{layer}.{part}");
            let normed = self.norm(&stream, &name("input_layernorm"));
            let [q, k, v] = ["q", "k", "v"].map(|part| {
                let projected = self.linear(&normed, &name(&format!("self_attn.{part}_proj")));
                projected
                    .into_iter()
                    .enumerate()
                    .map(|(i, mut row)| {
                        if part != "v" {
                            row.chunks_exact_mut(c.head_dim).for_each(|head| self.rope(head, first + i));
                        }
                        row
                    })
                    .collect::<Vec<_>>()
            });
            let attended: Vec<Vec<f64>> =
                (0..tokens.len()).map(|i| self.attend(&q[i], &k[..=i], &v[..=i])).collect();
            add(&mut stream, &self.linear(&attended, &name("self_attn.o_proj")));
            let normed = self.norm(&stream, &name("post_attention_layernorm"));
            let (gate, up) =
                (self.linear(&normed, &name("mlp.gate_proj")), self.linear(&normed, &name("mlp.up_proj")));
            let silu = |x: f64| x / (1.0 + (-x).exp());
            let hidden: Vec<Vec<f64>> = gate
                .iter()
                .zip(&up)
                .map(|(gate, up)| gate.iter().zip(up).map(|(gate, up)| silu(*gate) * up).collect())
                .collect();
            add(&mut stream, &self.linear(&hidden, &name("mlp.down_proj")));
        }
        let head = if c.tied { "model.embed_tokens" } else { "lm_head" };
        self.linear(&self.norm(&stream, "model.norm"), head)
    }

    /// Greedy ids behind a sequence, and the smallest lead of a chosen logit over the next.
    pub fn greedy(&self, sequence: &[u32], new_tokens: usize) -> (Vec<u32>, f64) {
        let (mut tokens, mut lead) = (sequence.to_vec(), f64::INFINITY);
        for _ in 0..new_tokens {
            let logits = self.logits(&tokens, 0).pop().unwrap();
            let mut ids: Vec<usize> = (0..logits.len()).collect();
            ids.sort_by(|a, b| logits[*b].total_cmp(&logits[*a]));
            lead = lead.min(logits[ids[0]] - logits[ids[1]]);
            tokens.push(ids[0] as u32);
        }
        (tokens.split_off(sequence.len()), lead)
    }

    fn tensor(&self, name: &str) -> &[f32] {
        &self.weights[&format!("{name}.weight")]
    }

    fn linear(&self, x: &[Vec<f64>], name: &str) -> Vec<Vec<f64>> {
        let weights = self.tensor(name);
        let dot = |x: &[f64], w: &[f32]| x.iter().zip(w).map(|(x, w)| x * f64::from(*w)).sum();
        x.iter().map(|x| weights.chunks_exact(x.len()).map(|w| dot(x, w)).collect()).collect()
    }

    fn norm(&self, x: &[Vec<f64>], name: &str) -> Vec<Vec<f64>> {
        let of_row = |x: &Vec<f64>| {
            let mean = x.iter().map(|x| x * x).sum::<f64>() / x.len() as f64;
            let root = (mean + f64::from(self.config.epsilon)).sqrt();
            x.iter().zip(self.tensor(name)).map(|(x, w)| x / root * f64::from(*w)).collect()
        };
        x.iter().map(of_row).collect()
    }

    /// Elements `i` and `head_dim / 2 + i` as a complex number, turned.
    pub fn rope(&self, head: &mut [f64], position: usize) {
        let half = head.len() / 2;
        for i in 0..half {
            let wavelength = self.config.rope.theta.powf(i as f64 / half as f64);
            let (sin, cos) = (position as f64 / wavelength).sin_cos();
            let (a, b) = (head[i], head[half + i]);
            (head[i], head[half + i]) = (a * cos - b * sin, a * sin + b * cos);
        }
    }

    fn attend(&self, q: &[f64], k: &[Vec<f64>], v: &[Vec<f64>]) -> Vec<f64> {
        let (c, dim) = (&self.config, self.config.head_dim);
        let of_head = |(h, q): (usize, &[f64])| {
            let at = h / (c.heads / c.kv_heads) * dim;
            let dot = |k: &Vec<f64>| q.iter().zip(&k[at..][..dim]).map(|(q, k)| q * k).sum::<f64>();
            let weights: Vec<f64> = k.iter().map(|k| (dot(k) / (dim as f64).sqrt()).exp()).collect();
            let sum: f64 = weights.iter().sum();
            let element = |d: usize| weights.iter().zip(v).map(|(w, v)| w * v[at + d]).sum::<f64>() / sum;
            (0..dim).map(element).collect::<Vec<_>>()
        };
        q.chunks_exact(dim).enumerate().flat_map(of_head).collect()
    }
}

fn add(stream: &mut [Vec<f64>], more: &[Vec<f64>]) {
    for (x, more) in stream.iter_mut().zip(more) {
        x.iter_mut().zip(more).for_each(|(x, more)| *x += more);
    }
}
