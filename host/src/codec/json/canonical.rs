//! The canonical form of RFC 8785: keys in order of their UTF-16 units, numbers as ECMAScript prints them, strings with
//! the fewest escapes. Reads only text that the scanner has checked and compacted.

use std::borrow::Cow;

use super::{number, scan};

/// Appends the canonical form of a checked, compact text.
pub(super) fn write(text: &str, out: &mut Vec<u8>) {
    let end = value(text, 0, out);
    debug_assert_eq!(end, text.len());
}

/// Appends a string as RFC 8785 writes it, with its quotes.
pub(in crate::codec) fn write_string(text: &str, out: &mut Vec<u8>) {
    out.push(b'"');
    let mut rest = text.as_bytes();
    loop {
        let plain = scan::plain_length(rest);
        out.extend_from_slice(&rest[..plain]);
        let Some(byte) = rest.get(plain).copied() else { break };
        let short = match byte {
            b'"' | b'\\' => byte,
            0x08 => b'b',
            0x09 => b't',
            0x0a => b'n',
            0x0c => b'f',
            0x0d => b'r',
            _ => b'u',
        };
        out.extend_from_slice(&[b'\\', short]);
        if short == b'u' {
            const HEX: &[u8; 16] = b"0123456789abcdef";
            out.extend_from_slice(&[b'0', b'0', HEX[usize::from(byte >> 4)], HEX[usize::from(byte & 15)]]);
        }
        rest = &rest[plain + 1..];
    }
    out.push(b'"');
}

/// Writes the value at `at` and gives the offset behind it.
fn value(text: &str, at: usize, out: &mut Vec<u8>) -> usize {
    let bytes = text.as_bytes();
    match bytes[at] {
        b'{' => object(text, at, out),
        b'[' => array(text, at, out),
        b'"' => {
            let (content, end) = string(text, at);
            write_string(&content, out);
            end
        }
        b't' | b'n' => {
            out.extend_from_slice(&bytes[at..at + 4]);
            at + 4
        }
        b'f' => {
            out.extend_from_slice(&bytes[at..at + 5]);
            at + 5
        }
        _ => {
            let length = bytes[at..].iter().take_while(|b| !matches!(b, b',' | b'}' | b']')).count();
            let mut buffer = ryu_js::Buffer::new();
            out.extend_from_slice(number::canonical(&text[at..at + length], &mut buffer).as_bytes());
            at + length
        }
    }
}

fn array(text: &str, at: usize, out: &mut Vec<u8>) -> usize {
    let bytes = text.as_bytes();
    out.push(b'[');
    let mut at = at + 1;
    while bytes[at] != b']' {
        if bytes[at] == b',' {
            out.push(b',');
            at += 1;
        }
        at = value(text, at, out);
    }
    out.push(b']');
    at + 1
}

fn object(text: &str, at: usize, out: &mut Vec<u8>) -> usize {
    let bytes = text.as_bytes();
    out.push(b'{');
    let begin = out.len();
    let mut members: Vec<(Cow<'_, str>, std::ops::Range<usize>)> = Vec::new();
    let mut at = at + 1;
    while bytes[at] != b'}' {
        if bytes[at] == b',' {
            out.push(b',');
            at += 1;
        }
        let start = out.len();
        let (key, end) = string(text, at);
        write_string(&key, out);
        out.push(b':');
        at = value(text, end + 1, out);
        members.push((key, start..out.len()));
    }
    if !members.is_sorted_by(|a, b| utf16(&a.0, &b.0).is_lt()) {
        members.sort_unstable_by(|a, b| utf16(&a.0, &b.0));
        let mut sorted = Vec::with_capacity(out.len() - begin);
        for (index, (_, range)) in members.iter().enumerate() {
            if index > 0 {
                sorted.push(b',');
            }
            sorted.extend_from_slice(&out[range.clone()]);
        }
        out.truncate(begin);
        out.extend_from_slice(&sorted);
    }
    out.push(b'}');
    at + 1
}

/// The content of the string token at `at`, and the offset behind it.
fn string(text: &str, at: usize) -> (Cow<'_, str>, usize) {
    let bytes = text.as_bytes();
    let mut end = at + 1 + scan::plain_length(&bytes[at + 1..]);
    let escaped = bytes[end] == b'\\';
    while bytes[end] != b'"' {
        // A backslash takes the next byte with it.
        end += 2;
        end += scan::plain_length(&bytes[end..]);
    }
    let inner = &text[at + 1..end];
    (if escaped { Cow::Owned(scan::unescape(inner)) } else { Cow::Borrowed(inner) }, end + 1)
}

/// Order of UTF-16 units, which differs from that of bytes above U+D7FF only.
fn utf16(a: &str, b: &str) -> std::cmp::Ordering {
    if a.is_ascii() && b.is_ascii() { a.cmp(b) } else { a.encode_utf16().cmp(b.encode_utf16()) }
}
