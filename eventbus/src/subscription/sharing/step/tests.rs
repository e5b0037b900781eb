//! Thousands of histories of processes that come, die, pause, leave and come back, each deciding on what it saw last.

use std::collections::BTreeMap;

use bytes::Bytes;
use proptest::prelude::*;

use super::*;

const DEAD: Duration = Duration::from_secs(10);
const OBJECT: &str = "trigger/shop/t";

fn work(partitions: u16) -> Work {
    Work { partitions, split: ["s".into()].into(), whole: ["join".into()].into() }
}

fn name(n: usize) -> Name {
    format!("evoke-{n}").into()
}

/// A document in which these processes have found to each other, one decision after the other.
fn settled(names: &[Name], partitions: u16) -> Document {
    settle(Document::default(), names, partitions, &Beats::default(), Instant::now())
}

fn settle(mut document: Document, names: &[Name], partitions: u16, beats: &Beats, now: Instant) -> Document {
    let (work, held) = (work(partitions), BTreeSet::new());
    for _ in 0..3 {
        for name in names {
            let me = Me { name, tenure: &"t".into(), work: Some(&work), held: &held };
            document = step(&document, OBJECT, beats, DEAD, &me, now);
        }
    }
    document
}

/// Every other process is dead.
fn only(alive: &[Name], all: &[Name]) -> (Beats, Instant) {
    let (mut beats, then) = (Beats::default(), Instant::now());
    let members = all.iter().cloned().collect();
    let found = |count: &'static str| all.iter().map(|name| (name.clone(), Bytes::from_static(count.as_bytes())));
    beats.observe(then, &found("1").collect(), &members);
    let mut later: BTreeMap<_, _> = found("1").collect();
    later.extend(found("2").filter(|(name, _)| alive.contains(name)));
    let now = then + DEAD;
    beats.observe(now, &later, &members);
    (beats, now)
}

fn loads(document: &Document) -> BTreeMap<Name, usize> {
    let mut loads = BTreeMap::new();
    for (unit, owner) in &document.owners {
        if matches!(unit, Unit::Partition(_)) {
            *loads.entry(owner.clone()).or_default() += 1;
        }
    }
    loads
}

fn moved(from: &Document, to: &Document) -> usize {
    to.owners.iter().filter(|(unit, owner)| from.owners.get(*unit).is_some_and(|before| before != *owner)).count()
}

proptest! {
    #[test]
    fn everything_is_owned_and_evenly_once_the_members_are_stable(count in 1usize..9, partitions in 1u16..65) {
        let names: Vec<_> = (0..count).map(name).collect();
        let document = settled(&names, partitions);
        prop_assert_eq!(document.owners.len(), usize::from(partitions) + 1);
        let most = usize::from(partitions).div_ceil(count);
        prop_assert!(loads(&document).values().all(|load| *load <= most), "{:?}", loads(&document));
        let again = settle(document.clone(), &names, partitions, &Beats::default(), Instant::now());
        prop_assert_eq!(again, document, "nothing is left to change");
    }

    #[test]
    fn who_owns_what_follows_from_who_is_there(count in 1usize..8, partitions in 1u16..65, salt in 0usize..1000) {
        let names: Vec<_> = (0..=count).map(|n| name(salt * 100 + n)).collect();
        let (without, with) = (settled(&names[..count], partitions), settled(&names, partitions));
        let came = settle(without.clone(), &names, partitions, &Beats::default(), Instant::now());
        prop_assert_eq!(&came.owners, &with.owners, "the way there does not matter");
        let (beats, now) = only(&names[..count], &names);
        let died = settle(with.clone(), &names[..count], partitions, &beats, now);
        prop_assert_eq!(&died.owners, &without.owners);
    }

    #[test]
    fn a_partition_of_every_trigger_goes_to_the_same_process(count in 1usize..9, partitions in 1u16..65) {
        let members = (0..count)
            .map(|n| (name(n), Member { tenure: "t".into(), work: work(partitions) }))
            .collect();
        let of = |object| {
            let mut all = rightful(&members, object);
            all.retain(|unit, _| matches!(unit, Unit::Partition(_)));
            all
        };
        prop_assert_eq!(of("trigger/shop/a"), of("trigger/shop/b"));
    }

    /// Processes decide in any order on documents that others have changed meanwhile; a store holds only for the document that was
    /// read. Whatever happens, nothing that a living process holds is given to another.
    #[test]
    fn one_owner(actions in proptest::collection::vec((0usize..4, 0u8..8), 1..400)) {
        let mut world = World::new(8);
        for (who, what) in actions {
            world.act(who, what);
            world.check();
        }
        world.settle();
    }
}

