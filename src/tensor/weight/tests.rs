//! Pieces, changes and stored rows of weights.

use super::*;
use crate::future::expect_ready;
use crate::tensor::{Format, Scaled};
use std::cell::Cell;
use std::sync::Arc;

/// Increasing bytes, with a count of the reads.
struct Counting<'a>(&'a Cell<usize>);

impl ReadAt for Counting<'_> {
    fn read_at(&self, range: Range<u64>) -> BoxFuture<'_, Bytes> {
        self.0.set(self.0.get() + 1);
        Box::pin(async move { Ok(range.map(|byte| byte as u8).collect()) })
    }
}

fn plain(dtype: DType) -> Storage {
    Storage::Plain(match dtype {
        DType::F32 => Format::F32,
        DType::F16 => Format::F16,
        _ => Format::Bf16,
    })
}

#[test]
fn pieces_are_whole_rows_in_order() {
    // Rows of 6 and 12 bytes, in pieces of four rows: the minimum, and the capacity of 64
    // bytes.
    for (dtype, bytes, heights) in
        [(DType::Bf16, 1, &[4, 4, 3][..]), (DType::F32, 64, &[4, 4, 3]), (DType::Bf16, 50, &[8, 3])]
    {
        let asked = Cell::new(0);
        let weight = Weight::there(plain(dtype), &[11, 3], Counting(&asked)).unwrap().in_pieces(bytes);
        let (mut found, mut rows) = (Vec::new(), Vec::new());
        let parts = [weight];
        expect_ready(Weight::each_piece(&parts, |row, piece| {
            assert_eq!(row, rows.iter().sum::<usize>());
            assert_eq!((piece.dtype(), &piece.shape()[1..]), (dtype, &[3][..]));
            rows.push(piece.shape()[0]);
            found.extend_from_slice(piece.bytes());
            Ok(())
        }))
        .unwrap();
        assert_eq!(rows, heights);
        assert_eq!(found, (0..33 * dtype.size()).map(|byte| byte as u8).collect::<Vec<_>>());
        assert_eq!(asked.get(), heights.len());
        assert_eq!(expect_ready(parts[0].whole()).unwrap().bytes(), &found);
    }
}

#[test]
fn an_infinite_value_is_refused_in_any_piece() {
    for at in [0, 5, 10] {
        let mut values = [1.0; 11];
        values[at] = f32::NEG_INFINITY;
        let tensor = HostTensor::from_f32(&[11, 1], &values);
        let refusing = || Weight::from(&tensor).finite(|| Error::NonFinitePicture);
        assert!(matches!(expect_ready(refusing().whole()), Err(Error::NonFinitePicture)));
        let pieces = [refusing().in_pieces(1)];
        assert!(matches!(expect_ready(Weight::each_piece(&pieces, |_, _| Ok(()))), Err(Error::NonFinitePicture)));
        assert!(expect_ready(Weight::from(&tensor).whole()).is_ok());
    }
}

/// Adds its row's index to every element of rows of `.0`.
struct AddRow(usize, bool);

impl RowChange for AddRow {
    fn apply(&self, first: usize, rows: &mut [f32]) -> Result<()> {
        for (row, values) in (first..).zip(rows.chunks_exact_mut(self.0)) {
            values.iter_mut().for_each(|value| *value += row as f32);
        }
        if first > 90 { Err(Error::NonFinitePicture) } else { Ok(()) }
    }

    fn keeps_bf16(&self) -> bool {
        self.1
    }
}

