//! `cachectl status`: reads, then renders.

use cache_operator::api::{Cache, CacheBackup, CacheRegion};
use kube::ResourceExt;

use crate::source::{Found, Source};
use crate::{From, Output, render};

pub async fn run(name: Option<&str>, from: &From, output: Option<Output>) -> anyhow::Result<()> {
    let source = Source::open(from).await?;
    let found = source.caches(name).await?;
    let Some(output) = output else {
        anstream::print!("{}", text(&found, &source).await);
        return Ok(());
    };
    let (caches, unreadable): (Vec<_>, Vec<_>) = found.into_iter().partition(Result::is_ok);
    let caches: Vec<Cache> = caches.into_iter().flatten().collect();
    for unreadable in unreadable.iter().filter_map(|found| found.as_ref().err()) {
        anstream::eprint!("{}", render::unreadable("Cache", unreadable));
    }
    // One named object is that object; otherwise a list, even of one.
    match (output, caches.first().filter(|_| name.is_some())) {
        (Output::Json, Some(one)) => anstream::println!("{}", serde_json::to_string_pretty(one)?),
        (Output::Json, None) => anstream::println!("{}", serde_json::to_string_pretty(&caches)?),
        (Output::Yaml, Some(one)) => anstream::print!("{}", serde_yaml::to_string(one)?),
        (Output::Yaml, None) => anstream::print!("{}", serde_yaml::to_string(&caches)?),
    }
    Ok(())
}

async fn text(found: &[Found<Cache>], source: &Source) -> String {
    let now = jiff::Timestamp::now();
    // Who may read Caches only still sees them.
    let mut notes = Vec::new();
    let backups: Vec<CacheBackup> = readable("CacheBackup", source.backups().await, &mut notes);
    let regions: Vec<CacheRegion> = readable("CacheRegion", source.regions().await, &mut notes);
    let backups_of = |cache: &Cache| -> Vec<CacheBackup> {
        let name = cache.name_any();
        let own = backups.iter().filter(|b| b.spec.cache_ref.name == name);
        own.cloned().collect()
    };
    let regions_of = |cache: &Cache| -> Vec<CacheRegion> {
        let name = cache.name_any();
        let own = regions.iter().filter(|r| r.spec.cache_ref.name == name);
        own.cloned().collect()
    };
    let mut shown: Vec<String> = Vec::new();
    for cache in found {
        shown.push(match cache {
            Ok(cache) => format!(
                "{}{}{}",
                render::status(cache, now),
                render::regions(&regions_of(cache)),
                render::backups(&backups_of(cache), now)
            ),
            Err(unreadable) => render::unreadable("Cache", unreadable),
        });
    }
    shown.extend(notes);
    shown.join("\n")
}

/// Those that can be read; of the others a note.
fn readable<K>(
    kind: &str,
    found: anyhow::Result<Vec<Found<K>>>,
    notes: &mut Vec<String>,
) -> Vec<K> {
    let found = found.unwrap_or_else(|error| {
        notes.push(render::note(&format!("{error:#}")));
        Vec::new()
    });
    let unreadable = found.iter().filter_map(|found| found.as_ref().err());
    notes.extend(unreadable.map(|unreadable| render::unreadable(kind, unreadable)));
    found.into_iter().flatten().collect()
}
