//! Loom's primitives in the shape of those that the server uses.

pub use loom::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering, fence};

/// Fewer lanes than the server has: each is one more lock in every interleaving.
pub const LANES: usize = 2;

loom::lazy_static! {
    static ref NEXT_LANE: AtomicUsize = AtomicUsize::new(0);
}
loom::thread_local! {
    static LANE: usize = NEXT_LANE.fetch_add(1, Ordering::Relaxed) % LANES;
}

/// The lane of this thread.
pub fn lane() -> usize {
    LANE.with(|lane| *lane)
}

/// A mutex that cannot be poisoned.
#[derive(Debug, Default)]
pub struct Mutex<T>(loom::sync::Mutex<T>);

/// Its guard. The inner one is taken out only while a condition variable waits.
pub struct MutexGuard<'a, T>(Option<loom::sync::MutexGuard<'a, T>>);

impl<T> Mutex<T> {
    pub fn lock(&self) -> MutexGuard<'_, T> {
        MutexGuard(Some(self.0.lock().expect("no test panics with the lock")))
    }
}

impl<T> std::ops::Deref for MutexGuard<'_, T> {
    type Target = T;
    fn deref(&self) -> &T {
        self.0.as_ref().expect("held")
    }
}

impl<T> std::ops::DerefMut for MutexGuard<'_, T> {
    fn deref_mut(&mut self) -> &mut T {
        self.0.as_mut().expect("held")
    }
}

#[derive(Debug, Default)]
pub struct Condvar(loom::sync::Condvar);

impl Condvar {
    pub fn notify_one(&self) {
        self.0.notify_one();
    }

    pub fn wait<T>(&self, guard: &mut MutexGuard<'_, T>) {
        let inner = guard.0.take().expect("held");
        guard.0 = Some(self.0.wait(inner).expect("no test panics with the lock"));
    }
}

/// A read-write lock that cannot be poisoned.
#[derive(Debug, Default)]
pub struct RwLock<T>(loom::sync::RwLock<T>);

impl<T> RwLock<T> {
    pub fn read(&self) -> loom::sync::RwLockReadGuard<'_, T> {
        self.0.read().expect("no test panics with the lock")
    }

    pub fn write(&self) -> loom::sync::RwLockWriteGuard<'_, T> {
        self.0.write().expect("no test panics with the lock")
    }
}

/// As an eventfd in epoll: a wake that comes before the wait ends it at once, and several may be one.
#[derive(Debug, Default)]
pub struct Waker {
    rung: Mutex<bool>,
    changed: Condvar,
}

impl Waker {
    pub fn wake(&self) -> std::io::Result<()> {
        *self.rung.lock() = true;
        self.changed.notify_one();
        Ok(())
    }

    pub fn wait(&self) {
        let mut rung = self.rung.lock();
        while !*rung {
            self.changed.wait(&mut rung);
        }
        *rung = false;
    }
}