/// One set of names may be unlucky: what a newcomer takes makes room that others fill. It is the many that tell.
#[test]
fn on_average_little_more_moves_than_what_a_newcomer_gets() {
    for count in 1..8 {
        for partitions in (1u16..65).step_by(7) {
            let moves = (0..32).map(|salt| {
                let names: Vec<_> = (0..=count).map(|n| name(salt * 100 + n)).collect();
                moved(&settled(&names[..count], partitions), &settled(&names, partitions))
            });
            let average = moves.sum::<usize>() as f64 / 32.0;
            let share = usize::from(partitions).div_ceil(count + 1) as f64;
            assert!(average <= 2.0 * share + 2.0, "{average} of {partitions} moved among {count}, a share is {share}");
        }
    }
}

#[test]
fn nothing_is_given_away_before_it_is_released() {
    let (one, two) = (name(1), name(2));
    let alone = settled(std::slice::from_ref(&one), 8);
    let work = work(8);
    let held: BTreeSet<_> = alone.owners.keys().cloned().collect();
    let (tenure, none) = (Arc::from("t"), BTreeSet::new());
    let newcomer = Me { name: &two, tenure: &tenure, work: Some(&work), held: &none };
    let now = Instant::now();
    let joined = step(&alone, OBJECT, &Beats::default(), DEAD, &newcomer, now);
    assert_eq!(joined.owners, alone.owners);
    let holder = Me { name: &one, tenure: &tenure, work: Some(&work), held: &held };
    assert_eq!(step(&joined, OBJECT, &Beats::default(), DEAD, &holder, now), joined);
    let keeps = granted(&joined, OBJECT, &one, "t");
    assert!(keeps.len() < 9 && !keeps.is_empty());
    let holder = Me { held: &keeps, ..holder };
    let given = step(&joined, OBJECT, &Beats::default(), DEAD, &holder, now);
    assert_eq!(granted(&given, OBJECT, &one, "t"), keeps);
    assert_eq!(granted(&given, OBJECT, &two, "t").len(), 9 - keeps.len());
}

#[test]
fn a_restart_takes_its_own_back_but_only_in_its_new_tenure() {
    let names = [name(1), name(2)];
    let document = settled(&names, 8);
    let (work, held) = (work(8), BTreeSet::new());
    let me = Me { name: &names[0], tenure: &"t2".into(), work: Some(&work), held: &held };
    assert_eq!(granted(&document, OBJECT, &names[0], "t2"), BTreeSet::new());
    let back = step(&document, OBJECT, &Beats::default(), DEAD, &me, Instant::now());
    assert_eq!(back.owners, document.owners);
    assert_eq!(granted(&back, OBJECT, &names[0], "t2"), granted(&document, OBJECT, &names[0], "t"));
    assert_eq!(granted(&back, OBJECT, &names[0], "t"), BTreeSet::new());
}

#[test]
fn who_leaves_gives_everything_to_those_who_stay() {
    let names = [name(1), name(2)];
    let document = settled(&names, 8);
    let held: BTreeSet<_> = document.owned_by(&names[0]).take(1).cloned().collect();
    let tenure = Arc::from("t");
    let leaver = Me { name: &names[0], tenure: &tenure, work: None, held: &held };
    let (beats, now) = (Beats::default(), Instant::now());
    let half = step(&document, OBJECT, &beats, DEAD, &leaver, now);
    assert_eq!(half.owned_by(&names[0]).cloned().collect::<BTreeSet<_>>(), held);
    let none = BTreeSet::new();
    let gone = step(&half, OBJECT, &beats, DEAD, &Me { held: &none, ..leaver }, now);
    assert_eq!(gone.members.keys().cloned().collect::<Vec<_>>(), [names[1].clone()]);
    assert!(gone.owners.len() == 9 && gone.owners.values().all(|owner| *owner == names[1]));
}

#[test]
fn what_one_process_splits_another_does_not_have_as_a_whole() {
    let (one, two) = (name(1), name(2));
    let split = Work { partitions: 4, split: ["s".into()].into(), whole: BTreeSet::new() };
    let whole = Work { partitions: 0, split: BTreeSet::new(), whole: ["s".into()].into() };
    let (beats, now, held, tenure) = (Beats::default(), Instant::now(), BTreeSet::new(), Arc::from("t"));
    let splits = Me { name: &one, tenure: &tenure, work: Some(&split), held: &held };
    let takes = Me { name: &two, tenure: &tenure, work: Some(&whole), held: &held };
    let document = step(&Document::default(), OBJECT, &beats, DEAD, &splits, now);
    let document = step(&document, OBJECT, &beats, DEAD, &takes, now);
    assert_eq!(granted(&document, OBJECT, &two, "t"), BTreeSet::new());
    let document = step(&document, OBJECT, &beats, DEAD, &Me { work: Some(&whole), ..splits }, now);
    let document = step(&document, OBJECT, &beats, DEAD, &takes, now);
    assert_eq!(document.owners.keys().cloned().collect::<Vec<_>>(), [Unit::Whole("s".into())]);
}

