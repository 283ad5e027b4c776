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
}

/// The fault planted in a node; never any outside the tests of this crate.
#[derive(Clone, Copy, Default, Debug)]
pub(crate) struct Planted {
    #[cfg(feature = "check")]
    fault: Option<Fault>,
}

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
