//! What a thread has created and not destroyed, and what its test asks for.

use std::cell::RefCell;
use std::collections::HashMap;

use crate::documented::{INVALID_VALUE, NOT_INITIALIZED};
use crate::kernel::Kernels;
use crate::problem::{Layout, Operation, Preference, Problem};
use crate::refusal::{Refusal, refuse};

pub enum Object {
    Handle(Kernels),
    Operation(Operation),
    Layout(Layout),
    Preference(Preference),
}

/// Calls that a test wants to see fail.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fail {
    Nothing,
    Create,
    Algorithm,
    Product,
}

pub struct State {
    objects: HashMap<usize, Object>,
    created: usize,
    pub queries: u64,
    pub fail: Fail,
}

thread_local! {
    static STATE: RefCell<State> = RefCell::new(State {
        objects: HashMap::new(),
        created: 0,
        queries: 0,
        fail: Fail::Nothing,
    });
}

/// Runs `body` on the state of this thread: tests run side by side.
pub fn with<T>(body: impl FnOnce(&mut State) -> T) -> T {
    STATE.with_borrow_mut(body)
}

impl Object {
    fn kind(&self) -> &'static str {
        match self {
            Self::Handle(_) => "a handle",
            Self::Operation(_) => "a description of a product",
            Self::Layout(_) => "a layout",
            Self::Preference(_) => "a preference",
        }
    }
}

impl State {
    /// A number that no other object ever has.
    pub fn add(&mut self, object: Object) -> usize {
        self.created += 1;
        // Odd and small: nobody takes it for an address.
        let handle = 2 * self.created + 1;
        self.objects.insert(handle, object);
        handle
    }

    pub fn remove(&mut self, handle: usize, kind: &str) -> Result<(), Refusal> {
        match self.objects.get(&handle) {
            Some(object) if object.kind() == kind => drop(self.objects.remove(&handle)),
            _ => return refuse(INVALID_VALUE, format!("{handle:#x} is not {kind} that this thread has")),
        }
        Ok(())
    }

    pub fn alive(&self) -> u64 {
        self.objects.len() as u64
    }

    pub fn handle(&self, handle: usize) -> Result<&Kernels, Refusal> {
        match self.objects.get(&handle) {
            Some(Object::Handle(kernels)) => Ok(kernels),
            _ => refuse(NOT_INITIALIZED, format!("{handle:#x} is not a handle that this thread has")),
        }
    }

    pub fn operation_mut(&mut self, handle: usize) -> Result<&mut Operation, Refusal> {
        match self.objects.get_mut(&handle) {
            Some(Object::Operation(operation)) => Ok(operation),
            _ => refuse(INVALID_VALUE, format!("{handle:#x} does not describe a product")),
        }
    }

    pub fn preference_mut(&mut self, handle: usize) -> Result<&mut Preference, Refusal> {
        match self.objects.get_mut(&handle) {
            Some(Object::Preference(preference)) => Ok(preference),
            _ => refuse(INVALID_VALUE, format!("{handle:#x} is not a preference")),
        }
    }

    /// What the descriptors say together.
    pub fn problem(&self, operation: usize, layouts: [usize; 4]) -> Result<Problem, Refusal> {
        let Some(Object::Operation(operation)) = self.objects.get(&operation) else {
            return refuse(INVALID_VALUE, format!("{operation:#x} does not describe a product"));
        };
        let mut found = [Layout::default(); 4];
        for ((found, handle), name) in found.iter_mut().zip(layouts).zip(["A", "B", "C", "D"]) {
            match self.objects.get(&handle) {
                Some(Object::Layout(layout)) => *found = *layout,
                _ => return refuse(INVALID_VALUE, format!("{handle:#x}, of {name}, is not a layout")),
            }
        }
        Problem::new(operation, found)
    }
}
