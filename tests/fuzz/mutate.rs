//! Makes new inputs of old ones. Knows bytes and chance. Invariant: the same seed and the same inputs give the same bytes.

/// No input grows beyond this, so that each costs microseconds.
const LEN_MAX: usize = 4_096;
/// Numbers at which things change.
const EDGES: [u8; 8] = [0x00, 0x01, 0x7F, 0x80, 0xFF, 0x7A, 0x09, 0x11];

/// SplitMix64.
pub(crate) struct Mutator(u64);

// === impl Mutator ===

impl Mutator {
    pub(crate) fn new(seed: u64) -> Self {
        Self(seed)
    }

    fn number(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    fn below(&mut self, bound: usize) -> usize {
        (self.number() % bound.max(1) as u64) as usize
    }

    /// One to four changes of one of `seeds`.
    pub(crate) fn next(&mut self, seeds: &[Vec<u8>]) -> Vec<u8> {
        let mut input = seeds.get(self.below(seeds.len())).cloned().unwrap_or_default();
        for _ in 0..=self.below(4) {
            self.change(&mut input, seeds);
        }
        input.truncate(LEN_MAX);
        input
    }

    fn change(&mut self, input: &mut Vec<u8>, seeds: &[Vec<u8>]) {
        let at = self.below(input.len());
        let to = at + self.below(input.len().saturating_sub(at).min(32) + 1);
        match self.below(8) {
            0 if !input.is_empty() => input[at] ^= 1 << self.below(8),
            1 if !input.is_empty() => input[at] = EDGES[self.below(EDGES.len())],
            2 if !input.is_empty() => input[at] = self.number() as u8,
            3 => drop(input.drain(at..to.min(input.len()))),
            4 => {
                let again = input[at.min(input.len())..to.min(input.len())].to_vec();
                input.splice(at..at, again);
            }
            5 => {
                let edge = EDGES[self.below(EDGES.len())];
                let many = self.below(10);
                input.splice(at..at, std::iter::repeat_n(edge, many));
            }
            6 => input.truncate(at),
            _ => {
                let other = &seeds[self.below(seeds.len())];
                let from = self.below(other.len());
                input.truncate(at);
                input.extend_from_slice(&other[from..]);
            }
        }
    }
}
