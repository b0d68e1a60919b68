//! One binary: every command by the name it is called by, every process by its role.

fn main() {}
