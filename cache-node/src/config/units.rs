//! Sizes in bytes, as people write them.

/// Reads `512`, `64k`, `100mb`, `2GiB`: as Redis does, `k`, `m` and `g` are powers of 1000, `kb`, `mb`, `gb` of 1024; and `Ki`, `Mi`, `Gi`,
/// `KiB`, `MiB`, `GiB` are powers of 1024 too.
pub fn parse_bytes(text: &str) -> Result<u64, String> {
    let digits = text.bytes().take_while(u8::is_ascii_digit).count();
    let (number, unit) = text.split_at(digits);
    let mend = || {
        format!(
            "{text:?} is not a size: give bytes, with a unit if you like, for example 0, 1048576, 512mb or 2Gi"
        )
    };
    let number: u64 = number.parse().map_err(|_| mend())?;
    let factor: u64 = match unit.to_ascii_lowercase().as_str() {
        "" | "b" => 1,
        "k" => 1000,
        "kb" | "ki" | "kib" => 1 << 10,
        "m" => 1_000_000,
        "mb" | "mi" | "mib" => 1 << 20,
        "g" => 1_000_000_000,
        "gb" | "gi" | "gib" => 1 << 30,
        _ => return Err(mend()),
    };
    number
        .checked_mul(factor)
        .ok_or_else(|| format!("{text:?} is beyond 2^64 bytes: give a smaller size"))
}

/// As `INFO` shows sizes: `1.50M`.
pub fn human(bytes: u64) -> String {
    let n = bytes as f64;
    match bytes {
        0..1024 => format!("{bytes}B"),
        1024..1_048_576 => format!("{:.2}K", n / 1024.0),
        1_048_576..1_073_741_824 => format!("{:.2}M", n / 1_048_576.0),
        _ => format!("{:.2}G", n / 1_073_741_824.0),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_read_with_their_units() {
        let table = [
            ("0", 0),
            ("512", 512),
            ("1k", 1000),
            ("1kb", 1024),
            ("64Ki", 65_536),
            ("1m", 1_000_000),
            ("100MB", 104_857_600),
            ("2GiB", 2 << 30),
        ];
        for (text, bytes) in table {
            assert_eq!(parse_bytes(text), Ok(bytes), "{text}");
        }
        for text in ["", "mb", "-1", "1.5gb", "10 mb", "1tb", "99999999999g"] {
            let error = parse_bytes(text).unwrap_err();
            assert!(error.contains(&format!("{text:?}")), "{error}");
        }
        assert_eq!(
            [human(5), human(1536), human(3 << 29)],
            ["5B", "1.50K", "1.50G"]
        );
    }
}
