//! A line that would come again and again while something lasts: said once in a while, with how often it was kept back.
//! Knows time, not what the line says. Invariant: whatever is kept back is counted, and told with the next line.

use std::time::{Duration, Instant};

/// Between two lines. Guessed: what lasts is seen, and what went before is not washed out of the log.
const EVERY: Duration = Duration::from_secs(10);

/// Of one place in the code.
#[derive(Debug, Default)]
pub struct Repeated {
    said: Option<Instant>,
    kept_back: u64,
}

// === impl Repeated ===

impl Repeated {
    /// Whether to say it now, and how often it was not said since the last time.
    pub fn again(&mut self) -> Option<u64> {
        self.again_at(Instant::now())
    }

    fn again_at(&mut self, now: Instant) -> Option<u64> {
        if self.said.is_some_and(|said| now.duration_since(said) < EVERY) {
            self.kept_back += 1;
            return None;
        }
        self.said = Some(now);
        Some(std::mem::take(&mut self.kept_back))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_comes_again_and_again_is_said_once_in_a_while_with_its_number() {
        let (mut line, began) = (Repeated::default(), Instant::now());
        let at = |line: &mut Repeated, tenths: u32| line.again_at(began + EVERY * tenths / 10);
        assert_eq!(at(&mut line, 0), Some(0));
        let said: Vec<u64> = (1..=25).filter_map(|tenths| at(&mut line, tenths)).collect();
        assert_eq!(said, [9, 9]);
        assert_eq!(at(&mut line, 100), Some(5), "however much later");
    }
}
