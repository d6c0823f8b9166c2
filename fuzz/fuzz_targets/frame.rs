//! Any bytes as a block: it decodes to a frame within its bounds, or to a fault. Any bytes as a pack: it
//! decodes to the pack's messages, or to a fault.
//!
//! It found these planted bugs, each in the first second: a length not checked against the queue, a length
//! not checked against the block, flags not checked; lengths in a pack that are too small, or not checked;
//! a message of a pack that is left out.
#![no_main]

use libfuzzer_sys::fuzz_target;
use parkline_core::Pack;
use parkline_core::driver::decode_block;

fuzz_target!(|input: (u16, u64, u64, [u64; 2], Vec<u64>, Vec<&[u8]>)| {
    let (max_message, owner, header, [id, origin], payload, messages) = input;
    assert!(messages.iter().collect::<Pack>().iter().eq(messages));

    let max_message = usize::from(max_message);
    let mut words = vec![owner, header, id, origin];
    words.extend(&payload);
    // Blocks too short for their header words are refused.
    for len in 0..4 {
        assert!(decode_block(&words[..len], max_message).is_err());
    }
    let Ok((frame, message)) = decode_block(&words, max_message) else { return };

    let bytes: Vec<u8> = payload.iter().flat_map(|word| word.to_ne_bytes()).collect();
    assert!(frame.len() <= max_message);
    assert_eq!(message.len(), frame.len());
    assert_eq!(message, bytes[..frame.len()]);
    assert_eq!(frame.is_empty(), message.is_empty());

    let flags = u64::from(frame.redelivered()) | u64::from(frame.is_returned()) << 1;
    let encoded = frame.len() as u64 | 1 << 32 | flags << 40 | u64::from(frame.attempts()) << 48;
    assert_eq!(encoded, header, "nothing of the header is dropped or invented");

    let Ok(pack) = Pack::check(payload.clone()) else { return };
    let words: usize = pack.iter().map(|message| message.len().div_ceil(8)).sum();
    assert_eq!(words + pack.len().div_ceil(2) + 1, payload.len(), "all of it is the pack");
    assert_eq!(pack.iter().count(), pack.len());
    assert_eq!(pack.iter().collect::<Pack>(), pack);
});
