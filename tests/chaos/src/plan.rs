//! What is done to the world, drawn from a seed. Knows no processes. Invariant: a seed and a number of kills make one plan.

/// One thing that happens.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Act {
    KillGateway,
    /// A worker dies while the next gateway takes it back.
    KillBoth,
    /// The next gateway dies while it takes workers back.
    KillTwice,
    KillWorker,
    /// SIGTERM with `--leave-workers`.
    Restart,
    StopWorker,
    StopGateway,
    Storm,
    Swap,
    TornFrames,
    Impostor,
}

/// splitmix64.
#[derive(Clone, Debug)]
pub(crate) struct Dice(u64);

// === impl Act ===

impl Act {
    pub(crate) fn kills(self) -> u32 {
        match self {
            Self::KillGateway | Self::KillWorker => 1,
            Self::KillBoth | Self::KillTwice => 2,
            _ => 0,
        }
    }

    fn draw(dice: &mut Dice) -> Self {
        match dice.below(100) {
            0..40 => Self::KillGateway,
            40..46 => Self::KillBoth,
            46..52 => Self::KillTwice,
            52..58 => Self::KillWorker,
            58..64 => Self::Restart,
            64..72 => Self::StopWorker,
            72..77 => Self::StopGateway,
            77..83 => Self::Storm,
            83..91 => Self::Swap,
            91..96 => Self::TornFrames,
            _ => Self::Impostor,
        }
    }
}

/// Until there are as many kills.
pub(crate) fn plan(dice: &mut Dice, kills: u32) -> Vec<Act> {
    let mut acts = Vec::new();
    let mut left = kills;
    while left > 0 {
        let act = Act::draw(dice);
        if act.kills() <= left {
            left -= act.kills();
            acts.push(act);
        }
    }
    acts
}

// === impl Dice ===

impl Dice {
    pub(crate) fn new(seed: u64) -> Self {
        Self(seed)
    }

    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        mixed ^ (mixed >> 31)
    }

    /// Less than `bound`, which is not zero. The bias is far below what matters here.
    pub(crate) fn below(&mut self, bound: u64) -> u64 {
        self.next() % bound
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_seed_makes_one_plan_with_its_number_of_kills() {
        let plan = |seed| plan(&mut Dice::new(seed), 200);
        assert_eq!(plan(7), plan(7));
        assert_ne!(plan(7), plan(8));
        assert_eq!(plan(7).iter().map(|act| act.kills()).sum::<u32>(), 200);
        for act in [Act::KillBoth, Act::KillTwice, Act::Restart, Act::Impostor] {
            assert!(plan(7).contains(&act), "{act:?}");
        }
    }
}
