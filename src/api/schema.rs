//! Schemas that a derive cannot say.

use schemars::{Schema, SchemaGenerator, json_schema};

/// A quantity of memory, at least one byte. Users write it as a string (`1Gi`) or a number of bytes.
pub fn memory(_: &mut SchemaGenerator) -> Schema {
    quantity(
        "is not a quantity of memory: write a number with Ki, Mi, Gi or k, M, G (not KB, MB, GB), for example 512Mi",
    )
}

/// A quantity of CPU: cores (`2`) or thousandths of one (`500m`).
pub fn cpu(_: &mut SchemaGenerator) -> Schema {
    quantity("is not a quantity of CPU: write cores or thousandths of one, for example 2 or 500m")
}

/// The rules see the text or the number; `string()` makes them alike. A pattern is not used, as CEL, whose messages say the mend, is skipped after it.
fn quantity(message: &str) -> Schema {
    json_schema!({
        "x-kubernetes-int-or-string": true,
        "maxLength": 32,
        "x-kubernetes-validations": [
            {"rule": "isQuantity(string(self))", "messageExpression": format!("\"'\" + string(self) + \"' {message}\""), "message": message},
            {"rule": "!isQuantity(string(self)) || quantity(string(self)).isGreaterThan(quantity('0'))", "message": "must be more than 0"},
        ],
    })
}

pub fn non_negative_integer(_: &mut SchemaGenerator) -> Schema {
    json_schema!({"type": "integer", "format": "int64", "minimum": 0})
}

/// Labels, annotations and the like.
pub fn string_map(_: &mut SchemaGenerator) -> Schema {
    json_schema!({
        "type": "object",
        "maxProperties": 64,
        "additionalProperties": {"type": "string", "maxLength": 4096},
    })
}

/// An IANA time zone.
pub const TIME_ZONE_PATTERN: &str = "^[A-Za-z][A-Za-z0-9_+/-]*$";
