//! Frames of a connection, as bytes.
//!
//! ```text
//!   preface   caller ─▶ class u8, version u8          peer ─▶ greeting u8, version u8
//!   frame     length u32 │ kind u8 │ id u32 │ …       big-endian; the length counts what follows it
//!   request                                 │ method u16 │ within u32 (ms) │ body
//!   answer, part                            │ body
//!   refused                                 │ reason u8 │ text
//!   credit                                  │ parts u32
//!   end, cancel, ping, pong, leaving        │
//! ```

use bytes::{Buf, Bytes, BytesMut};
use serde::Serialize;
use tokio_util::codec::LengthDelimitedCodec;

use super::{Method, Reason, Refusal};

/// Version of everything above. A peer of another version is told ours and may then speak the
/// older of the two.
pub(super) const VERSION: u8 = 1;

/// The largest frame. A change is at most 8 MiB; larger answers travel in parts.
pub const FRAME_BYTES_MAX: usize = 16 << 20;

/// The largest part of a streamed answer: small enough that others on the connection get their turn.
pub const PART_BYTES_MAX: usize = 1 << 20;

/// "No limit" in a request's `within`.
pub(super) const WITHOUT_LIMIT: u32 = u32::MAX;

const REQUEST: u8 = 1;
const ANSWER: u8 = 2;
const PART: u8 = 3;
const END: u8 = 4;
const REFUSED: u8 = 5;
const CANCEL: u8 = 6;
const CREDIT: u8 = 7;
const PING: u8 = 8;
const PONG: u8 = 9;
/// No more requests: the agent goes away. Passed over by callers of earlier versions.
const LEAVING: u8 = 10;

/// Length, kind, id.
const HEAD: usize = 4 + 1 + 4;
/// A request's method and time.
const REQUEST_HEAD: usize = HEAD + 2 + 4;

/// A frame as it arrived.
#[derive(Debug, PartialEq)]
pub(super) enum Frame {
    Request {
        id: u32,
        method: u16,
        within: u32,
        body: Bytes,
    },
    Answer {
        id: u32,
        body: Bytes,
    },
    Part {
        id: u32,
        body: Bytes,
    },
    End {
        id: u32,
    },
    Refused {
        id: u32,
        refusal: Refusal,
    },
    Cancel {
        id: u32,
    },
    Credit {
        id: u32,
        parts: u32,
    },
    Ping,
    Pong,
    Leaving,
    /// Of a newer version; to be passed over.
    Unknown,
}

/// Splits bytes into frames; a longer frame than allowed is an error of the reader.
pub(super) fn codec() -> LengthDelimitedCodec {
    LengthDelimitedCodec::builder()
        .length_field_length(4)
        .max_frame_length(FRAME_BYTES_MAX)
        .new_codec()
}

impl Frame {
    /// `None` for bytes that are no frame: the connection cannot be trusted any more.
    pub(super) fn parse(frame: BytesMut) -> Option<Frame> {
        let mut rest = frame.freeze();
        let kind = rest.try_get_u8().ok()?;
        let id = rest.try_get_u32().ok()?;
        Some(match kind {
            REQUEST => {
                let method = rest.try_get_u16().ok()?;
                let within = rest.try_get_u32().ok()?;
                Frame::Request { id, method, within, body: rest }
            }
            ANSWER => Frame::Answer { id, body: rest },
            PART => Frame::Part { id, body: rest },
            END => Frame::End { id },
            REFUSED => {
                let reason = Reason::from_number(rest.try_get_u8().ok()?);
                let text = String::from_utf8_lossy(&rest).into_owned();
                Frame::Refused { id, refusal: Refusal { reason, text } }
            }
            CANCEL => Frame::Cancel { id },
            CREDIT => Frame::Credit { id, parts: rest.try_get_u32().ok()? },
            PING => Frame::Ping,
            PONG => Frame::Pong,
            LEAVING => Frame::Leaving,
            _ => Frame::Unknown,
        })
    }
}

/// Bytes of one frame to be sent. Bodies are encoded behind room for the head, so that nothing is
/// copied to put it there.
#[derive(Debug)]
pub(super) struct Outgoing(Vec<u8>);

impl Outgoing {
    /// Without its id and time: see [`Outgoing::send_as`].
    pub(super) fn request<Q: Serialize + ?Sized>(
        method: Method,
        body: &Q,
    ) -> Result<Outgoing, String> {
        let mut outgoing = Outgoing::with_body(REQUEST, REQUEST_HEAD, body)?;
        outgoing.0[HEAD..HEAD + 2].copy_from_slice(&method.number().to_be_bytes());
        Ok(outgoing)
    }

    /// Without its id.
    pub(super) fn answer<A: Serialize + ?Sized>(body: &A) -> Result<Outgoing, String> {
        Outgoing::with_body(ANSWER, HEAD, body)
    }

    /// Without its id.
    pub(super) fn part<A: Serialize + ?Sized>(body: &A) -> Result<Outgoing, String> {
        let outgoing = Outgoing::with_body(PART, HEAD, body)?;
        let bytes = outgoing.0.len() - HEAD;
        if bytes > PART_BYTES_MAX {
            return Err(format!("a part of {bytes} bytes exceeds the limit of {PART_BYTES_MAX}"));
        }
        Ok(outgoing)
    }

