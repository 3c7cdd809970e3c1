//! Remembers what commands were answered, so that one that the gateway repeats (because it cannot know whether the
//! first reached us) takes effect once. Knows no methods. Invariant: an id below the newest is never executed.

use std::collections::VecDeque;
use tidegate_proto::v1::CommandResult;

/// Answers kept (semantics.md, Workers).
pub const REMEMBERED: usize = 1_024;

/// E_UNEXPECTED: the outcome is unknown.
const FORGOTTEN: i32 = 0x8000_FFFF_u32 as i32;

/// The last answers, by rising id.
#[derive(Debug, Default)]
pub struct Answers {
    kept: VecDeque<(u64, CommandResult)>,
    newest: u64,
}

// === impl Answers ===

impl Answers {
    /// What to answer without executing anything; `None` for a new command.
    pub fn recall(&self, id: u64) -> Option<CommandResult> {
        if id > self.newest {
            return None;
        }
        let kept = self.kept.binary_search_by_key(&id, |(kept, _)| *kept).ok().map(|at| self.kept[at].1.clone());
        Some(kept.unwrap_or_else(|| CommandResult {
            hresult: FORGOTTEN,
            message: format!("command {id} is older than the {REMEMBERED} answers remembered; its outcome is unknown"),
            result: None,
        }))
    }

    /// Keeps an answer and forgets the oldest beyond `REMEMBERED`.
    pub fn remember(&mut self, id: u64, result: &CommandResult) {
        debug_assert!(id > self.newest, "recall comes first");
        self.newest = id;
        if self.kept.len() == REMEMBERED {
            self.kept.pop_front();
        }
        self.kept.push_back((id, result.clone()));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_repeated_command_is_answered_from_memory_and_a_forgotten_one_never_runs() {
        let mut answers = Answers::default();
        assert_eq!(answers.recall(1), None);
        for id in 1..=2_000 {
            assert_eq!(answers.recall(id), None);
            answers.remember(id, &CommandResult { hresult: id as i32, ..CommandResult::default() });
        }
        assert_eq!(answers.recall(2_000).unwrap().hresult, 2_000);
        assert_eq!(answers.recall(977).unwrap().hresult, 977);
        assert_eq!(answers.recall(976).unwrap().hresult, FORGOTTEN);
        assert_eq!(answers.recall(2_001), None);
        assert_eq!(answers.kept.len(), REMEMBERED);
    }
}
