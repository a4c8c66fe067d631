//! On the CPU: slices of candle's storages, `cpu::attend` and `cpu::merge_states`.

use candle_core::{Device, Error, Result, Tensor};

use super::CandleElement;
use super::operand::{Operands, State, States};
use crate::cpu::{PartialState, attend, merge_states};
use crate::dtype::Element;
use crate::problem::{Lse, Output, Problem, Queries, SharedKv, Strides};

pub(super) fn run<E: CandleElement>(
    problem: &Problem,
    operands: &Operands<'_>,
    lse: bool,
) -> Result<(Tensor, Option<Tensor>)> {
    let Operands { q, k, v } = operands;
    let vectors = problem.total_rows() * problem.heads();
    let mut out = vec![<E as Element>::from_f32(0.0); vectors * problem.head_dim()];
    let mut sums = lse.then(|| vec![0f32; vectors]);
    attend(
        problem,
        Queries { data: q.in_host_memory::<E>()?, strides: q.strides },
        SharedKv {
            k: k.in_host_memory::<E>()?,
            v: v.in_host_memory::<E>()?,
            k_strides: k.strides,
            v_strides: v.strides,
        },
        Output::contiguous(problem, &mut out),
        sums.as_mut().map(|sums| Lse::contiguous(problem, sums)),
    )
    .map_err(Error::wrap)?;
    let sums = sums.map(|sums| Tensor::from_vec(sums, operands.lse_dims(), &Device::Cpu)).transpose()?;
    Ok((Tensor::from_vec(out, operands.out_dims(), &Device::Cpu)?, sums))
}

pub(super) fn merge<E: CandleElement>(states: &States<'_>) -> Result<(Tensor, Tensor)> {
    let shape = states.shape;
    let parts = states.list.iter().map(|State { out, lse }| {
        let (out_strides, lse_strides) = (out.strides, lse.strides);
        Ok(PartialState {
            out: out.in_host_memory::<E>()?,
            lse: lse.in_host_memory::<f32>()?,
            out_strides,
            lse_strides,
        })
    });
    let parts: Vec<PartialState<'_, E>> = parts.collect::<Result<_>>()?;
    let vectors = shape.rows.saturating_mul(shape.heads);
    let mut out = vec![<E as Element>::from_f32(0.0); vectors.saturating_mul(shape.head_dim)];
    let mut lse = vec![0f32; vectors];
    merge_states(
        shape,
        &parts,
        Output { data: &mut out, strides: Strides::contiguous(shape.heads, shape.head_dim) },
        Some(Lse { data: &mut lse, strides: Strides::contiguous(shape.heads, 1) }),
    )
    .map_err(Error::wrap)?;
    let out = Tensor::from_vec(out, states.out_dims(), &Device::Cpu)?;
    Ok((out, Tensor::from_vec(lse, states.lse_dims(), &Device::Cpu)?))
}
