//! Mutations from a seed, for the replay with the stable compiler: the same inputs on every machine. libFuzzer has its own.

/// SplitMix64.
#[derive(Clone, Copy, Debug)]
pub struct Random(u64);

impl Random {
    /// From a name.
    #[must_use]
    pub fn of(name: &str) -> Self {
        Self(name.bytes().fold(0xcbf2_9ce4_8422_2325, |n, b| (n ^ u64::from(b)).wrapping_mul(0x0100_0000_01b3)))
    }

    /// The next number.
    pub fn draw(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// Below `end`, which is not zero.
    pub fn below(&mut self, end: usize) -> usize {
        usize::try_from(self.draw() % end as u64).unwrap_or(0)
    }
}

const BYTES: [u8; 10] = [0, 1, 0x7f, 0x80, 0xff, b'/', b'.', b'\n', 0x18, 0x40];
const WORDS: [u32; 8] = [0, 1, 0xff, 0xffff, 0x10000, 0x7fff_ffff, 0x8000_0000, u32::MAX];

/// One to four changes of `input`; pieces of `other` may be spliced in.
#[must_use]
pub fn mutate(random: &mut Random, input: &[u8], other: &[u8]) -> Vec<u8> {
    let mut bytes = input.to_vec();
    for _ in 0..=random.below(4) {
        change(random, &mut bytes, other);
    }
    bytes
}

fn change(random: &mut Random, bytes: &mut Vec<u8>, other: &[u8]) {
    let at = random.below(bytes.len() + 1);
    let length = random.below(40).min(bytes.len() - at);
    match random.below(9) {
        0 => bytes.insert(at, BYTES[random.below(BYTES.len())]),
        1 => drop(bytes.drain(at..at + length)),
        2 => {
            let piece = bytes[at..at + length].to_vec();
            let to = random.below(bytes.len() + 1);
            bytes.splice(to..to, piece);
        }
        3 if !other.is_empty() => {
            let from = random.below(other.len());
            let piece = &other[from..(from + random.below(200)).min(other.len())];
            bytes.splice(at..at + length, piece.iter().copied());
        }
        4 => bytes.truncate(at),
        5 if at + 4 <= bytes.len() => {
            let word = WORDS[random.below(WORDS.len())];
            bytes[at..at + 4].copy_from_slice(&word.to_le_bytes());
        }
        6 if at < bytes.len() => bytes[at] = BYTES[random.below(BYTES.len())],
        7 if at < bytes.len() => bytes[at] = bytes[at].wrapping_add(1 + 254 * u8::from(random.below(2) == 0)),
        _ if at < bytes.len() => bytes[at] ^= 1 << random.below(8),
        _ => bytes.push(0),
    }
}
