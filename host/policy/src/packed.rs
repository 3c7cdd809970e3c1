//! Questions of `access-packed` as bytes (the layout stands in the contract), so that one allocation in the guest
//! carries what would take sixteen. Knows no store. Invariant: what is packed here from typed values and from the
//! values of a vector is the same.

use std::ops::Deref;
use std::sync::Arc;

use wasmtime::component::Val;

use crate::bindings::{access, types};

/// A value and its packed form, made once.
#[derive(Debug)]
pub(crate) struct Packed<T> {
    pub(crate) plain: T,
    bytes: Box<[u8]>,
    hash: u32,
}

/// Added to the rule of an answer that denies.
const DENIES: u32 = 1 << 16;

impl Packed<types::Principal> {
    pub(crate) fn principal(plain: types::Principal) -> Self {
        let mut bytes = Vec::with_capacity(256);
        text(&mut bytes, &plain.id);
        for list in [&plain.scopes, &plain.read, &plain.write] {
            texts(&mut bytes, list.iter().map(String::as_str));
        }
        text(&mut bytes, &plain.peer);
        Self::new(plain, bytes)
    }
}

impl Packed<types::Session> {
    pub(crate) fn session(plain: types::Session) -> Self {
        let mut bytes = Vec::with_capacity(128);
        for part in [&plain.id, &plain.owner, &plain.tag, &plain.backend] {
            text(&mut bytes, part);
        }
        Self::new(plain, bytes)
    }
}

impl<T> Packed<T> {
    fn new(plain: T, bytes: Vec<u8>) -> Self {
        Self { plain, hash: hash(&bytes), bytes: bytes.into() }
    }
}

impl<T> Deref for Packed<T> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.plain
    }
}

/// Into `question`, which is emptied first: it is the same memory for each call.
pub(crate) fn decide(
    question: &mut Vec<u8>,
    who: &Packed<types::Principal>,
    place: &Packed<types::Session>,
    what: &access::Action,
) {
    asker(question, who, place);
    match what {
        access::Action::Open => question.push(0),
        access::Action::Read => question.push(1),
        access::Action::Resume => question.push(2),
        access::Action::Command(command) => {
            question.push(3);
            text(question, &command.method);
            text(question, &command.tag);
        }
        access::Action::Close => question.push(4),
    }
}

pub(crate) fn judge_items(
    question: &mut Vec<u8>,
    who: &Packed<types::Principal>,
    place: &Packed<types::Session>,
    tags: &[Arc<str>],
) {
    asker(question, who, place);
    texts(question, tags.iter().map(|tag| &**tag));
}

/// The rule, and whether it allows; None: not an answer.
pub(crate) fn answer(answer: u32) -> Option<(u16, bool)> {
    (answer < 2 * DENIES).then_some((answer as u16, answer < DENIES))
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

/// What `access-packed` has to say where `access` answers this.
pub(crate) fn expected(answer: &Val) -> Option<Vec<u32>> {
    let rule = |rule: &Val| if let Val::U16(rule) = rule { Some(u32::from(*rule)) } else { None };
    let field = |fields: &[(String, Val)], name: &str| {
        fields.iter().find(|(field, _)| field == name).map(|(_, value)| value.clone())
    };
    match answer {
        Val::Variant(case, Some(payload)) => match (case.as_str(), &**payload) {
            ("deny", Val::Record(fields)) => Some(vec![rule(&field(fields, "rule")?)? + DENIES]),
            (_, payload) => Some(vec![rule(payload)?]),
        },
        Val::List(verdicts) => verdicts
            .iter()
            .map(|verdict| {
                let Val::Record(fields) = verdict else { return None };
                let allow = field(fields, "allow")? == Val::Bool(true);
                Some(rule(&field(fields, "rule")?)? + if allow { 0 } else { DENIES })
            })
            .collect(),
        _ => None,
    }
}

fn value(out: &mut Vec<u8>, val: &Val) -> Option<()> {
    match val {
        Val::String(string) => text(out, string),
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

fn asker(question: &mut Vec<u8>, who: &Packed<types::Principal>, place: &Packed<types::Session>) {
    header(question, who.hash, place.hash, &who.bytes, &place.bytes);
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

    // shows: X-05
    #[test]
    fn vectors_and_values_are_packed_alike() {
        let who = Packed::principal(types::Principal {
            id: "k".into(),
            scopes: vec!["a".into(), "ä".into()],
            read: vec![],
            write: vec!["*".into()],
            peer: "::1".into(),
        });
        let session = types::Session { id: "s".into(), owner: "k".into(), tag: String::new(), backend: "sim".into() };
        let place = Packed::session(session);
        let what = access::Action::Command(access::Command { method: "write".into(), tag: "A.B".into() });
        let mut question = vec![9];
        decide(&mut question, &who, &place, &what);
        let string = |text: &str| Val::String(text.into());
        let list = |texts: &[&str]| Val::List(texts.iter().map(|text| string(text)).collect());
        let record = |fields: &[(&str, Val)]| {
            Val::Record(fields.iter().map(|(name, value)| ((*name).into(), value.clone())).collect())
        };
        let asker = [
            record(&[
                ("id", string("k")),
                ("scopes", list(&["a", "ä"])),
                ("read", list(&[])),
                ("write", list(&["*"])),
                ("peer", string("::1")),
            ]),
            record(&[("id", string("s")), ("owner", string("k")), ("tag", string("")), ("backend", string("sim"))]),
        ];
        let command = record(&[("method", string("write")), ("tag", string("A.B"))]);
        let what = Val::Variant("command".into(), Some(Box::new(command)));
        assert_eq!(of_vector(&[asker[0].clone(), asker[1].clone(), what]).as_ref(), Some(&question));
        judge_items(&mut question, &who, &place, &["A".into(), "B".into()]);
        assert_eq!(of_vector(&[asker[0].clone(), asker[1].clone(), list(&["A", "B"])]), Some(question));
        assert_eq!((answer(7), answer(DENIES + 7), answer(2 * DENIES)), (Some((7, true)), Some((7, false)), None));
        let denial = record(&[("rule", Val::U16(3)), ("reason", string("no"))]);
        assert_eq!(expected(&Val::Variant("deny".into(), Some(Box::new(denial)))), Some(vec![DENIES + 3]));
    }
}
