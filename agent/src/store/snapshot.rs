//! The state as versioned bytes: header with format version, checksummed blocks, streamed.
