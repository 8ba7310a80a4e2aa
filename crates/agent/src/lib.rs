//! `hotgraft_agent.dll`: the C interface of `include/hotgraft_agent.h`, where each function is described.

#![cfg_attr(not(all(windows, target_arch = "x86_64")), allow(unused))]
#![deny(unsafe_op_in_unsafe_fn)]

#[cfg(all(windows, target_arch = "x86_64"))]
mod interface;
