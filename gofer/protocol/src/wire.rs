//! How values become bytes and bytes become values again.

use crate::NodeId;
use abi::Errno;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// Why bytes are no message.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Malformed {
    /// The message ends before a field does.
    #[error("message cut short")]
    Short,
    /// The header's length is not the packet's.
    #[error("length in the header does not match")]
    Length,
    /// Bytes are left over behind the last field.
    #[error("trailing bytes")]
    Trailing,
    /// No message has this number.
    #[error("unknown message {0}")]
    Op(u16),
    /// Not a file name.
    #[error("bad file name")]
    Name,
    /// A field has a value it cannot have.
    #[error("bad {0}")]
    Value(&'static str),
    /// More elements, or a longer tail, than allowed.
    #[error("too many or too long: {0}")]
    TooLong(&'static str),
}

impl From<Malformed> for Errno {
    fn from(m: Malformed) -> Errno {
        match m {
            Malformed::Op(_) => Errno::ENOSYS,
            Malformed::TooLong(_) => Errno::EMSGSIZE,
            _ => Errno::EINVAL,
        }
    }
}

/// The bytes of a message that are still unread.
#[derive(Clone, Copy, Debug)]
pub struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    /// Reads from the start of `bytes`.
    #[must_use]
    pub fn new(bytes: &'a [u8]) -> Reader<'a> {
        Reader(bytes)
    }

    /// The next `n` bytes.
    pub fn take(&mut self, n: usize) -> Result<&'a [u8], Malformed> {
        let (head, rest) = self.0.split_at_checked(n).ok_or(Malformed::Short)?;
        self.0 = rest;
        Ok(head)
    }

    /// A fixed structure.
    pub fn fixed<T: FromBytes + KnownLayout + Immutable>(&mut self) -> Result<T, Malformed> {
        let (value, rest) = T::read_from_prefix(self.0).map_err(|_| Malformed::Short)?;
        self.0 = rest;
        Ok(value)
    }

    /// How many bytes are left.
    #[must_use]
    pub fn left(&self) -> usize {
        self.0.len()
    }

    /// Checks that nothing is left.
    pub fn finish(self) -> Result<(), Malformed> {
        if self.0.is_empty() { Ok(()) } else { Err(Malformed::Trailing) }
    }
}

/// A value that a message carries.
pub trait Wire<'a>: Sized {
    /// Appends the value.
    fn put(&self, out: &mut Vec<u8>);
    /// Reads one.
    fn get(r: &mut Reader<'a>) -> Result<Self, Malformed>;
}

/// Implements [`Wire`] for types whose bytes are their value.
macro_rules! wire_fixed {
    ($($t:ty),*) => { $(
        impl<'a> Wire<'a> for $t {
            fn put(&self, out: &mut Vec<u8>) { out.extend_from_slice(zerocopy::IntoBytes::as_bytes(self)); }
            fn get(r: &mut Reader<'a>) -> Result<Self, Malformed> { r.fixed() }
        }
    )* };
}
pub(crate) use wire_fixed;
wire_fixed!(u8, u16, u32, u64, i64, crate::Header, abi::time::Timespec);

impl<'a> Wire<'a> for NodeId {
    fn put(&self, out: &mut Vec<u8>) {
        self.0.put(out);
    }
    fn get(r: &mut Reader<'a>) -> Result<Self, Malformed> {
        u64::get(r).map(NodeId)
    }
}

impl<'a> Wire<'a> for bool {
    fn put(&self, out: &mut Vec<u8>) {
        out.push(u8::from(*self));
    }
    fn get(r: &mut Reader<'a>) -> Result<Self, Malformed> {
        match u8::get(r)? {
            0 => Ok(false),
            1 => Ok(true),
            _ => Err(Malformed::Value("boolean")),
        }
    }
}

impl<'a> Wire<'a> for Errno {
    fn put(&self, out: &mut Vec<u8>) {
        (self.raw() as u16).put(out);
    }
    fn get(r: &mut Reader<'a>) -> Result<Self, Malformed> {
        match u16::get(r)? {
            n @ 1..4096 => Ok(Errno::from_raw(i32::from(n))),
            _ => Err(Malformed::Value("errno")),
        }
    }
}

/// Bytes of the message itself, counted.
impl<'a> Wire<'a> for &'a [u8] {
    fn put(&self, out: &mut Vec<u8>) {
        (self.len() as u32).put(out);
        out.extend_from_slice(self);
    }
    fn get(r: &mut Reader<'a>) -> Result<Self, Malformed> {
        let len = u32::get(r)?;
        r.take(len as usize)
    }
}

