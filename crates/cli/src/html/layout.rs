//! A layered drawing of a directed graph: control goes down, what goes back up is a loop.
//!
//! Edges that close a cycle are turned around, each node comes below all that lead to it, the order within a layer is
//! improved by barycentres, and places are the closest ones to the neighbours that keep the distances. The work and the
//! drawing are bounded by the size of the graph: long edges are led around other nodes as long as there is room in a budget
//! for their bends, and straight after that.

/// Pixels between layers, between nodes of a layer, and around the drawing.
const DOWN: f64 = 36.0;
const ACROSS: f64 = 22.0;
const MARGIN: f64 = 12.0;
/// Bends that long edges may have, for each edge of the graph.
const BENDS: usize = 8;
const SWEEPS: usize = 8;

/// An edge as drawn.
#[derive(Clone, Debug, PartialEq)]
pub struct Route {
    /// From a node to another, in pixels.
    pub points: Vec<(i32, i32)>,
    /// True if it goes back up.
    pub back: bool,
}

/// The drawing.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Drawing {
    /// Pixels.
    pub size: (i32, i32),
    /// Left upper corners of the nodes.
    pub nodes: Vec<(i32, i32)>,
    /// One for each edge.
    pub edges: Vec<Route>,
}

/// Draws nodes of these sizes. Edges are pairs of positions in `sizes`.
pub fn draw(sizes: &[(f64, f64)], edges: &[(usize, usize)]) -> Drawing {
    if sizes.is_empty() {
        return Drawing::default();
    }
    let back = closing(sizes.len(), edges);
    let mut layer = layers(sizes.len(), edges, &back);
    let mut sizes = sizes.to_vec();
    let real = sizes.len();
    // Chains of nodes without height stand for the bends of edges that pass layers.
    let mut budget = BENDS * edges.len();
    let mut chains: Vec<Vec<usize>> = Vec::with_capacity(edges.len());
    let (mut up, mut down) = (vec![Vec::new(); real], vec![Vec::new(); real]);
    for (&(from, to), back) in edges.iter().zip(&back) {
        let (top, bottom) = if *back { (to, from) } else { (from, to) };
        let mut chain = vec![top];
        let bends = layer[bottom].saturating_sub(layer[top] + 1);
        if bends <= budget {
            budget -= bends;
            for between in layer[top] + 1..layer[bottom] {
                chain.push(layer.len());
                layer.push(between);
                sizes.push((4.0, 0.0));
                up.push(Vec::new());
                down.push(Vec::new());
            }
        }
        chain.push(bottom);
        if top != bottom {
            for pair in chain.windows(2) {
                down[pair[0]].push(pair[1]);
                up[pair[1]].push(pair[0]);
            }
        }
        chains.push(chain);
    }
    let mut rows: Vec<Vec<usize>> = vec![Vec::new(); layer.iter().max().map_or(0, |l| l + 1)];
    for (node, layer) in layer.iter().enumerate() {
        rows[*layer].push(node);
    }
    order(&mut rows, &up, &down);
    let centre = places(&rows, &sizes, &up, &down);
    let mut top = vec![0.0; rows.len()];
    let mut height = vec![0.0; rows.len()];
    let mut y = MARGIN;
    for (n, row) in rows.iter().enumerate() {
        (top[n], height[n]) = (y, row.iter().map(|v| sizes[*v].1).fold(0.0, f64::max));
        y += height[n] + DOWN;
    }
    let left = (0..sizes.len()).map(|v| centre[v] - sizes[v].0 / 2.0).fold(f64::INFINITY, f64::min) - MARGIN;
    let right = (0..sizes.len()).map(|v| centre[v] + sizes[v].0 / 2.0).fold(f64::NEG_INFINITY, f64::max) + MARGIN;
    let pixel = |x: f64, y: f64| ((x - left).round() as i32, y.round() as i32);
    let routes = edges.iter().zip(chains).zip(&back).map(|((&(from, to), chain), back)| {
        let foot = |v: usize, x: f64| pixel(x, top[layer[v]] + sizes[v].1);
        let mut points = Vec::with_capacity(2 * chain.len());
        if from == to {
            let (x, y) = (centre[from] + sizes[from].0 / 2.0, top[layer[from]]);
            let (low, high) = (y + sizes[from].1 * 0.75, y + sizes[from].1 * 0.25);
            points.extend([pixel(x, low), pixel(x + 10.0, low), pixel(x + 10.0, high), pixel(x, high)]);
            return Route { points, back: true };
        }
        // Edges leave a node side by side, in the order of where they go.
        let first = chain[0];
        let mut leaving: Vec<usize> = down[first].clone();
        leaving.sort_by(|a, b| centre[*a].total_cmp(&centre[*b]).then(a.cmp(b)));
        let nth = leaving.iter().position(|v| *v == chain[1]).unwrap_or(0) as f64;
        let step = (sizes[first].0 / (leaving.len() as f64 + 1.0)).min(18.0);
        let shift = (nth - (leaving.len() as f64 - 1.0) / 2.0) * step;
        points.push(foot(first, centre[first] + shift));
        for bend in &chain[1..chain.len() - 1] {
            points.push(pixel(centre[*bend], top[layer[*bend]]));
            points.push(pixel(centre[*bend], top[layer[*bend]] + height[layer[*bend]]));
        }
        let last = chain[chain.len() - 1];
        points.push(pixel(centre[last], top[layer[last]]));
        if *back {
            points.reverse();
        }
        Route { points, back: *back }
    });
    let routes = routes.collect();
    Drawing {
        size: pixel(right, y - DOWN + MARGIN),
        nodes: (0..real).map(|v| pixel(centre[v] - sizes[v].0 / 2.0, top[layer[v]])).collect(),
        edges: routes,
    }
}

