//! x
use crate::cases;
cases! {}
