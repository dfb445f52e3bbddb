//! Sequence numbers, which wrap around (RFC 9293, 3.4).

/// A position in the stream of one side. Two of them compare as long as they are less than 2 GiB apart, and any two
/// can be compared: those of a hostile guest are anywhere.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Seq(pub(super) u32);

impl Seq {
    /// The position `count` further on.
    pub(super) fn plus(self, count: u32) -> Self {
        Self(self.0.wrapping_add(count))
    }

    /// The position `count` before this one.
    pub(super) fn minus(self, count: u32) -> Self {
        Self(self.0.wrapping_sub(count))
    }

    /// How far this lies behind `base` in the stream; negative when it lies before it.
    pub(super) fn offset(self, base: Self) -> i64 {
        self.0.wrapping_sub(base.0).cast_signed().into()
    }

    /// Likewise for what cannot lie before `base`, or 0.
    pub(super) fn since(self, base: Self) -> u32 {
        u32::try_from(self.offset(base)).unwrap_or(0)
    }

    pub(super) fn is_after(self, other: Self) -> bool {
        self.offset(other) > 0
    }

    /// The later one.
    pub(super) fn max(self, other: Self) -> Self {
        if self.is_after(other) { self } else { other }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn positions_compare_across_the_wrap() {
        let late = Seq(u32::MAX - 1);
        let wrapped = late.plus(5);
        assert_eq!((wrapped, wrapped.minus(5)), (Seq(3), late));
        assert!(wrapped.is_after(late) && !late.is_after(wrapped) && !late.is_after(late));
        assert_eq!((wrapped.offset(late), late.offset(wrapped)), (5, -5));
        assert_eq!((wrapped.since(late), late.since(wrapped)), (5, 0));
        assert_eq!((wrapped.max(late), late.max(wrapped)), (wrapped, wrapped));
    }
}
