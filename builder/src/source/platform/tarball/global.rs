//! Headers of tars that hold for all entries behind them (POSIX' pax, `typeflag` `g`).

use std::io::{self, Read};

/// The first keyword of such a header that is not `comment`, which `git archive` writes. Other programs
/// apply them to paths, sizes and links; the tar crate does not, so that who looks into the archive
/// would see other files than who unpacks it.
///
/// # Errors
/// When it cannot be read, or its records are malformed.
pub(crate) fn other_than_comment(header: &mut impl Read) -> io::Result<Option<String>> {
    let mut records = Vec::new();
    header.read_to_end(&mut records)?;
    let damaged = |error| io::Error::new(io::ErrorKind::InvalidData, error);
    // The crate takes an empty line for the end.
    if records.first() == Some(&b'\n') || records.windows(2).any(|pair| pair == b"\n\n") {
        return Err(damaged("malformed pax extension"));
    }
    for record in tar::PaxExtensions::new(&records) {
        let key = record?.key_bytes().to_owned();
        if key != b"comment" {
            return Ok(Some(String::from_utf8_lossy(&key).into_owned()));
        }
    }
    Ok(None)
}
