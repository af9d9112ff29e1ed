//! Choices by chance, which a client can have repeated: a fault that shows itself once in a hundred requests and never
//! again teaches nothing.

use super::random::word;

/// Numbers for the choices of one request.
pub(super) struct Draws {
    seed: Option<u64>,
    drawn: u64,
}

impl Draws {
    /// The same numbers each time for the same seed: the outputs of SplitMix64, as in `random`.
    pub(super) fn new(seed: Option<u64>) -> Self {
        Self { seed, drawn: 0 }
    }

    /// The next number, from 0 to below 1.
    pub(super) fn next(&mut self) -> f64 {
        let Some(seed) = self.seed else { return fastrand::f64() };
        let word = word(seed, self.drawn);
        self.drawn += 1;
        // The 53 bits that a float holds.
        (word >> 11) as f64 / (1_u64 << 53) as f64
    }
}

/// Values with the percentage of requests that get each; the others get none.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Chances<T>(Vec<(T, f64)>);

impl<T: Clone> Chances<T> {
    /// `value`, or `value:percent,...` (the grammar of Fortio's server).
    ///
    /// # Errors
    /// What is wrong, for a person.
    pub(super) fn parse(text: &str, value: impl Fn(&str) -> Result<T, String>) -> Result<Self, String> {
        if !text.contains([':', ',']) {
            return Ok(Self(vec![(value(text.trim())?, 100.0)]));
        }
        let entry = |entry: &str| {
            let (text, percent) = entry.rsplit_once(':').ok_or_else(|| {
                format!("{entry:?} must have a percentage behind a colon, as all in a list")
            })?;
            let number = percent.trim().parse().ok().filter(|percent| (0.0..=100.0).contains(percent));
            let number = number.ok_or_else(|| format!("the percentage {percent:?} must be 0 to 100"))?;
            let parsed = value(text.trim()).map_err(|why| format!("{:?} {why}", text.trim()))?;
            Ok::<_, String>((parsed, number))
        };
        let entries: Vec<_> = text.split(',').map(|text| entry(text.trim())).collect::<Result<_, _>>()?;
        let sum: f64 = entries.iter().map(|(_, percent)| percent).sum();
        // Percentages such as 33.3 and 66.7 need not add up exactly.
        if sum > 100.0 + 1e-9 {
            return Err(format!("the percentages add up to {sum}, and must not be above 100"));
        }
        Ok(Self(entries))
    }

    /// Whether every request gets the same.
    pub(super) fn is_certain(&self) -> bool {
        matches!(&*self.0, [(_, percent)] if *percent >= 100.0)
    }

    /// The value that this request gets.
    pub(super) fn draw(&self, draws: &mut Draws) -> Option<T> {
        let mut left = if self.is_certain() { 0.0 } else { draws.next() * 100.0 };
        for (value, percent) in &self.0 {
            if left < *percent {
                return Some(value.clone());
            }
            left -= percent;
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn parse(text: &str) -> Result<Chances<u32>, String> {
        Chances::parse(text, |text| text.parse::<u32>().map_err(|error| format!("must be a number: {error}")))
    }

    #[test]
    fn a_value_alone_is_certain_and_a_list_leaves_the_rest_alone() {
        let drawn = |text: &str| {
            let (chances, mut draws) = (parse(text).unwrap(), Draws::new(Some(7)));
            let mut counts = std::collections::BTreeMap::new();
            for _ in 0..10_000 {
                *counts.entry(chances.draw(&mut draws)).or_insert(0) += 1;
            }
            counts
        };
        assert_eq!(drawn("3"), [(Some(3), 10_000)].into());
        assert_eq!(drawn("3:100"), [(Some(3), 10_000)].into());
        assert_eq!(drawn("3:0"), [(None, 10_000)].into());
        let counts = drawn("503:20, 404:10");
        for (value, expected) in [(Some(503), 2000), (Some(404), 1000), (None, 7000_i32)] {
            assert!((counts[&value] - expected).abs() < 200, "{counts:?}");
        }
    }

    #[test]
    fn what_is_wrong_is_named() {
        for (text, part) in [
            ("x", "must be a number"),
            ("1,2", "\"1\" must have a percentage"),
            ("1:x", "\"x\" must be 0 to 100"),
            ("1:101", "\"101\" must be"),
            ("1:-1", "\"-1\" must be"),
            ("1:nan", "\"nan\" must be"),
            ("1:60,2:50", "add up to 110"),
            ("y:60", "\"y\" must be a number"),
            ("", "must be a number"),
            (":", "must be 0 to 100"),
        ] {
            let error = parse(text).unwrap_err();
            assert!(error.contains(part), "{text}: {error}");
        }
    }

    proptest! {
        #[test]
        fn any_text_is_parsed_or_refused_and_a_draw_is_one_of_its_values(text in "[0-9:., ]{0,24}", seed: u64) {
            if let Ok(chances) = parse(&text) {
                let drawn = chances.draw(&mut Draws::new(Some(seed)));
                prop_assert!(drawn.is_none_or(|drawn| chances.0.iter().any(|(value, _)| *value == drawn)));
            }
        }

        #[test]
        fn a_seed_repeats_its_choices(seed: u64) {
            let numbers = || { let mut draws = Draws::new(Some(seed)); [draws.next(), draws.next(), draws.next()] };
            prop_assert_eq!(numbers().map(f64::to_bits), numbers().map(f64::to_bits));
            prop_assert!(numbers().iter().all(|number| (0.0..1.0).contains(number)));
        }
    }
}