/// Which edges close a cycle: those that lead to a node that is on the way to their own start.
fn closing(nodes: usize, edges: &[(usize, usize)]) -> Vec<bool> {
    let mut out = vec![Vec::new(); nodes];
    for (n, (from, _)) in edges.iter().enumerate() {
        out[*from].push(n);
    }
    let mut closing = vec![false; edges.len()];
    let (mut seen, mut open) = (vec![false; nodes], vec![false; nodes]);
    for start in 0..nodes {
        if seen[start] {
            continue;
        }
        let mut stack = vec![(start, 0)];
        (seen[start], open[start]) = (true, true);
        while let Some((node, next)) = stack.last_mut() {
            let Some(edge) = out[*node].get(*next).copied() else {
                open[*node] = false;
                stack.pop();
                continue;
            };
            *next += 1;
            let to = edges[edge].1;
            closing[edge] = open[to];
            if !seen[to] {
                (seen[to], open[to]) = (true, true);
                stack.push((to, 0));
            }
        }
    }
    closing
}

/// The layer of each node: below all nodes that lead to it.
fn layers(nodes: usize, edges: &[(usize, usize)], back: &[bool]) -> Vec<usize> {
    let mut out = vec![Vec::new(); nodes];
    let mut missing = vec![0; nodes];
    for (&(from, to), back) in edges.iter().zip(back).filter(|((from, to), _)| from != to) {
        let (top, bottom) = if *back { (to, from) } else { (from, to) };
        out[top].push(bottom);
        missing[bottom] += 1;
    }
    let mut layer = vec![0; nodes];
    let mut ready: Vec<usize> = (0..nodes).filter(|v| missing[*v] == 0).collect();
    while let Some(node) = ready.pop() {
        for to in &out[node] {
            layer[*to] = layer[*to].max(layer[node] + 1);
            missing[*to] -= 1;
            if missing[*to] == 0 {
                ready.push(*to);
            }
        }
    }
    layer
}

/// Orders each layer by where the neighbours are, downwards and upwards in turn.
fn order(rows: &mut [Vec<usize>], up: &[Vec<usize>], down: &[Vec<usize>]) {
    let mut position = vec![0.0; up.len()];
    let number = |row: &[usize], position: &mut [f64]| {
        for (n, node) in row.iter().enumerate() {
            // As a part of the width, so that layers of different lengths compare.
            position[*node] = (n as f64 + 0.5) / row.len() as f64;
        }
    };
    for row in rows.iter() {
        number(row, &mut position);
    }
    for sweep in 0..SWEEPS {
        let downwards = sweep % 2 == 0;
        for n in 0..rows.len() {
            let n = if downwards { n } else { rows.len() - 1 - n };
            let near = if downwards { up } else { down };
            let mut keyed: Vec<(f64, usize)> =
                rows[n].iter().map(|v| (mean(&near[*v], &position).unwrap_or(position[*v]), *v)).collect();
            keyed.sort_by(|a, b| a.0.total_cmp(&b.0));
            rows[n] = keyed.into_iter().map(|(_, v)| v).collect();
            number(&rows[n], &mut position);
        }
    }
}

fn mean(of: &[usize], values: &[f64]) -> Option<f64> {
    (!of.is_empty()).then(|| of.iter().map(|v| values[*v]).sum::<f64>() / of.len() as f64)
}

