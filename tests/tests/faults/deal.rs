//! What goes wrong, and in which order of chance.

/// How many faults there are when nobody says otherwise, at the most.
pub(super) const MOST: u64 = 11;

/// What goes wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fault {
    KillEvoke,
    FreezeEvoke,
    /// evoke's wall clock goes back by an hour.
    SetClockBack,
    /// It goes ahead by one.
    SetClockAhead,
    KillFunction,
    FreezeFunction,
    KillServer,
    FreezeServer,
    CutLine,
    HoldLine,
    SlowLine,
    /// The disk below the embedded bus is full for a while.
    FillDisk,
    /// The server that leads is killed, and comes back once another one leads.
    ChangeLeader,
}

/// A seeded source of chance.
struct Dice(u64);

impl Dice {
    fn below(&mut self, n: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        usize::try_from((z ^ (z >> 31)) % n as u64).unwrap()
    }
}

/// So many of these faults in an order of chance; all of them come before any comes again.
pub(super) fn deal(faults: &[Fault], count: usize, seed: u64) -> Vec<Fault> {
    let mut dice = Dice(seed);
    let (mut dealt, mut left) = (Vec::new(), Vec::new());
    while dealt.len() < count {
        if left.is_empty() {
            left.extend_from_slice(faults);
        }
        dealt.push(left.swap_remove(dice.below(left.len())));
    }
    dealt
}

/// The number that a variable is set to, if it is.
pub(super) fn setting(name: &str) -> Option<u64> {
    let text = std::env::var(name).ok()?;
    Some(text.parse().unwrap_or_else(|_| panic!("{name}={text} is no number")))
}
