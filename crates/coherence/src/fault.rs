//! Planted bugs: a checker that finds nothing proves something only if it finds these.

/// A rule of the protocol that a node is told to break.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Fault {
    /// An owner that sends a read copy goes on writing.
    NoProtect,
    /// A writer does not wait until the sharers have dropped their copies.
    NoWaitForAcks,
    /// A host that hands over drops its copy at once, without the directory's word.
    DropUnasked,
    /// A grant that comes after a discard is installed all the same.
    ResurrectDiscarded,
    /// The directory serves the next request before the host that discarded knows that it is over.
    DiscardUnconfirmed,
    /// The directory serves the next request before a sharer that hands over has dropped its copy.
    ReleaseUnconfirmed,
    /// The directory lets a host drop its copy although it is the only one, because nobody has room for it.
    ReleaseLast,
    /// A sharer drops its copy as it was told, and does not confirm it.
    NoAck,
    /// A sharer confirms that its copy is gone, and its clients go on reading it.
    AckUndropped,
    /// An owner sends a read copy first, and stops its writers after.
    CopyBeforeProtect,
    /// The directory does not write down who got a copy to read.
    ForgetSharer,
    /// The directory serves a request while another transaction of the page is under way.
    ServeWhileBusy,
    /// The directory makes a sharer the owner, and does not say so to it.
    PromoteUnsaid,
    /// The locator lets a region to whoever claims it, although another host leases it.
    LeaseTwice,
    /// The answer that nobody leases a region ends discards, too, that are younger than the question.
    BelieveOldAnswer,
    /// An owner whose page is taken asks for it again at once, although no client does.
    StealBack,
    /// A message of another incarnation is taken for one of this.
    EpochIgnored,
}

#[cfg(feature = "check")]
impl Fault {
    /// All of them.
    pub const ALL: [Fault; 17] = [
        Fault::NoProtect,
        Fault::NoWaitForAcks,
        Fault::DropUnasked,
        Fault::ResurrectDiscarded,
        Fault::DiscardUnconfirmed,
        Fault::ReleaseUnconfirmed,
        Fault::ReleaseLast,
        Fault::NoAck,
        Fault::AckUndropped,
        Fault::CopyBeforeProtect,
        Fault::ForgetSharer,
        Fault::ServeWhileBusy,
        Fault::PromoteUnsaid,
        Fault::LeaseTwice,
        Fault::BelieveOldAnswer,
        Fault::StealBack,
        Fault::EpochIgnored,
    ];
}

#[cfg(feature = "check")]
const _: () = assert!(Fault::ALL.len() == Fault::EpochIgnored as usize + 1, "a fault is not in the list");

/// The fault planted in a node; never any outside the tests of this crate.
#[derive(Clone, Copy, Default, Debug)]
pub(crate) struct Planted {
    #[cfg(feature = "check")]
    fault: Option<Fault>,
}

#[cfg(not(feature = "check"))]
const _: () = assert!(size_of::<Planted>() == 0, "what cannot be planted costs nothing");

impl Planted {
    #[cfg(feature = "check")]
    pub(crate) fn new(fault: Option<Fault>) -> Planted {
        Planted { fault }
    }

    #[inline]
    pub(crate) fn has(self, fault: Fault) -> bool {
        #[cfg(feature = "check")]
        return self.fault == Some(fault);
        #[cfg(not(feature = "check"))]
        {
            let _ = fault;
            false
        }
    }
}
