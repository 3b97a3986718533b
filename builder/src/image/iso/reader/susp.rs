//! What Rock Ridge adds to a directory record (SUSP and RRIP 1.10).

/// A record is continued at most this many times.
pub const MAX_CONTINUATIONS: usize = 32;
/// Longer names and targets are cut off; nobody writes them.
const MAX_TEXT: usize = 4096;

/// What was found in a record.
#[derive(Default)]
pub struct Extra {
    /// The real name.
    pub name: Option<Vec<u8>>,
    /// The kind and permissions.
    pub mode: Option<u32>,
    /// What a symbolic link points to.
    pub link: Option<String>,
    /// The block of a folder that was moved, because it would lie too deep.
    pub moved_to: Option<u32>,
    /// Whether this is where such a folder lies really.
    pub moved_here: bool,
    /// Whether the last part of `link` goes on.
    part_goes_on: bool,
}

/// How a run of entries ended.
pub enum Found {
    /// That was all.
    End,
    /// More lies elsewhere: a block, an offset in it and a length in bytes.
    Continues {
        /// The block.
        block: u32,
        /// Bytes before it in the block.
        offset: u32,
        /// Its bytes.
        length: u32,
    },
}

/// Whether the root's first record begins with an SP entry, and how many bytes of each record are
/// to be skipped.
pub fn begins(extra: &[u8]) -> Option<usize> {
    match extra {
        [b'S', b'P', _, _, 0xbe, 0xef, skip, ..] => Some(usize::from(*skip)),
        _ => None,
    }
}

impl Extra {
    /// Reads entries.
    pub fn read(&mut self, mut bytes: &[u8]) -> Found {
        let mut end = Found::End;
        let long = |data: &[u8], at: usize| super::le32(data, at);
        while let [a, b, length, _, ..] = *bytes {
            let Some(data) = bytes.get(4..usize::from(length)) else { break };
            bytes = bytes.get(usize::from(length)..).unwrap_or_default();
            match (&[a, b], data) {
                (b"ST", _) => break,
                (b"CE", data) if data.len() >= 24 => {
                    let [block, offset, length] = [0, 8, 16].map(|at| long(data, at));
                    end = Found::Continues { block, offset, length };
                }
                // The names of this folder and its parent are known.
                (b"NM", [flags, part @ ..]) if flags & 6 == 0 => {
                    let name = self.name.get_or_insert_default();
                    if name.len() < MAX_TEXT {
                        name.extend_from_slice(part);
                    }
                }
                (b"PX", data) if data.len() >= 4 => self.mode = Some(long(data, 0)),
                (b"SL", [_, parts @ ..]) => self.link_parts(parts),
                (b"CL", data) if data.len() >= 4 => self.moved_to = Some(long(data, 0)),
                (b"RE", _) => self.moved_here = true,
                _ => {}
            }
        }
        end
    }

    fn link_parts(&mut self, mut parts: &[u8]) {
        let link = self.link.get_or_insert_default();
        while let [flags, length, rest @ ..] = parts {
            let Some((text, next)) = rest.split_at_checked(usize::from(*length)) else { return };
            parts = next;
            if link.len() > MAX_TEXT {
                return;
            }
            if !link.is_empty() && !link.ends_with('/') && !self.part_goes_on {
                link.push('/');
            }
            match flags & 0x0e {
                2 => link.push('.'),
                4 => link.push_str(".."),
                8 => link.push('/'),
                _ => link.push_str(&String::from_utf8_lossy(text)),
            }
            self.part_goes_on = flags & 1 != 0;
        }
    }
}
