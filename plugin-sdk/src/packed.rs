//! Reads the questions of `access-packed`. Who asks about which session is unpacked once and found again by its
//! bytes: the same asker comes back with every command. Knows no policy. Invariant: nothing here changes an answer;
//! what was kept is used only for exactly the same bytes.

use std::cell::RefCell;
use std::rc::Rc;

use crate::access::{Action, Command, Principal, Resumption, Session};

/// Who asks, and about which session.
#[derive(Debug)]
pub(crate) struct Asker {
    pub(crate) who: Principal,
    pub(crate) place: Session,
}

/// A question as it came; read from front to back.
#[derive(Debug)]
pub(crate) struct Question<'a>(&'a [u8]);

#[derive(Debug)]
struct Kept {
    bytes: Box<[u8]>,
    asker: Rc<Asker>,
}

/// Askers kept. Guessed: some sessions that are commanded at the same time; a power of two.
const KEPT: usize = 16;
/// What an asker's bytes may be to be kept.
const KEPT_BYTES_MAX: usize = 4096;

thread_local! {
    static ASKERS: RefCell<[Option<Kept>; KEPT]> = const { RefCell::new([const { None }; KEPT]) };
}

// === impl Question ===

impl<'a> Question<'a> {
    pub(crate) fn new(bytes: &'a [u8]) -> Self {
        Self(bytes)
    }

    pub(crate) fn asker(&mut self) -> Rc<Asker> {
        let at = self.number() % KEPT;
        let len = self.number();
        let bytes = self.take(len);
        ASKERS.with(|kept| {
            let slot = &mut kept.borrow_mut()[at];
            if let Some(kept) = slot.as_ref().filter(|kept| same(&kept.bytes, bytes)) {
                return Rc::clone(&kept.asker);
            }
            let asker = Rc::new(Question(bytes).unpack());
            if len <= KEPT_BYTES_MAX {
                *slot = Some(Kept { bytes: bytes.into(), asker: Rc::clone(&asker) });
            }
            asker
        })
    }

    pub(crate) fn action(mut self) -> Action {
        match self.take(1)[0] {
            0 => Action::Open,
            1 => Action::Read,
            2 => Action::Resume(Resumption { behind: self.number() as u32 }),
            3 => Action::Command(Command { method: self.text().to_owned(), tag: self.text().to_owned() }),
            4 => Action::Close,
            unknown => panic!("the host asks for action {unknown}"),
        }
    }

    pub(crate) fn tags(mut self) -> impl ExactSizeIterator<Item = &'a str> {
        (0..self.number()).map(move |_| self.text())
    }

    fn unpack(mut self) -> Asker {
        let who = Principal {
            id: self.text().to_owned(),
            scopes: self.texts(),
            read: self.texts(),
            write: self.texts(),
            peer: self.text().to_owned(),
            certificate: self.texts(),
        };
        let mut text = || self.text().to_owned();
        Asker { who, place: Session { id: text(), owner: text(), tag: text(), backend: text() } }
    }

    fn texts(&mut self) -> Vec<String> {
        (0..self.number()).map(|_| self.text().to_owned()).collect()
    }

    fn text(&mut self) -> &'a str {
        let len = self.number();
        std::str::from_utf8(self.take(len)).expect("the host sends UTF-8")
    }

    fn number(&mut self) -> usize {
        let mut number = [0; 4];
        number.copy_from_slice(self.take(4));
        u32::from_le_bytes(number) as usize
    }

    /// A host that sends less than it says is broken; a trap says so.
    fn take(&mut self, len: usize) -> &'a [u8] {
        let (taken, rest) = self.0.split_at(len);
        self.0 = rest;
        taken
    }
}

/// As `==`, eight bytes at a time: the `memcmp` of the library that components bring goes byte by byte.
fn same(a: &[u8], b: &[u8]) -> bool {
    let ((a_words, a_rest), (b_words, b_rest)) = (a.as_chunks::<8>(), b.as_chunks::<8>());
    a.len() == b.len() && a_words.iter().zip(b_words).all(|(a, b)| a == b) && a_rest == b_rest
}
