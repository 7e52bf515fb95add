//! The scanner: one pass over untrusted text that checks every rule and writes the compact form. Recursion is bounded
//! by [`DEPTH_MAX`]. Never changes a byte inside a string or a number.

use std::borrow::Cow;
use std::fmt::Write as _;

use super::{DEPTH_MAX, Error, Reason, number};

/// Objects with at most this many keys are checked for duplicates pair by pair, which needs no allocation.
const PAIRWISE_KEYS_MAX: usize = 16;

/// Checks `text` and gives its compact form.
pub(super) fn compact(text: &[u8]) -> Result<String, Error> {
    let text = std::str::from_utf8(text).map_err(|error| Error {
        reason: Reason::Encoding,
        pointer: String::new(),
        offset: error.valid_up_to(),
    })?;
    let mut scan = Scan { text, at: 0, out: String::with_capacity(text.len()), keys: Vec::new(), path: Vec::new() };
    scan.blank();
    scan.value()?;
    scan.blank();
    if scan.at < text.len() {
        return Err(scan.refuse(Reason::Syntax));
    }
    Ok(scan.out)
}

/// One step from the root to the value under the scanner.
enum Step {
    /// The last key pushed when the step was made: an index into `keys`.
    Key(usize),
    Item(usize),
}

struct Scan<'t> {
    text: &'t str,
    at: usize,
    out: String,
    /// Keys, unescaped, of all objects that are open.
    keys: Vec<Cow<'t, str>>,
    path: Vec<Step>,
}

impl<'t> Scan<'t> {
    fn refuse(&self, reason: Reason) -> Error {
        let mut pointer = String::new();
        for step in &self.path {
            match step {
                Step::Key(index) => {
                    let key = self.keys.get(*index).map_or("", |key| key.as_ref());
                    pointer.push('/');
                    pointer.push_str(&key.replace('~', "~0").replace('/', "~1"));
                }
                Step::Item(index) => {
                    write!(pointer, "/{index}").expect("writing to a String cannot fail");
                }
            }
        }
        Error { reason, pointer, offset: self.at }
    }

    fn peek(&self) -> Option<u8> {
        self.text.as_bytes().get(self.at).copied()
    }

    fn blank(&mut self) {
        while matches!(self.peek(), Some(b' ' | b'\t' | b'\n' | b'\r')) {
            self.at += 1;
        }
    }

    /// Takes the byte if it is next.
    fn take(&mut self, byte: u8) -> bool {
        let found = self.peek() == Some(byte);
        if found {
            self.at += 1;
            self.out.push(char::from(byte));
        }
        found
    }

    fn value(&mut self) -> Result<(), Error> {
        match self.peek() {
            Some(b'{') => self.object(),
            Some(b'[') => self.array(),
            Some(b'"') => self.string().map(|_| ()),
            Some(b'-' | b'0'..=b'9') => self.number(),
            Some(b't') => self.word("true"),
            Some(b'f') => self.word("false"),
            Some(b'n') => self.word("null"),
            _ => Err(self.refuse(Reason::Syntax)),
        }
    }

    fn word(&mut self, word: &'static str) -> Result<(), Error> {
        if !self.text.as_bytes()[self.at..].starts_with(word.as_bytes()) {
            return Err(self.refuse(Reason::Syntax));
        }
        self.at += word.len();
        self.out.push_str(word);
        Ok(())
    }

    fn open(&mut self, bracket: u8) -> Result<(), Error> {
        if self.path.len() >= DEPTH_MAX {
            return Err(self.refuse(Reason::TooDeep));
        }
        self.take(bracket);
        self.blank();
        Ok(())
    }

    fn array(&mut self) -> Result<(), Error> {
        self.open(b'[')?;
        if self.take(b']') {
            return Ok(());
        }
        for index in 0.. {
            self.path.push(Step::Item(index));
            self.blank();
            self.value()?;
            self.path.pop();
            self.blank();
            if !self.take(b',') {
                break;
            }
        }
        if self.take(b']') { Ok(()) } else { Err(self.refuse(Reason::Syntax)) }
    }

    fn object(&mut self) -> Result<(), Error> {
        self.open(b'{')?;
        if self.take(b'}') {
            return Ok(());
        }
        let first = self.keys.len();
        loop {
            self.blank();
            if self.peek() != Some(b'"') {
                return Err(self.refuse(Reason::Syntax));
            }
            let key = self.string()?;
            self.keys.push(key);
            self.path.push(Step::Key(self.keys.len() - 1));
            self.check_new_key(first)?;
            self.blank();
            if !self.take(b':') {
                return Err(self.refuse(Reason::Syntax));
            }
            self.blank();
            self.value()?;
            self.path.pop();
            self.blank();
            if !self.take(b',') {
                break;
            }
        }
        if !self.take(b'}') {
            return Err(self.refuse(Reason::Syntax));
        }
        self.check_many_keys(first)?;
        self.keys.truncate(first);
        Ok(())
    }

    /// The key just pushed differs from those before it, as long as they are few.
    fn check_new_key(&self, first: usize) -> Result<(), Error> {
        let keys = &self.keys[first..];
        if keys.len() <= PAIRWISE_KEYS_MAX
            && let Some((last, before)) = keys.split_last()
            && before.contains(last)
        {
            return Err(self.refuse(Reason::DuplicateKey));
        }
        Ok(())
    }

