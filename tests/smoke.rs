//! quick
use onekv::*;
#[test]
fn smoke() {
    for (rows, keys, dim) in [(1, 1, 64), (3, 100, 64), (30, 130, 64), (7, 64, 40), (40, 65, 5), (300, 200, 128)] {
        let p = Problem::new(ProblemSpec { heads: 4, kv_heads: 2, head_dim: dim, scale: 0.3, softcap: None, row_offsets: vec![0, rows], keys: Keys::Packed { offsets: vec![0, keys] } }).unwrap();
        let mut seed = 1u32;
        let mut rnd = || { seed = seed.wrapping_mul(1664525).wrapping_add(1013904223); (seed >> 8) as f32 / (1 << 23) as f32 - 1.0 };
        let q: Vec<f32> = (0..rows * 4 * dim).map(|_| rnd()).collect();
        let k: Vec<f32> = (0..keys * 2 * dim).map(|_| rnd()).collect();
        let v: Vec<f32> = (0..keys * 2 * dim).map(|_| rnd()).collect();
        let (mut a, mut b) = (vec![f32::NAN; q.len()], vec![f32::NAN; q.len()]);
        let (mut la, mut lb) = (vec![f32::NAN; rows * 4], vec![f32::NAN; rows * 4]);
        cpu::attend(&p, Queries::contiguous(&p, &q), SharedKv::contiguous(&p, &k, &v), Output::contiguous(&p, &mut a), Some(Lse::contiguous(&p, &mut la))).unwrap();
        reference::attend(&p, Queries::contiguous(&p, &q), SharedKv::contiguous(&p, &k, &v), Output::contiguous(&p, &mut b), Some(Lse::contiguous(&p, &mut lb))).unwrap();
        let e = a.iter().zip(&b).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
        let el = la.iter().zip(&lb).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
        println!("{rows} {keys} {dim}: {e:e} {el:e} {}", a.iter().any(|x| x.is_nan()));
    }
}
