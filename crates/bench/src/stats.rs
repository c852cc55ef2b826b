//! Medians and percentiles.

/// The value below which `share` (0 to 1) of the values lie, by the nearest rank; 0 of nothing.
pub(crate) fn percentile(values: &[f64], share: f64) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        clippy::cast_precision_loss,
        reason = "a rank between 0 and the number of values"
    )]
    let rank = (share * sorted.len().saturating_sub(1) as f64).round() as usize;
    sorted.get(rank).copied().unwrap_or_default()
}

/// The middle value; the mean of the two middle ones when their number is even; 0 of nothing.
pub(crate) fn median(values: &[f64]) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let upper = sorted.len() / 2;
    let lower = sorted.len().saturating_sub(1) / 2;
    let at = |index: usize| sorted.get(index).copied().unwrap_or_default();
    f64::midpoint(at(lower), at(upper))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_median_is_the_middle_or_the_mean_of_the_two_middle_values() {
        for (values, expected) in
            [(&[][..], 0.0), (&[3.0][..], 3.0), (&[9.0, 1.0, 2.0][..], 2.0), (&[4.0, 1.0, 2.0, 9.0][..], 3.0)]
        {
            assert!((median(values) - expected).abs() < 1e-9, "{values:?}");
        }
    }

    #[test]
    fn percentiles_are_values_that_occurred() {
        let values: Vec<f64> = (0..=10).rev().map(f64::from).collect();
        for (share, expected) in [(0.0, 0.0), (0.1, 1.0), (0.9, 9.0), (1.0, 10.0)] {
            assert!((percentile(&values, share) - expected).abs() < 1e-9, "{share}");
        }
        assert!(percentile(&[], 0.5).abs() < 1e-9);
    }
}
