//! What goes wrong, in which order of chance, and what it may repeat.

use evoke_tests::load::SENDERS;

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

/// How many deliveries of a subscriber are under way at once when nobody says otherwise.
const MAX_IN_FLIGHT: usize = 100;

impl Fault {
    /// How many events it may deliver to a subscriber again, beside what is on the bus twice.
    pub(super) fn repeats(self) -> usize {
        match self {
            // What was delivered and not yet recorded when evoke died, or could not record for so long that it gave its work up.
            Self::KillEvoke
            | Self::FreezeEvoke
            | Self::KillServer
            | Self::FreezeServer
            | Self::CutLine
            | Self::HoldLine
            | Self::ChangeLeader => 2 * MAX_IN_FLIGHT,
            // What it took and did not answer for.
            Self::KillFunction => MAX_IN_FLIGHT,
            // What takes longer is no failure, no timer goes by the wall clock, and on a full disk positions wait to be recorded.
            Self::SetClockBack | Self::SetClockAhead | Self::FreezeFunction | Self::SlowLine | Self::FillDisk => 0,
        }
    }

    /// How many events it may put on the bus twice: those that are being published and are not answered for, one a sender.
    pub(super) fn stored_again(self) -> usize {
        match self {
            Self::KillEvoke
            | Self::KillServer
            | Self::FreezeServer
            | Self::CutLine
            | Self::HoldLine
            | Self::FillDisk
            | Self::ChangeLeader => SENDERS,
            Self::FreezeEvoke
            | Self::SetClockBack
            | Self::SetClockAhead
            | Self::KillFunction
            | Self::FreezeFunction
            | Self::SlowLine => 0,
        }
    }
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
