//! Frames of a WebSocket (RFC 6455, section 5), without extensions: none is let through the handshake.

use bytes::{BufMut as _, BytesMut};

/// The longest head: two bytes, a length of eight, a mask of four.
pub(super) const HEAD: usize = 14;

/// The longest payload of a frame that controls the connection.
pub(super) const CONTROL: usize = 125;

/// What a frame is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Continuation,
    Text,
    Binary,
    Close,
    Ping,
    Pong,
}

impl Kind {
    const fn of(opcode: u8) -> Option<Self> {
        Some(match opcode {
            0 => Self::Continuation,
            1 => Self::Text,
            2 => Self::Binary,
            8 => Self::Close,
            9 => Self::Ping,
            10 => Self::Pong,
            _ => return None,
        })
    }

    const fn opcode(self) -> u8 {
        match self {
            Self::Continuation => 0,
            Self::Text => 1,
            Self::Binary => 2,
            Self::Close => 8,
            Self::Ping => 9,
            Self::Pong => 10,
        }
    }

    /// Whether it may stand between the frames of a message.
    pub(super) const fn is_control(self) -> bool {
        matches!(self, Self::Close | Self::Ping | Self::Pong)
    }
}

/// What stands in front of a payload.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Head {
    pub(super) kind: Kind,
    /// The last frame of its message.
    pub(super) last: bool,
    pub(super) mask: Option<[u8; 4]>,
    /// Bytes of the payload.
    pub(super) length: u64,
    /// Bytes of this head.
    pub(super) size: usize,
}

/// A frame that two readers could take for two things.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Malformed;

/// Reads the head that these bytes begin with. `None`: it is not whole yet. `masked`: it comes from a client, whose
/// frames are masked, and no others are.
pub(super) fn head(bytes: &[u8], masked: bool) -> Result<Option<Head>, Malformed> {
    let &[first, second, ref rest @ ..] = bytes else { return Ok(None) };
    let kind = Kind::of(first & 0x0f).ok_or(Malformed)?;
    let last = first & 0x80 != 0;
    if first & 0x70 != 0 || (second & 0x80 != 0) != masked {
        return Err(Malformed);
    }
    let (length, wide) = match second & 0x7f {
        126 => match rest.first_chunk() {
            Some(length) => (u64::from(u16::from_be_bytes(*length)), 2),
            None => return Ok(None),
        },
        127 => match rest.first_chunk() {
            Some(length) => (u64::from_be_bytes(*length), 8),
            None => return Ok(None),
        },
        short => (u64::from(short), 0),
    };
    let shortest = match wide {
        0 => 0,
        2 => 126,
        _ => 1 << 16,
    };
    // As short as it can be written, and no number that somebody reads as a negative one.
    if length < shortest || length >> 63 != 0 {
        return Err(Malformed);
    }
    if kind.is_control() && (!last || wide != 0) {
        return Err(Malformed);
    }
    let mask = match rest.get(wide..) {
        Some(rest) if masked => match rest.first_chunk() {
            Some(mask) => Some(*mask),
            None => return Ok(None),
        },
        _ => None,
    };
    let size = 2 + wide + if masked { 4 } else { 0 };
    Ok(Some(Head { kind, last, mask, length, size }))
}

/// Masks a payload, or takes the mask off: it is the same. `from` is how much of the payload stands before it.
pub(super) fn mask(payload: &mut [u8], mask: [u8; 4], from: u64) {
    let turn = usize::try_from(from % 4).unwrap_or_default();
    for (byte, key) in payload.iter_mut().zip(mask.iter().cycle().skip(turn)) {
        *byte ^= key;
    }
}

/// Writes the head of a whole message, or of a frame that controls the connection.
pub(super) fn write_head(out: &mut BytesMut, kind: Kind, length: usize, mask: Option<[u8; 4]>) {
    let masked = if mask.is_some() { 0x80 } else { 0 };
    out.put_u8(0x80 | kind.opcode());
    match (u8::try_from(length), u16::try_from(length)) {
        (Ok(short @ 0..126), _) => out.put_u8(masked | short),
        (_, Ok(length)) => {
            out.put_u8(masked | 126);
            out.put_u16(length);
        }
        _ => {
            out.put_u8(masked | 127);
            out.put_u64(length as u64);
        }
    }
    if let Some(mask) = mask {
        out.put_slice(&mask);
    }
}

/// Writes the head of a frame that is passed on as it is, without its mask.
pub(super) fn write_same(out: &mut BytesMut, head: &Head) {
    let begin = out.len();
    write_head(out, head.kind, usize::try_from(head.length).unwrap_or(usize::MAX), None);
    if !head.last {
        out[begin] &= 0x7f;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn written(kind: Kind, length: usize, mask: Option<[u8; 4]>) -> BytesMut {
        let mut out = BytesMut::new();
        write_head(&mut out, kind, length, mask);
        out
    }

    #[test]
    fn what_is_written_is_read_and_nothing_shorter_is() {
        for length in [0, 1, 125, 126, 127, 65_535, 65_536, 1 << 20] {
            for mask in [None, Some([1, 2, 3, 4])] {
                let bytes = written(Kind::Binary, length, mask);
                let is = head(&bytes, mask.is_some()).unwrap().unwrap();
                let size = bytes.len();
                let length = length as u64;
                assert_eq!(is, Head { kind: Kind::Binary, last: true, mask, length, size });
                assert!(size <= HEAD);
                for end in 0..size {
                    assert_eq!(head(&bytes[..end], mask.is_some()), Ok(None), "{length} {end}");
                }
            }
        }
    }

    #[test]
    fn what_two_readers_could_read_differently_is_none() {
        let cases: [(&[u8], bool); 13] = [
            // Extensions, by each of their bits, and opcodes that nothing defines.
            (&[0xc1, 0], false),
            (&[0xa1, 0], false),
            (&[0x91, 0], false),
            (&[0x83, 0], false),
            (&[0x8f, 0], false),
            // Masked where it must not be, and the other way round.
            (&[0x81, 0x80], false),
            (&[0x81, 0], true),
            // Lengths that are not the shortest.
            (&[0x81, 126, 0, 125], false),
            (&[0x81, 127, 0, 0, 0, 0, 0, 0, 0xff, 0xff], false),
            (&[0x81, 127, 0x80, 0, 0, 0, 0, 0, 0, 0], false),
            // Frames of control in pieces, and long ones.
            (&[0x09, 0], false),
            (&[0x88, 126, 1, 0], false),
            (&[0x8a, 127, 0, 0, 0, 0, 0, 1, 0, 0], false),
        ];
        for (bytes, masked) in cases {
            assert_eq!(head(bytes, masked), Err(Malformed), "{bytes:x?}");
        }
    }

    #[test]
    fn a_mask_goes_on_where_it_was_left() {
        let mut payload: Vec<u8> = (0..=255).collect();
        let (one, other) = payload.split_at_mut(77);
        mask(one, [9, 8, 7, 6], 0);
        mask(other, [9, 8, 7, 6], 77);
        assert_eq!(payload[78] ^ 78, [9, 8, 7, 6][78 % 4]);
        mask(&mut payload, [9, 8, 7, 6], 0);
        assert!(payload.iter().zip(0..=255).all(|(a, b)| *a == b));
    }
}
