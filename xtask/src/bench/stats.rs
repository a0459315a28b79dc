//! The little arithmetic that benchmarks need.

/// The value below which `fraction` of the samples lie; NaN of none.
pub fn percentile(samples: &[f64], fraction: f64) -> f64 {
    let mut sorted = samples.to_vec();
    sorted.sort_by(f64::total_cmp);
    let place = (sorted.len() as f64 * fraction) as usize;
    sorted.get(place.min(sorted.len().saturating_sub(1))).copied().unwrap_or(f64::NAN)
}

/// The middle of the samples; of an even number, the mean of the two in the middle.
pub fn median(samples: &[f64]) -> f64 {
    let mut sorted = samples.to_vec();
    sorted.sort_by(f64::total_cmp);
    let middle = sorted.len() / 2;
    match sorted.len() {
        0 => f64::NAN,
        length if length % 2 == 1 => sorted[middle],
        _ => f64::midpoint(sorted[middle - 1], sorted[middle]),
    }
}

/// The least sample.
pub fn min(samples: &[f64]) -> f64 {
    samples.iter().copied().fold(f64::NAN, f64::min)
}

/// The greatest sample.
pub fn max(samples: &[f64]) -> f64 {
    samples.iter().copied().fold(f64::NAN, f64::max)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_in_a_sample() {
        let samples = [5.0, 1.0, 4.0, 2.0, 3.0];
        assert_eq!((median(&samples), min(&samples), max(&samples)), (3.0, 1.0, 5.0));
        assert_eq!(
            (percentile(&samples, 0.5), percentile(&samples, 0.99), percentile(&samples, 0.0)),
            (3.0, 5.0, 1.0)
        );
        assert_eq!(median(&[1.0, 2.0]), 1.5);
        assert!(median(&[]).is_nan() && percentile(&[], 0.5).is_nan() && min(&[]).is_nan());
    }
}
