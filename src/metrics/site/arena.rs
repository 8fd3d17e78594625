//! A map from keys to cells in shared memory: what is put into it stays, and every process finds it.
//!
//! There is no lock, for its holder could be killed: an entry is written where nobody looks, and then linked into the chain of its bucket
//! by one atomic exchange. Who dies before that leaves a gap and nothing else.

use std::hash::Hasher;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicU64, Ordering::*};

use crate::os;

/// Chains of entries.
const BUCKETS: usize = 1024;
/// Where the words in use are counted, those that entries take.
const USED: usize = 0;
/// Where the entries are counted that there was no room for.
const REFUSED: usize = 1;
/// The first words: the counts above, then the heads of the chains.
const HEADER: usize = 2 + BUCKETS;
/// Words of an entry before its key: the next one's place, the hash, tag and lengths.
const FIELDS: usize = 3;
/// Bytes of the longest key.
const LONGEST: usize = u16::MAX as usize;

/// An entry: a tag and a key, which never change, and its cells, zero at first.
#[derive(Clone, Copy)]
pub struct Entry {
    tag: u16,
    length: usize,
    key: &'static [AtomicU64],
    cells: &'static [AtomicU64],
}

impl Entry {
    pub fn tag(&self) -> u16 {
        self.tag
    }

    pub fn key(&self) -> Vec<u8> {
        let mut bytes: Vec<u8> = self.key.iter().flat_map(|word| word.load(Relaxed).to_ne_bytes()).collect();
        bytes.truncate(self.length);
        bytes
    }

    pub fn cells(&self) -> &'static [AtomicU64] {
        self.cells
    }
}

/// There was no room for an entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Full {
    /// This has not happened before, in any process.
    pub first: bool,
}

