//! Lines of checksums, written and read as GNU `sha1sum` does.
//!
//! | form | line |
//! | --- | --- |
//! | text, binary | `<hex>  <name>`, `<hex> *<name>` |
//! | tagged | `SHA1 (<name>) = <hex>` |
//! | reversed, which is only read | `<hex> <name>` |
//!
//! Where a name holds a backslash, a newline or a carriage return, these are written `\\`, `\n` and `\r`, and a backslash
//! before the line says so.

use crate::sum::running::Value;

/// What a tagged line begins with.
const TAG: &[u8] = b"SHA1";

const HEX_BYTES: usize = 40;

/// How checksums are written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Style {
    pub form: Form,
    /// Lines end with NUL, so that names need no escapes.
    pub zero: bool,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Form {
    #[default]
    Text,
    Binary,
    Tagged,
}

/// What a checksum of `name` looks like, the end of the line included.
pub fn line(style: Style, value: Value, name: &[u8]) -> Vec<u8> {
    let escapes = !style.zero && name.iter().any(|byte| matches!(byte, b'\\' | b'\n' | b'\r'));
    let (mark, name) = if escapes { (&b"\\"[..], escaped(name)) } else { (&b""[..], name.to_vec()) };
    let (hex, end) = (value.to_string(), if style.zero { b"\0" } else { b"\n" });
    let hex = hex.as_bytes();
    match style.form {
        Form::Text => [mark, hex, b"  ", &name, end].concat(),
        Form::Binary => [mark, hex, b" *", &name, end].concat(),
        Form::Tagged => [mark, TAG, b" (", &name, b") = ", hex, end].concat(),
    }
}

/// `name` with its backslashes, newlines and carriage returns escaped.
pub fn escaped(name: &[u8]) -> Vec<u8> {
    let mut escaped = Vec::with_capacity(name.len() + 8);
    for byte in name {
        match byte {
            b'\\' => escaped.extend_from_slice(br"\\"),
            b'\n' => escaped.extend_from_slice(br"\n"),
            b'\r' => escaped.extend_from_slice(br"\r"),
            byte => escaped.push(*byte),
        }
    }
    escaped
}

/// What [`escaped`] has made of a name; `None` where it can't have made this.
fn unescaped(text: &[u8]) -> Option<Vec<u8>> {
    let mut name = Vec::with_capacity(text.len());
    let mut bytes = text.iter();
    while let Some(byte) = bytes.next() {
        name.push(match byte {
            b'\\' => match bytes.next()? {
                b'\\' => b'\\',
                b'n' => b'\n',
                b'r' => b'\r',
                _ => return None,
            },
            byte => *byte,
        });
    }
    Some(name)
}

/// One line of a list of checksums.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Line {
    Checksum {
        value: Value,
        name: Vec<u8>,
    },
    /// Empty, or a comment.
    Nothing,
    Misformatted,
}

/// Reads lines, of one list or of several.
#[derive(Debug, Default)]
pub struct Lines {
    /// Whether names follow the digest after one blank, as the first line that can be told by decides for all: or a name
    /// that begins with a blank could be read as another one.
    reversed: Option<bool>,
}

impl Lines {
    /// What a line says; its end may be there or not.
    pub fn read(&mut self, line: &[u8]) -> Line {
        if line.starts_with(b"#") {
            return Line::Nothing;
        }
        let line = line.strip_suffix(b"\n").unwrap_or(line);
        let line = line.strip_suffix(b"\r").unwrap_or(line);
        if line.is_empty() {
            return Line::Nothing;
        }
        // No file has a NUL in its name. A line that holds one is one of many that end with it.
        match self.checksum(line).filter(|(_, name)| !name.contains(&0)) {
            Some((value, name)) => Line::Checksum { value, name },
            None => Line::Misformatted,
        }
    }

