//! Values in shared memory that are more than one atomic: one writes, others read, and nobody waits.

use std::sync::atomic::{AtomicU64, Ordering::Acquire, Ordering::Relaxed, Ordering::Release, fence};

use zerocopy::FromZeros;

/// How often a reader tries again that came while something was being written, which takes nanoseconds.
const TRIES: usize = 16;

/// Numbers the states of the values beside it: odd while they are being written.
#[repr(C)]
#[derive(FromZeros)]
pub struct Seqlock(AtomicU64);

impl Seqlock {
    /// Changes the values, by relaxed stores. One writer at a time: it may have died while it wrote, another may then write.
    pub fn write(&self, change: impl FnOnce()) {
        let odd = self.0.load(Relaxed) | 1;
        self.0.store(odd, Relaxed);
        fence(Release);
        change();
        self.0.store(odd + 1, Release);
    }

    /// What `look` finds by relaxed loads, when it is of one state. `None`: it changes all the time, or the writer died over it.
    pub fn read<T>(&self, look: impl Fn() -> T) -> Option<T> {
        for _ in 0..TRIES {
            let before = self.0.load(Acquire);
            if before.is_multiple_of(2) {
                let found = look();
                fence(Acquire);
                if self.0.load(Relaxed) == before {
                    return Some(found);
                }
            }
            std::hint::spin_loop();
        }
        None
    }
}

/// A text, of which `8 * WORDS` bytes are kept.
#[repr(C)]
#[derive(FromZeros)]
pub struct Text<const WORDS: usize> {
    /// Of the whole text.
    length: AtomicU64,
    words: [AtomicU64; WORDS],
}

impl<const WORDS: usize> Text<WORDS> {
    pub fn set(&self, text: &[u8]) {
        self.length.store(text.len() as u64, Relaxed);
        let (whole, rest) = text.as_chunks::<8>();
        let mut words = self.words.iter();
        for (bytes, word) in whole.iter().zip(&mut words) {
            word.store(u64::from_le_bytes(*bytes), Relaxed);
        }
        if let (false, Some(word)) = (rest.is_empty(), words.next()) {
            // Without a buffer on the way, which takes longer than all else here.
            let last = match text.last_chunk::<8>() {
                Some(tail) => u64::from_le_bytes(*tail) >> (64 - 8 * rest.len()),
                None => rest.iter().rev().fold(0, |word, byte| word << 8 | u64::from(*byte)),
            };
            word.store(last, Relaxed);
        }
    }

    pub fn copy(&self, from: &Self) {
        self.length.store(from.length.load(Relaxed), Relaxed);
        for (word, other) in self.words.iter().zip(&from.words) {
            word.store(other.load(Relaxed), Relaxed);
        }
    }

    /// What is kept, with `…` behind it if there was more. Bytes that are not UTF-8 are replaced.
    pub fn get(&self) -> String {
        let length = self.length.load(Relaxed) as usize;
        let mut bytes: Vec<u8> = self.words.iter().flat_map(|word| word.load(Relaxed).to_le_bytes()).collect();
        bytes.truncate(length);
        let text = String::from_utf8_lossy(&bytes);
        if length <= WORDS * 8 {
            return text.into_owned();
        }
        // A character that the end has cut is no character.
        format!("{}…", text.trim_end_matches(char::REPLACEMENT_CHARACTER))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_are_kept_as_far_as_they_fit() {
        let text = Text::<2>::new_zeroed();
        let kept = |given: &str| {
            text.set(given.as_bytes());
            text.get()
        };
        for whole in ["0123456789abcdef", "", "GET", "12345678", "123456789"] {
            assert_eq!(kept(whole), whole);
        }
        assert_eq!(kept("0123456789abcdefg"), "0123456789abcdef…");
        assert_eq!(kept("0123456789abcdeéf"), "0123456789abcde…");
    }

    #[test]
    fn what_is_half_written_is_not_read() {
        let (lock, value) = (Seqlock::new_zeroed(), AtomicU64::new(0));
        lock.write(|| {
            value.store(1, Relaxed);
            assert_eq!(lock.read(|| value.load(Relaxed)), None);
        });
        assert_eq!(lock.read(|| value.load(Relaxed)), Some(1));
        // The writer dies; the next one is none the worse for it.
        lock.0.fetch_add(1, Relaxed);
        assert_eq!(lock.read(|| value.load(Relaxed)), None);
        lock.write(|| value.store(2, Relaxed));
        assert_eq!(lock.read(|| value.load(Relaxed)), Some(2));
    }

    #[test]
    fn readers_never_see_a_mixture() {
        let (lock, text) = (Seqlock::new_zeroed(), Text::<8>::new_zeroed());
        let done = std::sync::atomic::AtomicBool::new(false);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                for round in 0..100_000u32 {
                    let letter = b'a' + (round % 26) as u8;
                    lock.write(|| text.set(&vec![letter; 1 + round as usize % 64]));
                }
                done.store(true, Relaxed);
            });
            let mut seen = 0;
            while !done.load(Relaxed) || seen == 0 {
                let Some(found) = lock.read(|| text.get()) else { continue };
                assert!(found.bytes().all(|byte| byte == found.as_bytes()[0]), "{found}");
                seen += 1;
            }
        });
    }
}
