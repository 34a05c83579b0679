//! The CacheRegions of a Cache, as `cachectl status` shows them.

use cache_operator::api::{CacheRegion, CacheRegionStatus};
use kube::ResourceExt;

use super::Table;
use crate::style;

/// A table of them; empty without any.
pub fn regions(regions: &[CacheRegion]) -> String {
    if regions.is_empty() {
        return String::new();
    }
    let mut table = Table::new(&[
        "REGION",
        "PREFIX",
        "KEYS",
        "SIZE",
        "USED",
        "HIT%",
        "CONDITION",
    ]);
    for region in regions {
        let empty = CacheRegionStatus::default();
        let status = region.status.as_ref().unwrap_or(&empty);
        let number = |n: Option<i64>| n.map_or(String::new(), |n| n.to_string());
        table.row(vec![
            region.name_any(),
            status.key_prefix.clone().unwrap_or_default(),
            number(status.keys),
            status
                .size
                .clone()
                .unwrap_or_else(|| style::dim("no limit")),
            status.used.clone().unwrap_or_default(),
            number(status.hit_percent),
            condition(status),
        ]);
    }
    format!("\n{}", table.lines())
}

fn condition(status: &CacheRegionStatus) -> String {
    let Some(ready) = status.conditions.iter().find(|c| c.type_ == "Ready") else {
        return style::dim("not seen yet");
    };
    match ready.status.as_str() {
        "True" => style::good(&ready.reason),
        _ => format!("{}: {}", style::warn(&ready.reason), ready.message),
    }
}
