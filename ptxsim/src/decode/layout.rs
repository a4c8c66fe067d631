//! Where variables lie: parameters, shared and local memory, module variables.

use std::collections::HashMap;

use crate::ir::{DYNAMIC, Parameter, Src};
use crate::ptx::{Function, Module, Space, Variable};

/// Offsets and sizes of a kernel's parameters, and the bytes of all.
pub fn parameters(kernel: &Function) -> (Vec<Parameter>, usize) {
    let mut end = 0usize;
    let place = |parameter: &Variable| {
        let offset = end.next_multiple_of(parameter.align);
        end = offset + parameter.bytes;
        Parameter { offset, bytes: parameter.bytes }
    };
    let found = kernel.params.iter().map(place).collect();
    (found, end)
}

/// The variables of one kernel and of the functions it calls.
pub struct Layout<'m> {
    module: &'m Module,
    kernel: &'m Function,
    /// Offset in shared memory of each variable laid out so far.
    shared: HashMap<&'m str, u32>,
    shared_end: u32,
    dynamic_align: u32,
    /// Offset in local memory, by function and name; call parameters are local too.
    local: HashMap<(&'m str, &'m str), u32>,
    local_end: u32,
    function: &'m str,
    first_register: u32,
    first_predicate: u32,
    /// Places of registers; of as many as there are by default.
    places: &'m [u32],
}

impl<'m> Layout<'m> {
    pub fn new(module: &'m Module, kernel: &'m Function, places: &'m [u32]) -> Self {
        Self {
            module,
            kernel,
            shared: HashMap::new(),
            shared_end: 0,
            dynamic_align: 16,
            local: HashMap::new(),
            local_end: 0,
            function: &kernel.name,
            first_register: 0,
            first_predicate: 0,
            places,
        }
    }

    /// Starts a function: lays out what it declares.
    pub fn enter(&mut self, function: &'m Function, first_register: u32, first_predicate: u32) {
        self.function = &function.name;
        self.first_register = first_register;
        self.first_predicate = first_predicate;
        for variable in &function.variables {
            match variable.space {
                Space::Shared => {
                    self.place_shared(variable);
                }
                _ => self.place_local(&function.name, variable),
            }
        }
        self.signature(function);
    }

    /// Lays out parameters and results of a device function.
    pub fn signature(&mut self, function: &'m Function) {
        if !function.is_kernel {
            for variable in function.params.iter().chain(&function.returns) {
                self.place_local(&function.name, variable);
            }
        }
    }

    pub fn register(&self, index: u32) -> u32 {
        let number = self.first_register + index;
        self.places.get(number as usize).copied().unwrap_or(number)
    }

    pub fn predicate(&self, index: u32) -> u32 {
        self.first_predicate + index
    }

    fn place_shared(&mut self, variable: &'m Variable) -> u32 {
        if let Some(at) = self.shared.get(variable.name.as_str()) {
            return *at;
        }
        let at = aligned(self.shared_end, variable.align as u32);
        self.shared_end = at.saturating_add(u32::try_from(variable.bytes).unwrap_or(u32::MAX));
        self.shared.insert(&variable.name, at);
        at
    }

    fn place_local(&mut self, function: &'m str, variable: &'m Variable) {
        if self.local.contains_key(&(function, variable.name.as_str())) {
            return;
        }
        let at = aligned(self.local_end, variable.align as u32);
        self.local_end = at.saturating_add(u32::try_from(variable.bytes).unwrap_or(u32::MAX));
        self.local.insert((function, &variable.name), at);
    }

    /// Offset of a local variable or call parameter of a function.
    pub fn local_of(&self, function: &str, name: &str) -> Option<u32> {
        self.local.get(&(function, name)).copied()
    }

    /// What a name that is no register means, and the space it lies in.
    pub fn resolve(&mut self, name: &str) -> Option<(Src, Space)> {
        if let Some(at) = self.local_of(self.function, name) {
            return Some((Src::Local(at), Space::Local));
        }
        if let Some(at) = self.shared.get(name) {
            return Some((Src::Shared(*at), Space::Shared));
        }
        if self.function == self.kernel.name
            && let Some(index) = self.kernel.params.iter().position(|p| p.name == name)
        {
            return Some((Src::Parameter(parameters(self.kernel).0.get(index)?.offset as u32), Space::Param));
        }
        let index = self.module.variables.iter().position(|v| v.name == name)?;
        let variable = self.module.variables.get(index)?;
        match variable.space {
            Space::Shared if variable.dynamic => {
                self.dynamic_align = self.dynamic_align.max(variable.align as u32);
                // All dynamic arrays start where the static variables end; those may still grow, so
                // the offset is filled in at the launch.
                Some((Src::Shared(DYNAMIC), Space::Shared))
            }
            Space::Shared => Some((Src::Shared(self.place_shared(variable)), Space::Shared)),
            space => Some((Src::Global(index as u32, 0), space)),
        }
    }

    pub fn shared_bytes(&self) -> u32 {
        self.shared_end
    }

    /// Where dynamic shared memory starts.
    pub fn dynamic_offset(&self) -> u32 {
        aligned(self.shared_end, self.dynamic_align)
    }

    pub fn local_bytes(&self) -> u32 {
        aligned(self.local_end, 8)
    }
}

/// Too much memory is refused at the launch.
fn aligned(end: u32, alignment: u32) -> u32 {
    end.checked_next_multiple_of(alignment).unwrap_or(u32::MAX)
}
