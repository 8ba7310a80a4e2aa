//! Made-up programs at random: layout never matters, and what is planted is found, nothing else.

mod common;

use common::*;
use hotgraft_diff::{Comparison, Options, Status, compare};
use proptest::prelude::*;
use std::collections::BTreeSet;

/// One instruction: a number, or a reference to the n-th function or object.
#[derive(Clone, Debug)]
enum Word {
    Number(u32),
    Call(usize),
    Lea(usize),
    Load(usize),
}

#[derive(Clone, Debug)]
struct Model {
    bodies: Vec<Vec<Word>>,
    /// Bytes, writable, a pointer to the n-th function.
    data: Vec<(Vec<u8>, bool, Option<usize>)>,
}

fn word() -> impl Strategy<Value = Word> {
    prop_oneof![
        any::<u32>().prop_map(Word::Number),
        (0usize..64).prop_map(Word::Call),
        (0usize..64).prop_map(Word::Lea),
        (0usize..64).prop_map(Word::Load),
    ]
}

fn model() -> impl Strategy<Value = Model> {
    let datum = (prop::collection::vec(any::<u8>(), 8..40), any::<bool>(), prop::option::of(0usize..64));
    (prop::collection::vec(prop::collection::vec(word(), 1..12), 2..14), prop::collection::vec(datum, 1..10))
        .prop_map(|(bodies, data)| Model { bodies, data })
}

impl Model {
    /// The program, its functions and data in the order of the given keys.
    fn build(&self, order: &[u16], padding: u32) -> Spec {
        let function = |n: usize| format!("f{}", n % self.bodies.len());
        let object = |n: usize| format!("d{}", n % self.data.len());
        let mut functions: Vec<F> = self
            .bodies
            .iter()
            .enumerate()
            .map(|(i, words)| {
                let mut code: Vec<Code> = words
                    .iter()
                    .map(|w| match w {
                        Word::Number(n) => number(*n),
                        Word::Call(n) => call(&function(*n)),
                        Word::Lea(n) => lea(&object(*n)),
                        Word::Load(n) => load(&object(*n)),
                    })
                    .collect();
                code.push(ret());
                f(&function(i), code)
            })
            .collect();
        let mut data: Vec<D> = self
            .data
            .iter()
            .enumerate()
            .map(|(i, (bytes, writable, pointer))| {
                let label = object(i);
                let d = if *writable { variable(&label, bytes) } else { constant(&label, bytes) };
                match pointer {
                    Some(n) => d.pointer(0, &function(*n)),
                    None => d,
                }
            })
            .collect();
        let key = |i: usize| order.get(i % order.len().max(1)).copied().unwrap_or_default();
        let mut at = 0;
        functions.sort_by_cached_key(|_| {
            at += 1;
            key(at)
        });
        data.sort_by_cached_key(|_| {
            at += 1;
            key(at)
        });
        let mut s = spec(functions, data);
        s.padding = padding;
        s
    }
}

fn differing(spec: &Spec, other: &Spec, options: &Options) -> (BTreeSet<String>, BTreeSet<String>) {
    let (a, b) = (spec.build(), other.build());
    let c: Comparison = compare(&a, &b, options);
    let functions = c.functions.iter().filter(|p| p.status != Status::Identical).map(|p| match (p.old, p.new) {
        (_, Some(id)) => hotgraft_diff::label::function(&b, id),
        (Some(id), None) => hotgraft_diff::label::function(&a, id),
        (None, None) => String::new(),
    });
    let objects = c.objects.iter().filter(|p| p.status != Status::Identical).map(|p| match (p.old, p.new) {
        (_, Some(id)) => hotgraft_diff::label::object(&b, id),
        (Some(id), None) => hotgraft_diff::label::object(&a, id),
        (None, None) => String::new(),
    });
    (functions.collect(), objects.collect())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, ..ProptestConfig::default() })]

    #[test]
    fn layout_never_matters(m in model(), order in prop::collection::vec(any::<u16>(), 1..30), padding in 0u32..40) {
        let (functions, objects) = differing(&m.build(&[0], 6), &m.build(&order, padding), &Options::default());
        prop_assert!(functions.is_empty() && objects.is_empty(), "{:?} {:?}", functions, objects);
    }

    #[test]
    fn a_planted_number_is_found_and_nothing_else(
        m in model(), order in prop::collection::vec(any::<u16>(), 1..30), at in any::<prop::sample::Index>(), n in any::<u32>()
    ) {
        let mut changed = m.clone();
        let i = at.index(m.bodies.len());
        changed.bodies[i].insert(0, Word::Number(n));
        let (functions, objects) = differing(&m.build(&[0], 6), &changed.build(&order, 9), &Options::default());
        prop_assert_eq!(functions, BTreeSet::from([format!("f{i}")]));
        prop_assert!(objects.is_empty(), "{:?}", objects);
    }

    #[test]
    fn a_planted_byte_of_data_is_found_and_nothing_else(
        m in model(), order in prop::collection::vec(any::<u16>(), 1..30), at in any::<prop::sample::Index>()
    ) {
        let mut changed = m.clone();
        let i = at.index(m.data.len());
        *changed.data[i].0.last_mut().expect("not empty") ^= 1;
        prop_assume!(m.data[i].2.is_none() || m.data[i].0.len() > 8);
        let (functions, objects) = differing(&m.build(&[0], 6), &changed.build(&order, 9), &Options::default());
        prop_assert_eq!(objects, BTreeSet::from([format!("d{i}")]));
        prop_assert!(functions.is_empty(), "{:?}", functions);
    }

    #[test]
    fn without_names_every_function_is_in_one_pair_and_nothing_equal_is_called_changed(
        m in model(), order in prop::collection::vec(any::<u16>(), 1..30)
    ) {
        let (mut old, mut new) = (m.build(&[0], 6), m.build(&order, 9));
        old.pdb = false;
        new.pdb = false;
        old = old.export("f0", "f0");
        new = new.export("f0", "f0");
        let (a, b) = (old.build(), new.build());
        let c = compare(&a, &b, &Options::default());
        // Twins may stay unmatched, but a match of the whole image with itself is never a change.
        prop_assert!(c.functions.iter().filter(|p| p.status == Status::Changed).count() == 0, "{:?}", c.functions);
    }

    #[test]
    fn both_directions_agree(
        m in model(), order in prop::collection::vec(any::<u16>(), 1..30), at in any::<prop::sample::Index>()
    ) {
        let mut changed = m.clone();
        changed.bodies[at.index(m.bodies.len())].push(Word::Number(7));
        let (x, y) = (m.build(&[0], 6), changed.build(&order, 9));
        prop_assert_eq!(differing(&x, &y, &Options::default()), differing(&y, &x, &Options::default()));
    }
}