    pub(super) fn refused(id: u32, refusal: &Refusal) -> Outgoing {
        let mut outgoing = Outgoing::empty(REFUSED);
        outgoing.0.push(refusal.reason.number());
        // Texts quote what was sent; nobody reads a megabyte of them.
        let end = refusal.text.floor_char_boundary(64 << 10);
        outgoing.0.extend_from_slice(&refusal.text.as_bytes()[..end]);
        outgoing.finish(id)
    }

    pub(super) fn end(id: u32) -> Outgoing {
        Outgoing::empty(END).finish(id)
    }

    pub(super) fn cancel(id: u32) -> Outgoing {
        Outgoing::empty(CANCEL).finish(id)
    }

    pub(super) fn credit(id: u32, parts: u32) -> Outgoing {
        let mut outgoing = Outgoing::empty(CREDIT);
        outgoing.0.extend_from_slice(&parts.to_be_bytes());
        outgoing.finish(id)
    }

    pub(super) fn ping() -> Outgoing {
        Outgoing::empty(PING).finish(0)
    }

    pub(super) fn pong() -> Outgoing {
        Outgoing::empty(PONG).finish(0)
    }

    pub(super) fn leaving() -> Outgoing {
        Outgoing::empty(LEAVING).finish(0)
    }

    fn empty(kind: u8) -> Outgoing {
        let mut bytes = vec![0; HEAD];
        bytes[4] = kind;
        Outgoing(bytes)
    }

    fn with_body<B: Serialize + ?Sized>(
        kind: u8,
        head: usize,
        body: &B,
    ) -> Result<Outgoing, String> {
        let mut bytes = vec![0; head];
        bytes[4] = kind;
        rmp_serde::encode::write_named(&mut bytes, body).map_err(|error| error.to_string())?;
        if bytes.len() - 4 > FRAME_BYTES_MAX {
            return Err(format!(
                "a message of {} bytes exceeds the limit of {FRAME_BYTES_MAX}",
                bytes.len() - 4
            ));
        }
        Ok(Outgoing(bytes))
    }

    /// Gives a request its id and the milliseconds it may take.
    pub(super) fn send_as(mut self, id: u32, within: u32) -> Outgoing {
        self.0[HEAD + 2..REQUEST_HEAD].copy_from_slice(&within.to_be_bytes());
        self.finish(id)
    }

    /// Gives any other frame its id.
    pub(super) fn finish(mut self, id: u32) -> Outgoing {
        let length = u32::try_from(self.0.len() - 4).expect("frames are bounded far below 4 GiB");
        self.0[..4].copy_from_slice(&length.to_be_bytes());
        self.0[5..HEAD].copy_from_slice(&id.to_be_bytes());
        self
    }

    /// The id, if this is a request.
    pub(super) fn request_id(&self) -> Option<u32> {
        let id = u32::from_be_bytes([self.0[5], self.0[6], self.0[7], self.0[8]]);
        (self.0[4] == REQUEST).then_some(id)
    }

    pub(super) fn bytes(&self) -> &[u8] {
        &self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(outgoing: &Outgoing) -> Option<Frame> {
        Frame::parse(BytesMut::from(&outgoing.bytes()[4..]))
    }

    #[test]
    fn frames_survive_the_wire() {
        let request = Outgoing::request(Method::Http, "body").unwrap().send_as(7, 250);
        assert_eq!(request.request_id(), Some(7));
        let body = Bytes::from(rmp_serde::to_vec_named("body").unwrap());
        let method = Method::Http.number();
        let check = |outgoing: Outgoing, expected: Frame| {
            let length = u32::from_be_bytes(outgoing.bytes()[..4].try_into().unwrap());
            assert_eq!(length as usize, outgoing.bytes().len() - 4);
            assert_eq!(parse(&outgoing), Some(expected));
        };
        check(request, Frame::Request { id: 7, method, within: 250, body: body.clone() });
        let answer = Outgoing::answer("body").unwrap().finish(8);
        assert_eq!(answer.request_id(), None);
        check(answer, Frame::Answer { id: 8, body: body.clone() });
        check(Outgoing::part("body").unwrap().finish(9), Frame::Part { id: 9, body });
        check(Outgoing::end(1), Frame::End { id: 1 });
        let refusal = Refusal::failed("no");
        check(Outgoing::refused(2, &refusal), Frame::Refused { id: 2, refusal });
        check(Outgoing::cancel(3), Frame::Cancel { id: 3 });
        check(Outgoing::credit(4, 5), Frame::Credit { id: 4, parts: 5 });
        check(Outgoing::ping(), Frame::Ping);
        check(Outgoing::pong(), Frame::Pong);
        check(Outgoing::leaving(), Frame::Leaving);
    }

    #[test]
    fn no_bytes_panic() {
        for kind in 0..=255_u8 {
            for length in 0..16 {
                let mut bytes = vec![kind];
                bytes.extend(std::iter::repeat_n(0xff, length));
                let _ = Frame::parse(BytesMut::from(&bytes[..]));
            }
        }
        assert_eq!(Frame::parse(BytesMut::new()), None);
    }

    #[test]
    fn what_is_too_large_is_refused_before_it_is_sent() {
        let large = vec![0_u8; FRAME_BYTES_MAX];
        let bytes = bytes::Bytes::from(large);
        assert!(Outgoing::request(Method::Http, &bytes).unwrap_err().contains("exceeds"));
        assert!(Outgoing::part(&bytes.slice(..PART_BYTES_MAX)).unwrap_err().contains("exceeds"));
    }
}
