//! The guest's network: interfaces found by MAC, then named, addressed, and routed by netlink, exactly as CNI said.

mod address;
mod netlink;

use crate::fail::{internal, invalid, Doing};
use crate::pb::agent::v1::{Interface, Network, Route};
use crate::{disk, inside, sys};
use address::{Mac, Prefix};
use netlink::{Message, Netlink};
use std::collections::HashMap;
use std::fs;
use std::io;
use std::net::IpAddr;
use tonic::Status;

// linux/if_addr.h, linux/rtnetlink.h, linux/if_link.h: what libc lacks.
const IFA_ADDRESS: u16 = 1;
const IFA_LOCAL: u16 = 2;
const IFA_BROADCAST: u16 = 4;
const IFA_FLAGS: u16 = 8;
const IFA_F_NODAD: u32 = 0x02;
const IFLA_IFNAME: u16 = 3;
const IFLA_MTU: u16 = 4;
const IFLA_NET_NS_PID: u16 = 19;
const RTA_DST: u16 = 1;
const RTA_OIF: u16 = 4;
const RTA_GATEWAY: u16 = 5;
const RTA_PRIORITY: u16 = 6;
const RTA_METRICS: u16 = 8;
const RTAX_MTU: u16 = 2;
const RTNH_F_ONLINK: u32 = 4;
const RT_SCOPE_UNIVERSE: u8 = 0;
const RT_SCOPE_LINK: u8 = 253;
const RTPROT_STATIC: u8 = 4;
const RTN_UNICAST: u8 = 1;

/// May be repeated: what is there already is no error. `holder`: the process whose network namespace is the pod's, to which the interfaces are moved;
/// None: they stay in the guest's own.
pub async fn configure(network: &Network, holder: Option<libc::pid_t>) -> Result<(), Status> {
    let plan = Plan::parse(network)?;
    let mut names = Vec::new();
    for interface in &plan.interfaces {
        names.push(device(interface, holder).await?);
    }
    match holder {
        None => apply(&plan, &names),
        Some(pid) => {
            inside::network_of(pid, move || Ok(apply(&plan, &names))).doing(|| "the pod's network namespace")?
        }
    }
}

/// The name that the device with this MAC has; in the pod's namespace afterwards.
async fn device(interface: &PlannedInterface, holder: Option<libc::pid_t>) -> Result<String, Status> {
    let name = &interface.name;
    if let Some(pid) = holder {
        // Moved by a configuration that failed later.
        let wanted = name.clone();
        let moved = inside::network_of(pid, move || Ok(index_of(&wanted).is_ok()));
        if moved.doing(|| "the pod's network namespace")? {
            return Ok(name.clone());
        }
    }
    let found = disk::appears(|| find(interface.mac)).await;
    let Some((index, old_name)) = found else {
        return Err(internal(
            format!("interface {name}"),
            format!("no device with MAC {} within 10 s", interface.mac),
        ));
    };
    if let Some(pid) = holder {
        let mut netlink = Netlink::open().doing(|| "netlink")?;
        move_to(&mut netlink, index, pid).doing(|| format!("move of interface {old_name} to the pod"))?;
    }
    Ok(old_name)
}

/// In the network namespace of the calling thread. `names`: what each interface of the plan is called now.
fn apply(plan: &Plan, names: &[String]) -> Result<(), Status> {
    let mut netlink = Netlink::open().doing(|| "netlink")?;
    up(&mut netlink, 1, None, None).doing(|| "interface lo")?;
    let mut indexes = HashMap::new();
    for (interface, old_name) in plan.interfaces.iter().zip(names) {
        let name = &interface.name;
        let index = index_of(old_name).doing(|| format!("interface {old_name}"))?;
        if old_name != name {
            set_down(&mut netlink, index).doing(|| format!("interface {old_name}"))?;
        }
        quiet_ipv6(old_name);
        up(&mut netlink, index, Some(name), interface.mtu).doing(|| format!("interface {name}"))?;
        for address in &interface.addresses {
            add_address(&mut netlink, index, address).doing(|| format!("address {address} on {name}"))?;
        }
        indexes.insert(name.clone(), index);
    }
    for route in &plan.routes {
        let Some(index) = indexes.get(&route.interface) else {
            return Err(invalid(format!(
                "route: no interface {:?} in this request",
                route.interface
            )));
        };
        add_route(&mut netlink, *index, route).doing(|| format!("route {}", route.text))?;
    }
    Ok(())
}

/// The request, parsed.
struct Plan {
    interfaces: Vec<PlannedInterface>,
    routes: Vec<PlannedRoute>,
}

struct PlannedInterface {
    name: String,
    mac: Mac,
    mtu: Option<u32>,
    addresses: Vec<Prefix>,
}

