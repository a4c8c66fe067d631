//! The rules: small mistakes of the kind that people make, one edit each.

use super::site::{Body, Edit, Site, number};

/// A kind of mistake.
pub struct Rule {
    /// Its name.
    pub name: &'static str,
    /// What it does, in words.
    pub about: &'static str,
    edits: fn(&Site<'_>, &Body<'_>) -> Vec<Edit>,
}

impl Rule {
    /// The ways to make the mistake at one instruction.
    pub(super) fn edits(&self, site: &Site<'_>, body: &Body<'_>) -> Vec<Edit> {
        (self.edits)(site, body)
    }
}

/// Name of the rule that lets instructions run which did not.
pub const NEGATE_GUARD: &str = "negate-guard";
/// Name of the rule that changes nothing but a register.
pub const SWIZZLE: &str = "swizzle";
/// Name of the rule for tensor maps, which are no part of the text.
pub const TENSOR_MAP: &str = "tensor-map";

const WAITS: &[&str] = &["cp.async.wait_group", "cp.async.bulk.wait_group", "wgmma.wait_group"];
const COMMITS: &[&str] = &["cp.async.commit_group", "cp.async.bulk.commit_group", "wgmma.commit_group"];
const BARRIERS: &[&str] =
    &["bar.sync", "bar.arrive", "barrier.sync", "barrier.arrive", "bar.cta", "barrier.cta"];
const MBARRIER_WAITS: &[&str] = &["mbarrier.try_wait", "mbarrier.test_wait"];
const ARRIVALS: &[&str] = &["mbarrier.arrive", "mbarrier.arrive_drop", "cp.async.mbarrier.arrive"];
const EXPECTS: &[&str] =
    &["mbarrier.arrive.expect_tx", "mbarrier.arrive_drop.expect_tx", "mbarrier.expect_tx"];
const COPIES: &[&str] = &["cp.async.ca", "cp.async.cg", "cp.async.bulk", "cp.reduce.async.bulk"];
const STORES: &[&str] = &["st", "stmatrix", "red"];
const NO_COPY: &[&str] =
    &["cp.async.bulk.commit_group", "cp.async.bulk.wait_group", "cp.async.bulk.prefetch"];

