//! Principals and sessions with their bytes for `access-packed` (the layout stands in the contract), made once for any
//! number of questions, so that one allocation in the guest carries what would take sixteen. Knows no store.
//! Invariant: what is packed here from typed values and from the values of a vector is the same.

use std::ops::Deref;
use std::sync::Arc;

use wasmtime::component::Val;

use crate::contract::{Contract, DENIES, HAS_REASON, count};
use crate::model::Action;

/// What is known of who asks.
#[derive(Clone, Debug)]
pub(crate) struct WhoFacts {
    pub(crate) id: String,
    pub(crate) scopes: Vec<String>,
    pub(crate) read: Vec<String>,
    pub(crate) write: Vec<String>,
    pub(crate) peer: String,
    /// Names; none: it showed no certificate.
    pub(crate) certificate: Vec<String>,
}

/// What is known of a session.
#[derive(Clone, Debug)]
pub(crate) struct Labels {
    pub(crate) id: String,
    pub(crate) owner: String,
    pub(crate) tag: String,
    pub(crate) backend: String,
}

/// Who asks, packed for every version of the contract.
#[derive(Debug)]
pub(crate) struct PackedWho {
    facts: WhoFacts,
    /// As 0.2.0 has it. Without a certificate 0.1.0 has the same but for the empty list at the end.
    bytes: Box<[u8]>,
    hash: u32,
    /// As 0.1.0 has it; only where there is a certificate.
    old: Option<Box<OldWho>>,
}

/// Who asks, as 0.1.0 has it: the certificate's names among the scopes.
#[derive(Debug)]
struct OldWho {
    scopes: Vec<String>,
    bytes: Box<[u8]>,
    hash: u32,
}

/// A session, packed; the same in every version.
#[derive(Debug)]
pub(crate) struct PackedPlace {
    labels: Labels,
    bytes: Box<[u8]>,
    hash: u32,
}

/// Before each name of a certificate, where those stand among the scopes.
pub(crate) const CERTIFICATE: &str = "cert:";
/// Of an empty list.
const EMPTY_LIST: usize = 4;

// === impl PackedWho ===

impl PackedWho {
    pub(crate) fn new(facts: WhoFacts) -> Self {
        let mut bytes = who(&facts, &facts.scopes);
        let old = (!facts.certificate.is_empty()).then(|| {
            let names = facts.certificate.iter().map(|name| format!("{CERTIFICATE}{name}"));
            let scopes: Vec<String> = facts.scopes.iter().cloned().chain(names).collect();
            let bytes = who(&facts, &scopes);
            Box::new(OldWho { scopes, hash: hash(&bytes), bytes: bytes.into() })
        });
        texts(&mut bytes, facts.certificate.iter().map(String::as_str));
        Self { hash: hash(&bytes), bytes: bytes.into(), facts, old }
    }

    /// As 0.1.0 has them.
    pub(crate) fn scopes_with_certificate(&self) -> &[String] {
        self.old.as_ref().map_or(&self.facts.scopes, |old| &old.scopes)
    }

    fn packed(&self, contract: Contract) -> (&[u8], u32) {
        match (contract, &self.old) {
            (Contract::V2, _) => (&self.bytes, self.hash),
            (Contract::V1, Some(old)) => (&old.bytes, old.hash),
            (Contract::V1, None) => (&self.bytes[..self.bytes.len() - EMPTY_LIST], self.hash),
        }
    }
}

impl Deref for PackedWho {
    type Target = WhoFacts;

    fn deref(&self) -> &WhoFacts {
        &self.facts
    }
}

// === impl PackedPlace ===

impl PackedPlace {
    pub(crate) fn new(labels: Labels) -> Self {
        let mut bytes = Vec::with_capacity(128);
        for part in [&labels.id, &labels.owner, &labels.tag, &labels.backend] {
            text(&mut bytes, part);
        }
        Self { hash: hash(&bytes), bytes: bytes.into(), labels }
    }
}

impl Deref for PackedPlace {
    type Target = Labels;

    fn deref(&self) -> &Labels {
        &self.labels
    }
}

