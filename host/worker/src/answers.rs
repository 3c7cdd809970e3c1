//! Remembers what commands were answered, so that one that the gateway repeats (because it cannot know whether the
//! first reached us) takes effect once. Knows no methods. Invariants: an id below the newest is never executed; what is kept
//! is bounded in number and in bytes, whatever is asked.

use bytes::Bytes;
use prost::Message as _;
use std::collections::VecDeque;
use tidegate_proto::v1::CommandResult;

/// Answers kept (semantics.md, Workers).
pub const REMEMBERED: usize = 1_024;
/// Encoded bytes of them; this bound wins over the other. As much as of the events (`TAIL_BYTES`); guessed.
pub const REMEMBERED_BYTES: usize = 4 << 20;

/// E_UNEXPECTED: the outcome is unknown.
const FORGOTTEN: i32 = 0x8000_FFFF_u32 as i32;

/// The last answers, by rising id, encoded: decoded many take ten times as much, and hardly one is asked for again.
#[derive(Debug, Default)]
pub struct Answers {
    kept: VecDeque<(u64, Bytes)>,
    bytes: usize,
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
        // Ours decodes; if one did not, its outcome would be as unknown.
        Some(kept.and_then(|bytes| CommandResult::decode(bytes).ok()).unwrap_or_else(|| CommandResult {
            hresult: FORGOTTEN,
            message: format!("command {id} is not among the answers remembered; its outcome is unknown"),
            result: None,
        }))
    }

    /// Keeps an answer and forgets the oldest beyond `REMEMBERED` and `REMEMBERED_BYTES`; one that is larger itself is
    /// not kept.
    pub fn remember(&mut self, id: u64, result: &CommandResult) {
        debug_assert!(id > self.newest, "recall comes first");
        self.newest = id;
        let bytes = Bytes::from(result.encode_to_vec());
        if bytes.len() > REMEMBERED_BYTES {
            return;
        }
        self.bytes += bytes.len();
        self.kept.push_back((id, bytes));
        while self.kept.len() > REMEMBERED || self.bytes > REMEMBERED_BYTES {
            let Some((_, oldest)) = self.kept.pop_front() else { break };
            self.bytes -= oldest.len();
        }
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

    #[test]
    fn large_answers_are_remembered_within_their_bytes() {
        let mut answers = Answers::default();
        let of = |bytes: usize| CommandResult { message: "x".repeat(bytes), ..CommandResult::default() };
        for id in 1..=100 {
            answers.remember(id, &of(1 << 20));
        }
        assert!(answers.kept.iter().map(|(_, bytes)| bytes.len()).sum::<usize>() <= REMEMBERED_BYTES);
        assert_eq!(answers.recall(98), Some(of(1 << 20)), "the newest are there");
        assert_eq!(answers.recall(90).unwrap().hresult, FORGOTTEN);
        answers.remember(101, &of(REMEMBERED_BYTES));
        assert_eq!(answers.recall(101).unwrap().hresult, FORGOTTEN, "and never runs again");
        assert_eq!(answers.recall(100), Some(of(1 << 20)), "its neighbours stay");
    }
}
