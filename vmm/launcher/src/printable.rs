//! Words of the guest on the user's terminal.

/// `text` without what would act on a terminal or reorder what it shows; everything else stays as it is.
pub fn printable(text: &str) -> String {
    let mut shown = String::with_capacity(text.len());
    for character in text.chars() {
        match character {
            '"' | '\'' | '\\' => shown.push(character),
            other => shown.extend(other.escape_debug()),
        }
    }
    shown
}

#[cfg(test)]
mod tests {
    use super::printable;

    #[test]
    fn words_stay_and_what_acts_on_a_terminal_does_not() {
        let words = r#"no "file" in C:\dir, it's grün"#;
        assert_eq!(printable(words), words);
        assert_eq!(printable("a\u{1b}[2J\r\n\u{202e}b\0"), r"a\u{1b}[2J\r\n\u{202e}b\0");
    }
}