    fn checksum(&mut self, line: &[u8]) -> Option<(Value, Vec<u8>)> {
        let line = after_blanks(line);
        let (escaped, line) = line.strip_prefix(b"\\").map_or((false, line), |line| (true, line));
        let (value, name) = match line.strip_prefix(TAG) {
            Some(tagged) => tagged_checksum(tagged)?,
            None => self.untagged_checksum(line)?,
        };
        Some((value, if escaped { unescaped(name)? } else { name.to_vec() }))
    }

    fn untagged_checksum<'a>(&mut self, line: &'a [u8]) -> Option<(Value, &'a [u8])> {
        let (hex, rest) = line.split_at_checked(HEX_BYTES)?;
        let value = digest(hex)?;
        let (blank, rest) = rest.split_first()?;
        let first = rest.first()?;
        if !is_blank(*blank) {
            return None;
        }
        if rest.len() == 1 || !matches!(first, b' ' | b'*') {
            return (*self.reversed.get_or_insert(true)).then_some((value, rest));
        }
        let reversed = *self.reversed.get_or_insert(false);
        Some((value, if reversed { rest } else { &rest[1..] }))
    }
}

fn tagged_checksum(line: &[u8]) -> Option<(Value, &[u8])> {
    let line = line.strip_prefix(b" ").unwrap_or(line).strip_prefix(b"(")?;
    let end = line.iter().rposition(|byte| *byte == b')')?;
    let (name, rest) = (&line[..end], &line[end + 1..]);
    let hex = after_blanks(after_blanks(rest).strip_prefix(b"=")?);
    Some((digest(hex)?, name))
}

fn digest(hex: &[u8]) -> Option<Value> {
    let mut value = [0; HEX_BYTES / 2];
    hex::decode_to_slice(hex, &mut value).ok()?;
    Some(Value(value))
}

fn is_blank(byte: u8) -> bool {
    matches!(byte, b' ' | b'\t')
}

fn after_blanks(text: &[u8]) -> &[u8] {
    let blanks = text.iter().take_while(|byte| is_blank(**byte)).count();
    &text[blanks..]
}

#[cfg(test)]
mod tests {
    use super::*;

    const A: &str = "86f7e437faa5a7fce15d1ddcb9eaeaea377667b8";

    fn value() -> Value {
        digest(A.as_bytes()).unwrap()
    }

    #[test]
    fn lines_are_written_in_each_form_and_names_are_escaped_unless_they_end_with_nul() {
        let of = |form, zero, name: &[u8]| String::from_utf8(line(Style { form, zero }, value(), name)).unwrap();
        for (name, mark, escaped) in [
            ("a b", "", "a b"),
            ("-", "", "-"),
            ("a\\b", "\\", "a\\\\b"),
            ("a\nb", "\\", "a\\nb"),
            ("a\rb", "\\", "a\\rb"),
        ] {
            let bytes = name.as_bytes();
            assert_eq!(of(Form::Text, false, bytes), format!("{mark}{A}  {escaped}\n"));
            assert_eq!(of(Form::Binary, false, bytes), format!("{mark}{A} *{escaped}\n"));
            assert_eq!(of(Form::Tagged, false, bytes), format!("{mark}SHA1 ({escaped}) = {A}\n"));
            assert_eq!(of(Form::Text, true, bytes), format!("{A}  {name}\0"));
            assert_eq!(of(Form::Binary, true, bytes), format!("{A} *{name}\0"));
            assert_eq!(of(Form::Tagged, true, bytes), format!("SHA1 ({name}) = {A}\0"));
        }
    }

    #[test]
    fn what_is_written_is_read() {
        for name in [&b"a"[..], b" a", b"*", b"a\\nb", b"\n\r\\", b") = x", b"\xff", b"a "] {
            for form in [Form::Text, Form::Binary, Form::Tagged] {
                let line = line(Style { form, zero: false }, value(), name);
                let expected = Line::Checksum { value: value(), name: name.to_vec() };
                assert_eq!(Lines { reversed: Some(false) }.read(&line), expected, "{form:?} {name:?}");
            }
        }
    }

