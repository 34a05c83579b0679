//! Application requests: whatever comes, the parser neither panics nor depends on the pieces that it comes in.

#![no_main]

use cache_node::protocol::parse::{Parser, Progress, ProtocolError};
use libfuzzer_sys::fuzz_target;

type Commands = Vec<Vec<Vec<u8>>>;

fn read<'a>(
    pieces: impl Iterator<Item = &'a [u8]>,
    authenticated: bool,
) -> Result<(Commands, usize), ProtocolError> {
    let mut parser = Parser::default();
    let (mut input, mut commands) = (Vec::new(), Vec::new());
    for piece in pieces {
        input.extend_from_slice(piece);
        loop {
            let length = match parser.parse(&input, authenticated)? {
                Progress::Incomplete(needed) => {
                    assert!(needed > input.len(), "nothing more is needed");
                    break;
                }
                Progress::Nothing(length) => length,
                Progress::Command(length) => {
                    commands.push(parser.args(&input).iter().map(<[u8]>::to_vec).collect());
                    length
                }
            };
            assert!(length > 0, "no progress");
            parser.next_frame();
            input.drain(..length);
        }
    }
    Ok((commands, input.len()))
}

fuzz_target!(|input: (u8, bool, &[u8])| {
    let (size, authenticated, stream) = input;
    let whole = read(std::iter::once(stream), authenticated);
    let pieces = read(stream.chunks(usize::from(size % 16) + 1), authenticated);
    assert_eq!(whole, pieces);
});
