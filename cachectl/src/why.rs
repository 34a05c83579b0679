//! `cachectl why`: reads, then renders.

use crate::From;
use crate::render;
use crate::source::Source;

pub async fn run(name: Option<&str>, from: &From) -> anyhow::Result<()> {
    let source = Source::open(from).await?;
    let now = jiff::Timestamp::now();
    let mut told = Vec::new();
    for cache in source.caches(name).await? {
        let events = source.events(&cache).await?;
        told.push(render::why(&cache, &events, now));
    }
    anstream::print!("{}", told.join("\n"));
    Ok(())
}
