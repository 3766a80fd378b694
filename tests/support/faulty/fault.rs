//! The faults of [`Faulty`](super::Faulty).

/// A fault.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fault {
    /// No fault.
    None,
    /// The result of one op is damaged.
    Result(&'static str, Damage),
    BiasForgotten,
    GateAndUpSwapped,
    /// The last piece of a table or matrix that is read in pieces is lost.
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
    HistoryForgotten,
    HistoryNotStored,
    NoiseForgotten,
    StepNotAdvanced,
    ConvResidualForgotten,
    PaddedAtTheOtherSide,
    GroupsHalved,
    MomentsIgnored,
    ShiftForgotten,
    /// The matrix of an FP8 gemm, or a projection in FP8, is damaged.
    Fp8(Fp8Fault),
    NanIsBlack,
    InfinityIsClamped,
    FirstReplaySkipped,
    RunsWhileRecording,
    /// A `conv2d` with more elements runs out of memory, and the backend does not report the limit.
    NoMemoryPast(usize),
    /// The device reports this many free bytes.
    FreeMemory(u64),
    /// `upload`, `linear` or `residual` accepts arguments that it must reject.
    Accepts(&'static str),
    /// One of these ops accepts such arguments inside a recording.
    AcceptsRecorded(&'static str),
    /// One of these ops rejects such arguments with another message.
    RejectsWithAnotherMessage(&'static str),
    /// A failed recording never ends.
    KeepsRecording,
}

/// The damage to the matrix of an FP8 gemm, or to a fused projection in FP8.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fp8Fault {
    /// Every scale is 1.
    ScaleForgotten,
    /// A row has the scale of the one before it.
    ScaleOfAnotherRow,
    /// The codes of ±448, where values saturate, are NaN.
    NanForTheLargest,
    /// Queries have the scale of the keys, and keys that of the queries.
    QueryAndKeyScalesSwapped,
    /// Queries have a scale of 1.
    QueryScaleForgotten,
    /// The values of a head have the scales of the head before it.
    ValueScalesOfAnotherHead,
    /// Blocks of values have the scales of the blocks before them.
    ValueScalesOfAnotherBlock,
}

/// The damage to a result.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Damage {
    /// The result is multiplied by 1.001.
    Scaled,
    /// The last row is not written; the memory keeps its earlier values.
    LastRowUnwritten,
    /// Nothing is written.
    Unwritten,
    /// The result is rounded to F16.
    ThroughF16,
}
