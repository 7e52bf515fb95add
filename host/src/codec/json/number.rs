//! Numbers: which tokens are JSON, and which a double holds exactly. *Exact* means that the decimal value of the token
//! is that of the shortest decimal form of the double it is read as, so that no reader sees another number.

/// Decimals of so many digits are always exact: no two of them are the same double (`DBL_DIG` of C).
const SAFE_DIGITS: usize = 15;

/// Length of the number token that `bytes` begins with.
pub(super) fn length(bytes: &[u8]) -> Option<usize> {
    let digits = |from: usize| bytes[from..].iter().take_while(|b| b.is_ascii_digit()).count();
    let mut at = usize::from(bytes.first() == Some(&b'-'));
    match bytes.get(at) {
        Some(b'0') => at += 1,
        Some(b'1'..=b'9') => at += digits(at),
        _ => return None,
    }
    if bytes.get(at) == Some(&b'.') {
        let fraction = digits(at + 1);
        if fraction == 0 {
            return None;
        }
        at += 1 + fraction;
    }
    if matches!(bytes.get(at), Some(b'e' | b'E')) {
        at += 1;
        at += usize::from(matches!(bytes.get(at), Some(b'+' | b'-')));
        let exponent = digits(at);
        if exponent == 0 {
            return None;
        }
        at += exponent;
    }
    // A digit here would be one after a leading zero.
    (digits(at) == 0).then_some(at)
}

/// Whether a double holds the token's value exactly.
pub(super) fn is_exact(token: &str) -> bool {
    let magnitude = token.strip_prefix('-').unwrap_or(token);
    if magnitude.len() <= SAFE_DIGITS && magnitude.bytes().all(|b| b.is_ascii_digit() || b == b'.') {
        return true;
    }
    match token.parse::<f64>() {
        Ok(value) if value.is_finite() => {
            let mut buffer = ryu_js::Buffer::new();
            Decimal::of(magnitude) == Decimal::of(buffer.format_finite(value.abs()))
        }
        _ => false,
    }
}

/// The shortest form, as ECMAScript prints it.
pub(super) fn canonical<'b>(token: &'b str, buffer: &'b mut ryu_js::Buffer) -> &'b str {
    if token.len() <= SAFE_DIGITS && token.bytes().all(|b| b.is_ascii_digit()) {
        return token;
    }
    let value: f64 = token.parse().expect("a checked number token is a double");
    buffer.format_finite(value)
}

/// A decimal value: `0.d1d2d3… × 10^exponent`, digits without zeros at either end.
#[derive(PartialEq, Eq)]
struct Decimal {
    digits: Vec<u8>,
    exponent: i64,
}

impl Decimal {
    /// Of an unsigned number token.
    fn of(token: &str) -> Decimal {
        let (mantissa, exponent) = token.split_once(['e', 'E']).unwrap_or((token, "0"));
        let (whole, fraction) = mantissa.split_once('.').unwrap_or((mantissa, ""));
        let all: Vec<u8> = whole.bytes().chain(fraction.bytes()).collect();
        let leading = all.iter().take_while(|d| **d == b'0').count();
        let trailing = all[leading..].iter().rev().take_while(|d| **d == b'0').count();
        let digits = all[leading..all.len() - trailing].to_vec();
        if digits.is_empty() {
            return Decimal { digits, exponent: 0 };
        }
        let exponent = match exponent.strip_prefix('-') {
            Some(negative) => -saturating(negative),
            None => saturating(exponent.strip_prefix('+').unwrap_or(exponent)),
        };
        let point = i64::try_from(whole.len()).unwrap_or(i64::MAX / 4) - i64::try_from(leading).unwrap_or(i64::MAX / 4);
        Decimal { digits, exponent: exponent.saturating_add(point) }
    }
}

/// An exponent's digits as a number; one that is far beyond every double stays far beyond.
fn saturating(digits: &str) -> i64 {
    digits
        .bytes()
        .fold(0i64, |value, digit| value.saturating_mul(10).saturating_add(i64::from(digit - b'0')).min(1 << 60))
}
