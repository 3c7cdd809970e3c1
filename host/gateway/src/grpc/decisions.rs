//! Decisions of the log in the form of the admin API: listed, replayed, compared with a candidate. Decides nothing and
//! reads no file itself. Invariant: what the caller sends is bounded before anything is done with it.

use super::status::status;
use crate::error::{Code, Error};
use std::time::Duration;
use tidegate_policy::{
    Candidate, Comparison, DecisionId, Last, PastError, Policy, PolicyHost, Reading, Record, Replay, Window,
};
use tidegate_proto::v1::{
    self, DecisionLoss, DecisionWindow, DiffPolicyRequest, DiffPolicyResponse, ListDecisionsResponse, PolicyCandidate,
    PolicyDifference, ReplayDecisionsResponse, policy_difference, replay_decisions_response,
};
use tonic::Status;

/// Decisions in one answer; each is a kilobyte or so.
const LISTED_MAX: usize = 10_000;
/// How long asking again may take.
const BUDGET_DEFAULT: Duration = Duration::from_secs(30);
const BUDGET_MAX: Duration = Duration::from_secs(600);
/// A bulk question can be about 100,000 tags; in a list of decisions its beginning is enough.
const QUESTION_BYTES_MAX: usize = 4096;

pub(super) async fn list(host: &PolicyHost, window: Option<DecisionWindow>) -> Result<ListDecisionsResponse, Status> {
    let mut window = read_window(window)?;
    let (tag, id) = (window.tag.clone(), window.id);
    if id.is_some() {
        // Of one decision a tag asks what was said about it; it does not choose.
        window.tag = None;
    }
    let reading = apart(host, move |host| host.decisions(&window)).await?;
    if let Some(id) = id {
        told(&reading, id, tag.as_deref()).map_err(|error| status(&error))?;
    }
    let more = reading.records.len().saturating_sub(LISTED_MAX);
    let decisions = reading.records.iter().skip(more).map(|record| decision(record, tag.as_deref())).collect();
    Ok(ListDecisionsResponse { decisions, loss: Some(loss(&reading)), more: more as u64 })
}

pub(super) async fn replay(
    host: &PolicyHost,
    window: Option<DecisionWindow>,
    budget_ms: u64,
) -> Result<ReplayDecisionsResponse, Status> {
    let window = read_window(window)?;
    let (reading, done) = apart(host, move |host| host.replay(&window, budget(budget_ms))).await?;
    let Replay { replayed, mismatches, more, gone, unanswered, skipped } = done;
    let mismatch = |of: tidegate_policy::Mismatch| replay_decisions_response::Mismatch {
        decision_id: of.id.to_string(),
        was: of.was,
        now: of.is,
    };
    Ok(ReplayDecisionsResponse {
        replayed,
        mismatches: mismatches.into_iter().map(mismatch).collect(),
        more,
        gone,
        unanswered,
        skipped,
        loss: Some(loss(&reading)),
    })
}

pub(super) async fn diff(host: &PolicyHost, request: DiffPolicyRequest) -> Result<DiffPolicyResponse, Status> {
    let window = read_window(request.window)?;
    let candidate = candidate(request.candidate)?;
    let (reading, compared) =
        apart(host, move |host| host.difference(candidate, &window, budget(request.budget_ms), request.allow_unsigned))
            .await?;
    Ok(DiffPolicyResponse { difference: Some(difference(compared)), loss: Some(loss(&reading)) })
}

pub(super) fn candidate(of: Option<PolicyCandidate>) -> Result<Candidate, Status> {
    let missing = || status(&Error::new(Code::RequestInvalid, "there is no candidate").with("field", "candidate"));
    let PolicyCandidate { file, content, settings_file, settings, signature } = of.ok_or_else(missing)?;
    Ok(Candidate {
        file,
        bytes: content.to_vec(),
        settings: (!settings_file.is_empty()).then_some((settings_file, settings)),
        signature: (!signature.is_empty()).then_some(signature),
    })
}

pub(super) fn difference(of: Comparison) -> PolicyDifference {
    let change = |change: tidegate_policy::Change| policy_difference::Change {
        policy: change.policy.name().to_owned(),
        who: change.who,
        was: change.was,
        was_rule: change.was_rule,
        now: change.is,
        now_rule: change.is_rule,
        count: change.count,
        example_decision_id: change.example.to_string(),
        example_tag: change.tag,
    };
    PolicyDifference {
        asked: of.asked,
        changed: of.changed,
        failed: of.failed,
        skipped: of.skipped,
        more: of.more,
        changes: of.changes.into_iter().map(change).collect(),
    }
}