    #[test]
    fn lines_are_read_as_sha1sum_reads_them() {
        let named = |name: &str| Line::Checksum { value: value(), name: name.into() };
        let short = &A[1..];
        for (line, expected) in [
            (format!("{A}  a\r\n"), named("a")),
            (format!("{A}  a"), named("a")),
            (format!("{A} a"), named("a")),
            (format!("{A} *a"), named("a")),
            (format!("{A}   a"), named(" a")),
            (format!(" \t{A}  a"), named("a")),
            (format!("\\{A}  a"), named("a")),
            (format!(" \\{A}  a\\nb"), named("a\nb")),
            (format!("{A}  a\\nb"), named("a\\nb")),
            (format!("{}  a", A.to_uppercase()), named("a")),
            (format!("{A}\ta"), named("a")),
            (format!("{A}\t\ta"), named("\ta")),
            (format!("{A}\t*a"), named("a")),
            (format!("{A}  "), named(" ")),
            (format!("{A} *"), named("*")),
            (format!("{A} **"), named("*")),
            (format!("SHA1 (a) = {A}\r\n"), named("a")),
            (format!("SHA1(a)={A}"), named("a")),
            (format!("SHA1 (a)\t=\t{A}"), named("a")),
            (format!("SHA1 (a)) = {A}"), named("a)")),
            (format!("SHA1 () = {A}"), named("")),
            (format!("  \\SHA1 (a\\\\) = {A}"), named("a\\")),
            (String::new(), Line::Nothing),
            ("\r\n".to_owned(), Line::Nothing),
            (format!("#{A}  a"), Line::Nothing),
            (format!(" #{A}  a"), Line::Misformatted),
            (" ".to_owned(), Line::Misformatted),
            (format!("{A} "), Line::Misformatted),
            (A.to_owned(), Line::Misformatted),
            (format!("{A}0  a"), Line::Misformatted),
            (format!("{short}  aa"), Line::Misformatted),
            (format!("{short}g  a"), Line::Misformatted),
            (format!("\\{A}  a\\"), Line::Misformatted),
            (format!("\\{A}  a\\x"), Line::Misformatted),
            (format!("\\SHA1 (a\\q) = {A}"), Line::Misformatted),
            (format!("{A}  a\0{A}  b\0"), Line::Misformatted),
            (format!("SHA1  (a) = {A}"), Line::Misformatted),
            (format!("SHA1\t(a) = {A}"), Line::Misformatted),
            (format!("SHA1 (a) = {A} "), Line::Misformatted),
            (format!("SHA1 (a) = {A}0"), Line::Misformatted),
            (format!("SHA1 (a) = {short}"), Line::Misformatted),
            (format!("SHA1 (a) {A}"), Line::Misformatted),
            (format!("SHA1 a = {A}"), Line::Misformatted),
            (format!("sha1 (a) = {A}"), Line::Misformatted),
            (format!("MD5 (a) = {A}"), Line::Misformatted),
            (format!("\u{feff}{A}  a"), Line::Misformatted),
        ] {
            assert_eq!(Lines::default().read(line.as_bytes()), expected, "{line:?}");
        }
    }

    #[test]
    fn the_first_line_decides_whether_all_are_reversed() {
        let (plain, reversed) = (format!("{A}  a"), format!("{A} a"));
        let named = |name: &str| Line::Checksum { value: value(), name: name.into() };
        let mut lines = Lines::default();
        assert_eq!(lines.read(plain.as_bytes()), named("a"));
        assert_eq!(lines.read(reversed.as_bytes()), Line::Misformatted);
        let mut lines = Lines::default();
        assert_eq!(lines.read(reversed.as_bytes()), named("a"));
        assert_eq!(lines.read(plain.as_bytes()), named(" a"));
    }
}