/// Horizontal centres: as close to the neighbours as the distances within a layer allow.
fn places(rows: &[Vec<usize>], sizes: &[(f64, f64)], up: &[Vec<usize>], down: &[Vec<usize>]) -> Vec<f64> {
    let mut centre = vec![0.0; sizes.len()];
    for sweep in 0..SWEEPS + 1 {
        let downwards = sweep % 2 == 0;
        for n in 0..rows.len() {
            let row = &rows[if downwards { n } else { rows.len() - 1 - n }];
            let near = if downwards { up } else { down };
            // What each node wants, less the room that those before it in the row need.
            let mut room = 0.0;
            let mut rooms = Vec::with_capacity(row.len());
            for (i, v) in row.iter().enumerate() {
                if i > 0 {
                    room += (sizes[row[i - 1]].0 + sizes[*v].0) / 2.0 + ACROSS;
                }
                rooms.push(room);
            }
            // Pools of adjacent nodes that would come too close take the mean of what they want.
            let mut pools: Vec<(f64, usize)> = Vec::with_capacity(row.len());
            for (v, room) in row.iter().zip(&rooms) {
                let mut pool = (mean(&near[*v], &centre).unwrap_or(centre[*v]) - room, 1);
                while let Some(before) = pools.pop_if(|before| before.0 > pool.0) {
                    let count = before.1 + pool.1;
                    pool = ((before.0 * before.1 as f64 + pool.0 * pool.1 as f64) / count as f64, count);
                }
                pools.push(pool);
            }
            let wanted = pools.iter().flat_map(|(x, count)| std::iter::repeat_n(*x, *count));
            for ((v, room), x) in row.iter().zip(&rooms).zip(wanted) {
                centre[*v] = x + room;
            }
        }
    }
    centre
}

#[cfg(test)]
mod tests {
    use super::{BENDS, Drawing, draw};

    type Sizes = Vec<(f64, f64)>;
    type Edges = Vec<(usize, usize)>;

    fn graph(nodes: usize, edges: usize, mut state: u64) -> (Sizes, Edges) {
        let mut next = |below: usize| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (state >> 33) as usize % below
        };
        let sizes = (0..nodes).map(|_| (40.0 + next(200) as f64, 16.0 + next(120) as f64)).collect();
        (sizes, (0..edges).map(|_| (next(nodes), next(nodes))).collect())
    }

    /// No two nodes touch, all lie inside, and every edge joins the borders of its nodes.
    fn check(drawing: &Drawing, sizes: &[(f64, f64)], edges: &[(usize, usize)]) {
        let frame = |n: usize| {
            let ((x, y), (w, h)) = (drawing.nodes[n], sizes[n]);
            (x, y, x + w as i32, y + h as i32)
        };
        for a in 0..sizes.len() {
            let (l, t, r, b) = frame(a);
            assert!(l >= 0 && t >= 0 && r <= drawing.size.0 && b <= drawing.size.1, "node {a} lies outside");
            for other in 0..a {
                let (l2, t2, r2, b2) = frame(other);
                assert!(r < l2 || r2 < l || b < t2 || b2 < t, "nodes {other} and {a} touch");
            }
        }
        assert_eq!(drawing.edges.len(), edges.len());
        for (route, (from, to)) in drawing.edges.iter().zip(edges) {
            for (point, node) in [(route.points.first(), from), (route.points.last(), to)] {
                let ((x, y), (l, t, r, b)) = (*point.expect("a point"), frame(*node));
                assert!(x >= l - 1 && x <= r + 1 && y >= t - 1 && y <= b + 1, "an end is not at its node");
            }
        }
    }

    #[test]
    fn drawings_of_any_graph_are_sound_bounded_and_repeatable() {
        for seed in 0..60 {
            let (sizes, edges) = graph(1 + seed as usize % 40, seed as usize * 2, seed);
            let drawing = draw(&sizes, &edges);
            check(&drawing, &sizes, &edges);
            assert_eq!(drawing, draw(&sizes, &edges));
            let points: usize = drawing.edges.iter().map(|e| e.points.len()).sum();
            assert!(points <= edges.len() * (4 + 2 * BENDS));
        }
        assert_eq!(draw(&[], &[]), Drawing::default());
    }

    #[test]
    fn control_goes_down_and_loops_go_up() {
        let sizes = [(100.0, 30.0); 5];
        // if/else, then a loop from the end to the second block.
        let edges = [(0, 1), (1, 2), (1, 3), (2, 4), (3, 4), (4, 1)];
        let drawing = draw(&sizes, &edges);
        check(&drawing, &sizes, &edges);
        let y: Vec<i32> = drawing.nodes.iter().map(|n| n.1).collect();
        assert!(y[0] < y[1] && y[1] < y[2] && y[2] == y[3] && y[3] < y[4]);
        let back: Vec<bool> = drawing.edges.iter().map(|e| e.back).collect();
        assert_eq!(back, [false, false, false, false, false, true]);
    }

    #[test]
    fn a_chain_of_thousands_with_long_edges_stays_within_its_budget() {
        let sizes = vec![(80.0, 20.0); 4000];
        let mut edges: Vec<(usize, usize)> = (1..4000).map(|n| (n - 1, n)).collect();
        edges.extend((0..2000).map(|n| (n, 3999 - n)));
        let drawing = draw(&sizes, &edges);
        let points: usize = drawing.edges.iter().map(|e| e.points.len()).sum();
        assert!(points <= 2 * edges.len() * (1 + BENDS), "{points}");
    }
}
