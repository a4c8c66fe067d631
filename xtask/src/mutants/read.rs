//! Survivors that were read, and why each is one. By rule and place: line numbers change with the compiler.

use ptxsim::mutate::Tried;

/// What to make of a mutant that went unnoticed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Judgement {
    /// No card goes wrong, by what the PTX manual says.
    Harmless,
    /// A card could go wrong, but not in the launches that were recorded.
    NotShown,
    /// A card may go wrong, and the simulator does not say so.
    #[cfg_attr(not(test), expect(dead_code, reason = "none is known today"))]
    Lenient,
}

impl Judgement {
    pub fn name(self) -> &'static str {
        match self {
            Judgement::Harmless => "harmless",
            Judgement::NotShown => "not shown",
            Judgement::Lenient => "lenient",
        }
    }
}

/// A reason, and the survivors that it is for.
pub struct Read {
    pub rule: &'static str,
    /// Part of the kernel's name.
    pub kernel: &'static str,
    /// Part of the opcodes around the place, or of the edited line.
    pub place: &'static str,
    pub judgement: Judgement,
    pub why: &'static str,
}

impl Read {
    /// The first of `read` that is for a survivor.
    pub fn of<'r>(tried: &Tried, read: &'r [Read]) -> Option<&'r Read> {
        let within =
            |place: &str| [&tried.place, &tried.before, &tried.after].iter().any(|text| text.contains(place));
        let fits = |r: &&Read| r.rule == tried.rule && tried.kernel.contains(r.kernel) && within(r.place);
        read.iter().find(fits)
    }
}