/// Owned bytes, counted: names, symlink targets and attribute values in replies.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Bytes(pub Vec<u8>);

impl<'a> Wire<'a> for Bytes {
    fn put(&self, out: &mut Vec<u8>) {
        self.0.as_slice().put(out);
    }
    fn get(r: &mut Reader<'a>) -> Result<Self, Malformed> {
        <&[u8]>::get(r).map(|b| Bytes(b.to_vec()))
    }
}

impl<'a, T: Wire<'a>> Wire<'a> for Option<T> {
    fn put(&self, out: &mut Vec<u8>) {
        self.is_some().put(out);
        if let Some(v) = self {
            v.put(out);
        }
    }
    fn get(r: &mut Reader<'a>) -> Result<Self, Malformed> {
        Ok(if bool::get(r)? { Some(T::get(r)?) } else { None })
    }
}

impl<'a, T: Wire<'a>> Wire<'a> for Vec<T> {
    fn put(&self, out: &mut Vec<u8>) {
        (self.len() as u32).put(out);
        for v in self {
            v.put(out);
        }
    }
    fn get(r: &mut Reader<'a>) -> Result<Self, Malformed> {
        let count = u32::get(r)? as usize;
        // Every element has a byte at least, so a count beyond what is left is a lie: do not reserve for it.
        if count > r.left() {
            return Err(Malformed::Short);
        }
        let mut all = Vec::with_capacity(count.min(1024));
        for _ in 0..count {
            all.push(T::get(r)?);
        }
        Ok(all)
    }
}

/// Declares an enum of messages with its numbers, and writes and reads it field by field in the order given.
macro_rules! messages {
    (
        $(#[$meta:meta])*
        pub enum $name:ident $(<$lt:lifetime>)? {
            $( $(#[$vmeta:meta])* $variant:ident = $op:literal { $( $(#[$fmeta:meta])* $field:ident : $ty:ty ),* $(,)? } ),* $(,)?
        }
    ) => {
        $(#[$meta])*
        #[derive(Clone, Debug, PartialEq)]
        pub enum $name $(<$lt>)? {
            $( $(#[$vmeta])* $variant { $( $(#[$fmeta])* $field: $ty ),* } ),*
        }

        impl<'m> $crate::wire::Body<'m> for messages!(@self $name $($lt)?) {
            fn op(&self) -> u16 {
                match self { $( Self::$variant { .. } => $op ),* }
            }
            fn put_body(&self, out: &mut Vec<u8>) {
                match self {
                    $( Self::$variant { $($field),* } => { $( $crate::wire::Wire::put($field, out); )* let _ = out; } ),*
                }
            }
            fn get_body(op: u16, r: &mut $crate::wire::Reader<'m>) -> Result<Self, $crate::wire::Malformed> {
                match op {
                    $( $op => Ok(Self::$variant { $( $field: $crate::wire::Wire::get(r)? ),* }), )*
                    _ => Err($crate::wire::Malformed::Op(op)),
                }
            }
        }
    };
    (@self $name:ident $lt:lifetime) => { $name<'m> };
    (@self $name:ident) => { $name };
}
pub(crate) use messages;

/// What [`messages!`] gives an enum: its number, and its fields as bytes.
pub(crate) trait Body<'a>: Sized {
    fn op(&self) -> u16;
    fn put_body(&self, out: &mut Vec<u8>);
    fn get_body(op: u16, r: &mut Reader<'a>) -> Result<Self, Malformed>;
}

/// Writes a whole message into `out`, which is emptied first.
pub(crate) fn encode<'a>(body: &impl Body<'a>, tag: u32, cpu: u32, out: &mut Vec<u8>) -> Result<(), Malformed> {
    out.clear();
    crate::Header { len: 0, op: body.op(), errno: 0, tag, cpu }.put(out);
    body.put_body(out);
    finish(out)
}

/// Enters the length of a complete message into its header.
pub(crate) fn finish(out: &mut [u8]) -> Result<(), Malformed> {
    let len = out.len();
    if len > crate::MAX_MESSAGE {
        return Err(Malformed::TooLong("message"));
    }
    if let Some(field) = out.get_mut(..4) {
        field.copy_from_slice((len as u32).as_bytes());
    }
    Ok(())
}

/// Splits a packet into its checked header and the body.
pub(crate) fn split(bytes: &[u8]) -> Result<(crate::Header, Reader<'_>), Malformed> {
    let mut r = Reader::new(bytes);
    let header: crate::Header = r.fixed()?;
    if header.len as usize != bytes.len() || bytes.len() > crate::MAX_MESSAGE {
        return Err(Malformed::Length);
    }
    Ok((header, r))
}
