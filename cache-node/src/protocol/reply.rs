//! Writes replies, in the version of the protocol that the client has chosen.

use bytes::Bytes;

use super::output::Output;

/// The writer of a reply. An aggregate (array, map, …) is its head, followed by as many replies as it says.
#[derive(Debug)]
pub struct Reply<'o> {
    pub out: &'o mut Output,
    /// RESP3; else RESP2.
    pub resp3: bool,
}

impl Reply<'_> {
    pub fn simple(&mut self, text: &str) {
        self.line(b'+', text.as_bytes());
    }

    pub fn ok(&mut self) {
        self.out.push(b"+OK\r\n");
    }

    /// An error. Its first word is its code. Line ends become blanks.
    pub fn error(&mut self, text: &str) {
        self.out.push_byte(b'-');
        if text.contains(['\r', '\n']) {
            let one_line = text.replace(['\r', '\n'], " ");
            self.out.push(one_line.as_bytes());
        } else {
            self.out.push(text.as_bytes());
        }
        self.out.push(b"\r\n");
    }

    pub fn integer(&mut self, value: i64) {
        match value {
            0 => self.out.push(b":0\r\n"),
            1 => self.out.push(b":1\r\n"),
            _ => self.line(b':', itoa::Buffer::new().format(value).as_bytes()),
        }
    }

    pub fn unsigned(&mut self, value: u64) {
        self.line(b':', itoa::Buffer::new().format(value).as_bytes());
    }

    pub fn bulk(&mut self, bytes: &[u8]) {
        self.out.push_bulk(bytes);
    }

    pub fn text(&mut self, text: &str) {
        self.bulk(text.as_bytes());
    }

    /// A bulk string of so many bytes, which `fill` writes.
    pub fn bulk_filled(&mut self, length: usize, fill: impl FnOnce(&mut [u8])) {
        self.out.push_filled(length, fill);
    }

    /// A bulk string that is sent without being copied.
    pub fn bulk_shared(&mut self, value: Bytes) {
        self.head(b'$', value.len());
        self.out.push_shared(value);
        self.out.push(b"\r\n");
    }

    pub fn null(&mut self) {
        self.out
            .push(if self.resp3 { b"_\r\n" } else { b"$-1\r\n" });
    }

    pub fn null_array(&mut self) {
        self.out
            .push(if self.resp3 { b"_\r\n" } else { b"*-1\r\n" });
    }

    pub fn array(&mut self, length: usize) {
        self.head(b'*', length);
    }

    /// So many pairs; in RESP2 an array of twice as many.
    pub fn map(&mut self, pairs: usize) {
        if self.resp3 {
            self.head(b'%', pairs);
        } else {
            self.head(b'*', pairs * 2);
        }
    }

    pub fn set(&mut self, length: usize) {
        self.head(if self.resp3 { b'~' } else { b'*' }, length);
    }

    /// What comes without being asked for.
    pub fn push(&mut self, length: usize) {
        self.head(if self.resp3 { b'>' } else { b'*' }, length);
    }

    pub fn boolean(&mut self, value: bool) {
        match (self.resp3, value) {
            (true, true) => self.out.push(b"#t\r\n"),
            (true, false) => self.out.push(b"#f\r\n"),
            (false, value) => self.integer(i64::from(value)),
        }
    }

    /// The shortest text that reads back as the same number; in RESP2 a bulk string.
    pub fn double(&mut self, value: f64) {
        let text = super::double::format(value);
        if self.resp3 {
            self.line(b',', text.as_bytes());
        } else {
            self.text(&text);
        }
    }

    /// Text for people; in RESP2 a bulk string.
    pub fn verbatim(&mut self, text: &str) {
        if self.resp3 {
            self.head(b'=', text.len() + 4);
            self.out.push(b"txt:");
            self.out.push(text.as_bytes());
            self.out.push(b"\r\n");
        } else {
            self.text(text);
        }
    }

    fn head(&mut self, kind: u8, length: usize) {
        self.line(kind, itoa::Buffer::new().format(length).as_bytes());
    }

    fn line(&mut self, kind: u8, text: &[u8]) {
        self.out.push_byte(kind);
        self.out.push(text);
        self.out.push(b"\r\n");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    type Write = fn(&mut Reply<'_>);

    fn written(resp3: bool, write: Write) -> String {
        let mut out = Output::default();
        write(&mut Reply {
            out: &mut out,
            resp3,
        });
        let mut bytes = Vec::new();
        while !out.is_empty() {
            out.write_to(&mut bytes).unwrap();
        }
        String::from_utf8(bytes).unwrap()
    }

    #[test]
    fn both_versions_write_what_the_specification_says() {
        let table: [(Write, &str, &str); 20] = [
            (|r| r.simple("PONG"), "+PONG\r\n", "+PONG\r\n"),
            (|r| r.ok(), "+OK\r\n", "+OK\r\n"),
            (|r| r.error("ERR a\r\nb"), "-ERR a  b\r\n", "-ERR a  b\r\n"),
            (|r| r.integer(-7), ":-7\r\n", ":-7\r\n"),
            (
                |r| r.unsigned(u64::MAX),
                ":18446744073709551615\r\n",
                ":18446744073709551615\r\n",
            ),
            (|r| r.bulk(b"a\r\n"), "$3\r\na\r\n\r\n", "$3\r\na\r\n\r\n"),
            (
                |r| r.bulk_shared(Bytes::from_static(b"big")),
                "$3\r\nbig\r\n",
                "$3\r\nbig\r\n",
            ),
            (|r| r.bulk_shared(Bytes::new()), "$0\r\n\r\n", "$0\r\n\r\n"),
            (|r| r.null(), "$-1\r\n", "_\r\n"),
            (|r| r.null_array(), "*-1\r\n", "_\r\n"),
            (|r| r.array(2), "*2\r\n", "*2\r\n"),
            (|r| r.map(2), "*4\r\n", "%2\r\n"),
            (|r| r.set(2), "*2\r\n", "~2\r\n"),
            (|r| r.push(2), "*2\r\n", ">2\r\n"),
            (|r| r.boolean(true), ":1\r\n", "#t\r\n"),
            (|r| r.boolean(false), ":0\r\n", "#f\r\n"),
            (|r| r.double(1.5), "$3\r\n1.5\r\n", ",1.5\r\n"),
            (
                |r| r.double(f64::NEG_INFINITY),
                "$4\r\n-inf\r\n",
                ",-inf\r\n",
            ),
            (|r| r.double(3.0), "$1\r\n3\r\n", ",3\r\n"),
            (|r| r.verbatim("hi"), "$2\r\nhi\r\n", "=6\r\ntxt:hi\r\n"),
        ];
        for (write, resp2, resp3) in table {
            assert_eq!(written(false, write), resp2);
            assert_eq!(written(true, write), resp3);
        }
    }
}
