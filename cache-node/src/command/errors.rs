//! Redis's error texts.

use super::Stop;
use crate::protocol::number::parse_i64;
use crate::store::{Fault, OutOfMemory};

pub const SYNTAX: &str = "ERR syntax error";
pub const NOT_INTEGER: &str = "ERR value is not an integer or out of range";
pub const NOT_FLOAT: &str = "ERR value is not a valid float";
pub const NO_SUCH_KEY: &str = "ERR no such key";
pub const SAME_OBJECT: &str = "ERR source and destination objects are the same";
pub const OUT_OF_MEMORY: &str = "OOM command not allowed when used memory > 'maxmemory'.";
pub const REGION_FULL: &str = "OOM command not allowed: the region of this key is full, and nothing in it may be evicted for this value.";
/// Nobody is told: the command is executed again.
pub const REGION_MAKES_ROOM: &str =
    "OOM command not allowed: room is being made in the region of this key.";
pub const STRING_TOO_LONG: &str = "ERR string exceeds maximum allowed size (proto-max-bulk-len)";
pub const DB_OUT_OF_RANGE: &str = "ERR DB index is out of range";
pub const CROSS_SLOT: &str = "CROSSSLOT Keys in request don't hash to the same slot";
pub const SLOT_NOT_SERVED: &str = "CLUSTERDOWN Hash slot not served";
pub const CLUSTER_DISABLED: &str = "ERR This instance has cluster support disabled";
pub const WRONG_TYPE: &str = "WRONGTYPE Operation against a key holding the wrong kind of value";
pub const NO_AUTH: &str = "NOAUTH Authentication required.";
pub const WRONG_PASSWORD: &str = "WRONGPASS invalid username-password pair or user is disabled.";
pub const UNDECLARED: &str =
    "ERR This command touches a key that its transaction or script has not declared";
pub const BUSY: &str =
    "BUSY Redis is busy running a script. You can only call SCRIPT KILL or SHUTDOWN NOSAVE.";
pub const READ_ONLY: &str = "READONLY You can't write against a read only replica.";

impl From<OutOfMemory> for Stop {
    fn from(full: OutOfMemory) -> Self {
        match full {
            OutOfMemory::Node => OUT_OF_MEMORY.into(),
            OutOfMemory::Region { waits: true } => REGION_MAKES_ROOM.into(),
            OutOfMemory::Region { waits: false } => REGION_FULL.into(),
        }
    }
}

impl From<Fault> for Stop {
    fn from(fault: Fault) -> Self {
        match fault {
            Fault::WrongType => WRONG_TYPE.into(),
            Fault::OutOfMemory(full) => full.into(),
        }
    }
}

pub fn wrong_arity(name: &str) -> Stop {
    format!("ERR wrong number of arguments for '{name}' command").into()
}

pub fn invalid_expire(name: &str) -> Stop {
    format!("ERR invalid expire time in '{name}' command").into()
}

/// A number of a database, of which there is one: in the order of Redis's checks.
pub fn database(text: &[u8]) -> Result<i32, Stop> {
    const RANGE: &str = "ERR value is out of range, value must between -2147483648 and 2147483647";
    let number = parse_i64(text).ok_or(NOT_INTEGER)?;
    Ok(i32::try_from(number).map_err(|_| RANGE)?)
}
