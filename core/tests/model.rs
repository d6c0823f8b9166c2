//! Any sequence of operations on two senders and two receivers does what a `VecDeque` does.
//!
//! Caught: a full slot taken for free, a leased cell taken for free, a frontier found wrongly,
//! `Full` said of a closed queue, an attempt not counted, a `recv_many` that drops one, a message
//! too large called `Full`.

#[path = "model/world.rs"]
mod world;

use proptest::prelude::*;

use self::world::{MAX_MESSAGE, Op, World};

fn any_op() -> impl Strategy<Value = Op> {
    let who = 0..2usize;
    let len = prop_oneof![4 => 0..20usize, 1 => 250..MAX_MESSAGE + 2];
    prop_oneof![
        8 => (who.clone(), len.clone()).prop_map(|(who, len)| Op::Send { who, len }),
        3 => (who.clone(), 0..6usize).prop_map(|(who, count)| Op::SendMany { who, count }),
        4 => (who.clone(), len, any::<bool>())
            .prop_map(|(who, len, commit)| Op::Reserve { who, len, commit }),
        8 => who.clone().prop_map(|who| Op::Recv { who }),
        3 => (who.clone(), 0..6usize).prop_map(|(who, limit)| Op::RecvMany { who, limit }),
        4 => who.clone().prop_map(|who| Op::Lease { who }),
        2 => who.clone().prop_map(|who| Op::Ack { who }),
        3 => who.clone().prop_map(|who| Op::Nack { who }),
        2 => who.prop_map(|who| Op::Reattach { who }),
        1 => Just(Op::Close),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: 400,
        failure_persistence: None,
        ..Default::default()
    })]

    #[test]
    fn any_sequence_of_operations_does_what_a_deque_does(
        log2 in 0..4u32,
        ops in prop::collection::vec(any_op(), 1..120),
    ) {
        let mut world = World::new(1 << log2);
        for op in ops {
            world.apply(op);
            world.check();
        }
    }
}
