//! Names of files in messages, quoted as GNU programs quote them: as a shell would have to be given them.

use std::ffi::OsString;

/// How the bytes of a name are read as text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Charset {
    /// The C locale, or one whose characters this program does not know.
    Ascii,
    Utf8,
}

impl Charset {
    /// The one that the locale names, in the first of its variables that is set.
    pub fn of_locale(variable: impl Fn(&str) -> Option<OsString>) -> Self {
        let set = |name: &&str| variable(name).filter(|value| !value.is_empty());
        let locale = ["LC_ALL", "LC_CTYPE", "LANG"].iter().find_map(set).unwrap_or_default();
        let locale = locale.to_string_lossy().to_ascii_lowercase();
        if locale.contains("utf-8") || locale.contains("utf8") { Self::Utf8 } else { Self::Ascii }
    }
}

/// One part of a name.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Part {
    /// Shown as it is.
    Char(char),
    /// A byte that is no printable character.
    Byte(u8),
}

/// `name`, bare where a shell takes it so; else within double quotes where an apostrophe is all that stands in the way, and
/// within single quotes where it is anything else. A colon is quoted too, since one follows in a message.
pub fn quoted(name: &[u8], charset: Charset) -> String {
    let parts = parts(name, charset);
    let is_alone = parts.len() == 1;
    let text = || parts.iter().map(|part| if let Part::Char(char) = part { *char } else { '\u{fffd}' });
    if !parts.is_empty() && parts.iter().enumerate().all(|(n, part)| is_bare(*part, n == 0, is_alone)) {
        return text().collect();
    }
    let has_apostrophe = parts.contains(&Part::Char('\''));
    if has_apostrophe && parts.iter().enumerate().all(|(n, part)| may_be_in_double_quotes(*part, n == 0)) {
        return ['"'].into_iter().chain(text()).chain(['"']).collect();
    }
    in_single_quotes(&parts)
}

fn parts(name: &[u8], charset: Charset) -> Vec<Part> {
    let mut parts = Vec::with_capacity(name.len());
    for chunk in name.utf8_chunks() {
        for char in chunk.valid().chars() {
            if is_printable(char) && (char.is_ascii() || charset == Charset::Utf8) {
                parts.push(Part::Char(char));
            } else {
                parts.extend(char.encode_utf8(&mut [0; 4]).bytes().map(Part::Byte));
            }
        }
        parts.extend(chunk.invalid().iter().copied().map(Part::Byte));
    }
    parts
}

fn is_printable(char: char) -> bool {
    match char {
        ' '..='~' => true,
        '\0'..='\x7f' => false,
        // The standard library knows what may be shown, and escapes the rest. A mark that combines may be shown only where
        // something stands before it.
        _ => format!("-{char}").escape_debug().count() == 2,
    }
}

fn is_bare(part: Part, is_first: bool, is_alone: bool) -> bool {
    let Part::Char(char) = part else { return false };
    match char {
        ' ' | '!' | '"' | '$' | '&' | '\'' | '(' | ')' | '*' | ':' | ';' | '<' | '=' | '>' | '?' | '[' | '\\' | '^'
        | '`' | '|' => false,
        '#' | '~' => !is_first,
        '{' | '}' => !is_alone,
        _ => true,
    }
}

/// Whether neither a shell nor C makes anything else of it between double quotes.
fn may_be_in_double_quotes(part: Part, is_first: bool) -> bool {
    let Part::Char(char) = part else { return false };
    match char {
        ' ' | '\'' | ':' => true,
        '#' | '~' => is_first,
        '{' | '}' => false,
        char => is_bare(part, is_first, false) && char != '\'',
    }
}

fn in_single_quotes(parts: &[Part]) -> String {
    let mut text = "'".to_owned();
    // Whether the quotes that are open are those of $'…', the only ones with escapes in them.
    let mut escaping = false;
    for part in parts {
        match part {
            Part::Char('\'') => {
                escaping = false;
                text.push_str(r"'\''");
            }
            Part::Char(char) => {
                if std::mem::take(&mut escaping) {
                    text.push_str("''");
                }
                text.push(*char);
            }
            Part::Byte(byte) => {
                if !std::mem::replace(&mut escaping, true) {
                    text.push_str("'$'");
                }
                text.push_str(&escape(*byte));
            }
        }
    }
    text.push('\'');
    text
}