#[test]
fn every_row_is_changed_once() {
    // 64 elements are two blocks of Q8_0, and its rows of 24 are whole blocks only together.
    for (format, columns) in [
        (Format::F32, 7),
        (Format::F16, 64),
        (Format::Bf16, 64),
        (Format::F8E4m3, 5),
        (Format::Q8_0, 64),
        (Format::Q8_0, 24),
    ] {
        const ROWS: usize = 20;
        let stored: Bytes = (0..format.bytes(ROWS * columns).unwrap()).map(|i| (i * 7 % 60) as u8).collect();
        let mut expected = vec![0.0; ROWS * columns];
        format.dequantize(&stored, &mut expected);
        expected.iter_mut().enumerate().for_each(|(i, value)| *value += (i / columns) as f32);
        for (piece, keeps, in_bf16) in [(1, false, false), (1 << 20, true, false), (1, false, true)] {
            let weight = Weight::there(Storage::Plain(format), &[ROWS, columns], InMemory(stored.clone())).unwrap();
            let weight = weight.changed(Box::new(AddRow(columns, keeps))).in_pieces(piece);
            let weight = if in_bf16 { weight.in_bf16() } else { weight };
            let short = in_bf16 || keeps && matches!(format, Format::Bf16 | Format::F8E4m3);
            let dtype = if short { DType::Bf16 } else { DType::F32 };
            let whole = expect_ready(weight.whole()).unwrap();
            let expected = HostTensor::rounded(dtype, &[ROWS, columns], &expected);
            assert_eq!((whole.dtype(), whole.bytes()), (dtype, expected.bytes()), "{format} {columns} {piece}");
        }
    }
    let here = Weight::from(HostTensor::from_f32(&[3], &[0.5, 0.5, 0.5])).changed(Box::new(AddRow(1, false)));
    assert_eq!(expect_ready(here.whole()).unwrap().to_f32(), [0.5, 1.5, 2.5]);
    let failing = Weight::from(HostTensor::from_f32(&[100], &[0.0; 100])).changed(Box::new(AddRow(1, false)));
    assert!(matches!(expect_ready(failing.in_pieces(1).whole()), Err(Error::NonFinitePicture)));
}

#[test]
fn stored_rows_keep_their_bytes() {
    let rows: Bytes = (0..7 * 34).map(|byte| if byte % 34 == 1 { 0x3c } else { byte as u8 }).collect();
    let weight = || Weight::quantized(Storage::Plain(Format::Q8_0), &[7, 32], rows.clone()).unwrap();
    let mut found = Vec::new();
    let take = |first, bytes: Bytes| {
        assert_eq!(first * 34, found.len());
        found.extend_from_slice(&bytes);
        Ok(())
    };
    expect_ready(weight().in_pieces(1).each_stored_piece(take)).unwrap();
    assert_eq!(found, rows);
    assert_eq!(expect_ready(weight().in_pieces(1).whole_stored()).unwrap().as_ptr(), rows.as_ptr());
    // The scale of the last row is NaN.
    let mut damaged = rows.to_vec();
    damaged[6 * 34..][..2].copy_from_slice(&[0x01, 0x7e]);
    let damaged = Weight::quantized(Storage::Plain(Format::Q8_0), &[7, 32], damaged.into()).unwrap();
    let refusing = damaged.finite(|| Error::NonFinitePicture).in_pieces(1);
    assert!(matches!(expect_ready(refusing.each_stored_piece(|_, _| Ok(()))), Err(Error::NonFinitePicture)));

    assert!(weight().storage().is_some());
    assert!(Weight::from(HostTensor::from_f32(&[2, 1], &[0.0; 2])).storage().is_none());
    // Blocks that cross rows, and bytes that are missing.
    let crossing = Weight::quantized(Storage::Plain(Format::Q8_0), &[2, 16], rows.slice(..34)).unwrap();
    assert!(crossing.storage().is_none());
    assert!(Weight::quantized(Storage::Plain(Format::Q8_0), &[7, 32], rows.slice(..34)).is_none());
}

#[test]
fn parts_are_stacked() {
    let asked = Cell::new(0);
    let parts =
        [5, 1, 4].map(|rows| Weight::there(plain(DType::F16), &[rows, 2], Counting(&asked)).unwrap().in_pieces(1));
    let mut seen = Vec::new();
    let take = |row, piece: HostTensor| {
        seen.push((row, piece.shape()[0], piece.bytes()[0]));
        Ok(())
    };
    expect_ready(Weight::each_piece(&parts, take)).unwrap();
    assert_eq!(seen, [(0, 4, 0), (4, 1, 16), (5, 1, 0), (6, 4, 0)]);
}

