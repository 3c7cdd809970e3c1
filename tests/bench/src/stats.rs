//! Numbers out of numbers: medians, percentiles, slopes. Knows no units.

/// The middle one; the mean of the middle two.
pub(crate) fn median(values: &[f64]) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    match sorted.len() {
        0 => f64::NAN,
        n if n % 2 == 1 => sorted[n / 2],
        n => f64::midpoint(sorted[n / 2 - 1], sorted[n / 2]),
    }
}

/// Nearest rank; `values` are sorted in place. 0 of nothing.
pub(crate) fn percentile<T: Ord + Copy + Default>(values: &mut [T], percent: f64) -> T {
    values.sort_unstable();
    let rank = (percent / 100.0 * values.len() as f64).ceil() as usize;
    values.get(rank.saturating_sub(1)).copied().unwrap_or_default()
}

/// Least squares: how much y rises per unit of x. 0 of fewer than two points.
pub(crate) fn slope(points: &[(f64, f64)]) -> f64 {
    let n = points.len() as f64;
    let (mean_x, mean_y) =
        (points.iter().map(|(x, _)| x).sum::<f64>() / n, points.iter().map(|(_, y)| y).sum::<f64>() / n);
    let square: f64 = points.iter().map(|(x, _)| (x - mean_x).powi(2)).sum();
    let product: f64 = points.iter().map(|(x, y)| (x - mean_x) * (y - mean_y)).sum();
    if square > 0.0 { product / square } else { 0.0 }
}

/// An interval for the median that holds with 95 % at least where there are six values and more, whatever they are
/// distributed like (order statistics): from, to, and how sure that is.
pub(crate) fn between(values: &[f64]) -> (f64, f64, f64) {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let (Some(&first), Some(&last)) = (sorted.first(), sorted.last()) else { return (f64::NAN, f64::NAN, 0.0) };
    let n = sorted.len();
    let mut chance = 0.5_f64.powi(n as i32);
    // Below the lowest, and above the highest.
    let (mut outside, mut found) = (2.0 * chance, (first, last, 1.0 - 2.0 * chance));
    for rank in 1..n / 2 {
        chance *= (n + 1 - rank) as f64 / rank as f64;
        outside += 2.0 * chance;
        if outside > 0.05 {
            break;
        }
        found = (sorted[rank], sorted[n - 1 - rank], 1.0 - outside);
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_known_numbers() {
        assert_eq!(median(&[3.0, 1.0, 2.0]), 2.0);
        assert_eq!(median(&[4.0, 1.0, 2.0, 3.0]), 2.5);
        let mut values: Vec<u32> = (1..=1_000).rev().collect();
        assert_eq!([50.0, 99.0, 100.0].map(|p| percentile(&mut values, p)), [500, 990, 1_000]);
        assert_eq!(percentile(&mut [0_u64; 0], 99.0), 0);
        assert_eq!(slope(&[(0.0, 5.0), (1.0, 7.0), (2.0, 9.0)]), 2.0);
        assert_eq!(slope(&[(1.0, 5.0)]), 0.0);
        // The tables of the sign test: the second lowest and highest of ten, with 97.9 %.
        let ten: Vec<f64> = (1..=10).rev().map(f64::from).collect();
        let (low, high, sure) = between(&ten);
        assert_eq!((low, high, (sure * 1_000.0).round()), (2.0, 9.0, 979.0));
        assert_eq!(between(&[3.0, 1.0]), (1.0, 3.0, 0.5));
        assert!(between(&[]).0.is_nan());
    }
}