/// Off the runtime's threads: it reads files and runs components.
pub(super) async fn apart<T: Send + 'static>(
    host: &PolicyHost,
    work: impl FnOnce(&PolicyHost) -> Result<T, PastError> + Send + 'static,
) -> Result<T, Status> {
    crate::policies::apart(host, work).await.map_err(|error| status(&error))
}

/// One decision was asked for: is it there, and about the tag?
fn told(reading: &Reading, id: DecisionId, tag: Option<&str>) -> Result<(), Error> {
    let Some(record) = reading.records.first() else {
        let since = reading.since_ms.map_or_else(
            || "it is empty".to_owned(),
            |ms| format!("it reaches back to {}", tidegate_client::values::show_unix_ms(ms as i64)),
        );
        let error = Error::new(Code::DecisionUnknown, format!("the log has no decision {id}; {since}"));
        return Err(error.with("decision", id).with("since_unix_ms", reading.since_ms.unwrap_or_default()));
    };
    match tag {
        Some(tag) if !record.mentions(tag) => {
            let message = format!("decision {id} was not about {tag}; without --tag it is explained as a whole");
            Err(Error::new(Code::RequestInvalid, message).with("field", "tag").with("decision", id))
        }
        _ => Ok(()),
    }
}

fn budget(ms: u64) -> Duration {
    if ms == 0 { BUDGET_DEFAULT } else { Duration::from_millis(ms).min(BUDGET_MAX) }
}

fn read_window(of: Option<DecisionWindow>) -> Result<Window, Status> {
    let of = of.unwrap_or_default();
    let wrong = |field, message| status(&Error::new(Code::RequestInvalid, message).with("field", field));
    let some = |text: String| (!text.is_empty()).then_some(text);
    let policy = some(of.policy).map(|name| {
        let known = Policy::ALL.into_iter().find(|policy| policy.name() == name);
        known.ok_or_else(|| wrong("policy", "there is no policy of this name"))
    });
    let id = of
        .decision_id
        .map(|id| DecisionId::parse(&id).ok_or_else(|| wrong("decision_id", "an id is 16 hexadecimal digits")));
    let last = match (of.last_count, of.last_ms) {
        (0, 0) => Last::default(),
        (0, ms) => Last::within(ms),
        (count, 0) => Last::Count(usize::try_from(count).unwrap_or(usize::MAX)),
        _ => return Err(wrong("last_count", "either so many or so long")),
    };
    let (who, tag) = (some(of.who), some(of.tag));
    Ok(Window { last, denied: of.denied_only, policy: policy.transpose()?, who, tag, id: id.transpose()? })
}

fn decision(record: &Record, tag: Option<&str>) -> v1::Decision {
    let member = record.member();
    let mut question = record.question();
    if question.len() > QUESTION_BYTES_MAX {
        let end = (0..=QUESTION_BYTES_MAX).rev().find(|&at| question.is_char_boundary(at)).unwrap_or(0);
        question.truncate(end);
        question.push('…');
    }
    let item = tag.and_then(|tag| record.item(tag));
    let mut words = record.words();
    if let (Some(tag), Some((allow, rule))) = (tag, &item) {
        words.push(format!("{tag} itself was {} by `{rule}`", if *allow { "allowed" } else { "denied" }));
    }
    v1::Decision {
        decision_id: record.id.to_string(),
        at_unix_ms: record.at_ms as i64,
        generation: record.facts.generation,
        policy: record.policy().name().to_owned(),
        digest: member.map(|of| of.digest.clone()).unwrap_or_default(),
        settings_digest: member.map(|of| of.settings_digest.clone()).unwrap_or_default(),
        file: member.map(|of| of.file.clone()).unwrap_or_default(),
        who: record.who().to_owned(),
        session_id: record.session().to_owned(),
        question,
        answer: record.answer(),
        denied: record.denied(),
        rule: record.rule().unwrap_or_default().to_owned(),
        reason: record.reason().to_owned(),
        cause: record.cause.map(|cause| cause.as_str().to_owned()).unwrap_or_default(),
        took_ns: record.took_ns,
        words,
    }
}

fn loss(reading: &Reading) -> DecisionLoss {
    DecisionLoss {
        lost: reading.lost,
        dropped: reading.dropped,
        damaged_lines: reading.damaged,
        cut_runs: reading.cut_runs,
        since_unix_ms: reading.since_ms.unwrap_or_default() as i64,
    }
}
