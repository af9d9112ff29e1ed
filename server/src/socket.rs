//! From the kernel to bytes: binding, accepting, and noticing a peer that does not move.

pub(crate) mod accept;
pub(crate) mod linger;
pub(crate) mod listen;
pub(crate) mod peer;
pub(crate) mod progress;
pub(crate) mod proxy_protocol;
pub(crate) mod refuse;
