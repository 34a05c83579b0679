//! Numbers, sizes and times for the eye.

use jiff::Timestamp;

/// `12,345`
pub fn count(number: i64) -> String {
    let digits = number.unsigned_abs().to_string();
    let mut out = String::new();
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            out.push(',');
        }
        out.push(digit);
    }
    if number < 0 { format!("-{out}") } else { out }
}

/// `512 B`, `4.1 MiB`
pub fn bytes(number: i64) -> String {
    const UNITS: [&str; 5] = ["KiB", "MiB", "GiB", "TiB", "PiB"];
    if number < 1024 {
        return format!("{number} B");
    }
    let mut value = number as f64;
    let mut unit = "";
    for next in UNITS {
        if value < 1023.95 {
            break;
        }
        value /= 1024.0;
        unit = next;
    }
    format!("{value:.1} {unit}")
}

/// `8s`, `3m`, `5h`, `2d`: how long ago, as kubectl says it.
pub fn ago(now: Timestamp, then: Timestamp) -> String {
    let seconds = (now.as_second() - then.as_second()).max(0);
    match seconds {
        0..120 => format!("{seconds}s"),
        120..7200 => format!("{}m", seconds / 60),
        7200..172_800 => format!("{}h", seconds / 3600),
        _ => format!("{}d", seconds / 86_400),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_as_people_write_them() {
        assert_eq!(
            [0, 999, 1000, 1_234_567, -1000].map(count),
            ["0", "999", "1,000", "1,234,567", "-1,000"]
        );
        assert_eq!(
            [0, 1023, 1024, 1536, 1_048_575, 1 << 20, 5 << 30].map(bytes),
            [
                "0 B", "1023 B", "1.0 KiB", "1.5 KiB", "1.0 MiB", "1.0 MiB", "5.0 GiB"
            ]
        );
        let now = Timestamp::from_second(1_000_000).expect("a time");
        let told = [0, 119, 120, 7199, 7200, 172_799, 172_800]
            .map(|s| ago(now, Timestamp::from_second(1_000_000 - s).expect("a time")));
        assert_eq!(told, ["0s", "119s", "2m", "119m", "2h", "47h", "2d"]);
    }
}
