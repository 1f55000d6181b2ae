//! The agent as process 1 of a real VM (QEMU, TCG), over its virtio-serial port.

#[path = "../common/mod.rs"]
mod common;
mod links;
mod pod;
mod rig;

use links::{many_and_nothing_left, reconnects};
use pod::{like_kubelet, network_and_files, out_of_memory, resources, time_out};
use podvm_agent::pb::agent::v1::*;
use podvm_agent::sys;
use rig::{sandbox, Vm};
use std::time::{Duration, Instant};
use tonic::Code;

#[tokio::test]
async fn a_pod_in_a_vm() {
    let Some(mut vm) = Vm::boot() else { return };
    let mut client = vm.client().await;
    let hello = client.hello(HelloRequest::default()).await.unwrap().into_inner();
    assert!(hello.features.contains(&"vm".to_string()), "{hello:?}");
    assert_ne!(hello.kernel, sys::kernel_release());

    let machine = client.configure_sandbox(sandbox()).await.unwrap().into_inner();
    assert_eq!(machine.cpus, 1);
    assert_eq!(client.configure_sandbox(sandbox()).await.unwrap().into_inner(), machine);
    let other = ConfigureSandboxRequest {
        pod_id: "other".into(),
        ..sandbox()
    };
    assert_eq!(
        client.configure_sandbox(other).await.unwrap_err().code(),
        Code::FailedPrecondition
    );

    network_and_files(&mut client).await;
    resources(&mut client).await;
    like_kubelet(&mut client).await;
    out_of_memory(&mut client).await;
    time_out(&mut client).await;
    let mut client = reconnects(&vm, client).await;
    many_and_nothing_left(&mut client).await;

    let stats = client
        .stats(StatsRequest::default())
        .await
        .unwrap()
        .into_inner()
        .guest
        .unwrap();
    eprintln!(
        "agent: {} KiB resident, ready {} ms after the start of the kernel",
        stats.agent_rss >> 10,
        hello.boot_ns / 1_000_000
    );
    client.shutdown(ShutdownRequest { grace_ms: 100 }).await.unwrap();
    let begun = Instant::now();
    while vm.qemu.try_wait().unwrap().is_none() {
        assert!(begun.elapsed() < Duration::from_secs(20), "the VM is still on");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}
