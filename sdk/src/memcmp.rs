//! The guest's `memcmp`: word by word. The C library's, which would be linked instead, goes byte by byte: comparing
//! texts was a quarter of the time of a decision in the guest. Every comparison of texts and bytes comes here.
#![allow(unsafe_code, reason = "a symbol of the C library, on raw memory")]

const WORD: usize = size_of::<u64>();

/// C's `memcmp`: negative, zero or positive as the first bytes sort before, with or after the second ones.
///
/// # Safety
/// `length` bytes can be read from both.
#[cfg_attr(target_arch = "wasm32", unsafe(export_name = "memcmp"))]
#[cfg_attr(not(any(target_arch = "wasm32", test)), expect(dead_code, reason = "other targets have a fast one"))]
unsafe extern "C" fn compare(one: *const u8, other: *const u8, length: usize) -> i32 {
    let mut at = 0;
    while length - at >= WORD {
        // SAFETY: `at + WORD` is within the length; words may lie anywhere.
        let (a, b) =
            unsafe { (one.add(at).cast::<u64>().read_unaligned(), other.add(at).cast::<u64>().read_unaligned()) };
        if a != b {
            // The byte that sorts first is the lowest in memory.
            return if u64::from_be(a) < u64::from_be(b) { -1 } else { 1 };
        }
        at += WORD;
    }
    while at < length {
        // SAFETY: within the length.
        let (a, b) = unsafe { (*one.add(at), *other.add(at)) };
        if a != b {
            return i32::from(a) - i32::from(b);
        }
        at += 1;
    }
    0
}

#[cfg(test)]
mod tests {
    use super::compare;

    #[test]
    fn sorts_like_slices() {
        let texts =
            ["", "a", "b", "abcdefg", "abcdefgh", "abcdefgi", "bbcdefgh", "abcdefghi", "abcdefgh\u{ff}", "\u{ff}"];
        for one in texts.map(str::as_bytes) {
            for other in texts.map(str::as_bytes) {
                let length = one.len().min(other.len());
                // SAFETY: both have that many bytes.
                let answer = unsafe { compare(one.as_ptr(), other.as_ptr(), length) };
                assert_eq!(answer.cmp(&0), one[..length].cmp(&other[..length]), "{one:?} {other:?}");
            }
        }
    }
}
