//! Parts of an image in memory, which several write and hash at the same time: their number is fixed,
//! and a buffer comes back when the last one has let go of it.

use std::sync::mpsc::{Receiver, Sender, channel};

use super::direct::{ALIGNMENT, Buffer};

/// A part of the image.
#[derive(Debug)]
pub struct Chunk {
    buffer: Option<Buffer>,
    home: Sender<Buffer>,
    /// Where it belongs, in bytes.
    pub offset: u64,
    /// How many bytes of the buffer count; zeroes follow up to a multiple of [`ALIGNMENT`].
    pub length: usize,
}

impl Chunk {
    /// Its bytes.
    pub fn bytes(&self) -> &[u8] {
        self.buffer.as_deref().and_then(|buffer| buffer.get(..self.length)).unwrap_or_default()
    }

    /// Its bytes, filled up with zeroes to whole sectors.
    pub fn sectors(&self, sector: usize) -> &[u8] {
        let length = self.length.next_multiple_of(sector.min(ALIGNMENT));
        self.buffer.as_deref().and_then(|buffer| buffer.get(..length)).unwrap_or_default()
    }

    /// Adds bytes; tells whether there was room for them.
    pub fn add(&mut self, bytes: &[u8]) -> bool {
        let (begin, end) = (self.length, self.length + bytes.len());
        let Some(place) = self.room().get_mut(begin..end) else { return false };
        place.copy_from_slice(bytes);
        self.length = end;
        true
    }

    /// All of its room.
    pub fn room(&mut self) -> &mut [u8] {
        self.buffer.as_deref_mut().unwrap_or_default()
    }

    /// Where it ends, in bytes.
    pub fn end(&self) -> u64 {
        self.offset + self.length as u64
    }
}

impl AsRef<[u8]> for Chunk {
    fn as_ref(&self) -> &[u8] {
        self.bytes()
    }
}

impl Drop for Chunk {
    fn drop(&mut self) {
        if let Some(buffer) = self.buffer.take() {
            // The pool may be gone by then.
            let _ = self.home.send(buffer);
        }
    }
}

/// The chunks that there are.
pub struct Pool {
    home: Sender<Buffer>,
    free: Receiver<Buffer>,
    fresh: usize,
    size: usize,
}

impl Pool {
    /// So many, each with room for `size` bytes.
    pub fn new(count: usize, size: usize) -> Self {
        let (home, free) = channel();
        Self { home, free, fresh: count, size }
    }

    /// An unused chunk; waits for one.
    pub fn take(&mut self, offset: u64) -> Chunk {
        let buffer = match self.free.try_recv() {
            Ok(buffer) => Some(buffer),
            Err(_) if self.fresh > 0 => {
                self.fresh -= 1;
                Some(Buffer::new(self.size))
            }
            // Never an error: `home` is alive.
            Err(_) => self.free.recv().ok(),
        };
        Chunk { buffer, home: self.home.clone(), offset, length: 0 }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buffers_come_back_and_take_what_fits() {
        let mut pool = Pool::new(2, 10);
        let mut one = pool.take(7);
        assert!(one.add(b"abcd") && one.add(b"efghij") && !one.add(b"k"));
        assert_eq!((one.bytes(), one.end()), (&b"abcdefghij"[..], 17));
        let place = one.bytes().as_ptr();
        let two = pool.take(17);
        drop(one);
        // There is no third one.
        let again = pool.take(27);
        assert_eq!((again.length, again.offset), (0, 27));
        assert_eq!(again.sectors(1).as_ptr(), place);
        drop(pool);
        drop((two, again));
    }
}