/// A process, as the model has it.
struct Process {
    name: Name,
    alive: bool,
    tenures: usize,
    leaving: bool,
    /// What it works on, in the present tenure.
    held: BTreeSet<Unit>,
    seen: Option<(u64, Document)>,
    beats: Beats,
    looked: Instant,
    /// The last beat that was stored, and when.
    beaten: Instant,
}

struct World {
    partitions: u16,
    now: Instant,
    document: Document,
    revision: u64,
    counts: BTreeMap<Name, (u64, Bytes)>,
    processes: Vec<Process>,
}

const LAPSE: Duration = Duration::from_secs(7);

impl World {
    fn new(partitions: u16) -> Self {
        let now = Instant::now();
        let process = |n| Process {
            name: name(n),
            alive: true,
            tenures: 1,
            leaving: false,
            held: BTreeSet::new(),
            seen: None,
            beats: Beats::default(),
            looked: now,
            beaten: now,
        };
        let processes: Vec<_> = (0..4).map(process).collect();
        let counts = processes.iter().map(|p| (p.name.clone(), (0, Bytes::from_static(b"0")))).collect();
        Self { partitions, now, document: Document::default(), revision: 0, counts, processes }
    }

    fn tenure(process: &Process) -> Arc<str> {
        format!("{}.{}", process.name, process.tenures).into()
    }

    fn act(&mut self, who: usize, what: u8) {
        match what {
            // Time goes on; nobody beats meanwhile.
            0 => self.now += Duration::from_secs(1 + who as u64 * 2),
            1 => self.beat(who),
            2 | 3 => self.look(who),
            4 => self.decide(who),
            5 => self.work(who),
            6 => {
                // What the others see is unchanged: it is only stopped, or cut off.
                let process = &mut self.processes[who];
                process.alive = !process.alive;
            }
            _ => self.processes[who].leaving ^= true,
        }
        let now = self.now;
        for process in &mut self.processes {
            if now - process.beaten >= LAPSE {
                process.held.clear();
            }
        }
    }

    fn beat(&mut self, who: usize) {
        let (now, process) = (self.now, &mut self.processes[who]);
        if !process.alive {
            return;
        }
        if now - process.beaten >= LAPSE {
            process.tenures += 1;
            process.held.clear();
        }
        process.beaten = now;
        let count = self.counts.get_mut(&process.name).unwrap();
        count.0 += 1;
        count.1 = count.0.to_string().into();
    }

    fn look(&mut self, who: usize) {
        let process = &mut self.processes[who];
        if process.alive {
            let found = self.counts.iter().map(|(name, (_, value))| (name.clone(), value.clone())).collect();
            process.beats.observe(self.now, &found, &self.document.members.keys().cloned().collect());
            (process.looked, process.seen) = (self.now, Some((self.revision, self.document.clone())));
        }
    }

    /// Decides on what it saw, however long ago that was.
    fn decide(&mut self, who: usize) {
        let (now, work) = (self.now, work(self.partitions));
        let process = &mut self.processes[who];
        let Some((revision, seen)) = process.seen.take().filter(|_| process.alive) else { return };
        if now - process.beaten >= LAPSE {
            return;
        }
        let tenure = Self::tenure(process);
        let work = (!process.leaving).then_some(&work);
        let me = Me { name: &process.name, tenure: &tenure, work, held: &process.held };
        let new = step(&seen, OBJECT, &process.beats, DEAD, &me, process.looked);
        if new != seen && revision == self.revision {
            self.revision += 1;
            self.document = new;
        }
        process.seen = Some((self.revision, self.document.clone())).filter(|_| revision == self.revision);
    }

    /// Begins what it is granted, and ends what it is not.
    fn work(&mut self, who: usize) {
        let process = &mut self.processes[who];
        let tenure = Self::tenure(process);
        let stale = self.now - process.beaten >= LAPSE;
        if let Some((_, seen)) = process.seen.as_ref().filter(|_| process.alive && !stale) {
            process.held = granted(seen, OBJECT, &process.name, &tenure);
        }
    }

    fn check(&self) {
        let mut holders: BTreeMap<&Unit, &Name> = BTreeMap::new();
        for process in &self.processes {
            for unit in &process.held {
                let other = holders.insert(unit, &process.name);
                assert_eq!(other, None, "{unit:?} is worked on twice");
            }
        }
        assert!(self.document.owners.values().all(|owner| self.document.members.contains_key(owner)));
    }

    /// Everybody comes back: then everything is owned.
    fn settle(&mut self) {
        for process in &mut self.processes {
            (process.alive, process.leaving) = (true, false);
        }
        for _ in 0..20 {
            self.now += Duration::from_secs(1);
            for who in 0..self.processes.len() {
                for what in [1, 2, 5, 4, 5] {
                    self.act(who, what);
                    self.check();
                }
            }
        }
        assert_eq!(self.document.owners.len(), usize::from(self.partitions) + 1);
        let held: usize = self.processes.iter().map(|process| process.held.len()).sum();
        assert_eq!(held, usize::from(self.partitions) + 1);
    }
}
