//! Sizes as people write them.

use vmm::Mib;

/// `512`, `512M`, `2G`, `1T`, with or without `iB`: MiB by default.
pub fn parse_size(text: &str) -> Result<Mib, String> {
    let wrong = || format!("`{text}` is not a size; write for example 512M or 2G");
    let digits = text.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let number: u64 = digits.parse().map_err(|_| wrong())?;
    let factor = match text.get(digits.len()..).unwrap_or_default().to_ascii_lowercase().as_str() {
        "" | "m" | "mb" | "mib" => 1,
        "g" | "gb" | "gib" => 1 << 10,
        "t" | "tb" | "tib" => 1 << 20,
        _ => return Err(wrong()),
    };
    number.checked_mul(factor).map(Mib).ok_or_else(wrong)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_have_units() {
        for (text, mib) in [("512", 512), ("512M", 512), ("2G", 2048), ("2GiB", 2048), ("1t", 1 << 20)] {
            assert_eq!(parse_size(text), Ok(Mib(mib)), "{text}");
        }
    }

    #[test]
    fn bad_sizes_show_a_right_one() {
        for text in ["", "G", "2.5G", "-1", "2K", "99999999999999999999T", "18446744073709551615T"] {
            assert!(parse_size(text).unwrap_err().contains("2G"), "{text}");
        }
    }
}