struct PlannedRoute {
    text: String,
    destination: Prefix,
    gateway: Option<IpAddr>,
    interface: String,
    mtu: Option<u32>,
    metric: Option<u32>,
}

impl Plan {
    fn parse(network: &Network) -> Result<Self, Status> {
        if network.interfaces.len() > 64 || network.routes.len() > 4096 {
            return Err(invalid("network: wanted at most 64 interfaces and 4096 routes"));
        }
        let interfaces = network.interfaces.iter().map(interface).collect::<Result<_, _>>()?;
        let mut routes: Vec<PlannedRoute> = network.routes.iter().map(route).collect::<Result<_, _>>()?;
        // A gateway must be reachable before it can be used.
        routes.sort_by_key(|r| r.gateway.is_some());
        Ok(Plan { interfaces, routes })
    }
}

fn interface(wanted: &Interface) -> Result<PlannedInterface, Status> {
    let legal = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.');
    if wanted.name.is_empty()
        || wanted.name.len() > 15
        || !wanted.name.bytes().all(legal)
        || wanted.name.starts_with('.')
    {
        return Err(invalid(format!(
            "interface: wanted a name of 1 to 15 characters, found {:?}",
            wanted.name
        )));
    }
    let addresses = wanted
        .addresses
        .iter()
        .map(|a| a.parse().map_err(invalid))
        .collect::<Result<_, _>>()?;
    let mac = wanted.mac.parse().map_err(invalid)?;
    Ok(PlannedInterface {
        name: wanted.name.clone(),
        mac,
        mtu: nonzero(wanted.mtu),
        addresses,
    })
}

fn route(wanted: &Route) -> Result<PlannedRoute, Status> {
    let destination: Prefix = wanted.destination.parse().map_err(invalid)?;
    let gateway = match wanted.gateway.as_str() {
        "" => None,
        text => Some(
            text.parse::<IpAddr>()
                .map_err(|_| invalid(format!("gateway: {text:?} is no address")))?,
        ),
    };
    if gateway.is_some_and(|g| g.is_ipv4() != destination.address.is_ipv4()) {
        return Err(invalid(format!(
            "route {destination}: its gateway {} is of the other family",
            wanted.gateway
        )));
    }
    Ok(PlannedRoute {
        text: format!("{destination} via {:?} dev {}", wanted.gateway, wanted.interface),
        destination: destination.masked(),
        gateway,
        interface: wanted.interface.clone(),
        mtu: nonzero(wanted.mtu),
        metric: nonzero(wanted.metric),
    })
}

fn nonzero(n: u32) -> Option<u32> {
    (n != 0).then_some(n)
}

/// Index and name of the device with this MAC.
fn find(mac: Mac) -> Option<(u32, String)> {
    fs::read_dir("/sys/class/net").ok()?.flatten().find_map(|entry| {
        let text = |file: &str| fs::read_to_string(entry.path().join(file)).ok();
        let found: Mac = text("address")?.trim().parse().ok()?;
        if found != mac {
            return None;
        }
        Some((
            text("ifindex")?.trim().parse().ok()?,
            entry.file_name().to_string_lossy().into_owned(),
        ))
    })
}

/// Only the addresses of the request: no router advertisement adds others. Without IPv6 there is nothing to do.
fn quiet_ipv6(name: &str) {
    for key in ["accept_ra", "autoconf"] {
        drop(fs::write(format!("/proc/sys/net/ipv6/conf/{name}/{key}"), "0"));
    }
}

fn index_of(name: &str) -> io::Result<u32> {
    let name = sys::cstring(name)?;
    match unsafe { libc::if_nametoindex(name.as_ptr()) } {
        0 => Err(io::Error::last_os_error()),
        index => Ok(index),
    }
}

fn move_to(netlink: &mut Netlink, index: u32, pid: libc::pid_t) -> io::Result<()> {
    let mut message = Message::new(libc::RTM_NEWLINK, 0, &link_header(index, 0, 0));
    message.u32(IFLA_NET_NS_PID, pid as u32);
    netlink.request(&message)
}

fn set_down(netlink: &mut Netlink, index: u32) -> io::Result<()> {
    netlink.request(&Message::new(
        libc::RTM_NEWLINK,
        0,
        &link_header(index, 0, libc::IFF_UP as u32),
    ))
}

fn up(netlink: &mut Netlink, index: u32, name: Option<&str>, mtu: Option<u32>) -> io::Result<()> {
    let up = libc::IFF_UP as u32;
    if let Some(name) = name {
        let mut message = Message::new(libc::RTM_NEWLINK, 0, &link_header(index, 0, 0));
        message.text(IFLA_IFNAME, name);
        if let Some(mtu) = mtu {
            message.u32(IFLA_MTU, mtu);
        }
        netlink.request(&message)?;
    }
    netlink.request(&Message::new(libc::RTM_NEWLINK, 0, &link_header(index, up, up)))
}

