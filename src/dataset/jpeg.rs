//! JPEGs of which only the upper rows are decoded.

/// Two rows of the largest blocks: the last row that is decoded looks at the one beneath it where colours are stored at
/// half the height.
const MARGIN: u32 = 32;

/// A JPEG that ends after `rows` rows or a few more, which are those of `encoded`. None where that saves nothing, or
/// `encoded` is not written from top to bottom at once (progressive, or a scan per colour), or not of that height.
pub(super) fn upper_rows(encoded: &[u8], height: u32, rows: u32) -> Option<Vec<u8>> {
    let rows = u16::try_from(rows.checked_add(MARGIN)?).ok().filter(|rows| u32::from(*rows) < height)?;
    let (size, colours) = frame_header(encoded)?;
    let is_height = u32::from(u16::from_be_bytes(*encoded.get(size..)?.first_chunk()?)) == height;
    let in_one_scan = scan_colours(encoded)? == colours;
    (is_height && in_one_scan).then(|| {
        let mut upper = encoded.to_vec();
        upper[size..size + 2].copy_from_slice(&rows.to_be_bytes());
        upper
    })
}

/// Segments before the first scan, and its header: markers with the places of what follows their length.
fn segments(encoded: &[u8]) -> impl Iterator<Item = (u8, usize)> {
    let mut at = Some(2);
    std::iter::from_fn(move || {
        let start = at.take()?;
        let &[0xff, marker, high, low] = encoded.get(start..)?.first_chunk()? else { return None };
        if marker != START_OF_SCAN {
            at = Some(start + 2 + usize::from(u16::from_be_bytes([high, low])));
        }
        Some((marker, start + 4))
    })
}

const START_OF_SCAN: u8 = 0xda;

/// Where the height is written, and how many colours there are, in a sequential JPEG.
fn frame_header(encoded: &[u8]) -> Option<(usize, u8)> {
    let (_, start) = segments(encoded).find(|(marker, _)| matches!(marker, 0xc0 | 0xc1))?;
    // The precision is before the height, the width after it.
    Some((start + 1, *encoded.get(start + 5)?))
}

/// How many colours the first scan holds.
fn scan_colours(encoded: &[u8]) -> Option<u8> {
    let (_, start) = segments(encoded).find(|(marker, _)| *marker == START_OF_SCAN)?;
    encoded.get(start).copied()
}