#[rustfmt::skip]
pub const READ: &[Read] = &[
    Read { rule: "register-count", kernel: "_sm90a_", place: "setmaxnreg", judgement: Judgement::Harmless,
        why: "PTX names no hardware registers: ptxas fits the code to the number, and the block has as many" },
    Read { rule: "cluster-rank", kernel: "_sm90a_", place: "<mapa.shared::cluster.u32> mbarrier.arrive", judgement: Judgement::Harmless,
        why: "one lane for each of the two blocks: the two change places" },
    Read { rule: "descriptor-leading", kernel: "_sm90a_", place: ", 1, 1, 0, 0;", judgement: Judgement::Harmless,
        why: "operands along k in 128-byte swizzle have no leading offset" },
    Read { rule: "descriptor-leading", kernel: "_64_", place: "m64n64k16", judgement: Judgement::Harmless,
        why: "B along n is one part of 64 elements: there is no leading offset to a second" },
    Read { rule: "drop-barrier", kernel: "_sm90a_", place: "mov.u32 mov.u32 <bar.sync> bra.uni", judgement: Judgement::Harmless,
        why: "the last turn: arrivals that nobody waits for are left when the block ends" },
    Read { rule: "drop-barrier", kernel: "_sm90a_", place: "add.s32 mov.u32 <bar.sync> mul.f32 mul.f32", judgement: Judgement::Harmless,
        why: "by then each warp has waited for the products that read Q, and PTX has a wgmma be one of the whole warpgroup" },
    Read { rule: "drop-barrier", kernel: "_sm90a_", place: "mov.u32 mov.u32 <bar.sync> shl.b32 add.s32", judgement: Judgement::NotShown,
        why: "shown by blocks that go on to a second entry of work, not by those of one" },
    Read { rule: "drop-barrier", kernel: "_sm90a_", place: "fence.proxy.async.shared::cta", judgement: Judgement::NotShown,
        why: "a short last tile has a second fence and a barrier of all consumers; whole tiles show it" },
    Read { rule: "drop-fence", kernel: "_sm90a_", place: "cp.async.wait_group <fence.proxy.async", judgement: Judgement::NotShown,
        why: "a short last tile has a second fence and a barrier of all consumers; whole tiles show it" },
    Read { rule: "barrier-number", kernel: "_sm90a_", place: "<bar.sync>", judgement: Judgement::Harmless,
        why: "all warps that meet there take the other number, which nothing else uses then" },
    Read { rule: "drop-wgmma-fence", kernel: "_sm90a_", place: "bra <wgmma.fence.sync.aligned>", judgement: Judgement::Harmless,
        why: "no register was touched since the fence before the product of scores" },
    Read { rule: "mbarrier-count", kernel: "_sm90a_", place: ", -1; mbarrier.init", judgement: Judgement::NotShown,
        why: "PTX has a wgmma be one of the whole warpgroup, so the wait of three of its warps tells of the fourth's; the surplus of arrivals takes more uses of a place than there are" },
    Read { rule: "skip-mbarrier-wait", kernel: "_sm90a_", place: "xor.b32 <mbarrier.try_wait", judgement: Judgement::NotShown,
        why: "shown by blocks that go on to a second entry of work, not by those of one" },
    Read { rule: "drop-arrival", kernel: "_sm90a_", place: "<mbarrier.arrive.shared::cta.b64>", judgement: Judgement::NotShown,
        why: "shown by blocks that go on to a second entry of work, not by those of one" },
    Read { rule: "negate-guard", kernel: "_sm90a_", place: "wgmma.wait_group.sync.aligned <bra> add.s32 mbarrier.arrive", judgement: Judgement::NotShown,
        why: "shown by blocks that go on to a second entry of work, not by those of one" },
    Read { rule: "swizzle", kernel: "_sm90a_", place: "xor.b32 <xor.b32>", judgement: Judgement::NotShown,
        why: "shown by blocks that go on to a second entry of work, not by those of one" },
    Read { rule: "swizzle", kernel: "_sm90a_", place: "setp.gt.s32 <xor.b32> selp.u16", judgement: Judgement::NotShown,
        why: "shown by blocks that go on to a second entry of work, not by those of one" },
    Read { rule: "swizzle", kernel: "_sm90a_", place: "selp.u32 <xor.b32> mul.wide.s32", judgement: Judgement::NotShown,
        why: "shown by blocks that go on to a second entry of work, not by those of one" },
    Read { rule: "swizzle", kernel: "_sm90_", place: "shl.b32 <xor.b32> shl.b32 and.b32", judgement: Judgement::Harmless,
        why: "zeros behind the last key: a warp writes whole rows, and without the XOR the same chunks of them in another order" },
    Read { rule: "shuffle-lane", kernel: "_sm90a_", place: "<shfl.sync.idx.b32>", judgement: Judgement::Harmless,
        why: "all lanes hold the same value: it tells the compiler so" },
    Read { rule: "shuffle-lane", kernel: "combine", place: "max.f32", judgement: Judgement::NotShown,
        why: "there are fewer parts than lanes" },
    Read { rule: "drop-wait", kernel: "onekv_bf16_", place: "cp.async.wait_group 0;", judgement: Judgement::NotShown,
        why: "behind the last tile only empty groups are pending; an input without keys has Q in flight there" },
    Read { rule: "loosen-wait", kernel: "onekv_bf16_", place: "cp.async.wait_group 0;", judgement: Judgement::NotShown,
        why: "behind the last tile only empty groups are pending; an input without keys has Q in flight there" },
    Read { rule: "negate-guard", kernel: "onekv_", place: "<bra> setp.eq.f32 mul.f32", judgement: Judgement::Harmless,
        why: "lanes that share a row hold the same value: which of them writes it does not matter" },
    Read { rule: "negate-guard", kernel: "onekv_", place: "or.pred <bra> mul.lo.s64", judgement: Judgement::Harmless,
        why: "lanes that share a row hold the same value: which of them writes it does not matter" },
    Read { rule: "negate-guard", kernel: "onekv_", place: "or.pred <bra> mov.f32 bra", judgement: Judgement::Harmless,
        why: "lanes that share a row hold the same value: which of them writes it does not matter" },
    Read { rule: "negate-guard", kernel: "onekv_", place: "st.shared.v4.f32 setp.ne.s32 <bra>", judgement: Judgement::Harmless,
        why: "lanes that share a row hold the same value: which of them writes it does not matter" },
    Read { rule: "negate-guard", kernel: "_f32_", place: "st.global.f32 setp.ne.s32 <bra>", judgement: Judgement::Harmless,
        why: "lanes that share a row hold the same value: which of them writes it does not matter" },
    Read { rule: "negate-guard", kernel: "merge", place: "setp.eq.s64 <bra> div.s64", judgement: Judgement::Harmless,
        why: "a division of 64 bits where one of 32 would do" },
    Read { rule: "copy-bytes", kernel: "_sm90a_", place: "add.s64 selp.b32 <cp.async.cg.shared.global>", judgement: Judgement::NotShown,
        why: "rows of Q behind the last one: no launch has so many that the copy here is of any byte" },
    Read { rule: "address", kernel: "_sm90a_", place: "mul.wide.s32 add.s64 <ld.global.u32> ld.global.u32 ld.global.u32", judgement: Judgement::NotShown,
        why: "both words of the entry of work hold the same" },
    Read { rule: "address", kernel: "_sm90a_", place: "ld.global.u32 ld.global.u32 <ld.global.u32> ld.global.u32 ld.global.u32", judgement: Judgement::NotShown,
        why: "both words of the entry of work hold the same" },
    Read { rule: "shuffle-lane", kernel: "_sm90a_", place: "mov.b32 mov.u32 <shfl.sync.bfly.b32> mov.b32 max.f32", judgement: Judgement::NotShown,
        why: "a later tile's maximum counts once it is 2^8 times the one before, which none is here" },
    Read { rule: "negate-guard", kernel: "_sm90_", place: "<bra> griddepcontrol.wait", judgement: Judgement::NotShown,
        why: "where launches overlap, the one before stores neither K nor V" },
];
