//! Tensor maps that a kernel changes. Copies read a map when they run, so they see it at once.

use super::access::Site;
use super::machine::Machine;
use super::warp::{Warp, lanes_of};
use crate::fault::{FaultKind, Outcome, Trouble};
use crate::ir::{Address, MapReplace, Window};
use crate::tensor_map::{TENSOR_MAP_BYTES, replace};

const BYTES: u32 = TENSOR_MAP_BYTES as u32;

impl Machine<'_, '_> {
    pub fn map_replace(&mut self, warp: &Warp, op: &MapReplace, exec: u32) -> Outcome {
        let (addresses, values) = (self.addresses(warp, op.address), warp.lanes(op.value, self.grid));
        for lane in lanes_of(exec) {
            let at = addresses[lane];
            (|| {
                let mut map = self.read_map(warp, op.window, at, lane)?;
                replace(&mut map, op.field, values[lane])
                    .map_err(|what| Trouble::new(FaultKind::IllegalInstruction, what).at(at))?;
                self.write_map(warp, op.window, at, &map, lane)
            })()
            .map_err(|t| t.by(lane))?;
        }
        Ok(())
    }

    /// `tensormap.cp_fenceproxy`: the whole warp comes; lanes that name the same two places copy once.
    pub fn map_copy(&mut self, warp: &Warp, dst: Address, src: Address, exec: u32) -> Outcome {
        let (to, from) = (self.addresses(warp, dst), self.addresses(warp, src));
        for lane in lanes_of(exec) {
            if lanes_of(exec).take_while(|l| *l < lane).any(|l| (to[l], from[l]) == (to[lane], from[lane])) {
                continue;
            }
            (|| {
                let map = self.read_map(warp, Window::Shared, from[lane], lane)?;
                self.write_map(warp, Window::Global, to[lane], &map, lane)
            })()
            .map_err(|t: Trouble| t.by(lane))?;
            self.tally.total.global_store_bytes += u64::from(BYTES);
            self.tally.total.global_store_sectors += u64::from(BYTES / 32);
        }
        Ok(())
    }

    fn map_site(&self, warp: &Warp, window: Window, address: u64) -> Outcome<Site> {
        match self.site(warp, window, address)? {
            Site::Shared(cta, _) if cta != warp.cta => {
                let what = "the tensor map lies in the shared memory of another block";
                Err(Trouble::new(FaultKind::OutOfBounds, what).at(address))
            }
            site @ (Site::Global(_) | Site::Shared(..)) => {
                // As the driver wants it of every `CUtensorMap`.
                Self::aligned(address, 64)?;
                Ok(site)
            }
            _ => {
                let what = "the tensor map to change lies neither in global nor in shared memory";
                Err(Trouble::new(FaultKind::IllegalInstruction, what).at(address))
            }
        }
    }

    fn read_map(
        &mut self,
        warp: &Warp,
        window: Window,
        address: u64,
        lane: usize,
    ) -> Outcome<[u8; TENSOR_MAP_BYTES]> {
        let mut map = [0; TENSOR_MAP_BYTES];
        match self.map_site(warp, window, address)? {
            Site::Shared(cta, offset) => {
                let who = warp.who(lane, cta, false);
                let memory = &mut self.state.ctas[cta].shared;
                memory.check_range(offset, BYTES)?;
                memory.reading(offset, BYTES, &who)?;
                for (at, word) in (offset..).step_by(4).zip(map.chunks_exact_mut(4)) {
                    word.copy_from_slice(&(memory.peek(at, 4) as u32).to_le_bytes());
                }
            }
            _ => {
                let a = self.allocation(&mut None, address, BYTES.into())?;
                self.uses(warp, a, address, BYTES, false)?;
                a.read(address - a.base, &mut map);
            }
        }
        Ok(map)
    }

    fn write_map(
        &mut self,
        warp: &Warp,
        window: Window,
        address: u64,
        map: &[u8; TENSOR_MAP_BYTES],
        lane: usize,
    ) -> Outcome {
        match self.map_site(warp, window, address)? {
            Site::Shared(cta, offset) => {
                let who = warp.who(lane, cta, false);
                let memory = &mut self.state.ctas[cta].shared;
                memory.writing(offset, BYTES, &who, false)?;
                for (at, word) in (offset..).step_by(4).zip(map.chunks_exact(4)) {
                    memory.poke(at, 4, u32::from_le_bytes(word.try_into().unwrap_or_default()).into());
                }
            }
            _ => {
                let a = self.allocation(&mut None, address, BYTES.into())?;
                self.uses(warp, a, address, BYTES, true)?;
                a.write(address - a.base, map);
            }
        }
        Ok(())
    }
}