/// All rules on text.
pub static RULES: &[Rule] = &[
    Rule {
        name: "drop-fence",
        about: "a fence or membar is left out",
        edits: |site, _| drop_if(site, site.is(&["fence", "membar"])),
    },
    Rule {
        name: "drop-wgmma-fence",
        about: "a wgmma.fence is left out",
        edits: |site, _| drop_if(site, site.is(&["wgmma.fence"])),
    },
    Rule {
        name: "drop-wait",
        about: "a wait for copies, products or the launch before is left out",
        edits: |site, _| {
            drop_if(site, site.is(WAITS) || site.is(&["cp.async.wait_all", "griddepcontrol.wait"]))
        },
    },
    Rule {
        name: "loosen-wait",
        about: "a wait lets one more group be pending",
        edits: |site, _| {
            if site.is(WAITS) { site.operand_changed(0, "add", 32, 1) } else { Vec::new() }
        },
    },
    Rule {
        name: "drop-commit",
        about: "a commit of a group is left out",
        edits: |site, _| drop_if(site, site.is(COMMITS)),
    },
    Rule {
        name: "drop-barrier",
        about: "a barrier of the block is left out",
        edits: |site, _| drop_if(site, site.is(BARRIERS)),
    },
    Rule {
        name: "drop-warp-sync",
        about: "a bar.warp.sync is left out",
        edits: |site, _| drop_if(site, site.is(&["bar.warp.sync"])),
    },
    Rule {
        name: "drop-cluster-barrier",
        about: "a barrier of the cluster is left out, arrival and wait",
        edits: cluster_barrier,
    },
    Rule {
        name: "barrier-threads",
        about: "a barrier is for 32 threads more or less",
        edits: |site, _| {
            let with =
                |by| if site.is(BARRIERS) { site.operand_changed(1, "add", 32, by) } else { Vec::new() };
            [with(32), with(-32)].concat()
        },
    },
    Rule {
        name: "barrier-number",
        about: "another barrier for some threads of the block",
        edits: |site, _| {
            // Where all threads come to one instruction, its number is but a name.
            let named = site.is(BARRIERS) && site.operands.len() > 1;
            if named { site.operand_changed(0, "add", 32, 1) } else { Vec::new() }
        },
    },
    Rule {
        name: "skip-mbarrier-wait",
        about: "a wait for an mbarrier does not wait",
        edits: |site, _| match site.operand(0).filter(|_| site.is(MBARRIER_WAITS)) {
            Some(done) => vec![site.replaced(&format!("setp.eq.u32 {done}, 0, 0"))],
            None => Vec::new(),
        },
    },
    Rule {
        name: "wait-parity",
        about: "a wait for an mbarrier's other phase",
        edits: |site, _| {
            let waits = site.is(MBARRIER_WAITS) && site.has("parity");
            if waits { site.operand_changed(2, "xor", 32, 1) } else { Vec::new() }
        },
    },
    Rule {
        name: "drop-arrival",
        about: "an arrival at an mbarrier is left out",
        edits: |site, _| drop_if(site, site.is(ARRIVALS)),
    },
    Rule {
        name: "expected-bytes",
        about: "an mbarrier expects 16 bytes more or less",
        edits: |site, _| {
            let last = site.operands.len().saturating_sub(1);
            let with =
                |by| if site.is(EXPECTS) { site.operand_changed(last, "add", 32, by) } else { Vec::new() };
            [with(16), with(-16)].concat()
        },
    },
    Rule {
        name: "mbarrier-count",
        about: "an mbarrier is for one arrival more or less",
        edits: |site, _| {
            let with = |by| {
                if site.is(&["mbarrier.init"]) { site.operand_changed(1, "add", 32, by) } else { Vec::new() }
            };
            [with(1), with(-1)].concat()
        },
    },
    Rule {
        name: "shuffle-lane",
        about: "a shuffle from the lane itself, or from its neighbour",
        edits: |site, _| match site.operands.get(2).filter(|_| site.is(&["shfl.sync"])) {
            // A butterfly of other lanes may span the same ones: without a step it does not.
            Some(part) if site.has("bfly") => vec![vec![(part.clone(), "0".to_owned())]],
            Some(part) => vec![site.changed(part, "xor", 32, 1)],
            None => Vec::new(),
        },
    },
    Rule { name: "member-mask", about: "lane 31 is missing in a collective's mask", edits: member_mask },
    Rule { name: "copy-bytes", about: "an asynchronous copy of other bytes", edits: copy_bytes },
    Rule {
        name: "coordinate",
        about: "a tensor copy from one element further on",
        edits: |site, _| {
            let copies = site.is(&["cp.async.bulk.tensor", "cp.reduce.async.bulk.tensor"]);
            let tensor = (0..site.operands.len()).filter(|_| copies);
            tensor.flat_map(|at| site.list(at)).map(|part| site.changed(&part, "add", 32, 1)).collect()
        },
    },
    Rule {
        name: "multicast-mask",
        about: "a multicast to other blocks",
        edits: |site, _| {
            if site.has("multicast::cluster") { site.operand_changed(3, "xor", 16, 1) } else { Vec::new() }
        },
    },
    Rule {
        name: "cluster-rank",
        about: "another block's shared memory",
        edits: |site, _| {
            if site.is(&["mapa"]) { site.operand_changed(2, "xor", 32, 1) } else { Vec::new() }
        },
    },
    Rule {
        name: "drop-copy",
        about: "an asynchronous copy is left out",
        edits: |site, _| drop_if(site, site.is(COPIES) && !site.is(NO_COPY)),
    },
    Rule {
        name: "drop-store",
        about: "a store is left out",
        edits: |site, _| drop_if(site, site.is(STORES) && !site.has("param")),
    },
    Rule { name: "address", about: "an access 4 bytes further on, or 16 before", edits: address },
    Rule {
        name: SWIZZLE,
        about: "an XOR in an address is left out",
        edits: |site, body| {
            let swizzles = site.is(&["xor.b32", "xor.b64"])
                && site.operand(0).is_some_and(|to| body.addressing.contains(to));
            match (site.operand(0), site.operand(1)) {
                (Some(to), Some(from)) if swizzles => {
                    vec![site.replaced(&format!("mov{} {to}, {from}", &site.opcode[3..]))]
                }
                _ => Vec::new(),
            }
        },
    },
    Rule {
        name: "descriptor-start",
        about: "a wgmma descriptor starts 16 bytes further on",
        edits: |site, _| descriptors(site, "add", 1),
    },
    Rule {
        name: "descriptor-leading",
        about: "16 bytes more between a descriptor's leading parts",
        edits: |site, _| descriptors(site, "add", 1 << 16),
    },
    Rule {
        name: "descriptor-stride",
        about: "16 bytes more between a descriptor's strided parts",
        edits: |site, _| descriptors(site, "add", 1 << 32),
    },
    Rule {
        name: "descriptor-swizzle",
        about: "a descriptor of another swizzle",
        edits: |site, _| descriptors(site, "xor", 1 << 62),
    },
    Rule {
        name: "wgmma-flags",
        about: "a product adds or not, negates, or transposes where it should not",
        edits: wgmma_flags,
    },
    Rule {
        name: "matrix-transpose",
        about: "ldmatrix or stmatrix transposes where it should not, or does not",
        edits: |site, _| {
            let new = match site.has("trans") {
                true => site.opcode.replacen(".trans", "", 1),
                false => site.opcode.replacen(".shared", ".trans.shared", 1),
            };
            if site.is(&["ldmatrix", "stmatrix"]) { vec![site.renamed(new)] } else { Vec::new() }
        },
    },
    Rule {
        name: "fragment-order",
        about: "two registers of a fragment change places",
        edits: fragment_order,
    },
    Rule {
        name: "register-count",
        about: "setmaxnreg of 8 registers more or less",
        edits: |site, _| {
            let with = |by| {
                if site.is(&["setmaxnreg"]) { site.operand_changed(0, "add", 32, by) } else { Vec::new() }
            };
            [with(8), with(-8)].concat()
        },
    },
    Rule {
        name: NEGATE_GUARD,
        about: "a guard predicate is negated",
        edits: |site, _| {
            let new = match site.guard.strip_prefix("@!") {
                Some(name) => format!("@{name}"),
                None => site.guard.replacen('@', "@!", 1),
            };
            let guard = site.whole.start..site.whole.start + site.guard.len();
            if guard.is_empty() { Vec::new() } else { vec![vec![(guard, new)]] }
        },
    },
];

