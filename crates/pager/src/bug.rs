//! Planted bugs of an agent: a simulation that finds nothing proves something only if it finds these.

/// A rule that a host's part of a machine is told to break, in the pager or in the agent around it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Bug {
    /// The evictor reads a page before it stops its writers.
    PackBeforeProtect,
    /// A page that was called back while it was packed leaves all the same.
    CallBackIgnored,
    /// A copy goes to another host before the writers here are stopped.
    CopyWhileWritten,
    /// Pages go, and who waits in them is not woken.
    WakeForgotten,
    /// A page that waited for other hosts to drop their copies wakes nobody when it may be used.
    GrantNotWoken,
    /// A mapping call that got through half of its pages is taken for done.
    HalfIsAll,
    /// What evicted pages took of the budget is not given back.
    EvictedKept,
    /// The evictor drops a page that it wanted to hand over, although nobody took it.
    HandOverDrops,
    /// A promise of room is not taken from the budget by who gives it.
    RoomUnreserved,
    /// A promise of room is used again and again.
    RoomUsedTwice,
    /// A message passes those about its page that are held back.
    OvertakesHeld,
    /// What was held back is not delivered when it is due.
    NeverDue,
    /// A message is looked at while the page that came before it is not mapped yet.
    ArrivedLate,
    /// First bytes are taken in answer to a question that no longer counts.
    OldAnswer,
    /// What is known of a page's use stays when the page goes.
    MarksKept,
    /// A sweep is answered before its pages are gone.
    SweptEarly,
    /// Who waits for a sweep is not told of the last answer.
    SweepUnsaid,
    /// A space that has ended is not forgotten by the protocol.
    EndForgotten,
    /// A host that loses another does not tell home.
    LossUntold,
    /// The directory's word that a page stays is not heeded by the promise that was meant for it.
    PromiseLost,
    /// Write protection reaches only one of a space's processes.
    ProtectOne,
    /// A new page is mapped for one process, and threads of others that wait for it sleep on.
    OthersNotWoken,
    /// A process that does not see a page yet is shown it to be written, whatever the host may.
    ShowWritable,
    /// A process is shown pages that are on their way out, and they stay on it.
    ShowLeaving,
    /// Who writes on and on may write the pages that come next without their hosts' having been asked.
    WriteUnasked,
}

#[cfg(feature = "sim")]
impl Bug {
    /// All of them.
    pub const ALL: [Bug; 25] = [
        Bug::PackBeforeProtect,
        Bug::CallBackIgnored,
        Bug::CopyWhileWritten,
        Bug::WakeForgotten,
        Bug::GrantNotWoken,
        Bug::HalfIsAll,
        Bug::EvictedKept,
        Bug::HandOverDrops,
        Bug::RoomUnreserved,
        Bug::RoomUsedTwice,
        Bug::OvertakesHeld,
        Bug::NeverDue,
        Bug::ArrivedLate,
        Bug::OldAnswer,
        Bug::MarksKept,
        Bug::SweptEarly,
        Bug::SweepUnsaid,
        Bug::EndForgotten,
        Bug::LossUntold,
        Bug::PromiseLost,
        Bug::ProtectOne,
        Bug::OthersNotWoken,
        Bug::ShowWritable,
        Bug::ShowLeaving,
        Bug::WriteUnasked,
    ];
}

#[cfg(feature = "sim")]
const _: () = assert!(Bug::ALL.len() == Bug::WriteUnasked as usize + 1, "a bug is not in the list");

/// The bug planted in a host; never any outside simulations.
#[derive(Clone, Copy, Default, Debug)]
pub struct Planted {
    #[cfg(feature = "sim")]
    bug: Option<Bug>,
}

#[cfg(not(feature = "sim"))]
const _: () = assert!(size_of::<Planted>() == 0, "what cannot be planted costs nothing");

impl Planted {
    /// This one, or none.
    #[cfg(feature = "sim")]
    pub fn new(bug: Option<Bug>) -> Planted {
        Planted { bug }
    }

    /// Whether it is this one.
    #[inline]
    pub fn has(self, bug: Bug) -> bool {
        #[cfg(feature = "sim")]
        return self.bug == Some(bug);
        #[cfg(not(feature = "sim"))]
        {
            let _ = bug;
            false
        }
    }
}
