/** A commented configuration file that says what the defaults say: what `podvm config init` writes. */
export function defaultConfigText(): string {
  return `# PodVM configuration. Every key is optional; what stands commented out here is the default.
# A key that PodVM does not know is an error. "podvm config check" checks this file.

# What must survive a reboot: images, disks, state. One file system.
#state_dir = "/var/lib/podvm"
# Sockets and pid files, on a tmpfs.
#run_dir = "/run/podvm"
# The CRI socket: kubelet --container-runtime-endpoint=unix:///run/podvm/podvm.sock
# Absent: podvm.sock in run_dir.
#socket = "/run/podvm/podvm.sock"
#socket_mode = "0600"
# Whoever may use the socket is root on this node in effect. Absent: root's group.
#socket_group = "podvm"
# Where setup put the runtime bundle, the guest image and podvm-launch. Absent: assets in state_dir.
#assets_dir = "/var/lib/podvm/assets"

[log]
# error, warn, info, debug
#level = "info"
# text for people, json for machines
#format = "text"

[network]
# CNI configuration; the first file by name counts.
#conf_dir = "/etc/cni/net.d"
# CNI plugins; those of the bundle are found after these.
#bin_dirs = ["/opt/cni/bin"]

[vm]
# auto: KVM where it is usable, else TCG (emulation, slower). kvm, tcg: that one or an error.
#accelerator = "auto"
# For pods without limits.
#default_memory_mib = 512
#default_vcpus = 1
# What a pod may be resized to while it runs, as far as the node has as many.
#max_vcpus = 32
# Added to a pod's memory limit for the guest's kernel and agent.
#guest_reserve_mib = 128
# Nominal size of a pod's writable disk; it takes only what is written.
#scratch_gib = 10
# Every VMM runs as a user of its own: uid_base, uid_base + 1, … Nothing else on the node may use these.
#uid_base = 2000000
#uid_count = 65536
# From the start of the VM to the agent's first answer.
#start_timeout_seconds = 60

[image]
# An image that unpacks to more is refused.
#max_unpacked_gib = 32
# Where credentials are looked for when a pull brings none.
#docker_config = ["/var/lib/kubelet/config.json", "/root/.docker/config.json"]
# Images that kubelet must not collect when it makes space.
#pinned = []

# Per registry, by its name in image references; "*" is for all others.
#[image.registries."docker.io"]
#mirrors = ["https://mirror.example.com"]
#[image.registries."localhost:5000"]
#plain_http = true
#[image.registries."registry.example.com"]
#ca_file = "/etc/podvm/registry-ca.pem"
#insecure_tls = false

[policy]
# Namespaces whose pods may run without a VM, on this node's own kernel: those with hostNetwork, hostPID, hostIPC, bidirectional mounts,
# or the runtime handler "host". A name may end in "*". Nothing but namespaces separates such a pod from the node.
#host_namespaces = ["kube-system"]
# For containers whose client says nothing of seccomp (kubelet always does): "unconfined" as CRI has it, or "runtime/default".
#unset_seccomp_profile = "unconfined"
# Unix sockets of this node that pods may mount.
#sockets = []
# Whether a pod with hostPID alone runs so too (host), or stays in its VM and sees all processes of that (guest). Outside of
# host_namespaces it always stays.
#host_pid = "host"
`;
}
