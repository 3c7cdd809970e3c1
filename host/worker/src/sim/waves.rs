//! Waveforms: what a simulated attribute does from sample to sample. Knows no items and no clock. Invariant: values
//! depend on seed, tag and sample number only, so that the same settings give the same history.

use std::sync::LazyLock;
use tidegate_proto::v1::{BooleanArray, DoubleArray, IntegerArray, TextArray, Value, value::Kind};

/// Elements of whole arrays (`Tag[]`); elements are 1-based.
pub const ARRAY: usize = 10;

/// For errors.
pub(super) const SHAPES: &str = "sine, ramp, walk, step, counter, toggle or text";

/// Samples of one period of sine and ramp.
const PERIOD: usize = 200;
/// One period of the ramp.
static RAMP: [f64; PERIOD] = {
    let (mut ramp, mut n) = ([0.0; PERIOD], 0);
    while n < PERIOD {
        ramp[n] = n as f64 / PERIOD as f64 * 100.0;
        n += 1;
    }
    ramp
};
/// One period of the sine.
static SINE: LazyLock<[f64; PERIOD]> =
    LazyLock::new(|| std::array::from_fn(|n| 50.0 + 50.0 * (n as f64 / PERIOD as f64 * std::f64::consts::TAU).sin()));
const TEXTS: [&str; 4] = ["Idle", "Starting", "Running", "Stopped"];

/// The kinds of waveforms. A tag chooses one by the beginning of its last part (`Area1.Sine3`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Shape {
    /// Double, 0 to 100.
    Sine,
    /// Double, 0 to 100, then from 0 again.
    Ramp,
    /// Double, a random step of at most 0.5 at a time, kept within 0 to 100.
    Walk,
    /// Double, a random level that holds for a random number of samples.
    Step,
    /// Int32, one more each time.
    Counter,
    /// Boolean, the other each time.
    Toggle,
    /// String, four states in turn.
    Text,
}

/// One attribute's waveform and where it stands.
#[derive(Clone, Debug)]
pub struct Wave {
    shape: Shape,
    array: bool,
    samples: u64,
    random: u64,
    level: f64,
    hold: u64,
}

// === impl Wave ===

impl Wave {
    /// `default` is for tags that name no shape; without one, the tag decides somehow, but always the same.
    pub fn new(tag: &str, array: bool, seed: u64, default: Option<Shape>) -> Self {
        let hash = hash(tag);
        let by_tag = [Shape::Sine, Shape::Ramp, Shape::Walk, Shape::Step];
        let shape = named(tag).or(default).unwrap_or(by_tag[(hash % 4) as usize]);
        // Never zero: a xorshift would stay there.
        let random = (hash ^ seed.wrapping_mul(0x9E37_79B9_7F4A_7C15)) | 1;
        Self { shape, array, samples: 0, random, level: 50.0, hold: 0 }
    }

    /// The next sample.
    pub fn sample(&mut self) -> Value {
        let kind = if self.array { self.array() } else { self.scalar() };
        Value { kind: Some(kind), data_type: 0 }
    }

    /// The next sample, in the memory of the last one.
    pub(super) fn sample_into(&mut self, value: &mut Value) {
        match &mut value.kind {
            Some(Kind::Doubles(doubles)) if self.array && self.shape.is_double() => {
                self.doubles(&mut doubles.values);
                value.data_type = 0;
            }
            _ => *value = self.sample(),
        }
    }

    fn scalar(&mut self) -> Kind {
        match self.shape {
            Shape::Counter => Kind::Integer(self.counted() as i32),
            Shape::Toggle => Kind::Boolean(self.counted() % 2 == 1),
            Shape::Text => Kind::Text(TEXTS[(self.counted() % 4) as usize].to_owned()),
            Shape::Sine | Shape::Ramp | Shape::Walk | Shape::Step => Kind::Double(self.double()),
        }
    }

    fn array(&mut self) -> Kind {
        match self.shape {
            Shape::Counter => {
                Kind::Integers(IntegerArray { values: (0..ARRAY).map(|_| self.counted() as i32).collect() })
            }
            Shape::Toggle => {
                Kind::Booleans(BooleanArray { values: (0..ARRAY).map(|_| self.counted() % 2 == 1).collect() })
            }
            Shape::Text => {
                let text = |_| TEXTS[(self.counted() % 4) as usize].to_owned();
                Kind::Texts(TextArray { values: (0..ARRAY).map(text).collect() })
            }
            Shape::Sine | Shape::Ramp | Shape::Walk | Shape::Step => {
                let mut values = Vec::new();
                self.doubles(&mut values);
                Kind::Doubles(DoubleArray { values })
            }
        }
    }

    /// `ARRAY` samples of the shapes that are doubles.
    fn doubles(&mut self, values: &mut Vec<f64>) {
        values.resize(ARRAY, 0.0);
        let period = match self.shape {
            Shape::Sine => &*SINE,
            Shape::Ramp => &RAMP,
            _ => return values.fill_with(|| self.double()),
        };
        let from = (self.samples % PERIOD as u64) as usize;
        values.iter_mut().zip(period[from..].iter().chain(period)).for_each(|(value, sample)| *value = *sample);
        self.samples += ARRAY as u64;
    }

