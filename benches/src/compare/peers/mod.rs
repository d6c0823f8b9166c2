//! What is measured, each at its best settings. Each file has a table of its peers: which work each does,
//! and by which of its calls. A new peer is a file, and two lines here.

mod array_queue;
#[cfg(feature = "peers")]
mod async_channel;
#[cfg(feature = "peers")]
mod cloudtoid;
#[cfg(feature = "peers")]
mod crossbeam;
#[cfg(feature = "peers")]
mod flume;
mod futex;
#[cfg(feature = "peers")]
mod iceoryx;
#[cfg(feature = "peers")]
mod ipc_channel;
#[cfg(feature = "peers")]
mod kanal;
mod parkline;
mod parkline_tasks;
#[cfg(feature = "peers")]
mod posix_mq;
mod raw;
#[cfg(feature = "peers")]
mod rtrb;
#[cfg(feature = "peers")]
mod shaq;
mod sockets;
mod tokio_mpsc;

use super::peer::Peer;

/// In the order of the tables.
const TABLES: &[&[Peer]] = &[
    raw::PEERS,
    futex::PEERS,
    parkline::PEERS,
    parkline_tasks::PEERS,
    #[cfg(feature = "peers")]
    shaq::PEERS,
    #[cfg(feature = "peers")]
    iceoryx::PEERS,
    #[cfg(feature = "peers")]
    cloudtoid::PEERS,
    #[cfg(feature = "peers")]
    ipc_channel::PEERS,
    sockets::PEERS,
    #[cfg(feature = "peers")]
    posix_mq::PEERS,
    array_queue::PEERS,
    #[cfg(feature = "peers")]
    crossbeam::PEERS,
    #[cfg(feature = "peers")]
    rtrb::PEERS,
    #[cfg(feature = "peers")]
    kanal::PEERS,
    #[cfg(feature = "peers")]
    flume::PEERS,
    #[cfg(feature = "peers")]
    async_channel::PEERS,
    tokio_mpsc::PEERS,
];

/// All peers of this build.
pub(crate) fn all() -> impl Iterator<Item = &'static Peer> {
    TABLES.iter().copied().flatten()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    /// Fails if two peers have one name (seen failing).
    #[test]
    fn each_peer_has_a_name_of_its_own() {
        let names: BTreeSet<_> = all().map(|peer| peer.name).collect();
        assert_eq!(names.len(), all().count());
    }

    /// Fails if a peer says twice how it does one work (seen failing).
    #[test]
    fn each_peer_does_a_work_in_one_way() {
        for peer in all() {
            let works: Vec<_> = peer.does.iter().flat_map(|(workloads, _)| *workloads).collect();
            let set: BTreeSet<_> = works.iter().collect();
            assert_eq!(set.len(), works.len(), "{}", peer.name);
        }
    }
}
