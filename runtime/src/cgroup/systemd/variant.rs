//! Values as annotations write them: the part of GVariant's text format that properties of units need. Truth values, texts in quotes,
//! numbers with or without the name of their type, and lists of texts.

use zbus::Variant;

/// A value, or nothing if the text is none.
pub fn parse(text: &str) -> Option<Variant<'static>> {
    let text = text.trim();
    match text {
        "true" => return Some(true.into()),
        "false" => return Some(false.into()),
        "@as []" => return Some(Vec::<String>::new().into()),
        _ => {}
    }
    if let Some(list) = text.strip_prefix('[') {
        return strings(list.strip_suffix(']')?);
    }
    if text.starts_with(['\'', '"']) {
        let (string, rest) = quoted(text)?;
        return rest.is_empty().then(|| string.into());
    }
    number(text)
}

fn number(text: &str) -> Option<Variant<'static>> {
    let (kind, digits) = text.split_once(' ').map_or(("", text), |(kind, digits)| (kind, digits.trim_start()));
    match kind {
        // As GVariant has it: without a name, whole numbers have 32 bits, and those with a point are fractions.
        "" if digits.contains('.') => digits.parse::<f64>().ok().filter(|value| value.is_finite()).map(Variant::from),
        "" | "int32" => digits.parse::<i32>().ok().map(Variant::from),
        "uint32" => digits.parse::<u32>().ok().map(Variant::from),
        "int64" => digits.parse::<i64>().ok().map(Variant::from),
        "uint64" => digits.parse::<u64>().ok().map(Variant::from),
        "double" => digits.parse::<f64>().ok().filter(|value| value.is_finite()).map(Variant::from),
        _ => None,
    }
}

/// Texts in quotes, separated by commas.
fn strings(list: &str) -> Option<Variant<'static>> {
    let mut found = Vec::new();
    let mut rest = list.trim();
    loop {
        let (string, after) = quoted(rest)?;
        found.push(string);
        match after.trim_start() {
            "" => return Some(found.into()),
            more => rest = more.strip_prefix(',')?.trim_start(),
        }
    }
}

/// A text in quotes at the beginning, and what comes after it.
fn quoted(text: &str) -> Option<(String, &str)> {
    let quote = text.chars().next().filter(|c| matches!(c, '\'' | '"'))?;
    let mut string = String::new();
    let mut chars = text.char_indices().skip(1);
    while let Some((at, c)) = chars.next() {
        match c {
            '\\' => string.push(match chars.next()?.1 {
                'n' => '\n',
                't' => '\t',
                plain @ ('\\' | '\'' | '"') => plain,
                _ => return None,
            }),
            c if c == quote => return Some((string, &text[at + 1..])),
            c => string.push(c),
        }
    }
    None
}

/// A number of seconds, in microseconds.
pub fn micros(value: &Variant<'_>) -> Option<u64> {
    let whole = |seconds: u64| seconds.checked_mul(1_000_000);
    match value {
        Variant::U32(seconds) => whole(u64::from(*seconds)),
        Variant::U64(seconds) => whole(*seconds),
        Variant::I32(seconds) => whole(u64::try_from(*seconds).ok()?),
        Variant::I64(seconds) => whole(u64::try_from(*seconds).ok()?),
        Variant::F64(seconds) if (0.0..1e12).contains(seconds) => Some((seconds * 1e6) as u64),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_understood() {
        let strings = |list: &[&str]| Variant::from(list.iter().map(|text| (*text).to_owned()).collect::<Vec<String>>());
        for (text, value) in [
            ("true", Variant::from(true)),
            (" 'a b' ", "a b".into()),
            (r#""it's \"x\"\\""#, r#"it's "x"\"#.into()),
            ("5", 5_i32.into()),
            ("-5", (-5_i32).into()),
            ("1.5", 1.5_f64.into()),
            ("uint64 18446744073709551615", u64::MAX.into()),
            ("int64 -1", (-1_i64).into()),
            ("['a', \"b\"]", strings(&["a", "b"])),
            ("@as []", strings(&[])),
        ] {
            assert_eq!(parse(text), Some(value), "{text}");
        }
    }

    #[test]
    fn other_texts_are_not() {
        for bad in [
            "",
            "a",
            "'a",
            "'a'b",
            "[",
            "[]",
            "['a' 'b']",
            "['a',]",
            "uint32 -1",
            "99999999999",
            "byte 1",
            "nan",
            "double inf",
            "'\\x'",
            "(1,)",
        ] {
            assert_eq!(parse(bad), None, "{bad}");
        }
    }

    #[test]
    fn seconds() {
        assert_eq!(micros(&Variant::from(1.5_f64)), Some(1_500_000));
        for bad in [Variant::from(-1_i32), Variant::from(-0.1_f64), Variant::from(f64::NAN), Variant::from(u64::MAX), Variant::from("1")] {
            assert_eq!(micros(&bad), None, "{bad:?}");
        }
    }
}
