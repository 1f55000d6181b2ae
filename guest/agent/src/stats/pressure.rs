//! Pressure stall information (Documentation/accounting/psi.rst).

use crate::pb::agent::v1::{Pressure, PressureLine};
use std::fs;
use std::path::Path;

/// None where the kernel does not measure it (built without, or booted with psi=0).
pub fn read(path: &Path) -> Option<Pressure> {
    parse(&fs::read_to_string(path).ok()?)
}

/// "some avg10=0.00 avg60=0.00 avg300=0.00 total=12", and the same with "full"; microseconds.
fn parse(text: &str) -> Option<Pressure> {
    let line = |kind: &str| {
        let fields = text.lines().find_map(|line| line.strip_prefix(kind))?;
        let mut found = PressureLine::default();
        for (key, value) in fields.split_whitespace().filter_map(|field| field.split_once('=')) {
            match key {
                "avg10" => found.avg10 = value.parse().unwrap_or(0.0),
                "avg60" => found.avg60 = value.parse().unwrap_or(0.0),
                "avg300" => found.avg300 = value.parse().unwrap_or(0.0),
                "total" => found.total_ns = value.parse::<u64>().unwrap_or(0).saturating_mul(1000),
                _ => {}
            }
        }
        Some(found)
    };
    let (some, full) = (line("some "), line("full "));
    (some.is_some() || full.is_some()).then_some(Pressure { some, full })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_lines() {
        let text = "some avg10=1.50 avg60=0.25 avg300=0.00 total=12\nfull avg10=0.00 avg60=0.00 avg300=0.00 total=3\n";
        let pressure = parse(text).unwrap();
        let some = pressure.some.unwrap();
        assert_eq!((some.avg10, some.avg60, some.total_ns), (1.5, 0.25, 12_000));
        assert_eq!(pressure.full.unwrap().total_ns, 3_000);
        assert!(parse("").is_none());
    }
}