fn escape(byte: u8) -> String {
    match byte {
        b'\x07' => r"\a".to_owned(),
        b'\x08' => r"\b".to_owned(),
        b'\t' => r"\t".to_owned(),
        b'\n' => r"\n".to_owned(),
        b'\x0b' => r"\v".to_owned(),
        b'\x0c' => r"\f".to_owned(),
        b'\r' => r"\r".to_owned(),
        byte => format!(r"\{byte:03o}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_quoted_as_a_shell_would_have_to_be_given_them() {
        let both: [(&[u8], &str); 30] = [
            (b"missing", "missing"),
            (b"", "''"),
            (b"mis sing", "'mis sing'"),
            (b"a:b", "'a:b'"),
            (b"a=b", "'a=b'"),
            (b"mis\"q", "'mis\"q'"),
            (b"mis\\x", r"'mis\x'"),
            (b"mis'q", "\"mis'q\""),
            (b"a' b:c", "\"a' b:c\""),
            (b"#'x", "\"#'x\""),
            (b"x'#", r"'x'\''#'"),
            (b"mis'\"q", r#"'mis'\''"q'"#),
            (b"mis'\n", r"'mis'\'''$'\n'"),
            (b"mis\nnl", r"'mis'$'\n''nl'"),
            (b"\n\t\x07x\x08\x0b\x0c\r", r"''$'\n\t\a''x'$'\b\v\f\r'"),
            (b"\n'\n", r"''$'\n'\'''$'\n'"),
            (b"\x1b[31m", r"''$'\033''[31m'"),
            (b"mis\xff", r"'mis'$'\377'"),
            (b"\xe2\x82A", r"''$'\342\202''A'"),
            (b"\x7f", r"''$'\177'"),
            (b"mis{}", "mis{}"),
            (b"{", "'{'"),
            (b"}", "'}'"),
            (b"~x", "'~x'"),
            (b"x~", "x~"),
            (b"#x", "'#x'"),
            (b"x#", "x#"),
            (b"x]", "x]"),
            (b"-a_%+,./@9", "-a_%+,./@9"),
            (b"?", "'?'"),
        ];
        for (name, expected) in both {
            assert_eq!(quoted(name, Charset::Ascii), expected, "{name:?}");
            assert_eq!(quoted(name, Charset::Utf8), expected, "{name:?}");
        }
        let micro = "mis\u{b5}".as_bytes();
        assert_eq!(quoted(micro, Charset::Ascii), r"'mis'$'\302\265'");
        assert_eq!(quoted(micro, Charset::Utf8), "mis\u{b5}");
        assert_eq!(quoted("e\u{301}'".as_bytes(), Charset::Utf8), "\"e\u{301}'\"");
        assert_eq!(quoted("\u{85}".as_bytes(), Charset::Utf8), r"''$'\302\205'");
    }

    #[test]
    fn the_first_variable_of_the_locale_that_is_set_names_the_characters() {
        for (all, ctype, lang, expected) in [
            ("", "", "", Charset::Ascii),
            ("C", "", "en_GB.UTF-8", Charset::Ascii),
            ("", "C.utf8", "C", Charset::Utf8),
            ("", "", "de_DE.UTF-8", Charset::Utf8),
            ("", "POSIX", "de_DE.UTF-8", Charset::Ascii),
            ("", "", "de_DE.ISO-8859-1", Charset::Ascii),
        ] {
            let variables = [("LC_ALL", all), ("LC_CTYPE", ctype), ("LANG", lang)];
            let variable =
                |name: &str| variables.iter().find(|(known, _)| *known == name).map(|(_, value)| OsString::from(value));
            assert_eq!(Charset::of_locale(variable), expected, "{variables:?}");
        }
    }
}
