//! What comes to a control port, and what a peer's control port answers: commands, replies, topologies.

#![no_main]

use bytes::BytesMut;
use cache_node::cluster::topology::Known;
use cache_node::control::resp::{take_command, take_reply};
use libfuzzer_sys::fuzz_target;

fn all<T>(stream: &[u8], mut take: impl FnMut(&mut BytesMut) -> Option<T>) {
    let mut buffer = BytesMut::from(stream);
    let mut left = buffer.len();
    while take(&mut buffer).is_some() {
        assert!(buffer.len() < left, "no progress");
        left = buffer.len();
    }
}

fuzz_target!(|stream: &[u8]| {
    all(stream, |b| take_command(b, 1 << 20).ok().flatten());
    all(stream, |b| take_reply(b).ok().flatten());
    if let Ok(known) = Known::parse(stream) {
        // What was taken is kept, passed on and read again as the same.
        let again = Known::parse(known.json.as_bytes()).expect("it was read before");
        assert_eq!(again, known);
        let _ = known.topology.owners();
    }
});
