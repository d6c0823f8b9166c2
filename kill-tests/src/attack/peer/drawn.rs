//! An attack that is drawn from bytes, for the fuzz target `segment` and for the twin: any shape of a
//! queue, and any steps, also ambushes.

use arbitrary::{Arbitrary, Result, Unstructured};

use super::ambush;
use super::world::{Shape, Step, World};

/// A queue and the steps of the attack on it.
#[derive(Debug)]
pub(crate) struct Attack {
    shape: Shape,
    forgiving: bool,
    steps: Vec<Step>,
}

impl<'a> Arbitrary<'a> for Attack {
    fn arbitrary(input: &mut Unstructured<'a>) -> Result<Self> {
        let (shape, forgiving) = (input.arbitrary()?, input.ratio(7, 8)?);
        // Takes steps until the bytes are used up. One time in 16 the steps are made of random bytes,
        // because a fuzzer makes few of them.
        let mut steps = Vec::new();
        while !input.is_empty() {
            if input.ratio(15, 16)? {
                steps.push(input.arbitrary()?);
            } else {
                let noise = noise(input.arbitrary()?);
                let mut noise = Unstructured::new(&noise);
                while !noise.is_empty() {
                    steps.push(noise.arbitrary()?);
                }
            }
        }
        Ok(Self { shape, forgiving, steps })
    }
}

/// Random bytes of a seed: see SplitMix64.
fn noise(mut seed: u64) -> Vec<u8> {
    let next = |_| {
        seed = seed.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (seed ^ seed >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ mixed >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        (mixed ^ mixed >> 31).to_ne_bytes()
    };
    (0..64).flat_map(next).collect()
}

impl Attack {
    /// How many steps there were, and how many met a fault.
    pub(crate) fn run(&self) -> (u64, u64) {
        let Some(queue) = self.shape.create() else { return (0, 0) };
        let mut world = World::new(queue, self.forgiving.then_some(self.shape));
        world.step(&Step::Sender);
        world.step(&Step::Receiver);
        for step in &self.steps {
            world.step(step);
        }
        let faults = world.faults;
        drop(world);
        ambush::clear();
        serves(&self.shape);
        (self.steps.len() as u64, faults)
    }
}

/// Checks that a new queue works in this process.
fn serves(shape: &Shape) {
    let fresh = Shape { handles: 2, max_message: 8, ..*shape }.create().expect("memory");
    let mut sender = fresh.sender().expect("the first handle");
    let mut receiver = fresh.receiver().expect("the second");
    for n in 0..3u64 {
        sender.try_send(&n.to_ne_bytes()).expect("there is room");
        assert_eq!(receiver.try_recv().expect("a message"), n.to_ne_bytes());
    }
}
