//! Rules about types: layouts that old code and live data share with new code.

/// A type's text without what may differ in name alone.
pub fn normalised(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}
