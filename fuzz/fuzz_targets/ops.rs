//! Any sequence of operations on two senders and two receivers, compared with a `VecDeque`.
//!
//! It found these planted bugs, each within 7 s: a full slot taken for free, a leased cell taken for free,
//! a wrong frontier, `Full` returned by a closed queue, an attempt not counted.
#![no_main]

#[path = "../../core/tests/model/world.rs"]
mod world;

use arbitrary::{Arbitrary, Result, Unstructured};
use libfuzzer_sys::fuzz_target;

use self::world::{MAX_MESSAGE, Op, World};

#[derive(Debug)]
struct Any(Op);

impl<'a> Arbitrary<'a> for Any {
    fn arbitrary(input: &mut Unstructured<'a>) -> Result<Self> {
        let who = input.int_in_range(0..=1)?;
        let op = match input.int_in_range(0..=9)? {
            0 => Op::Send { who, len: input.int_in_range(0..=MAX_MESSAGE + 1)? },
            1 => Op::SendMany { who, count: input.int_in_range(0..=5)? },
            2 => {
                let len = input.int_in_range(0..=MAX_MESSAGE + 1)?;
                Op::Reserve { who, len, commit: input.arbitrary()? }
            }
            3 => Op::Recv { who },
            4 => Op::RecvMany { who, limit: input.int_in_range(0..=5)? },
            5 => Op::Lease { who },
            6 => Op::Ack { who },
            7 => Op::Nack { who },
            8 => Op::Reattach { who },
            _ => Op::Close,
        };
        Ok(Self(op))
    }
}

fuzz_target!(|input: (u8, Vec<Any>)| {
    let (log2, ops) = input;
    let mut world = World::new(1 << (log2 % 5));
    for Any(op) in ops {
        world.apply(op);
        world.check();
    }
});
