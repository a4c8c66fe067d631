//! Which kernel, and how the keys are split: the least cost, found without most of the candidates' costs.

use super::cost::{Constants, Model, Sizes};
use super::facts::DeviceFacts;
use super::options::PlanOptions;
use super::variants::{self, MAX_COUNT, Variant};
use crate::dtype::DType;
use crate::problem::Problem;

/// The variant, the keys of a split and the cluster for splits that cost the least, the first of equals; `None` where no
/// variant fits.
pub(super) fn choice(
    problem: &Problem,
    dtype: DType,
    kv_bytes: usize,
    facts: &DeviceFacts,
    options: &PlanOptions,
) -> Option<(&'static Variant, usize, usize)> {
    let sizes = Sizes::of(problem);
    // A cluster has something to share where some input has two row tiles or more.
    let cluster_fits = |v: &Variant| v.cluster == 1 || sizes.most_rows() > v.tile_rows;
    let fits = |v: &&Variant| {
        (v.dtype, v.kv_bytes, v.head_dim) == (dtype, kv_bytes, problem.head_dim())
            && v.fits(facts)
            && options.tile_rows.is_none_or(|rows| rows == v.tile_rows)
            && options.split_cluster.is_none_or(|cluster| v.split_clusters().contains(&cluster))
            && options.cluster.map_or_else(|| cluster_fits(v), |cluster| cluster == v.cluster)
            && options.architecture.is_none_or(|architecture| architecture == v.architecture)
    };
    let mut fitting: Vec<&'static Variant> = variants::all().filter(fits).collect();
    // A kernel that a newer one supersedes would only cost time to consider.
    let all = fitting.clone();
    fitting.retain(|v| !all.iter().any(|other| other.supersedes(v)));
    let constants = Constants::of(facts.compute_capability);
    if let (&[variant], Some(_)) = (&fitting[..], options.split_keys) {
        let keys = splits(0, variant, facts, options).next()?;
        let split = || Model::new(&sizes, variant, facts, constants).split(keys, None);
        return Some((variant, keys, options.split_cluster.unwrap_or_else(|| split().cluster)));
    }
    let mut best: Option<(f64, &'static Variant, usize, usize)> = None;
    for variant in fitting {
        let mut model = Model::new(&sizes, variant, facts, constants);
        for keys in splits(sizes.most_keys(), variant, facts, options) {
            let split = model.split(keys, options.split_cluster);
            let is_no_better = |cost| best.is_some_and(|(least, ..)| cost >= least);
            if is_no_better(model.least_of_finer(&split)) {
                break;
            }
            if is_no_better(model.least(&split)) {
                continue;
            }
            let cost = model.cost(&split);
            if best.is_none_or(|(least, ..)| cost < least) {
                best = Some((cost, variant, keys, split.cluster));
            }
        }
    }
    best.map(|(_, variant, keys, cluster)| (variant, keys, cluster))
}

/// Keys of a split to consider, from coarse to fine: the fixed number, or those that divide the longest input evenly.
fn splits(
    most_keys: usize,
    variant: &Variant,
    facts: &DeviceFacts,
    options: &PlanOptions,
) -> impl Iterator<Item = usize> {
    let tile_keys = variant.tile_keys;
    let tiles = most_keys.div_ceil(tile_keys).max(1);
    let (first, most) = match options.split_keys {
        // A split of more keys than there can be is one part; without the bound its tiles would overflow.
        Some(keys) => (Some(keys.min(MAX_COUNT).div_ceil(tile_keys)), 0),
        // More parts than fit at once only add combines.
        None => (
            Some(tiles).filter(|_| facts.multiprocessors > 0),
            tiles
                .min(facts.multiprocessors.saturating_mul(4))
                .min(options.split_cluster.filter(|cluster| *cluster > 1).unwrap_or(128)),
        ),
    };
    // The next finer split: the fewest parts that are shorter than these.
    let finer = move |&of_part: &usize| {
        let parts = tiles.div_ceil(of_part.checked_sub(1).filter(|shorter| *shorter > 0)?);
        (parts <= most).then(|| tiles.div_ceil(parts))
    };
    std::iter::successors(first, finer).map(move |of_part| of_part * tile_keys)
}
