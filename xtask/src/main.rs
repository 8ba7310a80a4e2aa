//! Tasks of developers and CI.

fn main() {}