/// Into `question`, which is emptied first: it is the same memory for each call.
pub(crate) fn decide(contract: Contract, question: &mut Vec<u8>, who: &PackedWho, place: &PackedPlace, what: &Action) {
    asker(contract, question, who, place);
    match what {
        Action::Open => question.push(0),
        Action::Read => question.push(1),
        Action::Resume { behind } => {
            question.push(2);
            if contract > Contract::V1 {
                question.extend(count(*behind).to_le_bytes());
            }
        }
        Action::Command { method, tag } => {
            question.push(3);
            text(question, method);
            text(question, tag);
        }
        Action::Close => question.push(4),
    }
}

pub(crate) fn judge_items(
    contract: Contract,
    question: &mut Vec<u8>,
    who: &PackedWho,
    place: &PackedPlace,
    tags: &[Arc<str>],
) {
    asker(contract, question, who, place);
    texts(question, tags.iter().map(|tag| &**tag));
}

/// A vector's arguments of `access`. None: they are not those of the contract.
pub(crate) fn of_vector(arguments: &[Val]) -> Option<Vec<u8>> {
    let [who, place, what] = arguments else { return None };
    let (mut first, mut second, mut question) = (Vec::new(), Vec::new(), Vec::new());
    value(&mut first, who)?;
    value(&mut second, place)?;
    header(&mut question, hash(&first), hash(&second), &first, &second);
    value(&mut question, what)?;
    Some(question)
}

/// What `access-packed` has to say where `access` answers this, a verdict or a list of them.
pub(crate) fn expected(answer: &Val) -> Option<Vec<u32>> {
    let number = |rule: &Val| if let Val::U16(rule) = rule { Some(u32::from(*rule)) } else { None };
    let field = |fields: &[(String, Val)], name: &str| {
        fields.iter().find(|(field, _)| field == name).map(|(_, value)| value.clone())
    };
    let record = |verdict: &Val| {
        let Val::Record(fields) = verdict else { return None };
        let denies = if field(fields, "allow")? == Val::Bool(true) { 0 } else { DENIES };
        let own = denies > 0 && matches!(field(fields, "reason"), Some(Val::Option(Some(_))));
        Some(number(&field(fields, "rule")?)? + denies + if own { HAS_REASON } else { 0 })
    };
    match answer {
        // 0.1.0: `allow(1)`, `deny({rule: 1, reason: ""})`.
        Val::Variant(case, Some(payload)) => match (case.as_str(), &**payload) {
            ("deny", Val::Record(fields)) => Some(vec![number(&field(fields, "rule")?)? + DENIES]),
            (_, payload) => Some(vec![number(payload)?]),
        },
        Val::List(verdicts) => verdicts.iter().map(record).collect(),
        verdict => Some(vec![record(verdict)?]),
    }
}

fn value(out: &mut Vec<u8>, val: &Val) -> Option<()> {
    match val {
        Val::String(string) => text(out, string),
        Val::U32(number) => out.extend(number.to_le_bytes()),
        Val::List(items) => {
            out.extend((items.len() as u32).to_le_bytes());
            items.iter().try_for_each(|item| value(out, item))?;
        }
        Val::Record(fields) => fields.iter().try_for_each(|(_, field)| value(out, field))?,
        Val::Variant(case, payload) => {
            out.push(["open", "read", "resume", "command", "close"].iter().position(|name| name == case)? as u8);
            payload.iter().try_for_each(|payload| value(out, payload))?;
        }
        _ => return None,
    }
    Some(())
}

fn who(facts: &WhoFacts, scopes: &[String]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(256);
    text(&mut bytes, &facts.id);
    for list in [scopes, &facts.read, &facts.write] {
        texts(&mut bytes, list.iter().map(String::as_str));
    }
    text(&mut bytes, &facts.peer);
    bytes
}

fn asker(contract: Contract, question: &mut Vec<u8>, who: &PackedWho, place: &PackedPlace) {
    let (bytes, hash) = who.packed(contract);
    header(question, hash, place.hash, bytes, &place.bytes);
}

fn header(question: &mut Vec<u8>, who_hash: u32, place_hash: u32, who: &[u8], place: &[u8]) {
    question.clear();
    question.extend((who_hash.rotate_left(16) ^ place_hash).to_le_bytes());
    question.extend(((who.len() + place.len()) as u32).to_le_bytes());
    question.extend(who);
    question.extend(place);
}

fn text(out: &mut Vec<u8>, text: &str) {
    out.extend((text.len() as u32).to_le_bytes());
    out.extend(text.as_bytes());
}

