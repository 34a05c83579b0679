//! How regions change while the node serves: domain by domain, some buckets under each lock. Up to a cursor items count by the new regions,
//! beyond by the old ones, as whoever changes an item meanwhile sees by its position.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Instant;

use super::super::compress::Setting;
use super::super::domain::Domain;
use super::super::eviction::Eviction;
use super::super::guard::Guard;
use super::super::item::ItemRef;
use super::super::pages::Ref;
use super::super::point::{DOMAINS, Point, SLOTS_PER_DOMAIN, domain_of, hash_of};
use super::super::steps::Step;
use super::super::{PolicyKind, Store};
use super::{Region, RegionSpec, RegionStats, Regions, Ttl};

/// Buckets that are looked at under one lock, and slots without any.
const BUCKETS: usize = 32;

/// The regions of a domain. A domain without any has none of this.
#[derive(Debug, Clone)]
pub struct DomainRegions {
    now: Arc<Regions>,
    before: Option<Before>,
}

/// While items are counted anew.
#[derive(Debug, Clone)]
struct Before {
    regions: Arc<Regions>,
    /// What is before this is done: a slot of the domain and a position in it.
    upto: (u16, u64),
}

impl DomainRegions {
    /// The region that counts a key.
    fn of(&self, slot: u16, pos: impl FnOnce() -> u64, key: &[u8]) -> Option<&Arc<Region>> {
        match &self.before {
            Some(before) if (slot % SLOTS_PER_DOMAIN, pos()) >= before.upto => {
                before.regions.find(key)
            }
            _ => self.now.find(key),
        }
    }

    /// An item of a slot, which these regions were to count when it was cleared, is freed.
    pub fn forget(&self, slot: u16, item: ItemRef<'_>, seed: u64) {
        if let Some(region) = self.of(slot, || hash_of(item.key(), seed) >> 16, item.key()) {
            region.add(-1, -(item.bytes() as i64));
        }
    }
}

/// A change under way.
#[derive(Debug)]
pub struct Settling {
    to: Arc<Regions>,
    domain: usize,
    begun: bool,
}

impl Store {
    /// Sets the regions; `hash` names the list. Settings of those that stay hold at once, which key belongs where with
    /// [`Store::settle_regions`].
    pub fn set_regions(&self, specs: &[RegionSpec], hash: &str) {
        let mut target = self.regions.target.lock();
        let regions = specs.iter().map(|spec| {
            let same = |r: &&Arc<Region>| r.name == spec.name && *r.prefix == *spec.prefix;
            match target.all().find(same) {
                Some(region) => {
                    region.configure(spec);
                    region.clone()
                }
                None => Arc::new(Region::new(spec)),
            }
        });
        *target = Arc::new(Regions::new(regions.collect(), hash.into()));
        let evicts = specs.iter().any(|s| s.policy != PolicyKind::NoEviction);
        self.regions.evicts.store(evicts, Ordering::Relaxed);
        self.compression
            .note_regions(specs.iter().map(|s| s.compression));
        drop(target);
        self.call_for_room();
    }

    /// The default expiry of keys that are in no region.
    pub fn set_default_ttl(&self, ttl: Ttl) {
        self.regions.ttl.set(ttl);
    }

    /// What is done with the values of a key by the region it is in.
    pub(in crate::store) fn region_compression(&self, key: &[u8]) -> Option<Setting> {
        let target = self.regions.target.lock();
        target.find(key).map(|region| region.compression.get())
    }

    /// Names the list of regions that every item is counted by.
    pub fn regions_hash(&self) -> String {
        self.regions.in_force.lock().hash.clone()
    }

    /// What was set last, in the order of prefixes.
    pub fn region_stats(&self) -> Vec<RegionStats> {
        let held = self.regions.held_slots();
        let target = self.regions.target();
        target.all().map(|r| r.stats(held)).collect()
    }

    /// Brings regions that were set into force, until that is done or the time is over. Whether there is more to do. Called by a background
    /// thread.
    pub fn settle_regions(&self, until: Instant) -> bool {
        let mut settling = self.regions.settling.lock();
        loop {
            let state = match &mut *settling {
                Some(state) => state,
                none => {
                    let to = self.regions.target();
                    if Arc::ptr_eq(&to, &self.regions.in_force.lock()) {
                        return false;
                    }
                    none.insert(Settling {
                        to,
                        domain: 0,
                        begun: false,
                    })
                }
            };
            while state.domain < DOMAINS {
                let mut guard = self.lock_domains(std::iter::once(state.domain));
                let more = self.steps.time(Step::Regions, || {
                    guard.settle_some(state.domain, &state.to, state.begun)
                });
                drop(guard);
                state.begun = more;
                state.domain += usize::from(!more);
                if Instant::now() >= until {
                    return true;
                }
            }
            *self.regions.in_force.lock() = state.to.clone();
            *settling = None;
        }
    }
}

