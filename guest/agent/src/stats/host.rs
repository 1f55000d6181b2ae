//! A pod on the host: what it uses is its cgroup's use, and the rest of the machine is none of its business.

use super::{of_cgroup, v1};
use crate::agent::Agent;
use crate::cgroup::Cgroups;
use crate::pb::agent::v1::{ContainerStats, GuestStats};

/// The machine's figures with the pod's own in their places; as they are where the machine is the pod's.
pub fn narrowed(agent: &Agent, machine: GuestStats) -> GuestStats {
    let Some(host) = &agent.setup.host else { return machine };
    let pod = match &agent.setup.cgroups {
        Cgroups::Split { v1, .. } => v1::of_cgroups(v1, ContainerStats::default()),
        cgroups => of_cgroup(&cgroups.base(), ContainerStats::default()),
    };
    let interfaces = if host.own_network {
        machine.interfaces.clone()
    } else {
        Vec::new() // the node's
    };
    of_pod(machine, &pod, interfaces)
}

fn of_pod(
    machine: GuestStats,
    pod: &ContainerStats,
    interfaces: Vec<crate::pb::agent::v1::InterfaceStats>,
) -> GuestStats {
    let total = match pod.memory_limit {
        0 => machine.memory_total,
        limit => limit.min(machine.memory_total),
    };
    GuestStats {
        cpu_usage_ns: pod.cpu_usage_ns,
        memory_total: total,
        memory_available: total.saturating_sub(pod.memory_working_set),
        memory_free: total.saturating_sub(pod.memory_usage),
        memory_rss: pod.memory_rss,
        memory_page_faults: pod.memory_page_faults,
        memory_major_page_faults: pod.memory_major_page_faults,
        processes: pod.processes,
        interfaces,
        cpu_pressure: pod.cpu_pressure,
        memory_pressure: pod.memory_pressure,
        io_pressure: pod.io_pressure,
        ..machine
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_machine_is_not_the_pods() {
        let machine = GuestStats {
            memory_total: 1000,
            memory_free: 10,
            processes: 500,
            cpus: 4,
            ..Default::default()
        };
        let pod = ContainerStats {
            memory_usage: 70,
            memory_working_set: 50,
            processes: 3,
            cpu_usage_ns: 9,
            ..Default::default()
        };
        let all = of_pod(machine.clone(), &pod, Vec::new());
        assert_eq!(
            (all.memory_total, all.memory_available, all.memory_free),
            (1000, 950, 930)
        );
        assert_eq!((all.processes, all.cpu_usage_ns, all.cpus), (3, 9, 4));
        let limited = of_pod(
            machine,
            &ContainerStats {
                memory_limit: 100,
                ..pod
            },
            Vec::new(),
        );
        assert_eq!((limited.memory_total, limited.memory_available), (100, 50));
    }
}