fn texts<'a>(out: &mut Vec<u8>, list: impl ExactSizeIterator<Item = &'a str>) {
    out.extend((list.len() as u32).to_le_bytes());
    list.for_each(|one| text(out, one));
}

/// FNV-1a. It only spreads; who makes two askers meet wins a slower decision.
fn hash(bytes: &[u8]) -> u32 {
    bytes.iter().fold(0x811c_9dc5, |hash, byte| (hash ^ u32::from(*byte)).wrapping_mul(0x0100_0193))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn string(text: &str) -> Val {
        Val::String(text.into())
    }

    fn list(texts: &[&str]) -> Val {
        Val::List(texts.iter().map(|text| string(text)).collect())
    }

    fn record(fields: &[(&str, Val)]) -> Val {
        Val::Record(fields.iter().map(|(name, value)| ((*name).into(), value.clone())).collect())
    }

    fn variant(case: &str, payload: Option<Val>) -> Val {
        Val::Variant(case.into(), payload.map(Box::new))
    }

    /// The two without their hashes, which a guest takes as they are.
    #[track_caller]
    fn alike(packed: &[u8], vector: &[Val]) {
        let vector = of_vector(vector).expect("of the contract");
        assert_eq!(packed[4..], vector[4..]);
    }

    // shows
    #[test]
    fn vectors_and_values_are_packed_alike_in_each_version() {
        let texts = |of: &[&str]| of.iter().map(|text| (*text).to_owned()).collect::<Vec<_>>();
        let place =
            PackedPlace::new(Labels { id: "s".into(), owner: "k".into(), tag: "".into(), backend: "sim".into() });
        let session =
            record(&[("id", string("s")), ("owner", string("k")), ("tag", string("")), ("backend", string("sim"))]);
        let commanded = Action::Command { method: "write".into(), tag: "A.B".into() };
        let command = variant("command", Some(record(&[("method", string("write")), ("tag", string("A.B"))])));
        for names in [&[][..], &["CN=h"]] {
            let who = PackedWho::new(WhoFacts {
                id: "k".into(),
                scopes: texts(&["a", "ä"]),
                read: vec![],
                write: texts(&["*"]),
                peer: "::1".into(),
                certificate: texts(names),
            });
            let old_scopes = [&["a", "ä"][..], if names.is_empty() { &[] } else { &["cert:CN=h"] }].concat();
            assert_eq!(who.scopes_with_certificate(), old_scopes);
            let mut fields = vec![
                ("id", string("k")),
                ("scopes", list(&old_scopes)),
                ("read", list(&[])),
                ("write", list(&["*"])),
                ("peer", string("::1")),
            ];
            let old = record(&fields);
            fields[1].1 = list(&["a", "ä"]);
            fields.push(("certificate", list(names)));
            let new = record(&fields);
            let mut question = vec![9];
            for (contract, asker) in [(Contract::V1, old), (Contract::V2, new)] {
                decide(contract, &mut question, &who, &place, &commanded);
                alike(&question, &[asker.clone(), session.clone(), command.clone()]);
                decide(contract, &mut question, &who, &place, &Action::Resume { behind: 1 << 40 });
                let behind = (contract == Contract::V2).then(|| record(&[("behind", Val::U32(u32::MAX))]));
                alike(&question, &[asker.clone(), session.clone(), variant("resume", behind)]);
                judge_items(contract, &mut question, &who, &place, &["A".into(), "B".into()]);
                alike(&question, &[asker, session.clone(), list(&["A", "B"])]);
            }
        }
        let denial = record(&[("rule", Val::U16(3)), ("reason", string("no"))]);
        assert_eq!(expected(&variant("deny", Some(denial))), Some(vec![DENIES + 3]));
        let verdict = |allow, reason: Option<Val>| {
            let reason = Val::Option(reason.map(Box::new));
            record(&[("allow", Val::Bool(allow)), ("rule", Val::U16(3)), ("reason", reason)])
        };
        assert_eq!(expected(&verdict(true, None)), Some(vec![3]));
        assert_eq!(expected(&verdict(true, Some(string("of no account")))), Some(vec![3]));
        assert_eq!(expected(&verdict(false, None)), Some(vec![DENIES + 3]));
        assert_eq!(expected(&verdict(false, Some(string("no")))), Some(vec![DENIES + HAS_REASON + 3]));
    }
}