    /// The number of this sample.
    fn counted(&mut self) -> u64 {
        self.samples += 1;
        self.samples - 1
    }

    /// The next sample of the shapes that are doubles.
    fn double(&mut self) -> f64 {
        let n = (self.counted() % PERIOD as u64) as usize;
        match self.shape {
            Shape::Sine => SINE[n],
            Shape::Walk => {
                let step = self.random() - 0.5;
                self.level = (self.level + step).clamp(0.0, 100.0);
                self.level
            }
            Shape::Step => {
                if self.hold == 0 {
                    self.level = (self.random() * 10.0).floor() * 10.0;
                    self.hold = 1 + (self.random() * 20.0) as u64;
                }
                self.hold -= 1;
                self.level
            }
            // The ramp; the other shapes make no doubles.
            _ => RAMP[n],
        }
    }

    /// xorshift64*, scaled to 0..1.
    fn random(&mut self) -> f64 {
        self.random ^= self.random >> 12;
        self.random ^= self.random << 25;
        self.random ^= self.random >> 27;
        (self.random.wrapping_mul(0x2545_F491_4F6C_DD1D) >> 11) as f64 / (1u64 << 53) as f64
    }
}

// === impl Shape ===

impl Shape {
    fn is_double(self) -> bool {
        matches!(self, Self::Sine | Self::Ramp | Self::Walk | Self::Step)
    }
}

fn named(tag: &str) -> Option<Shape> {
    let last = tag.rsplit('.').next()?.to_ascii_lowercase();
    [
        ("sine", Shape::Sine),
        ("ramp", Shape::Ramp),
        ("walk", Shape::Walk),
        ("randomwalk", Shape::Walk),
        ("step", Shape::Step),
        ("count", Shape::Counter),
        ("toggle", Shape::Toggle),
        ("bool", Shape::Toggle),
        ("text", Shape::Text),
    ]
    .into_iter()
    .find_map(|(name, shape)| last.starts_with(name).then_some(shape))
}

/// FNV-1a.
fn hash(text: &str) -> u64 {
    text.bytes().fold(0xCBF2_9CE4_8422_2325, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01B3))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn doubles(wave: &mut Wave, count: usize) -> Vec<f64> {
        (0..count)
            .map(|_| match wave.sample().kind {
                Some(Kind::Double(value)) => value,
                other => panic!("{other:?}"),
            })
            .collect()
    }

    #[test]
    fn the_same_seed_and_tag_give_the_same_history() {
        for tag in ["A.Walk", "A.Step", "A.Sine", "A.Ramp", "A.Whatever"] {
            let histories: Vec<_> = [1, 1, 2].map(|seed| doubles(&mut Wave::new(tag, false, seed, None), 1_000)).into();
            assert_eq!(histories[0], histories[1], "{tag}");
            assert!(histories[0].iter().all(|value| (0.0..=100.0).contains(value)));
            if tag.contains("Walk") || tag.contains("Step") {
                assert_ne!(histories[0], histories[2], "{tag}");
            }
        }
    }

    #[test]
    fn an_array_holds_the_samples_that_come_one_after_the_other() {
        for tag in ["A.Walk", "A.Step", "A.Sine", "A.Ramp"] {
            let (mut one, mut many) = (Wave::new(tag, false, 1, None), Wave::new(tag, true, 1, None));
            let mut value = Value::default();
            for _ in 0..100 {
                many.sample_into(&mut value);
                let Some(Kind::Doubles(array)) = &value.kind else { panic!("{value:?}") };
                assert_eq!(array.values, doubles(&mut one, ARRAY), "{tag}");
            }
        }
        let ramp = doubles(&mut Wave::new("A.Ramp", false, 1, None), 201);
        assert_eq!((ramp[0], ramp[1], ramp[199], ramp[200]), (0.0, 0.5, 99.5, 0.0));
        let sine = doubles(&mut Wave::new("A.Sine", false, 1, None), 151);
        assert_eq!((sine[0], sine[50], sine[150]), (50.0, 100.0, 0.0));
    }

    #[test]
    fn shapes_have_their_types() {
        let first = |tag: &str, array| Wave::new(tag, array, 1, Some(Shape::Sine)).sample().kind.unwrap();
        assert_eq!(first("A.Counter", false), Kind::Integer(0));
        assert_eq!(first("A.BoolValve", false), Kind::Boolean(false));
        assert_eq!(first("A.TextState", false), Kind::Text("Idle".to_owned()));
        assert_eq!(first("A.Flow", false), Kind::Double(50.0));
        assert_eq!(first("A.Counter", true), Kind::Integers(IntegerArray { values: (0..10).collect() }));
        assert!(matches!(first("A.Toggle", true), Kind::Booleans(array) if array.values.len() == ARRAY));
        assert!(matches!(first("A.Text", true), Kind::Texts(array) if array.values.len() == ARRAY));
        assert!(matches!(first("A.Ramp", true), Kind::Doubles(array) if array.values.len() == ARRAY));
    }
}
