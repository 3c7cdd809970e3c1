//! What is done to the world and when, drawn from a seed before anything begins. Knows no processes. Invariant: a seed and
//! a number of kills make one plan; nothing is drawn later.

use std::{
    hash::{BuildHasher as _, RandomState},
    time::Duration,
};

/// One thing that happens.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Act {
    KillGateway,
    /// The next gateway dies while it takes workers back.
    KillTwice,
    /// A worker dies while the next gateway takes it back.
    KillBoth,
    /// Somebody with a wrong secret calls while workers are taken back.
    Impostor,
    /// The next gateway is asked to stop while it takes workers back.
    StopEarly,
    KillWorker,
    /// SIGTERM with `--leave-workers`.
    Restart,
    /// Another gateway takes over.
    TakeOver,
    /// One of the two dies while it does.
    KillTakeOver,
    /// One of the two is asked to stop while it does.
    StopTakeOver,
    /// A second gateway on the same folder.
    Second,
    StallWorker,
    StallGateway,
    /// All readers leave and come back at once.
    Storm,
    /// Another set of policies.
    Swap,
    /// Bytes at the workers' socket that are no frames, and halves of some.
    TornFrames,
    /// A worker that has proved itself sends what is no frame.
    BrokenWorker,
}

/// One act of a plan.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Step {
    pub(crate) act: Act,
    /// Before it, in thousandths of the mean pause.
    pub(crate) pause: u64,
    /// Whom it befalls, modulo their number.
    pub(crate) whom: u64,
    /// How long it lasts, milliseconds; decides, too, when its second half comes.
    pub(crate) ms: u64,
}

/// How often each happens, of a hundred.
const SHARES: &[(Act, u64)] = &[
    (Act::KillGateway, 26),
    (Act::KillTwice, 5),
    (Act::KillBoth, 5),
    (Act::Impostor, 4),
    (Act::StopEarly, 4),
    (Act::KillWorker, 6),
    (Act::Restart, 5),
    (Act::TakeOver, 9),
    (Act::KillTakeOver, 4),
    (Act::StopTakeOver, 2),
    (Act::Second, 3),
    (Act::StallWorker, 6),
    (Act::StallGateway, 4),
    (Act::Storm, 5),
    (Act::Swap, 5),
    (Act::TornFrames, 4),
    (Act::BrokenWorker, 3),
];
/// Of a stall. Short enough for everybody's patience.
const MS_MAX: u64 = 800;

/// splitmix64.
#[derive(Clone, Debug)]
pub(crate) struct Dice(u64);

// === impl Step ===

impl Step {
    /// Of two: whether it befalls the second.
    pub(crate) fn second_of_two(self) -> bool {
        self.whom % 2 == 1
    }

    /// Into the start of a gateway (a tenth of a second, or several on a busy machine), before or behind it.
    pub(crate) fn second_half(self) -> Duration {
        Duration::from_millis(self.ms * self.ms / MS_MAX / 2)
    }
}

// === impl Act ===

impl Act {
    pub(crate) fn kills(self) -> u32 {
        match self {
            Self::KillGateway | Self::KillWorker | Self::Impostor | Self::StopEarly | Self::KillTakeOver => 1,
            Self::KillBoth | Self::KillTwice => 2,
            _ => 0,
        }
    }

    fn draw(dice: &mut Dice) -> Self {
        let mut left = dice.below(SHARES.iter().map(|(_, share)| share).sum());
        for (act, share) in SHARES {
            match left.checked_sub(*share) {
                Some(rest) => left = rest,
                None => return *act,
            }
        }
        Self::KillGateway
    }
}

/// Until there are as many kills.
pub(crate) fn plan(seed: u64, kills: u32) -> Vec<Step> {
    let mut dice = Dice::new(seed);
    let mut steps = Vec::new();
    let mut left = kills;
    while left > 0 {
        let act = Act::draw(&mut dice);
        // Twice the mean at most, so that the whole takes about as long as asked.
        let step = Step { act, pause: dice.below(2_000), whom: dice.below(u64::MAX), ms: dice.below(MS_MAX) };
        if act.kills() <= left {
            left -= act.kills();
            steps.push(step);
        }
    }
    steps
}

/// Small enough to be typed.
pub(crate) fn random_seed() -> u64 {
    RandomState::new().hash_one(0_u8) % 1_000_000
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
    fn a_seed_makes_one_plan_with_its_number_of_kills_and_everything_happens() {
        assert_eq!(plan(7, 300), plan(7, 300));
        assert_ne!(plan(7, 300), plan(8, 300));
        assert_eq!(plan(7, 300).iter().map(|step| step.act.kills()).sum::<u32>(), 300);
        for (act, _) in SHARES {
            assert!(plan(7, 300).iter().any(|step| step.act == *act), "{act:?}");
        }
        assert!(plan(7, 0).is_empty());
    }
}
