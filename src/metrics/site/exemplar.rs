//! The last exemplar of a value, as OpenMetrics writes it.

use std::hash::Hasher;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use super::expose::{number, valid};
use crate::metrics::openmetrics::escape;

/// Words for an exemplar: a checksum, a length, the text. A trace's and a span's id take a third of it; what is longer is left out.
pub const CELLS: usize = 34;

/// The text of an exemplar; the time is in seconds since the epoch.
pub fn text(labels: &[(String, String)], value: f64, time: Option<f64>) -> String {
    let labels: Vec<String> =
        labels.iter().map(|(name, value)| format!("{}=\"{}\"", valid(name, false), escape(value))).collect();
    let time = time.map_or(String::new(), |time| format!(" {}", number(time)));
    format!("{{{}}} {}{time}", labels.join(","), number(value))
}

/// Puts a text in the place of the last one. Several may do that at once, or one may be killed within: the checksum is wrong then, and
/// there is no exemplar until the next one.
pub fn store(cells: &[AtomicU64], text: &str) {
    let [checksum, length, words @ ..] = cells else { return };
    if text.len() > size_of_val(words) {
        return;
    }
    for (word, bytes) in words.iter().zip(text.as_bytes().chunks(size_of::<u64>())) {
        let mut padded = [0; size_of::<u64>()];
        padded[..bytes.len()].copy_from_slice(bytes);
        word.store(u64::from_ne_bytes(padded), Relaxed);
    }
    length.store(text.len() as u64, Relaxed);
    checksum.store(hash(text.as_bytes()), Relaxed);
}

/// The text, if there is one.
pub fn load(cells: &[AtomicU64]) -> Option<String> {
    let [checksum, length, words @ ..] = cells else { return None };
    let mut bytes: Vec<u8> = words.iter().flat_map(|word| word.load(Relaxed).to_ne_bytes()).collect();
    bytes.truncate(usize::try_from(length.load(Relaxed)).unwrap_or(0));
    let whole = !bytes.is_empty() && checksum.load(Relaxed) == hash(&bytes);
    String::from_utf8(bytes).ok().filter(|_| whole)
}

fn hash(bytes: &[u8]) -> u64 {
    let mut hasher = fnv::FnvHasher::default();
    hasher.write(bytes);
    hasher.finish()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_exemplar_is_whole_or_not_there() {
        let cells: Vec<AtomicU64> = (0..CELLS).map(|_| AtomicU64::new(0)).collect();
        assert_eq!(load(&cells), None);
        let labels = [("trace_id".to_owned(), "a\"b".to_owned()), ("é".to_owned(), "\n".to_owned())];
        let first = text(&labels, 0.5, Some(1_600_000_000.25));
        assert_eq!(first, r#"{trace_id="a\"b",_="\n"} 0.5 1600000000.25"#);
        store(&cells, &first);
        assert_eq!(load(&cells), Some(first.clone()));
        store(&cells, &"x".repeat((CELLS - 2) * 8 + 1));
        assert_eq!(load(&cells), Some(first), "what is too long changes nothing");
        // Two writers at once.
        cells[3].store(7, Relaxed);
        assert_eq!(load(&cells), None);
        store(&cells, &text(&[], f64::INFINITY, None));
        assert_eq!(load(&cells), Some("{} +Inf".into()));
    }
}
