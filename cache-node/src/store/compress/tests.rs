use super::codec::*;
use super::*;
use crate::limits::*;
use crate::store::ValueRef;
use crate::store::tests::Lcg;

const METHODS: [Method; 4] = [
    Method::Lz4,
    Method::Zstd { level: 1 },
    Method::Zstd { level: 3 },
    Method::Zstd {
        level: COMPRESSION_LEVEL_MAX,
    },
];

#[test]
fn methods_read_back_as_written_and_others_say_what_may_be() {
    for text in ["none", "lz4", "zstd:1", "zstd:3"] {
        assert_eq!(text.parse::<Method>().unwrap().to_string(), text);
    }
    assert_eq!("zstd".parse(), Ok(Method::Zstd { level: 3 }));
    let compression = Compression::default();
    for method in METHODS.into_iter().chain([Method::None]) {
        compression.set_method(method);
        assert_eq!(compression.setting().method, method);
    }
    for text in [
        "", "LZ4", "lz4:1", "zstd:", "zstd:0", "zstd:99", "zstd:-1", "gzip",
    ] {
        let why = text.parse::<Method>().unwrap_err();
        assert!(why.contains("zstd"), "{text}: {why}");
    }
}

#[test]
fn what_shrinks_is_packed_and_unpacks_and_what_does_not_is_left() {
    let mut random = Lcg(11);
    for method in METHODS {
        for length in [0usize, 1, 4, 5, 16, 31, 100, 1_000, 20_000, 300_000] {
            let even = vec![7; length];
            let text: Vec<u8> = (0..length).map(|i| b"a text, "[i % 8]).collect();
            let noise: Vec<u8> = (0..length).map(|_| random.below(256) as u8).collect();
            for plain in [&even, &text] {
                let packed = pack(plain, method);
                if length >= 100 {
                    assert!(packed.is_some(), "{method} {length}");
                }
                if let Some(packed) = packed {
                    assert!(packed.len() <= length - length.div_ceil(8));
                    assert_eq!(plain_len(&packed), length);
                    assert_eq!(plain_of(&packed).as_ref(), Some(plain));
                    let kept = Packed(ValueRef::Inline(&packed)).keep();
                    assert_eq!(&kept.unpack(), plain);
                    assert!(Sound::check(&packed).is_some());
                }
            }
            assert!(pack(&noise, method).is_none(), "{method} {length}");
        }
    }
}

#[test]
fn what_is_damaged_is_refused() {
    let plain: Vec<u8> = (0..5_000u32).map(|i| (i / 7) as u8).collect();
    for method in METHODS {
        let packed = pack(&plain, method).unwrap().to_vec();
        for end in 0..packed.len() {
            assert!(Sound::check(&packed[..end]).is_none(), "{method} {end}");
        }
        for (byte, value) in [(0, packed[0] ^ 1), (3, packed[3] ^ 0xC0), (3, 0x7F)] {
            let mut damaged = packed.clone();
            damaged[byte] = value;
            assert!(Sound::check(&damaged).is_none(), "{method} {byte}");
        }
        let mut random = Lcg(3);
        for _ in 0..2_000 {
            let mut damaged = packed.clone();
            let at = random.below(damaged.len() as u64) as usize;
            damaged[at] = random.below(256) as u8;
            // Either refused or other bytes of the same length: never a panic.
            if let Some(sound) = Sound::check(&damaged) {
                assert_eq!(
                    plain_of(sound.bytes()).map(|p| p.len()),
                    Some(plain_len(&damaged))
                );
            }
        }
    }
}
