//! Whom the back-pressure policy is to be asked about, and when to look again. Pure: lags and time go
//! in, questions come out; knows neither the log nor the policy. Invariants: a level is asked about once
//! on the way up, never twice at the same time for one reader, and again only after the reader kept up.

use std::collections::HashMap;

/// Per cent of `lag_events_max` at which the policy is asked.
pub const LEVELS_PERCENT: [u64; 3] = [50, 75, 90];
/// Below this many per cent a reader keeps up again.
pub const RELIEF_PERCENT: u64 = 25;

/// How far behind a reader is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ReaderLag {
    /// `ReaderControl::id`.
    pub reader: u64,
    /// Events between its position and the head.
    pub lag: u64,
}

/// A question to ask now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ask {
    pub reader: u64,
    pub lag: u64,
    /// How often it was asked about since it last kept up, with this time: from 1.
    pub asked: u32,
    /// How long it has been under pressure.
    pub since_ms: u64,
    /// The highest of `LEVELS_PERCENT` that it has reached.
    pub level_percent: u64,
}

/// What the answer means for the next question.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Answered {
    /// The reader goes on.
    Stays,
    /// It was told to end; nothing more is asked about it.
    Leaves,
}

/// What is remembered of readers under pressure. Those that keep up are not in it.
#[derive(Debug)]
pub struct PressureBook {
    lag_events_max: u64,
    pressed: HashMap<u64, Pressed>,
}

#[derive(Debug)]
struct Pressed {
    /// How many of the levels have been asked about.
    levels: usize,
    asked: u32,
    since_ms: u64,
    in_flight: bool,
    leaves: bool,
    /// The policy changed: ask at this level once more.
    again: bool,
}

// === impl PressureBook ===

impl PressureBook {
    pub fn new(lag_events_max: u64) -> Self {
        Self { lag_events_max, pressed: HashMap::new() }
    }

    /// Takes the lags of all readers; those that are gone are forgotten. Each `Ask` wants an `answered`.
    pub fn look(&mut self, now_ms: u64, lags: &[ReaderLag]) -> Vec<Ask> {
        self.pressed.retain(|reader, _| lags.iter().any(|lag| lag.reader == *reader));
        let mut asks = Vec::new();
        for &ReaderLag { reader, lag } in lags {
            if lag < self.threshold(RELIEF_PERCENT) {
                // A question in flight is still to be answered; its entry goes with the next look after that.
                if self.pressed.get(&reader).is_some_and(|pressed| !pressed.in_flight && !pressed.leaves) {
                    self.pressed.remove(&reader);
                }
                continue;
            }
            let reached = LEVELS_PERCENT.iter().filter(|percent| lag >= self.threshold(**percent)).count();
            if reached == 0 && !self.pressed.contains_key(&reader) {
                continue;
            }
            let pressed = self.pressed.entry(reader).or_insert_with(|| Pressed::new(now_ms));
            if pressed.in_flight || pressed.leaves || (reached <= pressed.levels && !pressed.again) {
                continue;
            }
            pressed.levels = pressed.levels.max(reached);
            pressed.again = false;
            pressed.in_flight = true;
            pressed.asked = pressed.asked.saturating_add(1);
            asks.push(Ask {
                reader,
                lag,
                asked: pressed.asked,
                since_ms: now_ms.saturating_sub(pressed.since_ms),
                level_percent: LEVELS_PERCENT[pressed.levels.max(1) - 1],
            });
        }
        asks
    }

    /// The policy has answered about this reader.
    pub fn answered(&mut self, reader: u64, answered: Answered) {
        if let Some(pressed) = self.pressed.get_mut(&reader) {
            pressed.in_flight = false;
            pressed.leaves = answered == Answered::Leaves;
        }
    }

    /// Another policy answers now: it is asked about every reader under pressure at the next look.
    pub fn re_ask_all(&mut self) {
        self.pressed.values_mut().for_each(|pressed| pressed.again = true);
    }

    /// The head at which a look can have something new to say; `u64::MAX` without readers. Above `head`.
    pub fn next_alarm(&self, head: u64, lags: &[ReaderLag]) -> u64 {
        let alarms = lags.iter().map(|&ReaderLag { reader, lag }| {
            let position = head.saturating_sub(lag);
            match self.pressed.get(&reader) {
                None => position.saturating_add(self.threshold(LEVELS_PERCENT[0])),
                Some(pressed) if pressed.leaves => u64::MAX,
                Some(pressed) => {
                    let level = LEVELS_PERCENT
                        .get(pressed.levels)
                        .map_or(u64::MAX, |percent| position.saturating_add(self.threshold(*percent)));
                    // It may keep up meanwhile, and fall behind again: that begins with at least this many events.
                    level.min(head.saturating_add(self.threshold(RELIEF_PERCENT)))
                }
            }
        });
        alarms.min().unwrap_or(u64::MAX).max(head.saturating_add(1))
    }

    /// Per cent of the bound, in events; at least one, so that a tiny bound has levels too.
    fn threshold(&self, percent: u64) -> u64 {
        let events = u128::from(self.lag_events_max) * u128::from(percent) / 100;
        u64::try_from(events).unwrap_or(u64::MAX).max(1)
    }
}

// === impl Pressed ===

