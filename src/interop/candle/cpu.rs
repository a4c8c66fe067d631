//! On the CPU: slices of candle's storages, `cpu::attend` and `cpu::merge_states`.

use candle_core::{Device, Error, Result, Tensor};

use super::operand::{CandleElement, Operands, State, States};
use crate::cpu::{attend, merge_states};
use crate::dtype::Element;
use crate::problem::Problem;
use crate::view::{PartialState, SharedKv, View};

pub(super) fn run<E: CandleElement>(
    problem: &Problem,
    operands: &Operands<'_>,
    lse: bool,
) -> Result<(Tensor, Option<Tensor>)> {
    let Operands { q, k, v } = operands;
    let (shape, lse_shape) = (problem.query_shape(), problem.lse_shape());
    let mut out = vec![<E as Element>::from_f32(0.0); shape.elements()];
    let mut sums = lse.then(|| vec![0f32; lse_shape.elements()]);
    attend(
        problem,
        q.in_host_memory::<E>()?,
        SharedKv { k: k.in_host_memory()?, v: v.in_host_memory()? },
        View::contiguous(shape, &mut out[..]),
        sums.as_mut().map(|sums| View::contiguous(lse_shape, &mut sums[..])),
    )
    .map_err(Error::wrap)?;
    let sums = sums.map(|sums| Tensor::from_vec(sums, operands.lse_dims(), &Device::Cpu)).transpose()?;
    Ok((Tensor::from_vec(out, operands.out_dims(), &Device::Cpu)?, sums))
}

pub(super) fn merge<E: CandleElement>(states: &States<'_>) -> Result<(Tensor, Tensor)> {
    let (shape, lse_shape) = (states.shape, states.shape.scalars());
    let parts = states.list.iter().map(|State { out, lse }| {
        Ok(PartialState { out: out.in_host_memory::<E>()?, lse: lse.in_host_memory::<f32>()? })
    });
    let parts = parts.collect::<Result<Vec<_>>>()?;
    let mut out = vec![<E as Element>::from_f32(0.0); shape.elements()];
    let mut lse = vec![0f32; lse_shape.elements()];
    let merged_lse = View::contiguous(lse_shape, &mut lse[..]);
    merge_states(&parts, View::contiguous(shape, &mut out[..]), Some(merged_lse)).map_err(Error::wrap)?;
    let out = Tensor::from_vec(out, states.out_dims(), &Device::Cpu)?;
    Ok((out, Tensor::from_vec(lse, states.lse_dims(), &Device::Cpu)?))
}
