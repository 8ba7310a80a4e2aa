//! Which instructions of two versions of a function are each other's counterpart: a longest common subsequence.

/// More pairs than this are not compared.
const LARGEST: usize = 40_000_000;

/// For each element of `a` and of `b`, whether it has a counterpart on the other side. `None` if there are too many.
pub(crate) fn aligned(a: &[u64], b: &[u64]) -> Option<(Vec<bool>, Vec<bool>)> {
    let head = a.iter().zip(b).take_while(|(x, y)| x == y).count();
    let tail = a[head..].iter().rev().zip(b[head..].iter().rev()).take_while(|(x, y)| x == y).count();
    let (mut in_a, mut in_b) = (vec![true; a.len()], vec![true; b.len()]);
    let (mid_a, mid_b) = (&a[head..a.len() - tail], &b[head..b.len() - tail]);
    let (rows, columns) = (mid_a.len() + 1, mid_b.len() + 1);
    if rows.checked_mul(columns)? > LARGEST {
        return None;
    }
    // length[i][j]: of the longest common subsequence of what is left from i and j on.
    let mut length = vec![0u32; rows * columns];
    for i in (0..mid_a.len()).rev() {
        for j in (0..mid_b.len()).rev() {
            length[i * columns + j] = if mid_a[i] == mid_b[j] {
                length[(i + 1) * columns + j + 1] + 1
            } else {
                length[(i + 1) * columns + j].max(length[i * columns + j + 1])
            };
        }
    }
    let (mut i, mut j) = (0, 0);
    while i < mid_a.len() && j < mid_b.len() {
        if mid_a[i] == mid_b[j] {
            (i, j) = (i + 1, j + 1);
        } else if length[(i + 1) * columns + j] >= length[i * columns + j + 1] {
            in_a[head + i] = false;
            i += 1;
        } else {
            in_b[head + j] = false;
            j += 1;
        }
    }
    in_a[head + i..a.len() - tail].fill(false);
    in_b[head + j..b.len() - tail].fill(false);
    Some((in_a, in_b))
}

#[cfg(test)]
mod tests {
    use super::aligned;

    fn marks(a: &[u64], b: &[u64]) -> (String, String) {
        let text = |list: Vec<bool>| list.into_iter().map(|one| if one { '=' } else { 'x' }).collect();
        let (a, b) = aligned(a, b).expect("few");
        (text(a), text(b))
    }

    #[test]
    fn what_moved_is_a_difference_on_both_sides() {
        assert_eq!(marks(&[1, 2, 3], &[1, 2, 3]), ("===".into(), "===".into()));
        assert_eq!(marks(&[1, 2, 3], &[1, 9, 2, 3]), ("===".into(), "=x==".into()));
        assert_eq!(marks(&[1, 2, 3, 4], &[1, 3, 2, 4]), ("=x==".into(), "==x=".into()));
        assert_eq!(marks(&[1, 2], &[]), ("xx".into(), String::new()));
        assert_eq!(marks(&[5, 5, 5], &[5, 5]), ("==x".into(), "==".into()));
    }
}
