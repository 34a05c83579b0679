//! `cachectl why`: reads, then renders.

use crate::From;
use crate::render;
use crate::source::Source;

pub async fn run(name: Option<&str>, from: &From) -> anyhow::Result<()> {
    let source = Source::open(from).await?;
    let now = jiff::Timestamp::now();
    let mut told = Vec::new();
    for found in source.caches(name).await? {
        told.push(match found {
            Ok(cache) => render::why(&cache, &source.events(&cache).await?, now),
            Err(unreadable) => render::unreadable("Cache", &unreadable),
        });
    }
    anstream::print!("{}", told.join("\n"));
    Ok(())
}