fn drop_if(site: &Site<'_>, applies: bool) -> Vec<Edit> {
    if applies { vec![site.dropped()] } else { Vec::new() }
}

fn cluster_barrier(site: &Site<'_>, body: &Body<'_>) -> Vec<Edit> {
    if !site.is(&["barrier.cluster.arrive"]) {
        return Vec::new();
    }
    let wait = body.sites[site.number..].iter().find(|s| s.is(&["barrier.cluster.wait"]));
    wait.map(|wait| [site.dropped(), wait.dropped()].concat()).into_iter().collect()
}

fn member_mask(site: &Site<'_>, _: &Body<'_>) -> Vec<Edit> {
    let at = match site.opcode {
        _ if site.is(&["shfl.sync"]) => 4,
        _ if site.is(&["bar.warp.sync"]) => 0,
        _ if site.is(&["elect.sync"]) => 1,
        _ if site.is(&["vote.sync", "match.any.sync", "match.all.sync", "redux.sync"]) => 2,
        _ => return Vec::new(),
    };
    let lane = i64::from(i32::MIN);
    site.operands.get(at).map(|part| site.changed(part, "xor", 32, lane)).into_iter().collect()
}

fn copy_bytes(site: &Site<'_>, _: &Body<'_>) -> Vec<Edit> {
    if site.is(&["cp.async.ca", "cp.async.cg"]) {
        // The bytes of the source: what follows them is zeros.
        let Some(bytes) = site.operand(2).and_then(number) else { return Vec::new() };
        return match site.operands.get(3) {
            Some(part) => vec![site.changed(part, "shr", 32, 1)],
            None => {
                let end = site.operands[2].end;
                vec![vec![(end..end, format!(", {}", bytes / 2))]]
            }
        };
    }
    let copies =
        site.is(&["cp.async.bulk", "cp.reduce.async.bulk"]) && !site.is(NO_COPY) && !site.has("tensor");
    let with = |by| if copies { site.operand_changed(2, "add", 32, by) } else { Vec::new() };
    [with(16), with(-16)].concat()
}

