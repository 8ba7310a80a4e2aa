//! Each rule is tripped by one pair and spared by its neighbour; a rule without both fails the last test here.

mod bytes;
#[allow(dead_code)]
mod common;
mod data;
mod entry;
mod fixtures;
mod functions;
mod image;
mod references;
mod types;

/// Makes for each rule a module with the tests `trips_it` and `spares_it`, and the list of rules that have them.
macro_rules! cases {
    ($($module:ident = $key:literal { trips $trips:block spares $spares:block })*) => {
        $(mod $module {
            #[allow(unused_imports)]
            use super::*;
            #[allow(dead_code)]
            const KEY: &str = $key;
            #[test]
            fn trips() $trips
            #[test]
            fn spares() $spares
        })*
        /// Keys of the rules that have both tests here.
        pub const REGISTRY: &[&str] = &[$($key),*];
    };
}
pub(crate) use cases;

#[test]
fn every_rule_has_two_tests() {
    let tested: Vec<&str> =
        [data::REGISTRY, entry::REGISTRY, functions::REGISTRY, image::REGISTRY, references::REGISTRY, types::REGISTRY]
            .concat();
    let missing: Vec<_> =
        hotgraft_packager::rules::all().iter().filter(|r| !tested.contains(&r.key)).map(|r| r.key).collect();
    assert!(missing.is_empty(), "rules without tests: {missing:?}");
    for key in tested {
        assert!(hotgraft_packager::rules::explain(key).is_some(), "{key} is tested and no rule");
    }
}

/// `docs/rules.md` is made from the table; `UPDATE=1` writes it anew.
#[test]
fn the_page_of_rules_is_current() {
    use std::fmt::Write as _;
    let mut page = String::from(
        "# The rules\n\nWhat each kind of difference means for a process that runs. `patch`: the patch carries it. \
         `condition`: it does if the\nkey is accepted by name (`--accept`). `refuse`: no patch is made. `harmless`: nothing \
         needs to be done.\nMade from `crates/packager/src/rules/table.rs`.\n\n| key | says | heading | why | what to do \
         |\n|---|---|---|---|---|\n",
    );
    for rule in hotgraft_packager::rules::all() {
        let says: Vec<String> = rule.outcomes.iter().map(|o| format!("{o:?}").to_lowercase()).collect();
        let head = rule.head.map_or("", |h| h.title());
        writeln!(page, "| `{}` | {} | {head} | {} | {} |", rule.key, says.join(", "), rule.why, rule.todo).unwrap();
    }
    let file = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/rules.md");
    if std::env::var_os("UPDATE").is_some() {
        std::fs::write(&file, &page).unwrap();
    }
    assert_eq!(std::fs::read_to_string(&file).unwrap_or_default(), page, "run with UPDATE=1");
}

#[test]
fn the_table_is_sorted_and_explains_itself() {
    let rules = hotgraft_packager::rules::all();
    assert!(rules.is_sorted_by(|a, b| a.key < b.key));
    for rule in rules {
        assert_eq!(rule.key.split('.').count().clamp(2, 3), rule.key.split('.').count(), "{}", rule.key);
        assert!(rule.why.ends_with('.'), "{}", rule.key);
        assert!(!rule.rows.is_empty(), "{}", rule.key);
        let grave = rule.outcomes.iter().any(|o| matches!(o, Outcome::Refuse | Outcome::Condition));
        assert_eq!(grave, rule.head.is_some(), "{}", rule.key);
        assert!(!grave || rule.todo.ends_with('.'), "{}", rule.key);
    }
}

use hotgraft_packager::verdict::Outcome;
