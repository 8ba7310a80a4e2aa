//! A comparison as text for people and as JSON for programs.

mod json;
mod text;

pub use json::{Document, Entry, EntryChange, ImageEntry, Place, Position, Side, Source, Summary, json};
pub use text::text;