impl Pressed {
    fn new(since_ms: u64) -> Self {
        Self { levels: 0, asked: 0, since_ms, in_flight: false, leaves: false, again: false }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lag(reader: u64, lag: u64) -> ReaderLag {
        ReaderLag { reader, lag }
    }

    fn look(book: &mut PressureBook, now_ms: u64, lags: &[ReaderLag]) -> Vec<(u64, u64, u32, u64)> {
        let asks = book.look(now_ms, lags);
        asks.iter().for_each(|ask| book.answered(ask.reader, Answered::Stays));
        asks.iter().map(|ask| (ask.reader, ask.level_percent, ask.asked, ask.since_ms)).collect()
    }

    // shows: S-08
    #[test]
    fn each_level_is_asked_about_once_on_the_way_up() {
        let mut book = PressureBook::new(1_000);
        assert_eq!(look(&mut book, 0, &[lag(1, 499), lag(2, 10)]), []);
        assert_eq!(look(&mut book, 100, &[lag(1, 500), lag(2, 10)]), [(1, 50, 1, 0)]);
        assert_eq!(look(&mut book, 150, &[lag(1, 600), lag(2, 10)]), []);
        assert_eq!(look(&mut book, 200, &[lag(1, 751), lag(2, 500)]), [(1, 75, 2, 100), (2, 50, 1, 0)]);
        assert_eq!(look(&mut book, 300, &[lag(1, 950)]), [(1, 90, 3, 200)]);
        assert_eq!(look(&mut book, 400, &[lag(1, 5_000)]), []);
    }

    #[test]
    fn a_jump_over_levels_is_one_question() {
        let mut book = PressureBook::new(1_000);
        assert_eq!(look(&mut book, 0, &[lag(1, 990)]), [(1, 90, 1, 0)]);
        assert_eq!(look(&mut book, 1, &[lag(1, 999)]), []);
    }

    #[test]
    fn a_reader_is_asked_about_again_only_after_it_kept_up() {
        let mut book = PressureBook::new(1_000);
        assert_eq!(look(&mut book, 0, &[lag(1, 500)]), [(1, 50, 1, 0)]);
        // Going down and up around the level, and even down to the mark, is no news.
        for (now_ms, events) in [(1, 499), (2, 510), (3, 250), (4, 749)] {
            assert_eq!(look(&mut book, now_ms, &[lag(1, events)]), [], "at {events}");
        }
        assert_eq!(look(&mut book, 5, &[lag(1, 249)]), []);
        assert_eq!(look(&mut book, 90, &[lag(1, 500)]), [(1, 50, 1, 0)]);
    }

    #[test]
    fn no_second_question_while_one_is_in_flight() {
        let mut book = PressureBook::new(1_000);
        assert_eq!(book.look(0, &[lag(1, 500)]).len(), 1);
        assert_eq!(book.look(1, &[lag(1, 800)]), []);
        assert_eq!(book.look(2, &[lag(1, 10)]), []);
        assert_eq!(book.look(3, &[lag(1, 800)]), [], "relief does not forget what is in flight");
        book.answered(1, Answered::Stays);
        assert_eq!(look(&mut book, 4, &[lag(1, 800)]), [(1, 75, 2, 4)]);
        assert_eq!(book.look(5, &[lag(1, 950)]).len(), 1);
        book.answered(1, Answered::Leaves);
        book.re_ask_all();
        assert_eq!(book.look(6, &[lag(1, 999)]), [], "it was told to end");
        // Answers about readers that are gone mean nothing.
        assert_eq!(book.look(7, &[]), []);
        book.answered(1, Answered::Stays);
        assert_eq!(look(&mut book, 8, &[lag(1, 500)]), [(1, 50, 1, 0)], "a new reader begins anew");
    }

    #[test]
    fn a_new_policy_is_asked_about_everyone_under_pressure() {
        let mut book = PressureBook::new(1_000);
        assert_eq!(look(&mut book, 0, &[lag(1, 600), lag(2, 100), lag(3, 900)]), [(1, 50, 1, 0), (3, 90, 1, 0)]);
        book.re_ask_all();
        assert_eq!(look(&mut book, 10, &[lag(1, 300), lag(2, 100), lag(3, 200)]), [(1, 50, 2, 10)]);
        assert_eq!(look(&mut book, 20, &[lag(1, 300), lag(2, 100), lag(3, 200)]), []);
    }

    #[test]
    fn the_alarm_comes_before_anything_could_be_asked() {
        let mut book = PressureBook::new(1_000);
        assert_eq!(book.next_alarm(70, &[]), u64::MAX);
        let lags = [lag(1, 0), lag(2, 400)];
        assert_eq!(book.look(0, &lags), []);
        assert_eq!(book.next_alarm(10_000, &lags), 10_100);
        let lags = [lag(2, 500)];
        assert_eq!(look(&mut book, 0, &lags).len(), 1);
        assert_eq!(book.next_alarm(10_100, &lags), 10_350, "it may have kept up by then");
        let lags = [lag(2, 700)];
        assert_eq!(book.next_alarm(10_300, &lags), 10_350);
        let lags = [lag(2, 990)];
        assert_eq!(look(&mut book, 0, &lags).len(), 1);
        assert_eq!(book.next_alarm(10_590, &lags), 10_840);
        assert_eq!(book.next_alarm(u64::MAX, &lags), u64::MAX);
    }
}
