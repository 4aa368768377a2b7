//! What somebody who wrote a wrong word may have meant.

/// The nearest of `names` that somebody who wrote `wrong` may have meant.
pub(super) fn nearest<'n>(wrong: &str, names: impl Iterator<Item = &'n str>) -> Option<&'n str> {
    if wrong.chars().count() > 40 {
        return None;
    }
    let wrong = wrong.to_ascii_lowercase().replace('-', "_");
    names
        .map(|name| (distance(&wrong, &name.replace('-', "_")), name))
        .filter(|(distance, name)| *distance <= 1 + name.len() / 4)
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, name)| name)
}

/// How many letters must be added, removed, replaced or swapped with their neighbour to turn one word into the other.
fn distance(one: &str, two: &str) -> usize {
    let two: Vec<char> = two.chars().collect();
    let mut before: Vec<usize> = Vec::new();
    let mut above: Vec<usize> = (0..=two.len()).collect();
    let mut last = None;
    for (i, a) in one.chars().enumerate() {
        let mut row = vec![i + 1];
        for (j, b) in two.iter().enumerate() {
            let mut best = (above[j] + usize::from(a != *b)).min(above[j + 1] + 1).min(row[j] + 1);
            if j > 0 && last == Some(*b) && two[j - 1] == a {
                best = best.min(before[j - 1] + 1);
            }
            row.push(best);
        }
        before = std::mem::replace(&mut above, row);
        last = Some(a);
    }
    above.last().copied().unwrap_or(0)
}