impl Guard<'_> {
    /// The region that counts a key, if there is one.
    pub(in crate::store) fn region(&self, p: Point, key: &[u8]) -> Option<&Arc<Region>> {
        let regions = self.domain(p.slot).regions.as_deref()?;
        regions.of(p.slot, || p.pos(), key)
    }

    /// The region that counts an item.
    fn region_at(&self, slot: u16, at: Ref) -> Option<&Arc<Region>> {
        let regions = self.domain(slot).regions.as_deref()?;
        let key = self.item(at).key();
        regions.of(slot, || hash_of(key, self.store().seed) >> 16, key)
    }

    /// Who evicts an item.
    pub(in crate::store) fn eviction_at(&self, slot: u16, at: Ref) -> &Eviction {
        let region = self.region_at(slot, at);
        region.map_or(&self.store().eviction, |r| &r.eviction)
    }

    /// Who evicts a key's item.
    pub(in crate::store) fn eviction_of(&self, p: Point, key: &[u8]) -> &Eviction {
        let region = self.region(p, key);
        region.map_or(&self.store().eviction, |r| &r.eviction)
    }

    /// Counts that an item's region has so many keys and bytes more.
    pub(in crate::store) fn account(&self, slot: u16, at: Ref, keys: i64, bytes: i64) {
        let Some(region) = self.region_at(slot, at) else {
            return;
        };
        region.add(keys, bytes);
        if bytes > 0 && region.wants_eviction(self.store().regions.held_slots()) {
            self.store().call_for_room();
        }
    }

    /// Counts a read of a key by an application.
    pub fn count_read(&self, p: Point, key: &[u8], hit: bool) {
        if self.domain(p.slot).regions.is_some()
            && let Some(region) = self.region(p, key)
        {
            region.read(domain_of(p.slot), hit);
        }
    }

    /// The expiry of a key that is written without one: its region's default, or that of keys in no region. What follows another node's
    /// word has none but what it is told.
    pub fn default_expiry(&self, p: Point, key: &[u8], now_ms: u64) -> Option<u64> {
        if self.is_told() {
            return None;
        }
        let ttl = match self.domain(p.slot).regions.as_deref() {
            None => self.store().regions.ttl.get(),
            Some(regions) => match regions.now.find(key) {
                Some(region) => region.ttl.get(),
                None => self.store().regions.ttl.get(),
            },
        };
        ttl.expiry(now_ms, p.hash)
    }

    /// Goes on with the change of a domain's regions. Whether there is more to do.
    fn settle_some(&mut self, domain: usize, to: &Arc<Regions>, begun: bool) -> bool {
        let first = domain as u16 * SLOTS_PER_DOMAIN;
        if !begun && !self.begin_to_settle(to) {
            return false;
        }
        for _ in 0..BUCKETS {
            let Some((slot, pos)) = self.settles_at() else {
                return false;
            };
            if slot >= SLOTS_PER_DOMAIN {
                self.each_domain(Domain::settled);
                return false;
            }
            let next = self.settle_bucket(first + slot, pos, to);
            let upto = next.map_or((slot + 1, 0), |pos| (slot, pos));
            self.each_domain(|domain| {
                let regions = domain.regions.as_mut();
                if let Some(before) = regions.and_then(|r| r.before.as_mut()) {
                    before.upto = upto;
                }
            });
        }
        true
    }

    /// False: there is nothing to be counted anew.
    fn begin_to_settle(&mut self, to: &Arc<Regions>) -> bool {
        let mut counts = true;
        self.each_domain(|domain| {
            let before = domain.regions.take().map(|r| r.now).unwrap_or_default();
            counts = !before.maps_like(to);
            domain.regions = Some(Box::new(DomainRegions {
                now: to.clone(),
                before: counts.then_some(Before {
                    regions: before,
                    upto: (0, 0),
                }),
            }));
            if !counts {
                domain.settled();
            }
        });
        counts
    }

    fn settles_at(&mut self) -> Option<(u16, u64)> {
        let mut at = None;
        self.each_domain(|domain| {
            let before = domain.regions.as_ref().and_then(|r| r.before.as_ref());
            at = before.map(|b| b.upto);
        });
        at
    }

    /// Counts the items of a bucket anew. Gives where the next one begins.
    fn settle_bucket(&mut self, slot: u16, pos: u64, to: &Regions) -> Option<u64> {
        let store = self.store();
        if self.table(slot).is_empty() {
            return None;
        }
        let hash = |at| hash_of(self.item(at).key(), store.seed);
        let (refs, next) = self.table(slot).bucket_at(pos, &hash);
        for at in refs {
            let item = self.item(at);
            let (old, new) = (self.region_at(slot, at), to.find(item.key()));
            if old.map(Arc::as_ptr) == new.map(Arc::as_ptr) {
                continue;
            }
            let bytes = item.bytes() as i64;
            old.inspect(|region| region.add(-1, -bytes));
            new.inspect(|region| region.add(1, bytes));
            let eviction = new.map_or(&store.eviction, |region| &region.eviction);
            let hash = hash(at);
            eviction.inserted(Point { slot, hash });
        }
        next
    }
}

impl Domain {
    fn settled(&mut self) {
        match &mut self.regions {
            Some(regions) if !regions.now.is_empty() => regions.before = None,
            _ => self.regions = None,
        }
    }
}
