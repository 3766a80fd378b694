//! What may be wrong with a backend, for `faulty.rs` to plant.

/// What is wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fault {
    /// Nothing.
    None,
    /// The result of one verb, `Verb`, is damaged.
    Result(&'static str, Damage),
    BiasForgotten,
    GateAndUpSwapped,
    /// Of a table or matrix that comes in pieces.
    LastPieceForgotten,
    EpsZero,
    ScaleForgotten,
    NextModulationRow,
    GateForgotten,
    BranchNormForgotten,
    ResidualNotAdded,
    NormsTheOldStream,
    PairsSwapped,
    QueryAndKeyNormsSwapped,
    MaskSkipped,
    LengthsIgnored,
    OneKeyTooMany,
    StepZeroAlways,
    SiluForgotten,
    PadForgotten,
    PaddingSkipped,
    FirstCaptionForAll,
    CapForgotten,
    GuidanceForgotten,
    StepNotAdvanced,
    ConvResidualForgotten,
    PaddedAtTheOtherSide,
    GroupsHalved,
    ShiftForgotten,
    NanIsBlack,
    InfinityIsClamped,
    FirstReplaySkipped,
    RunsWhileRecording,
    /// There is no memory for a `conv2d` with more elements, which nobody knows before.
    NoMemoryPast(usize),
    /// The device has so many bytes free.
    FreeMemory(u64),
}

/// What happens to a result.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Damage {
    /// Times 1.001.
    Scaled,
    /// Nothing is written to the last row; the memory holds what it held.
    LastRowUnwritten,
    /// Nothing is written at all.
    Unwritten,
    /// Stored as F16 on the way.
    ThroughF16,
}
