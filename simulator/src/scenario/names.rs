//! Names that somebody may have meant.

/// So many names are told.
const TOLD_MAX: usize = 6;

/// `known` names in words, those that are the most like `name` first.
pub(super) fn nearest_first(name: &str, mut known: Vec<String>) -> String {
    known.sort_by_cached_key(|known| (edits(name, known), known.clone()));
    let more = known.len().saturating_sub(TOLD_MAX);
    known.truncate(TOLD_MAX);
    let rest = if more > 0 { format!(" and {more} more") } else { String::new() };
    known.join(", ") + &rest
}

/// How many characters must be put in, left out or exchanged to make `b` of `a`.
fn edits(a: &str, b: &str) -> usize {
    let mut costs: Vec<usize> = (0..=b.chars().count()).collect();
    for (row, own) in a.chars().enumerate() {
        let mut diagonal = std::mem::replace(&mut costs[0], row + 1);
        for (column, other) in b.chars().enumerate() {
            let exchanged = diagonal + usize::from(own != other);
            diagonal = costs[column + 1];
            costs[column + 1] = exchanged.min(diagonal + 1).min(costs[column] + 1);
        }
    }
    costs.last().copied().unwrap_or_default()
}

#[cfg(test)]
mod test {
    use super::*;

    #[test]
    fn edits_are_counted() {
        for (a, b, count) in [("", "", 0), ("", "abc", 3), ("kitten", "sitting", 3), ("ab", "ba", 2)] {
            assert_eq!((edits(a, b), edits(b, a)), (count, count), "{a} and {b}");
        }
    }

    #[test]
    fn the_nearest_comes_first_and_many_are_counted() {
        let known = (0..9).map(|number| format!("build-{number}")).chain(["desktop-0".to_owned()]);
        let told = nearest_first("destkop-0", known.collect());
        assert!(told.starts_with("desktop-0, build-0, ") && told.ends_with(" and 4 more"), "{told}");
    }
}
