//! Shortens JPEGs so that only their upper rows are decoded, and notices those that end too early.

/// Extra rows to decode: two rows of the largest blocks. With chroma at half the height, upsampling the last row needs
/// the row below it.
const MARGIN: u32 = 32;

/// A JPEG with the upper `rows` rows of `encoded`, and a few more. `None` if that saves nothing, if `encoded` is not
/// stored in a single scan from top to bottom (progressive, or one scan per component), or if its height is different.
pub(super) fn upper_rows(encoded: &[u8], height: u32, rows: u32) -> Option<Vec<u8>> {
    let rows = u16::try_from(rows.checked_add(MARGIN)?).ok().filter(|rows| u32::from(*rows) < height)?;
    let (size, components) = frame_header(encoded)?;
    let is_height = u32::from(u16::from_be_bytes(*encoded.get(size..)?.first_chunk()?)) == height;
    let in_one_scan = scan_components(encoded)? == components;
    (is_height && in_one_scan).then(|| {
        let mut upper = encoded.to_vec();
        upper[size..size + 2].copy_from_slice(&rows.to_be_bytes());
        upper
    })
}

/// Whether the data goes on to its end marker. Decoders fill in what is missing without a word.
pub(super) fn has_end(encoded: &[u8]) -> bool {
    if encoded.ends_with(&[0xff, END_OF_IMAGE]) {
        return true;
    }
    let mut at = 2;
    // From marker to marker, past the segments that may contain markers themselves, such as a thumbnail's.
    while let Some(offset) = encoded.get(at..).and_then(|rest| rest.iter().position(|&byte| byte == 0xff)) {
        at += offset + 1;
        match encoded.get(at..) {
            Some([END_OF_IMAGE, ..]) => return true,
            // A fill byte before a marker.
            Some([0xff, ..]) => {}
            // A stuffed byte or a marker without a length.
            Some([0x00 | 0x01 | 0xd0..=0xd8, ..]) => at += 1,
            Some([_, high, low, ..]) => at += 1 + usize::from(u16::from_be_bytes([*high, *low])),
            _ => return false,
        }
    }
    false
}

/// Segments up to the header of the first scan: the marker, and the offset of the content after the length.
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
const END_OF_IMAGE: u8 = 0xd9;

/// Offset of the height, and number of components, of a sequential JPEG.
fn frame_header(encoded: &[u8]) -> Option<(usize, u8)> {
    let (_, start) = segments(encoded).find(|(marker, _)| matches!(marker, 0xc0 | 0xc1))?;
    // The precision (1 byte), the height (2), the width (2), the number of components (1).
    Some((start + 1, *encoded.get(start + 5)?))
}

/// Number of components in the first scan.
fn scan_components(encoded: &[u8]) -> Option<u8> {
    let (_, start) = segments(encoded).find(|(marker, _)| *marker == START_OF_SCAN)?;
    encoded.get(start).copied()
}
