//! The first line of a script: `#!lua flags=no-writes,allow-stale`.

/// What a script says of itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct ScriptFlags {
    /// It has a first line: without one nothing is known of it.
    pub declared: bool,
    pub no_writes: bool,
    pub allow_oom: bool,
    pub allow_stale: bool,
    pub no_cluster: bool,
    pub cross_slot: bool,
}

/// Reads the flags of a script, and where its code begins: at the end of the first line, which so keeps its number.
pub fn parse(script: &[u8]) -> Result<(ScriptFlags, usize), String> {
    let mut flags = ScriptFlags::default();
    if !script.starts_with(b"#!") {
        return Ok((flags, 0));
    }
    let Some(end) = script.iter().position(|&b| b == b'\n') else {
        return Err("Invalid script shebang".into());
    };
    let line = String::from_utf8_lossy(&script[..end]);
    let mut words = line.split(' ');
    match words.next() {
        Some("#!lua") => flags.declared = true,
        engine => {
            let engine = engine.unwrap_or_default();
            return Err(format!("Unexpected engine in script shebang: {engine}"));
        }
    }
    for word in words {
        let Some(list) = word.strip_prefix("flags=") else {
            return Err(format!("Unknown lua shebang option: {word}"));
        };
        // Nothing at all is no flag; nothing between two commas is one that there is not.
        for flag in list.split(',').filter(|_| !list.is_empty()) {
            match flag {
                "no-writes" => flags.no_writes = true,
                "allow-oom" => flags.allow_oom = true,
                "allow-stale" => flags.allow_stale = true,
                "no-cluster" => flags.no_cluster = true,
                "allow-cross-slot-keys" => flags.cross_slot = true,
                _ => return Err(format!("Unexpected flag in script shebang: {flag}")),
            }
        }
    }
    Ok((flags, end))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn first_lines_are_read_or_refused() {
        let plain = ScriptFlags::default();
        let lua = ScriptFlags {
            declared: true,
            ..plain
        };
        assert_eq!(parse(b"return 1"), Ok((plain, 0)));
        assert_eq!(parse(b""), Ok((plain, 0)));
        assert_eq!(parse(b"#!lua\nreturn 1"), Ok((lua, 5)));
        let all =
            b"#!lua flags=no-writes,allow-oom flags=allow-stale,no-cluster,allow-cross-slot-keys\n";
        let every = ScriptFlags {
            declared: true,
            no_writes: true,
            allow_oom: true,
            allow_stale: true,
            no_cluster: true,
            cross_slot: true,
        };
        assert_eq!(parse(all), Ok((every, all.len() - 1)));
        assert_eq!(parse(b"#!lua flags=\nreturn 1"), Ok((lua, 12)));
        let refused: [(&[u8], &str); 6] = [
            (b"#!lua", "Invalid script shebang"),
            (b"#!perl\n", "Unexpected engine in script shebang: #!perl"),
            (b"#!\n", "Unexpected engine in script shebang: #!"),
            (b"#!lua name=x\n", "Unknown lua shebang option: name=x"),
            (
                b"#!lua flags=no-writes,x\n",
                "Unexpected flag in script shebang: x",
            ),
            (
                b"#!lua flags=no-writes,\n",
                "Unexpected flag in script shebang: ",
            ),
        ];
        for (script, error) in refused {
            assert_eq!(parse(script), Err(error.into()));
        }
    }
}
