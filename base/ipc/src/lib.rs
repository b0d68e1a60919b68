//! Typed, versioned messages between our processes and commands.
