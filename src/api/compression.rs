//! What a Cache or a region says about compression of values.

use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use kube::KubeSchema;
use serde::{Deserialize, Serialize};

/// Strings are stored compressed where that makes them an eighth shorter; clients notice nothing.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, KubeSchema)]
#[x_kube(validation = Rule::new("!has(self.level) || self.type == 'Zstd'").message("level is of Zstd only: remove it, or set type: Zstd"))]
#[serde(rename_all = "camelCase")]
pub struct Compression {
    #[serde(rename = "type")]
    pub kind: CompressionType,
    /// 1 (quick) to 12 (small). 3 unless set.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 12))]
    pub level: Option<i32>,
    /// Shorter values stay as they are. 256 bytes unless set, 64Mi at most.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "super::schema::memory")]
    pub min_size: Option<Quantity>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
pub enum CompressionType {
    None,
    /// Quick.
    LZ4,
    /// Small.
    Zstd,
}
