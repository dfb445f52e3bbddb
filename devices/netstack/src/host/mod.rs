//! Where the host itself answers, as the kernel tells it (rtnetlink(7)), and when that changes.

mod netlink;

pub(crate) use netlink::HostWatch;
