//! PodVM's agent: the first process of a pod's VM, which runs containers for the server (docs/agent-protocol.md).

pub mod agent;
pub mod alloc;
pub mod apparmor;
pub mod boot;
pub mod cgroup;
pub mod cgroup_v1;
pub mod container;
pub mod crun;
pub mod device;
pub mod dial;
pub mod disk;
pub mod events;
pub mod exec;
pub mod fail;
pub mod guest_devices;
pub mod hello;
pub mod host_pod;
pub mod idmap;
pub mod ids;
pub mod images;
pub mod inside;
pub mod keyed;
pub mod link;
pub mod log;
pub mod modules;
pub mod net;
pub mod oom;
pub mod pb;
pub mod reaper;
pub mod resize;
pub mod ring;
pub mod rootfs;
pub mod sandbox;
pub mod service;
pub mod setup;
pub mod share;
pub mod shutdown;
pub mod spec;
pub mod spool;
pub mod stats;
pub mod sys;
pub mod tube;
pub mod userns;
pub mod users;
pub mod volume;

/// Where the memory of all of it comes from.
#[global_allocator]
pub static MEMORY: alloc::Caching = alloc::Caching::new();
