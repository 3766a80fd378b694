use super::*;
use crate::model::BlockBytes;

const GB: u64 = 1_000_000_000;

/// About Z-Image-Turbo in Q4_K at 1024×1024, in GB: 2.3 + 3.5 + 0.2 of weights.
fn needs() -> Needs {
    let network = |blocks: usize, bytes: u64, table, rest| NetworkBytes {
        blocks: vec![BlockBytes { bytes, largest: bytes * 2 / 5, quantized: 0, made: 0 }; blocks],
        once: Vec::new(),
        table,
        rest,
    };
    Needs {
        text_encoder: network(35, GB / 20, GB / 2, GB / 100),
        transformer: network(32, GB / 10, 0, GB * 3 / 10),
        vae: GB / 5,
        text: GB / 10,
        captions: GB / 20,
        step: GB / 2,
        decoder: vec![
            (None, GB * 3 / 2),
            (Some(Tile { pixels: 512, home: Home::Device }), GB * 4 / 5),
            (Some(Tile { pixels: 256, home: Home::Host }), GB / 10),
        ],
        small: GB / 20,
        largest_activation: 0,
        stream_buffers: Some([GB / 20, GB / 10]),
    }
}

fn all_but(resident: usize) -> Streaming {
    Streaming::AllBut { resident, source: StreamSource::Memory }
}

fn plan(device: u64) -> Plan {
    Plan::new(&needs(), Limits { device: Some(device), ..Limits::default() })
}

fn mode(plan: &Plan) -> (Offload, Option<usize>) {
    (plan.offload(), plan.vae_tile.map(|tile| tile.pixels))
}

#[test]
fn every_plan_fits_its_limit_and_less_memory_streams_more() {
    let mut blocks = usize::MAX;
    for device in (1260..8000).rev().map(|mb| mb * GB / 1000) {
        let plan = plan(device);
        assert!(plan.peak <= device, "{plan} in {device}");
        let resident = match plan.transformer {
            Streaming::None => usize::MAX,
            Streaming::AllBut { resident, .. } => resident,
        };
        let whole_before = plan.vae_tile.is_some() && resident > blocks;
        assert!(resident <= blocks || whole_before, "{plan} in {device}");
        blocks = resident;
    }
}

#[test]
fn modes_follow_the_memory() {
    // 2.26 + 3.5 + 0.2 + 0.05 of tensors, 1.5 for a whole picture, 0.8 for tiles on the device or
    // 0.5 for a step, and 0.1 or 0.05 for texts.
    assert_eq!(mode(&Plan::new(&needs(), Limits::default())), (Offload::None, None), "unknown memory");
    assert_eq!(mode(&plan(8 * GB)), (Offload::None, None));
    assert_eq!(mode(&plan(7 * GB)), (Offload::None, Some(512)));
    assert_eq!(mode(&plan(6 * GB)), (Offload::Sequential, None));
    assert_eq!(mode(&plan(5 * GB)), (Offload::Sequential, Some(512)));
    assert_eq!(mode(&plan(4 * GB)), (Offload::Stream, None));
    assert_eq!(mode(&plan(GB * 8 / 5)), (Offload::Stream, Some(512)));
    assert_eq!(mode(&plan(GB * 3 / 2)), (Offload::Stream, Some(256)));
    // Everything would fit with tiles in the host's memory, which are slow.
    assert_eq!(mode(&plan(GB * 67 / 10)), (Offload::Sequential, None));
    let least = plan(1);
    assert_eq!((mode(&least), least.transformer), ((Offload::Stream, Some(256)), all_but(0)));
    assert!(least.peak > 1);
}

#[test]
fn the_peak_is_the_sum_of_what_lives_together() {
    let tenth = GB / 10;
    let resident = plan(8 * GB);
    assert_eq!(resident.peak, GB * 226 / 100 + GB * 35 / 10 + GB / 5 + GB / 20 + tenth + GB * 3 / 2);
    assert_eq!(plan(6 * GB).peak, GB * 35 / 10 + GB / 5 + GB / 20 + GB / 20 + GB * 3 / 2);
    // The rest of both, the buffer, the autoencoder, small tensors, texts, a picture, and the
    // blocks.
    let fixed = GB / 100 + GB * 3 / 10 + GB / 10 + GB / 5 + GB / 20 + tenth + GB * 3 / 2;
    let streamed = plan(fixed + 7 * tenth);
    assert_eq!(streamed.transformer, all_but(7));
    assert_eq!((streamed.peak, streamed.streamed), (fixed + 7 * tenth, 25 * tenth));
    assert_eq!(streamed.decoder_room(), Some(GB * 3 / 2));
    assert_eq!(plan(fixed + 7 * tenth - 1).transformer, all_but(6));
}

#[test]
fn a_mode_is_forced() {
    let forced = |offload, is_limited| {
        let limits = Limits { device: Some(8 * GB), host: None, offload, is_limited };
        Plan::new(&needs(), limits)
    };
    assert_eq!(mode(&forced(Offload::None, false)), (Offload::None, None));
    assert_eq!(mode(&forced(Offload::Sequential, false)), (Offload::Sequential, None));
    assert_eq!(forced(Offload::Stream, false).transformer, all_but(0));
    assert_eq!(forced(Offload::Stream, true).transformer, all_but(31));
    let tight = Limits { device: Some(GB), offload: Offload::None, ..Limits::default() };
    assert_eq!(mode(&Plan::new(&needs(), tight)), (Offload::None, Some(256)), "the smallest that it can be");
    let nothing_streams = Needs { stream_buffers: None, ..needs() };
    let plan = Plan::new(&nothing_streams, Limits { offload: Offload::Stream, ..Limits::default() });
    assert_eq!(plan.offload(), Offload::Sequential);
}

#[test]
fn little_host_memory_loads_streamed_networks_in_turn() {
    // 2.25 of the text encoder and 2.5 of the blocks that do not fit on the device. The files hold
    // all but a table of 0.5.
    let with = |host| {
        let limits = Limits { device: Some(3 * GB), host: Some(host), ..Limits::default() };
        let plan = Plan::new(&needs(), limits);
        (plan.in_turn, plan.transformer.source())
    };
    assert_eq!(with(5 * GB), (false, Some(StreamSource::Memory)));
    assert_eq!(with(4 * GB), (true, Some(StreamSource::Memory)));
    assert_eq!(with(2 * GB), (false, Some(StreamSource::Files)));
    assert_eq!(with(GB / 2), (false, Some(StreamSource::Files)));
    assert_eq!(with(GB / 4), (true, Some(StreamSource::Files)));
}

#[test]
fn weights_that_no_file_has_stay_in_host_memory() {
    let mut made = needs();
    let networks = [&mut made.text_encoder, &mut made.transformer];
    networks.into_iter().flat_map(|network| &mut network.blocks).for_each(|block| block.made = block.bytes);
    let limits = Limits { device: Some(3 * GB), host: Some(3 * GB), ..Limits::default() };
    let plan = Plan::new(&made, limits);
    assert_eq!((plan.in_turn, plan.transformer.source()), (true, Some(StreamSource::Memory)));
}

#[test]
fn a_plan_is_one_line() {
    assert_eq!(
        plan(8 * GB).to_string(),
        "all networks on the device; the picture decoded whole; 7.61 GB of device memory at the peak"
    );
    let line = plan(2 * GB).to_string();
    assert!(line.starts_with("text encoder and "), "{line}");
    assert!(line.contains(" of 32 blocks of the transformer streamed, ") && !line.contains('\n'), "{line}");
}
