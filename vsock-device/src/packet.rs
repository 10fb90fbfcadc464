//! The 44-byte header of a vsock packet (virtio 1.2, section 5.10.6), little endian. Parsing accepts any bytes; what
//! is acceptable is decided by the connection and the mux.

/// Bytes of a header.
pub const HEADER_LENGTH: usize = 44;
/// The largest payload of a packet in bytes, as Linux has it.
pub const PAYLOAD_MAX: usize = 64 * 1024;
/// The host's context id.
pub const HOST_CID: u64 = 2;
/// Stream sockets, the only type served.
pub const TYPE_STREAM: u16 = 1;
/// SHUTDOWN flag: the sender will not receive any more.
pub const SHUTDOWN_RECEIVE: u32 = 1;
/// SHUTDOWN flag: the sender will not send any more.
pub const SHUTDOWN_SEND: u32 = 2;

/// What a packet is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Operation {
    /// Open a connection.
    Request,
    /// It is open.
    Response,
    /// It is gone.
    Reset,
    /// One or both directions end.
    Shutdown,
    /// Payload.
    Payload,
    /// Here is my credit.
    CreditUpdate,
    /// Tell me yours.
    CreditRequest,
}

impl Operation {
    /// The number on the wire.
    #[must_use]
    pub const fn number(self) -> u16 {
        match self {
            Self::Request => 1,
            Self::Response => 2,
            Self::Reset => 3,
            Self::Shutdown => 4,
            Self::Payload => 5,
            Self::CreditUpdate => 6,
            Self::CreditRequest => 7,
        }
    }

    /// Reads the number; `None` for one that no driver should send.
    #[must_use]
    pub const fn from_number(number: u16) -> Option<Self> {
        match number {
            1 => Some(Self::Request),
            2 => Some(Self::Response),
            3 => Some(Self::Reset),
            4 => Some(Self::Shutdown),
            5 => Some(Self::Payload),
            6 => Some(Self::CreditUpdate),
            7 => Some(Self::CreditRequest),
            _ => None,
        }
    }
}

/// A header as it is on the wire.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Header {
    /// Sender's context id.
    pub src_cid: u64,
    /// Receiver's context id.
    pub dst_cid: u64,
    /// Sender's port.
    pub src_port: u32,
    /// Receiver's port.
    pub dst_port: u32,
    /// Bytes of payload.
    pub length: u32,
    /// Socket type.
    pub kind: u16,
    /// [`Operation`] number.
    pub operation: u16,
    /// Flags of the operation.
    pub flags: u32,
    /// The sender's receive buffer in bytes.
    pub buf_alloc: u32,
    /// Bytes that the sender has taken out of it, modulo 2^32.
    pub fwd_cnt: u32,
}

impl Header {
    /// Reads 44 bytes.
    #[must_use]
    pub fn from_bytes(bytes: &[u8; HEADER_LENGTH]) -> Self {
        fn at<const N: usize>(bytes: &[u8; HEADER_LENGTH], offset: usize) -> [u8; N] {
            std::array::from_fn(|i| bytes.get(offset + i).copied().unwrap_or(0))
        }
        Self {
            src_cid: u64::from_le_bytes(at(bytes, 0)),
            dst_cid: u64::from_le_bytes(at(bytes, 8)),
            src_port: u32::from_le_bytes(at(bytes, 16)),
            dst_port: u32::from_le_bytes(at(bytes, 20)),
            length: u32::from_le_bytes(at(bytes, 24)),
            kind: u16::from_le_bytes(at(bytes, 28)),
            operation: u16::from_le_bytes(at(bytes, 30)),
            flags: u32::from_le_bytes(at(bytes, 32)),
            buf_alloc: u32::from_le_bytes(at(bytes, 36)),
            fwd_cnt: u32::from_le_bytes(at(bytes, 40)),
        }
    }

    /// Writes 44 bytes.
    #[must_use]
    pub fn to_bytes(&self) -> [u8; HEADER_LENGTH] {
        let mut out = [0; HEADER_LENGTH];
        let parts: [&[u8]; 10] = [
            &self.src_cid.to_le_bytes(),
            &self.dst_cid.to_le_bytes(),
            &self.src_port.to_le_bytes(),
            &self.dst_port.to_le_bytes(),
            &self.length.to_le_bytes(),
            &self.kind.to_le_bytes(),
            &self.operation.to_le_bytes(),
            &self.flags.to_le_bytes(),
            &self.buf_alloc.to_le_bytes(),
            &self.fwd_cnt.to_le_bytes(),
        ];
        for (to, from) in out.iter_mut().zip(parts.into_iter().flatten()) {
            *to = *from;
        }
        out
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_header_comes_back_as_it_went() {
        let bytes: [u8; HEADER_LENGTH] = std::array::from_fn(|i| u8::try_from(i).expect("44 fits"));
        assert_eq!(Header::from_bytes(&bytes).to_bytes(), bytes);
        assert_eq!(Header::from_bytes(&bytes).src_port, 0x1312_1110);
    }
}
