//! As much of the tar format (POSIX ustar) as archives of plain files need.

use std::io::{self, Read, Write};

const BLOCK: usize = 512;
/// Largest size that eleven octal digits can express.
pub(super) const SIZE_MAX: u64 = (1 << 33) - 1;
/// Bytes of the field for a file's name.
const NAME_BYTES_MAX: usize = 100;

/// Writes a small file.
pub(crate) fn entry(out: &mut impl Write, name: &str, bytes: &[u8], time: u64) -> io::Result<()> {
    header(out, name, bytes.len() as u64, time)?;
    out.write_all(bytes)?;
    pad(out, bytes.len() as u64)
}

/// Writes what comes before a file's bytes; [`pad`] comes after them.
pub(crate) fn header(out: &mut impl Write, name: &str, size: u64, time: u64) -> io::Result<()> {
    if size > SIZE_MAX {
        return Err(io::Error::other(format!(
            "a file of {size} bytes in an archive that holds {SIZE_MAX} at most"
        )));
    }
    if name.len() > NAME_BYTES_MAX {
        return Err(io::Error::other(format!(
            "`{name}` is longer than the {NAME_BYTES_MAX} bytes of a name in an archive"
        )));
    }
    let mut block = [0; BLOCK];
    let mut put =
        |at: usize, text: &str| block[at..at + text.len()].copy_from_slice(text.as_bytes());
    put(0, name);
    put(100, "0000600\0");
    put(108, "0000000\0");
    put(116, "0000000\0");
    put(124, &format!("{size:011o}\0"));
    put(136, &format!("{:011o}\0", time.min(SIZE_MAX)));
    put(148, "        ");
    put(156, "0");
    put(257, "ustar\x0000");
    put(329, "0000000\0");
    put(337, "0000000\0");
    let sum: u32 = block.iter().map(|byte| u32::from(*byte)).sum();
    block[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
    out.write_all(&block)
}

/// Fills the last block of a file of `size` bytes.
pub(crate) fn pad(out: &mut impl Write, size: u64) -> io::Result<()> {
    out.write_all(&[0; BLOCK][..padding(size)])
}

/// Ends the archive.
pub(crate) fn end(out: &mut impl Write) -> io::Result<()> {
    out.write_all(&[0; 2 * BLOCK])
}

/// Bytes between a file of `size` bytes and the next header.
pub(crate) fn padding(size: u64) -> usize {
    let rest = usize::try_from(size % BLOCK as u64).unwrap_or(0);
    if rest == 0 { 0 } else { BLOCK - rest }
}

/// The next file's name and size; `None` at the end.
pub(super) fn next(from: &mut impl Read) -> io::Result<Option<(String, u64)>> {
    let mut block = [0; BLOCK];
    from.read_exact(&mut block)?;
    if block == [0; BLOCK] {
        return Ok(None);
    }
    let invalid = || io::Error::new(io::ErrorKind::InvalidData, "archive/tar: invalid tar header");
    let sum: u32 = block
        .iter()
        .enumerate()
        .map(|(at, byte)| if (148..156).contains(&at) { 32 } else { u32::from(*byte) })
        .sum();
    if octal(&block[148..156]) != Some(u64::from(sum)) || !matches!(block[156], b'0' | 0) {
        return Err(invalid());
    }
    let size = octal(&block[124..136]).ok_or_else(invalid)?;
    let name = block[..100].split(|byte| *byte == 0).next().unwrap_or_default();
    let name = str::from_utf8(name).map_err(|_| invalid())?;
    Ok(Some((name.to_owned(), size)))
}

/// Octal digits between blanks and zeros.
fn octal(field: &[u8]) -> Option<u64> {
    let text = str::from_utf8(field).ok()?.trim_matches([' ', '\0']);
    u64::from_str_radix(text, 8).ok()
}
