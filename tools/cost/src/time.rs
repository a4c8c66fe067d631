//! The least time on a device, and from where on sharing pays.

use serde::Serialize;

use crate::numbers::first;
use crate::problem::{Method, ModelShape, Workload};
use crate::work::{Cost, breakdown};

/// What a device does at best.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Roofline {
    pub flops_per_s: f64,
    /// Bytes per second through memory.
    pub bytes_per_s: f64,
}

impl Roofline {
    /// Seconds of what takes as long as its arithmetic or its traffic.
    pub(crate) fn seconds(&self, cost: Cost) -> f64 {
        (cost.flops as f64 / self.flops_per_s).max(cost.bytes as f64 / self.bytes_per_s)
    }
}

/// Seconds that a device cannot do without: each part of the encoding with the prompts' prefill, then of all
/// further steps, takes as long as its arithmetic or its traffic. Launches and waiting are left out.
pub(crate) fn least_seconds(method: Method, model: &ModelShape, work: &Workload, device: &Roofline) -> f64 {
    let whole = breakdown(method, model, work);
    let begin = breakdown(method, model, &Workload { new_tokens: work.new_tokens.min(1), ..*work });
    let of_part = |(whole, begin): (Cost, Cost)| {
        let further = Cost { flops: whole.flops - begin.flops, bytes: whole.bytes - begin.bytes };
        device.seconds(begin) + device.seconds(further)
    };
    whole.parts().into_iter().zip(begin.parts()).map(of_part).sum()
}

/// How many times as long PIE takes as PID, each as long as the device cannot do without.
pub fn gain(model: &ModelShape, work: &Workload, device: &Roofline) -> f64 {
    let seconds = |method| least_seconds(method, model, work, device);
    seconds(Method::Pie) / seconds(Method::Pid)
}

/// Where sharing begins or ceases to pay, everything else as it is in a workload.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Crossover {
    /// The fewest prompts per input from which on PID gains; `None`: up to [`SEARCHED`] it does not.
    pub least_prompts: Option<u64>,
    /// The shortest input from which on it gains, likewise.
    pub least_keys: Option<u64>,
    /// The longest output up to which it gains; `None`: at every length up to [`SEARCHED`], or at none.
    pub most_new_tokens: Option<u64>,
}

/// The largest count that [`crossover`] looks at.
pub const SEARCHED: u64 = 1 << 16;

/// Where PID is `times` as fast as PIE.
pub fn crossover(model: &ModelShape, work: &Workload, device: &Roofline, times: f64) -> Crossover {
    let at_least = |work: Workload| gain(model, &work, device) >= times;
    // The gain grows with prompts and keys, and falls with the output's length.
    let fails = first(SEARCHED, |new_tokens| !at_least(Workload { new_tokens, ..*work }));
    Crossover {
        least_prompts: first(SEARCHED, |prompts| at_least(Workload { prompts, ..*work })),
        least_keys: first(SEARCHED, |keys| at_least(Workload { keys, ..*work })),
        most_new_tokens: fails.map(|n| n - 1).filter(|n| *n > 0),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::problem::T5_BASE;

    const DIALOGUE: Workload =
        Workload { inputs: 1, prompts: 30, keys: 512, prompt_tokens: 0, new_tokens: 10 };

    /// A device on which bytes are free, or arithmetic is.
    #[test]
    fn least_time_is_arithmetic_or_traffic() {
        let total = breakdown(Method::Pid, &T5_BASE, &DIALOGUE).total();
        let seconds = |flops_per_s, bytes_per_s| {
            least_seconds(Method::Pid, &T5_BASE, &DIALOGUE, &Roofline { flops_per_s, bytes_per_s })
        };
        assert!((seconds(1e9, 1e30) / (total.flops as f64 / 1e9) - 1.0).abs() < 1e-12);
        assert!((seconds(1e30, 1e9) / (total.bytes as f64 / 1e9) - 1.0).abs() < 1e-12);
        // Encoding is bound by arithmetic, decoding by traffic: both together take longer than either.
        let both = seconds(1e14, 1e12);
        assert!(both > total.flops as f64 / 1e14 && both > total.bytes as f64 / 1e12);
        assert!(both < total.flops as f64 / 1e14 + total.bytes as f64 / 1e12);
        // The input's K/V are made before the further steps, whose traffic does not hide that arithmetic.
        let whole = breakdown(Method::Pid, &T5_BASE, &DIALOGUE);
        let device = Roofline { flops_per_s: 1e14, bytes_per_s: 1e12 };
        assert!(both > whole.parts().map(|part| device.seconds(part)).iter().sum());
    }

    #[test]
    fn the_crossover_is_where_the_gain_is_reached() {
        let device = Roofline { flops_per_s: 8e14, bytes_per_s: 4e12 };
        let work = Workload { prompt_tokens: 3, prompts: 4, new_tokens: 16, ..DIALOGUE };
        let at = |work: Workload| gain(&T5_BASE, &work, &device);
        for times in [1.05, 1.2, 1.6] {
            let found = crossover(&T5_BASE, &work, &device, times);
            let prompts = found.least_prompts.unwrap();
            assert!(at(Workload { prompts, ..work }) >= times);
            assert!(prompts == 1 || at(Workload { prompts: prompts - 1, ..work }) < times);
            let keys = found.least_keys.unwrap();
            assert!(
                at(Workload { keys, ..work }) >= times && at(Workload { keys: keys - 1, ..work }) < times
            );
            if let Some(new_tokens) = found.most_new_tokens {
                assert!(at(Workload { new_tokens, ..work }) >= times);
                assert!(at(Workload { new_tokens: new_tokens + 1, ..work }) < times);
            }
        }
        assert!(crossover(&T5_BASE, &work, &device, 1.2).most_new_tokens.is_some());
        // Nothing is shared by one prompt: the methods differ by its few tokens.
        assert!((at(Workload { prompts: 1, ..work }) - 1.0).abs() < 0.02);
        assert_eq!(crossover(&T5_BASE, &Workload { prompts: 1, ..work }, &device, 1.2).least_keys, None);
    }
}
