//! Times and sizes as people read them.

/// `0.12 s`, `12.3 s`, `3 min 04 s`, `5 h 03 min`, `2 d 04 h`.
pub fn seconds(seconds: f64) -> String {
    let whole = seconds.max(0.0) as u64;
    match whole {
        0..10 => format!("{seconds:.2} s"),
        10..60 => format!("{seconds:.1} s"),
        60..3600 => format!("{} min {:02} s", whole / 60, whole % 60),
        3600..86_400 => format!("{} h {:02} min", whole / 3600, whole % 3600 / 60),
        _ => format!("{} d {:02} h", whole / 86_400, whole % 86_400 / 3600),
    }
}

/// `512 B`, `1.5 KiB`, `23.4 MiB`, `1.2 GiB`.
pub fn bytes(bytes: u64) -> String {
    let mut size = bytes as f64;
    let mut units = ["B", "KiB", "MiB", "GiB", "TiB"].into_iter();
    let mut unit = units.next().unwrap_or_default();
    for next in units {
        if size < 1024.0 {
            break;
        }
        size /= 1024.0;
        unit = next;
    }
    if bytes < 1024 { format!("{bytes} B") } else { format!("{size:.1} {unit}") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_and_sizes_are_short() {
        let times = [0.0, 0.123, 9.99, 59.94, 60.0, 184.9, 3599.0, 18_180.0, 187_200.0].map(seconds);
        let shown = [
            "0.00 s",
            "0.12 s",
            "9.99 s",
            "59.9 s",
            "1 min 00 s",
            "3 min 04 s",
            "59 min 59 s",
            "5 h 03 min",
            "2 d 04 h",
        ];
        assert_eq!(times, shown);
        let sizes = [0, 512, 1024, 1536, 24_536_678, 5 << 30, 3 << 50].map(bytes);
        assert_eq!(sizes, ["0 B", "512 B", "1.0 KiB", "1.5 KiB", "23.4 MiB", "5.0 GiB", "3072.0 TiB"]);
    }
}
