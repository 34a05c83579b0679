//! Commands in any pieces, limits, and random bytes.

use super::*;

type Command = Vec<Vec<u8>>;

/// Parses all of a stream that comes in the given pieces, as a connection would.
fn parse_pieces<'a>(
    pieces: impl Iterator<Item = &'a [u8]>,
    authenticated: bool,
) -> Result<(Vec<Command>, usize), ProtocolError> {
    let mut parser = Parser::default();
    let (mut input, mut commands) = (Vec::new(), Vec::new());
    for piece in pieces {
        input.extend_from_slice(piece);
        loop {
            match parser.parse(&input, authenticated)? {
                Progress::Incomplete(needed) => {
                    assert!(needed > input.len());
                    break;
                }
                Progress::Nothing(length) => {
                    parser.next_frame();
                    input.drain(..length);
                }
                Progress::Command(length) => {
                    commands.push(parser.args(&input).iter().map(<[u8]>::to_vec).collect());
                    parser.next_frame();
                    input.drain(..length);
                }
            }
        }
    }
    Ok((commands, input.len()))
}

fn parse_all(stream: &[u8]) -> Result<Vec<Command>, ProtocolError> {
    parse_pieces(std::iter::once(stream), true).map(|(commands, _)| commands)
}

const STREAM: &[u8] =
    b"*3\r\n$3\r\nSET\r\n$1\r\nk\r\n$4\r\n\r\n\0x\r\n*0\r\n\r\nPING\r\n*-1\r\n  get 'a b'\n\
    *1\r\n$0\r\n\r\n*2\r\n$4\r\nECHO\r\n$11\r\n*1\r\n$1\r\nx\r\n\r\n";

fn expected() -> Vec<Command> {
    let commands: [&[&[u8]]; 5] = [
        &[b"SET", b"k", b"\r\n\0x"],
        &[b"PING"],
        &[b"get", b"a b"],
        &[b""],
        &[b"ECHO", b"*1\r\n$1\r\nx\r\n"],
    ];
    commands
        .iter()
        .map(|c| c.iter().map(|a| a.to_vec()).collect())
        .collect()
}

#[test]
fn a_stream_reads_the_same_in_whatever_pieces() {
    assert_eq!(parse_all(STREAM).unwrap(), expected());
    for first in 0..STREAM.len() {
        for second in first..STREAM.len() {
            let pieces = [&STREAM[..first], &STREAM[first..second], &STREAM[second..]];
            let (commands, rest) = parse_pieces(pieces.into_iter(), true).unwrap();
            assert_eq!(
                (commands, rest),
                (expected(), 0),
                "split at {first} and {second}"
            );
        }
    }
    let (commands, rest) = parse_pieces(STREAM.chunks(1), true).unwrap();
    assert_eq!((commands, rest), (expected(), 0));
}

#[test]
fn errors_are_redis_ones() {
    let long = [&b"*"[..], &vec![b'1'; INLINE_MAX + 2]].concat();
    let long_length = [&b"*1\r\n$"[..], &vec![b'1'; INLINE_MAX + 2]].concat();
    let long_inline = vec![b'a'; INLINE_MAX + 2];
    let table: [(&[u8], &str); 14] = [
        (b"*x\r\n", "Protocol error: invalid multibulk length"),
        (b"*\r\n", "Protocol error: invalid multibulk length"),
        (b"*1048577\r\n", "Protocol error: invalid multibulk length"),
        (
            b"*99999999999999999999\r\n",
            "Protocol error: invalid multibulk length",
        ),
        (b"*1\r\n+OK\r\n", "Protocol error: expected '$', got '+'"),
        (b"*1\r\n\r\n", "Protocol error: expected '$', got ' '"),
        (b"*1\r\n$-1\r\n", "Protocol error: invalid bulk length"),
        (b"*1\r\n$abc\r\n", "Protocol error: invalid bulk length"),
        (
            b"*1\r\n$536870913\r\n",
            "Protocol error: invalid bulk length",
        ),
        (
            b"*2\r\n$1\r\na\r\n$\r\n",
            "Protocol error: invalid bulk length",
        ),
        (&long, "Protocol error: too big mbulk count string"),
        (&long_length, "Protocol error: too big bulk count string"),
        (&long_inline, "Protocol error: too big inline request"),
        (
            b"GET \"a\r\n",
            "Protocol error: unbalanced quotes in request",
        ),
    ];
    for (stream, text) in table {
        let error = parse_all(stream).unwrap_err().to_string();
        assert_eq!(error, text);
    }
}

#[test]
fn before_auth_the_limits_are_small() {
    let parse = |stream: &[u8]| parse_pieces(std::iter::once(stream), false);
    assert!(parse(b"*10\r\n").is_ok());
    assert_eq!(parse(b"*11\r\n"), Err(ProtocolError::UnauthenticatedCount));
    assert!(parse(b"*1\r\n$16384\r\n").is_ok());
    let too_long = parse(b"*1\r\n$16385\r\n");
    assert_eq!(too_long, Err(ProtocolError::UnauthenticatedLength));
}

#[test]
fn a_big_argument_says_how_much_is_missing() {
    let mut parser = Parser::default();
    let head = b"*2\r\n$4\r\nECHO\r\n$1000000\r\n";
    let progress = parser.parse(head, true).unwrap();
    assert_eq!(progress, Progress::Incomplete(head.len() + 1_000_002));
}

/// Bounded fuzzing: streams of valid commands, mutated, in random pieces. Whatever comes, the parser neither panics nor depends on the pieces.
/// `CACHE_NODE_FUZZ_SECONDS` says for how long; without it, a moment.
#[test]
fn random_bytes_read_the_same_in_whatever_pieces() {
    let seconds = std::env::var("CACHE_NODE_FUZZ_SECONDS").ok();
    let seconds: f64 = seconds.map_or(0.5, |s| {
        s.parse()
            .expect("CACHE_NODE_FUZZ_SECONDS is a number of seconds")
    });
    let end = std::time::Instant::now() + std::time::Duration::from_secs_f64(seconds);
    let mut random = crate::store::tests::Lcg(0x5EED);
    let alphabet = b"*$+-0123456789\r\n \"'\\xaGET\0\xff";
    let mut rounds = 0u64;
    while rounds < 100 || std::time::Instant::now() < end {
        rounds += 1;
        let mut stream = STREAM.repeat(1 + random.below(2) as usize);
        for _ in 0..random.below(8) {
            let at = random.below(stream.len() as u64) as usize;
            let byte = alphabet[random.below(alphabet.len() as u64) as usize];
            match random.below(3) {
                0 => stream[at] = byte,
                1 => stream.insert(at, byte),
                _ => drop(stream.remove(at)),
            }
        }
        let authenticated = random.below(4) > 0;
        let whole = parse_pieces(std::iter::once(&stream[..]), authenticated);
        let size = 1 + random.below(9) as usize;
        let pieces = parse_pieces(stream.chunks(size), authenticated);
        assert_eq!(whole, pieces, "{stream:?} in pieces of {size}");
    }
}
