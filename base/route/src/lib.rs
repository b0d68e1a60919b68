//! For an address: class, rewritten form, transport, next-hop destination.
