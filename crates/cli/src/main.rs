//! The `hotgraft` command.

fn main() {}