#[test]
fn pairs_have_the_rows_of_both() {
    let asked = Cell::new(0);
    let weight = |dtype| Weight::there(plain(dtype), &[9, 8], Counting(&asked)).unwrap().in_pieces(128);
    let [first, second] = [DType::Bf16, DType::F32].map(weight);
    let mut seen = Vec::new();
    let take = |row, pair: [HostTensor; 2]| {
        seen.push((row, pair.map(|piece| (piece.shape()[0], piece.bytes()[0]))));
        Ok(())
    };
    expect_ready(Weight::each_pair([&first, &second], take)).unwrap();
    assert_eq!(seen, [(0, [(4, 0), (4, 0)]), (4, [(4, 64), (4, 128)]), (8, [(1, 128), (1, 0)])]);
}

#[test]
fn stored_pairs_are_the_same_rows() {
    let pieces = |multiple| {
        let asked = Cell::new(0);
        let fp8 = || Weight::there(Storage::Plain(Format::F8E4m3), &[9, 16], Counting(&asked)).unwrap().in_pieces(64);
        let mut seen = Vec::new();
        let take = |row, pair: [Bytes; 2]| {
            seen.push((row, pair.map(|bytes| (bytes.len(), bytes[0]))));
            Ok(())
        };
        expect_ready(Weight::each_stored_pair([&fp8(), &fp8()], multiple, take)).unwrap();
        seen
    };
    assert_eq!(pieces(1), [(0, [(64, 0); 2]), (4, [(64, 64); 2]), (8, [(16, 128); 2])]);
    assert_eq!(pieces(8), [(0, [(128, 0); 2]), (8, [(16, 128); 2])]);
}

#[test]
fn fp8_scales_are_of_rows() {
    let matrix = |scales, first_row| {
        let matrix = Scaled::new(Format::F8E4m3, [4, 32], [4, 32], scales, None).unwrap();
        let storage = Storage::Scaled { matrix: Arc::new(matrix), first_row };
        Weight::quantized(storage, &[2, 32], vec![0; 64].into()).unwrap().fp8_scales()
    };
    assert_eq!(matrix(Scales::None, 0), Some(vec![1.0, 1.0]));
    assert_eq!(matrix(Scales::Tensor(0.5), 1), Some(vec![0.5, 0.5]));
    assert_eq!(matrix(Scales::Rows(vec![1.0, 2.0, 3.0, 4.0]), 1), Some(vec![2.0, 3.0]));
    assert_eq!(matrix(Scales::Mxfp8(vec![127; 512].into()), 0), None);
    assert_eq!(Weight::from(HostTensor::from_f32(&[1, 2], &[0.0; 2])).fp8_scales(), None);
}

#[test]
fn memory_is_shared_and_errors_end_reading() {
    let tensor = HostTensor::from_f32(&[6, 1], &[0.0, 1.0, 2.0, 3.0, 4.0, 5.0]);
    let whole = expect_ready(Weight::from(&tensor).whole()).unwrap();
    assert_eq!(whole.bytes().as_ptr(), tensor.bytes().as_ptr());
    let mut taken = 0;
    let pieces = [Weight::from(&tensor).in_pieces(1)];
    let refused = expect_ready(Weight::each_piece(&pieces, |_, _| {
        taken += 1;
        Err(Error::shape("upload", "refused"))
    }));
    assert!(refused.is_err() && taken == 1);
    assert_eq!(expect_ready(Weight::from(HostTensor::from_f32(&[], &[7.0])).whole()).unwrap().to_f32(), [7.0]);
    let empty = [Weight::from(HostTensor::from_f32(&[0, 4], &[]))];
    expect_ready(Weight::each_piece(&empty, |_, _| Err(Error::shape("upload", "there is a piece")))).unwrap();
}