    /// The same for objects with many keys, once all are known: sorting is never quadratic.
    fn check_many_keys(&mut self, first: usize) -> Result<(), Error> {
        let keys = &mut self.keys[first..];
        if keys.len() <= PAIRWISE_KEYS_MAX {
            return Ok(());
        }
        keys.sort_unstable();
        match keys.windows(2).position(|pair| pair[0] == pair[1]) {
            None => Ok(()),
            Some(twice) => {
                self.path.push(Step::Key(first + twice));
                Err(self.refuse(Reason::DuplicateKey))
            }
        }
    }

    fn number(&mut self) -> Result<(), Error> {
        let start = self.at;
        let Some(length) = number::length(&self.text.as_bytes()[start..]) else {
            return Err(self.refuse(Reason::Syntax));
        };
        let token = &self.text[start..start + length];
        if !number::is_exact(token) {
            return Err(self.refuse(Reason::InexactNumber));
        }
        self.at += length;
        self.out.push_str(token);
        Ok(())
    }

    /// Copies a string token and gives its content.
    fn string(&mut self) -> Result<Cow<'t, str>, Error> {
        let start = self.at;
        let bytes = self.text.as_bytes();
        self.at += 1;
        let mut escaped = false;
        loop {
            match self.peek() {
                Some(b'"') => break,
                Some(b'\\') => {
                    escaped = true;
                    self.escape()?;
                }
                Some(0x20..) => self.at += plain_length(&bytes[self.at..]),
                Some(_) | None => return Err(self.refuse(Reason::Syntax)),
            }
        }
        self.at += 1;
        let text: &'t str = self.text;
        self.out.push_str(&text[start..self.at]);
        let inner = &text[start + 1..self.at - 1];
        Ok(if escaped { Cow::Owned(unescape(inner)) } else { Cow::Borrowed(inner) })
    }

    /// Steps over one escape sequence.
    fn escape(&mut self) -> Result<(), Error> {
        let bytes = self.text.as_bytes();
        match bytes.get(self.at + 1) {
            Some(b'"' | b'\\' | b'/' | b'b' | b'f' | b'n' | b'r' | b't') => {
                self.at += 2;
                Ok(())
            }
            Some(b'u') => {
                let Some(unit) = unit(bytes, self.at) else { return Err(self.refuse(Reason::Syntax)) };
                let paired = match unit {
                    0xd800..=0xdbff => matches!(self::unit(bytes, self.at + 6), Some(0xdc00..=0xdfff)),
                    0xdc00..=0xdfff => false,
                    _ => {
                        self.at += 6;
                        return Ok(());
                    }
                };
                if !paired {
                    return Err(self.refuse(Reason::LoneSurrogate));
                }
                self.at += 12;
                Ok(())
            }
            _ => Err(self.refuse(Reason::Syntax)),
        }
    }
}

/// How many bytes a string goes on before a quote, a backslash or a control character; all when there is none.
pub(super) fn plain_length(bytes: &[u8]) -> usize {
    /// So many are looked at together, which the compiler does with a few wide instructions.
    const TOGETHER: usize = 32;
    let special = |byte: &u8| *byte < 0x20 || *byte == b'"' || *byte == b'\\';
    let plain = |bytes: &&[u8]| !bytes.iter().fold(false, |any, byte| any | special(byte));
    let at = bytes.chunks_exact(TOGETHER).take_while(plain).count() * TOGETHER;
    at + bytes[at..].iter().position(special).unwrap_or(bytes.len() - at)
}

/// The UTF-16 unit of a `\uXXXX` that begins at `at`.
fn unit(bytes: &[u8], at: usize) -> Option<u16> {
    let sequence = bytes.get(at..at + 6)?;
    if &sequence[..2] != b"\\u" {
        return None;
    }
    sequence[2..].iter().try_fold(0u16, |value, digit| {
        let digit = char::from(*digit).to_digit(16)?;
        Some(value << 4 | u16::try_from(digit).expect("a hex digit is below 16"))
    })
}

/// The content of a checked string token, without its quotes.
pub(super) fn unescape(inner: &str) -> String {
    let mut out = String::with_capacity(inner.len());
    let mut rest = inner;
    while let Some(slash) = rest.find('\\') {
        out.push_str(&rest[..slash]);
        let bytes = rest.as_bytes();
        let simple = match bytes[slash + 1] {
            b'b' => '\u{8}',
            b'f' => '\u{c}',
            b'n' => '\n',
            b'r' => '\r',
            b't' => '\t',
            b'u' => {
                let high = unit(bytes, slash).expect("checked escapes have four hex digits");
                let units = [high, unit(bytes, slash + 6).unwrap_or(0)];
                let c = char::decode_utf16(units).next().and_then(Result::ok);
                let c = c.expect("checked surrogates come in pairs");
                out.push(c);
                rest = &rest[slash + 6 * c.len_utf16()..];
                continue;
            }
            other => char::from(other),
        };
        out.push(simple);
        rest = &rest[slash + 2..];
    }
    out.push_str(rest);
    out
}
