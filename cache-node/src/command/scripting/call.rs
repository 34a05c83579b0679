//! Who executes the commands of the script that this thread runs: lent to Lua's callbacks, which may borrow nothing themselves.

use std::borrow::Cow;
use std::cell::Cell;
use std::ptr::NonNull;

use crate::protocol::Words;

/// What a script can ask of the node.
pub trait Caller {
    /// Executes a command. Gives the reply's bytes, or why it was refused: the text of an error, without a code if that is `ERR`.
    fn command(&mut self, words: &Words, resp3: bool) -> Result<Vec<u8>, Cow<'static, str>>;

    /// Whether the script's user may execute a command; None: there is no such command.
    fn may(&mut self, words: &Words) -> Option<bool>;
}

thread_local! {
    static LENT: Cell<Option<NonNull<dyn Caller>>> = const { Cell::new(None) };
}

/// Ends a loan, also when its script panics.
struct Loan(Option<NonNull<dyn Caller>>);

impl Drop for Loan {
    fn drop(&mut self) {
        LENT.set(self.0);
    }
}

/// Lends a caller to the callbacks of what `run` runs on this thread.
pub fn lend<R>(caller: &mut dyn Caller, run: impl FnOnce() -> R) -> R {
    let pointer = NonNull::from(caller);
    // SAFETY: only the lifetime is changed. The pointer is taken back, by `Loan`, before this function is left, so nobody has it when the
    // caller's borrow ends.
    let pointer = unsafe {
        std::mem::transmute::<NonNull<dyn Caller + '_>, NonNull<dyn Caller + 'static>>(pointer)
    };
    let _loan = Loan(LENT.replace(Some(pointer)));
    run()
}

/// Uses the caller that was lent. None: there is none, or it is in use.
pub fn borrow<R>(f: impl FnOnce(&mut dyn Caller) -> R) -> Option<R> {
    // Taken out while it is used, so that there are never two references to it.
    let mut pointer = LENT.take()?;
    let _back = Loan(Some(pointer));
    // SAFETY: whoever lends it waits in `lend` and does not touch it, on this thread; nobody else has it, as it was taken out.
    Some(f(unsafe { pointer.as_mut() }))
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Counts(usize);
    impl Caller for Counts {
        fn command(&mut self, words: &Words, _: bool) -> Result<Vec<u8>, Cow<'static, str>> {
            self.0 += 1;
            // It is in use.
            assert!(borrow(|_| ()).is_none());
            Ok(words.args().at(0).to_vec())
        }
        fn may(&mut self, _: &Words) -> Option<bool> {
            None
        }
    }

    #[test]
    fn is_lent_to_one_at_a_time_and_taken_back() {
        let words: Words = [&b"GET"[..]].into_iter().collect();
        let mut counts = Counts(0);
        assert!(borrow(|_| ()).is_none());
        lend(&mut counts, || {
            for _ in 0..2 {
                assert_eq!(
                    borrow(|c| c.command(&words, false)),
                    Some(Ok(b"GET".to_vec()))
                );
            }
        });
        assert!(borrow(|_| ()).is_none());
        let panicked = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            lend(&mut counts, || panic!("a script's callback"));
        }));
        assert!(panicked.is_err() && borrow(|_| ()).is_none());
        assert_eq!(counts.0, 2);
    }
}