/// struct ifinfomsg.
fn link_header(index: u32, flags: u32, change: u32) -> [u8; 16] {
    let mut header = [0; 16];
    header[4..8].copy_from_slice(&index.to_ne_bytes());
    header[8..12].copy_from_slice(&flags.to_ne_bytes());
    header[12..].copy_from_slice(&change.to_ne_bytes());
    header
}

fn add_address(netlink: &mut Netlink, index: u32, prefix: &Prefix) -> io::Result<()> {
    // struct ifaddrmsg: family, prefix length, flags, scope, index.
    let mut header = vec![prefix.family(), prefix.length, 0, RT_SCOPE_UNIVERSE];
    header.extend_from_slice(&index.to_ne_bytes());
    let flags = libc::NLM_F_CREATE | libc::NLM_F_REPLACE;
    let mut message = Message::new(libc::RTM_NEWADDR, flags as u16, &header);
    message.bytes(IFA_LOCAL, &prefix.octets());
    message.bytes(IFA_ADDRESS, &prefix.octets());
    if let Some(broadcast) = prefix.broadcast() {
        message.bytes(IFA_BROADCAST, &broadcast.octets());
    }
    if prefix.address.is_ipv6() {
        message.u32(IFA_FLAGS, IFA_F_NODAD);
    }
    netlink.request(&message)
}

/// A gateway that no route leads to is taken to be on the link, as some CNI plugins mean it.
fn add_route(netlink: &mut Netlink, index: u32, route: &PlannedRoute) -> io::Result<()> {
    match netlink.request(&route_message(index, route, 0)) {
        Err(e)
            if route.gateway.is_some() && matches!(e.raw_os_error(), Some(libc::ENETUNREACH | libc::EHOSTUNREACH)) =>
        {
            netlink.request(&route_message(index, route, RTNH_F_ONLINK))
        }
        result => result,
    }
}

fn route_message(index: u32, route: &PlannedRoute, flags: u32) -> Message {
    let scope = if route.gateway.is_none() && route.destination.address.is_ipv4() {
        RT_SCOPE_LINK
    } else {
        RT_SCOPE_UNIVERSE
    };
    // struct rtmsg: family, lengths of destination and source, tos, table, protocol, scope, type, flags.
    let mut header = vec![
        route.destination.family(),
        route.destination.length,
        0,
        0,
        libc::RT_TABLE_MAIN,
        RTPROT_STATIC,
        scope,
        RTN_UNICAST,
    ];
    header.extend_from_slice(&flags.to_ne_bytes());
    let mut message = Message::new(
        libc::RTM_NEWROUTE,
        (libc::NLM_F_CREATE | libc::NLM_F_REPLACE) as u16,
        &header,
    );
    if route.destination.length > 0 {
        message.bytes(RTA_DST, &route.destination.octets());
    }
    message.u32(RTA_OIF, index);
    if let Some(gateway) = route.gateway {
        message.bytes(RTA_GATEWAY, &address::octets(gateway));
    }
    if let Some(metric) = route.metric {
        message.u32(RTA_PRIORITY, metric);
    }
    if let Some(mtu) = route.mtu {
        message.nested_u32(RTA_METRICS, RTAX_MTU, mtu);
    }
    message
}

#[cfg(test)]
mod tests {
    use super::*;

    fn planned(destination: &str, gateway: &str) -> Result<PlannedRoute, Status> {
        route(&Route {
            destination: destination.into(),
            gateway: gateway.into(),
            interface: "eth0".into(),
            ..Default::default()
        })
    }

    #[test]
    fn direct_routes_come_first() {
        let routes = [("0.0.0.0/0", "10.0.0.1"), ("10.0.0.1/32", "")].map(|(destination, gateway)| Route {
            destination: destination.into(),
            gateway: gateway.into(),
            ..Default::default()
        });
        let plan = Plan::parse(&Network {
            interfaces: vec![],
            routes: routes.into(),
        })
        .unwrap();
        assert!(plan.routes[0].gateway.is_none());
    }

    #[test]
    fn malformed_requests_are_refused() {
        assert!(planned("10.0.0.0/33", "").is_err());
        assert!(planned("::/0", "10.0.0.1").is_err());
        assert!(planned("0.0.0.0/0", "gateway").is_err());
        let bad = Interface {
            name: "a/b".into(),
            mac: "02:00:00:00:00:01".into(),
            ..Default::default()
        };
        assert!(interface(&bad).is_err());
    }

    #[test]
    fn destinations_are_masked() {
        assert_eq!(
            planned("10.1.2.3/16", "").unwrap().destination.to_string(),
            "10.1.0.0/16"
        );
    }
}
