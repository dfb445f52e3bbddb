//! Serves any [`virtio::VirtioDevice`] on a vhost-user socket.
#![forbid(unsafe_code)]
