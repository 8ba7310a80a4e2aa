//! The page of `diff --format html`: the graphs in it, that it needs nothing from elsewhere, and how large it gets.

use super::{code, fixture, hotgraft};
use serde_json::Value;

fn page(name: &str, jobs: &str) -> String {
    let output =
        hotgraft(&[&"diff", &fixture(name, "old"), &fixture(name, "new"), &"--format", &"html", &"--jobs", &jobs]);
    assert_eq!(code(&output), 1);
    String::from_utf8(output.stdout).expect("UTF-8")
}

/// What the page draws of the changed functions; each has one line of data and one place.
fn views(page: &str) -> Vec<Value> {
    let data = page.split_once("<script type=\"text/plain\" id=\"views\">").expect("the data").1;
    let data = data.split_once("</script>").expect("its end").0;
    let out: Vec<Value> = data.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect();
    for n in 0..out.len() {
        assert_eq!(page.matches(&format!("<div class=\"view\" data-n=\"{n}\">")).count(), 1);
    }
    assert_eq!(page.matches("<div class=\"view\"").count(), out.len());
    out
}

fn list(value: &Value) -> &[Value] {
    value.as_array().expect("a list")
}

fn at(value: &Value, n: usize) -> usize {
    value[n].as_u64().expect("a number") as usize
}

/// The structure of every graph, and the blocks that differ on each side.
fn check(view: &Value) -> [usize; 2] {
    let lines = list(&view["lines"]);
    let mut differing = [0, 0];
    for side in [0, 1] {
        let (picture, other) = (&view["graphs"][side], list(&view["graphs"][1 - side]["blocks"]));
        let (blocks, edges) = (list(&picture["blocks"]), list(&picture["edges"]));
        assert!(!blocks.is_empty());
        let mut shown = vec![false; lines.len()];
        for block in blocks {
            let own: Vec<usize> = (at(block, 2)..=at(block, 3)).filter(|row| lines[*row][side + 1] != "").collect();
            for row in &own {
                assert!(!std::mem::replace(&mut shown[*row], true), "row {row} is in two blocks");
            }
            let same = own.iter().filter(|row| lines[**row][0] == "same").count();
            let alone = own.iter().all(|row| lines[*row][2 - side] == "");
            let fate = if same == own.len() {
                "same"
            } else if alone {
                "alone"
            } else {
                "changed"
            };
            assert_eq!(block[4], fate);
            differing[side] += usize::from(fate != "same");
            assert!(block[5].is_null() == alone && (alone || at(block, 5) < other.len()), "{block}");
        }
        let mut entered = vec![0; blocks.len()];
        for edge in edges {
            assert!(at(edge, 0) < blocks.len() && at(edge, 1) < blocks.len());
            entered[at(edge, 1)] += 1;
            assert!(
                list(&edge[3]).len() >= 2
                    && ["next", "branch", "table", "back"].contains(&edge[2].as_str().unwrap_or(""))
            );
        }
        assert!(entered.iter().skip(1).all(|n| *n > 0), "a block that nothing leads to");
        // A drawing is a few numbers for each block and each bend.
        let instructions = lines.iter().filter(|l| l[side + 1] != "").count();
        let size = picture.to_string().len();
        assert!(size <= 200 + 60 * blocks.len() + 250 * edges.len(), "{size} bytes for {instructions} instructions");
    }
    differing
}

#[test]
fn each_changed_function_has_two_graphs_that_agree_with_its_listing() {
    for name in ["bounds", "switch", "service", "inlined", "plain"] {
        let page = page(name, "1");
        assert_eq!(page, self::page(name, "2"), "{name}: the same bytes");
        let views = views(&page);
        assert!(!views.is_empty(), "{name}");
        let differing: usize = views.iter().map(|view| check(view).iter().sum::<usize>()).sum();
        assert!(differing > 0, "{name}: no block differs");
    }
}

#[test]
fn the_page_is_whole_and_draws_only_on_demand() {
    let page = page("bounds", "1");
    // The name of the SVG namespace is the only address in it.
    let rest = page.replace("http://www.w3.org/2000/svg", "");
    for outside in ["http://", "https://", "<link", "@import", "url(", "src=", "fetch(", "import("] {
        assert!(!rest.contains(outside), "the page asks for {outside}");
    }
    // Listings and graphs are data until somebody opens the function.
    assert!(!page.contains("<svg") && !page.contains("class=\"asm\""));
    assert!(page.contains("'toggle'") && page.contains("content-visibility: auto"));
}