/// The map, as mapped into this process. What is not in use costs no memory.
#[derive(Clone, Copy)]
pub struct Arena(&'static [AtomicU64]);

impl Arena {
    /// New shared memory of `size` bytes, and its mapping here.
    pub fn create(name: &str, size: usize) -> io::Result<(OwnedFd, Self)> {
        let fd = os::shared_memory(name, size)?;
        let arena = Self::open(fd.as_fd(), size)?;
        Ok((fd, arena))
    }

    /// Maps what another process created.
    pub fn open(fd: BorrowedFd, size: usize) -> io::Result<Self> {
        os::map_shared(fd, 0, size / size_of::<AtomicU64>()).map(Arena)
    }

    /// The entry of a tag and a key, made with so many cells if it is new. What there is no room for is counted.
    pub fn entry(self, tag: u16, key: &[u8], cells: usize) -> Result<Entry, Full> {
        let hash = hash(tag, key);
        let head = &self.0[2 + hash as usize % BUCKETS];
        let (mut first, mut known, mut place) = (head.load(Acquire), 0, None);
        loop {
            // Only what has been linked since the last look is new.
            let mut chain = self.chain(first).take_while(|(at, _, _)| *at != known);
            let same = |(_, other, entry): &(u64, u64, Entry)| *other == hash && entry.tag == tag && entry.key() == key;
            if let Some((_, _, entry)) = chain.find(same) {
                return Ok(entry);
            }
            let new = match place {
                Some(new) => new,
                None => self.write(hash, tag, key, cells)?,
            };
            place = Some(new);
            self.0[new].store(first, Relaxed);
            match head.compare_exchange(first, new as u64, Release, Acquire) {
                Ok(_) => return self.read(new as u64).map(|(_, _, entry)| entry).ok_or(Full { first: false }),
                Err(other) => (first, known) = (other, first),
            }
        }
    }

    /// Writes an entry that nobody finds yet; where it is.
    fn write(self, hash: u64, tag: u16, key: &[u8], cells: usize) -> Result<usize, Full> {
        let words = key.len().div_ceil(size_of::<u64>());
        let room = (self.0.len() - HEADER) as u64;
        let needed = (FIELDS + words + cells) as u64;
        let fits = |used: u64| used.checked_add(needed).filter(|after| *after <= room && key.len() <= LONGEST);
        let Ok(used) = self.0[USED].fetch_update(Relaxed, Relaxed, fits) else {
            return Err(Full { first: self.0[REFUSED].fetch_add(1, Relaxed) == 0 });
        };
        let place = HEADER + used as usize;
        self.0[place + 1].store(hash, Relaxed);
        self.0[place + 2].store(u64::from(tag) << 48 | (cells as u64) << 16 | key.len() as u64, Relaxed);
        for (word, bytes) in self.0[place + FIELDS..].iter().zip(key.chunks(size_of::<u64>())) {
            let mut padded = [0; size_of::<u64>()];
            padded[..bytes.len()].copy_from_slice(bytes);
            word.store(u64::from_ne_bytes(padded), Relaxed);
        }
        Ok(place)
    }

    /// What stands at a place: the next one's, the hash, the entry. `None` for what no process of this program has written: whoever
    /// reads must not fall with a site that writes where it should not.
    fn read(self, place: u64) -> Option<(u64, u64, Entry)> {
        let place = usize::try_from(place).ok().filter(|place| *place >= HEADER)?;
        let fields = self.0.get(place..place.checked_add(FIELDS)?)?;
        let sizes = fields[2].load(Relaxed);
        let (tag, cells, length) = ((sizes >> 48) as u16, (sizes >> 16) as u32 as usize, usize::from(sizes as u16));
        let key_start = place + FIELDS;
        let cells_start = key_start + length.div_ceil(size_of::<u64>());
        let key = self.0.get(key_start..cells_start)?;
        let cells = self.0.get(cells_start..cells_start + cells)?;
        Some((fields[0].load(Relaxed), fields[1].load(Relaxed), Entry { tag, length, key, cells }))
    }

    /// The entries from a place on: where they are, their hashes, themselves.
    fn chain(self, first: u64) -> impl Iterator<Item = (u64, u64, Entry)> {
        let mut next = first;
        let most = self.0.len() / FIELDS;
        std::iter::from_fn(move || {
            let place = next;
            let (after, hash, entry) = self.read(place)?;
            next = after;
            Some((place, hash, entry))
        })
        .take(most)
    }

    /// All entries, in no order.
    pub fn entries(self) -> impl Iterator<Item = Entry> {
        let heads = self.0[2..HEADER].iter();
        let entries = heads.flat_map(move |head| self.chain(head.load(Acquire))).map(|(_, _, entry)| entry);
        entries.take(self.0.len() / FIELDS)
    }

    /// How often there was no room for an entry.
    pub fn refused(self) -> u64 {
        self.0[REFUSED].load(Relaxed)
    }
}

fn hash(tag: u16, key: &[u8]) -> u64 {
    let mut hasher = fnv::FnvHasher::default();
    hasher.write(&tag.to_ne_bytes());
    hasher.write(key);
    hasher.finish()
}

#[cfg(test)]
mod tests {
    use super::*;

    const SIZE: usize = 1 << 20;

    #[test]
    fn two_mappings_are_one_map() {
        let (fd, here) = Arena::create("test", SIZE).unwrap();
        let there = Arena::open(fd.as_fd(), SIZE).unwrap();
        for number in 0..5_000u64 {
            let (one, other) = if number % 2 == 0 { (here, there) } else { (there, here) };
            let key = format!("a key of some length, and a number: {number}");
            one.entry(7, key.as_bytes(), 2).unwrap().cells()[1].store(number, Relaxed);
            let found = other.entry(7, key.as_bytes(), 2).unwrap();
            assert_eq!((found.cells()[0].load(Relaxed), found.cells()[1].load(Relaxed)), (0, number));
            assert_eq!((found.tag(), found.key()), (7, key.into_bytes()));
        }
        assert_eq!((here.entries().count(), there.entries().count()), (5_000, 5_000));
        here.entry(8, b"a key of some length, and a number: 1", 2).unwrap();
        assert_eq!(there.entries().count(), 5_001, "a tag is part of what is looked for");
    }

    #[test]
    fn a_key_that_many_make_at_once_is_one_entry() {
        let (fd, here) = Arena::create("test", SIZE).unwrap();
        let gate = std::sync::Barrier::new(8);
        let count = |arena: Arena| {
            for number in 0..500 {
                gate.wait();
                arena.entry(1, format!("{number}").as_bytes(), 1).unwrap().cells()[0].fetch_add(1, Relaxed);
            }
        };
        std::thread::scope(|scope| {
            for _ in 0..8 {
                let mapping = Arena::open(fd.as_fd(), SIZE).unwrap();
                scope.spawn(move || count(mapping));
            }
        });
        let counts: Vec<u64> = here.entries().map(|entry| entry.cells()[0].load(Relaxed)).collect();
        assert_eq!(counts, [8; 500]);
    }

    #[test]
    fn what_finds_no_room_is_counted_and_what_is_there_stays() {
        let (_fd, arena) = Arena::create("test", (HEADER + 40) * 8).unwrap();
        // Five words each: three fields, the key, the cell.
        let made: Vec<bool> = (0..10u64).map(|key| arena.entry(1, &key.to_ne_bytes(), 1).is_ok()).collect();
        assert_eq!(made, [[true; 8].as_slice(), &[false; 2]].concat());
        assert!(arena.entry(1, &3u64.to_ne_bytes(), 1).is_ok());
        assert_eq!(arena.entry(1, &[0; LONGEST + 1], 1).err(), Some(Full { first: false }));
        assert_eq!((arena.refused(), arena.entries().count()), (3, 8));
    }

    #[test]
    fn a_site_that_writes_where_it_should_not_does_not_stop_a_reader() {
        let (_fd, arena) = Arena::create("test", SIZE).unwrap();
        for number in 0..100u64 {
            arena.entry(1, &number.to_ne_bytes(), 1).unwrap();
        }
        for seed in 0..10 {
            fastrand::seed(seed);
            for word in &arena.0[..HEADER + 600] {
                if fastrand::u8(..) < 64 {
                    word.store(
                        [fastrand::u64(..), fastrand::u64(..2_000), HEADER as u64][fastrand::usize(..3)],
                        Relaxed,
                    );
                }
            }
            assert!(arena.entries().map(|entry| entry.key().len()).all(|length| length <= LONGEST));
        }
    }
}
