//! The exported functions, by topic. Signatures are the driver's, with pointers as addresses.

pub mod context;
pub mod copy;
pub mod device;
pub mod export;
pub mod function;
pub mod graph;
pub mod info;
pub mod inject;
pub mod launch;
pub mod library;
pub mod link;
pub mod lookup;
pub mod memory;
pub mod module;
pub mod occupancy;
pub mod pool;
pub mod stream;
pub mod tensor_map;
pub mod unified;
pub mod unsupported;
