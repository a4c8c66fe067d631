//! In the gate: every target's corpus, and a fixed number of mutations of it.

use std::path::Path;
use std::sync::{Mutex, PoisonError};

/// Random numbers (SplitMix64), the same in every run.
struct Random(u64);

impl Random {
    fn below(&mut self, bound: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((mixed ^ (mixed >> 31)) % bound as u64) as usize
    }
}

/// Values that mutated bytes often take.
const EDGES: [u8; 8] = [0, 1, 7, 0x20, 0x7f, 0x80, 0xfe, 0xff];

fn mutate(random: &mut Random, input: &mut Vec<u8>, others: &[Vec<u8>]) {
    for _ in 0..=random.below(4) {
        let at = random.below(input.len() + 1);
        let end = (at + 1 + random.below(8)).min(input.len());
        match random.below(6) {
            _ if at == input.len() => input.push(EDGES[random.below(EDGES.len())]),
            0 => input[at] ^= 1 << random.below(8),
            1 => input[at] = EDGES[random.below(EDGES.len())],
            2 => input[at] = random.below(256) as u8,
            3 => drop(input.drain(at..end)),
            4 => {
                let again = input[at..end].to_vec();
                input.splice(at..at, again);
            }
            _ => {
                let other = &others[random.below(others.len())];
                let from = random.below(other.len() + 1);
                let piece = &other[from..(from + 1 + random.below(32)).min(other.len())];
                input.splice(at..end, piece.iter().copied());
            }
        }
    }
}

/// Writes the input to a file where the target panics.
struct SavesInput<'a>(&'a str, &'a [u8]);

impl Drop for SavesInput<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let file = std::env::temp_dir().join(format!("onekv-fuzz-{}", self.0));
            let said = std::fs::write(&file, self.1).map(|()| file.display().to_string());
            eprintln!("the input is {}", said.unwrap_or_else(|error| error.to_string()));
        }
    }
}

fn replay(name: &str, mutations: usize) {
    // One at a time: the memory that is counted and the driver's state are the process's.
    static ALONE: Mutex<()> = Mutex::new(());
    let _alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
    let (_, run) = crate::TARGETS.iter().find(|(target, _)| *target == name).expect("a target of that name");
    let run = |input: &[u8]| {
        let _saves = SavesInput(name, input);
        run(input);
    };
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("corpus").join(name);
    let mut files: Vec<_> =
        folder.read_dir().expect("a corpus").map(|entry| entry.expect("a file").path()).collect();
    files.sort();
    let corpus: Vec<Vec<u8>> = files.iter().map(|file| std::fs::read(file).expect("an input")).collect();
    corpus.iter().for_each(|input| run(input));
    let mut random = Random(1);
    for _ in 0..mutations {
        let mut input = corpus[random.below(corpus.len())].clone();
        mutate(&mut random, &mut input, &corpus);
        run(&input);
    }
}

macro_rules! replays {
    ($($name:ident: $mutations:literal),* $(,)?) => {
        $(#[test]
        fn $name() {
            replay(stringify!($name), $mutations);
        })*

        #[test]
        fn every_target_is_replayed() {
            let names: Vec<&str> = crate::TARGETS.iter().map(|(name, _)| *name).collect();
            assert_eq!(names, [$(stringify!($name)),*]);
        }
    };
}

replays! {
    problem: 20_000,
    plan: 8_000,
    t5_files: 2_000,
    t5_requests: 2_000,
    ptx: 10_000,
    fatbin: 50_000,
    driver: 5_000,
    c_api: 20_000,
}