fn address(site: &Site<'_>, _: &Body<'_>) -> Vec<Edit> {
    let accesses = site.is(&["ld", "st", "atom", "red", "ldmatrix", "stmatrix"]);
    if !accesses || ["param", "const", "local"].iter().any(|space| site.has(space)) {
        return Vec::new();
    }
    let places = (0..site.operands.len()).filter(|at| site.operand(*at).is_some_and(|o| o.starts_with('[')));
    let moved = |at: usize, by: i64| {
        let text = site.operand(at).unwrap_or_default().trim_matches(['[', ']']);
        let (base, offset) = match text.split_once('+') {
            Some((base, offset)) => (base.trim(), number(offset.trim())?),
            None => (text.trim(), 0),
        };
        Some(vec![(site.operands[at].clone(), format!("[{base}+{}]", offset + by))])
    };
    places.flat_map(|at| [moved(at, 4), moved(at, -16)]).flatten().collect()
}

/// Operands of a product that are descriptors: B, and A where it is no list of registers.
fn descriptors(site: &Site<'_>, operation: &str, value: i64) -> Vec<Edit> {
    if !site.is(&["wgmma.mma_async"]) {
        return Vec::new();
    }
    let registers = |at: &usize| site.operand(*at).is_some_and(|o| !o.starts_with('{'));
    [1, 2]
        .into_iter()
        .filter(registers)
        .flat_map(|at| site.operand_changed(at, operation, 64, value))
        .collect()
}

fn wgmma_flags(site: &Site<'_>, _: &Body<'_>) -> Vec<Edit> {
    if !site.is(&["wgmma.mma_async"]) {
        return Vec::new();
    }
    let mut edits = site.operand_changed(3, "not", 1, 0);
    for (at, part) in site.operands.iter().enumerate().skip(4) {
        let new = match (at, site.operand(at)) {
            (4 | 5, Some("1")) => "-1",
            (4 | 5, _) => "1",
            (_, Some("0")) => "1",
            _ => "0",
        };
        edits.push(vec![(part.clone(), new.to_owned())]);
    }
    edits
}

fn fragment_order(site: &Site<'_>, _: &Body<'_>) -> Vec<Edit> {
    let fragments: &[usize] = match site.base() {
        "mma" => &[0, 1, 2],
        "ldmatrix" => &[0],
        "stmatrix" => &[1],
        "wgmma" if site.is(&["wgmma.mma_async"]) => &[0, 1],
        _ => return Vec::new(),
    };
    let swapped = |at: &usize| {
        let list = site.list(*at);
        let [first, second] = list.first_chunk::<2>()?;
        let [a, b] = [first, second].map(|part| site.part(part));
        (a != b).then(|| vec![(first.clone(), b.to_owned()), (second.clone(), a.to_owned())])
    };
    fragments.iter().filter_map(swapped).collect()
}
