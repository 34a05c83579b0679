//! Kubernetes quantities as integers.

use k8s_openapi::apimachinery::pkg::api::resource::Quantity;

/// Bytes of a quantity of memory, rounded up. The error says what a quantity is.
pub fn parse_bytes(quantity: &Quantity) -> Result<u64, String> {
    scaled(&quantity.0, 1).ok_or_else(|| {
        "is not a quantity of memory: write a number with Ki, Mi, Gi or k, M, G (not KB, MB, GB), for example 512Mi".into()
    })
}

/// Thousandths of a core, rounded up.
pub fn parse_millicores(quantity: &Quantity) -> Result<u64, String> {
    scaled(&quantity.0, 1000).ok_or_else(|| {
        "is not a quantity of CPU: write cores or thousandths of one, for example 2 or 500m".into()
    })
}

/// `text` times `scale`, rounded up; none if it is not a quantity or does not fit.
fn scaled(text: &str, scale: u128) -> Option<u64> {
    let number_ends = text
        .find(|c: char| !(c.is_ascii_digit() || c == '.'))
        .unwrap_or(text.len());
    let (number, suffix) = text.split_at(number_ends);
    let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
    if (whole.is_empty() && fraction.is_empty()) || fraction.contains('.') || fraction.len() > 12 {
        return None;
    }
    let digits: u128 = format!("{whole}{fraction}").parse().ok()?;
    let (multiplier, divisor) = suffix_factor(suffix)?;
    let divisor = divisor.checked_mul(10u128.checked_pow(u32::try_from(fraction.len()).ok()?)?)?;
    let value = digits
        .checked_mul(multiplier)?
        .checked_mul(scale)?
        .div_ceil(divisor);
    u64::try_from(value).ok()
}

/// A suffix as a fraction: (multiplier, divisor).
fn suffix_factor(suffix: &str) -> Option<(u128, u128)> {
    let binary = |power: u32| Some((1u128 << (10 * power), 1));
    let decimal = |power: u32| Some((1000u128.pow(power), 1));
    match suffix {
        "" => Some((1, 1)),
        "n" => Some((1, 1_000_000_000)),
        "u" => Some((1, 1_000_000)),
        "m" => Some((1, 1000)),
        "k" => decimal(1),
        "M" => decimal(2),
        "G" => decimal(3),
        "T" => decimal(4),
        "P" => decimal(5),
        "E" => decimal(6),
        "Ki" => binary(1),
        "Mi" => binary(2),
        "Gi" => binary(3),
        "Ti" => binary(4),
        "Pi" => binary(5),
        "Ei" => binary(6),
        _ => {
            let exponent = suffix.strip_prefix(['e', 'E'])?;
            let power: i32 = exponent.parse().ok()?;
            match u32::try_from(power) {
                Ok(power) => Some((10u128.checked_pow(power)?, 1)),
                Err(_) => Some((1, 10u128.checked_pow(power.unsigned_abs())?)),
            }
        }
    }
}

/// Bytes for people: `1.5 GiB`, `812 MiB`, `17 bytes`.
pub fn format_bytes(bytes: u64) -> String {
    const UNITS: [(&str, u32); 4] = [("TiB", 40), ("GiB", 30), ("MiB", 20), ("KiB", 10)];
    for (unit, shift) in UNITS {
        if bytes >> shift == 0 {
            continue;
        }
        let tenths = (u128::from(bytes) * 10) >> shift;
        return match (tenths / 10, tenths % 10) {
            (whole, 0) => format!("{whole} {unit}"),
            (whole, _) if whole >= 100 => format!("{whole} {unit}"),
            (whole, tenth) => format!("{whole}.{tenth} {unit}"),
        };
    }
    format!("{bytes} bytes")
}

/// `1 shard`, `3 shards`.
pub fn counted(count: usize, what: &str) -> String {
    format!("{count} {what}{}", if count == 1 { "" } else { "s" })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_what_kubernetes_reads() {
        let bytes = |text: &str| parse_bytes(&Quantity(text.into()));
        for (text, expected) in [
            ("1Gi", 1 << 30),
            ("1.5Gi", 3 << 29),
            ("512Mi", 512 << 20),
            ("1G", 1_000_000_000),
            ("1e3", 1000),
            ("1E3", 1000),
            ("2E", 2_000_000_000_000_000_000),
            ("123", 123),
            ("1500m", 2),
            (".5Ki", 512),
        ] {
            assert_eq!(bytes(text), Ok(expected), "{text}");
        }
        for text in [
            "10GB",
            "",
            ".",
            "1.2.3",
            "-1",
            "1 Gi",
            "Gi",
            "99999999999999E",
            "1e999",
        ] {
            assert!(bytes(text).unwrap_err().contains("512Mi"), "{text}");
        }
        assert_eq!(parse_millicores(&Quantity("1.5".into())), Ok(1500));
        assert_eq!(parse_millicores(&Quantity("250m".into())), Ok(250));
    }

    #[test]
    fn bytes_for_people() {
        assert_eq!(format_bytes(17), "17 bytes");
        assert_eq!(format_bytes(3 << 29), "1.5 GiB");
        assert_eq!(format_bytes(812 << 20), "812 MiB");
        assert_eq!(format_bytes(1 << 20), "1 MiB");
    }
}
