//! Parsers of what is read back from disk, as functions of bytes: see [`crate::fuzzing`].

use bytes::Bytes;

use super::{Record, frame};

/// The frames of a segment: those that are sound hold records that are understood or refused.
pub(crate) fn segment(bytes: &[u8]) {
    let mut batch = 0;
    let walked = frame::walk(bytes, 0, &mut batch, |_, bytes| {
        record(bytes);
        Ok(())
    });
    assert!(walked.is_ok(), "damage is an answer, not an error");
}

/// One record: what is understood is written as it was read.
pub(crate) fn record(bytes: &[u8]) {
    let _ = Record::peek_entry(bytes);
    if let Ok(record) = Record::decode(&Bytes::copy_from_slice(bytes)) {
        let mut again = Vec::new();
        record.encode(&mut again).expect("memory takes what was read");
        let read = Record::decode(&Bytes::from(again)).expect("what was written is understood");
        assert_eq!(read, record);
    }
}
