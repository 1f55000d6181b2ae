//! Connections that come and go; containers that do.

use crate::common::*;
use crate::rig::{begin, shell, Vm};
use podvm_agent::pb::agent::v1::*;
use std::time::{Duration, Instant};
use tokio::io::AsyncWriteExt;
use tokio_stream::wrappers::ReceiverStream;

/// Connections that end in the midst of frames, some with output under way.
pub async fn reconnects(vm: &Vm, mut client: Client) -> Client {
    begin(
        &mut client,
        container(
            "chatty",
            "podvm-image",
            "while :; do echo 0123456789012345678901234567890123456789; done",
        ),
    )
    .await;
    // QEMU takes one client at a time.
    drop(client);
    let mut position = 0;
    let mut longest = Duration::ZERO;
    for round in 0..30u32 {
        if round % 3 == 0 {
            let mut stream = greeted(&vm.socket).await.unwrap();
            // A preface, settings, and the head of a DATA frame whose payload never comes.
            let half = [
                &b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"[..],
                &[0, 0, 0, 4, 0, 0, 0, 0, 0],
                &[0, 0x40, 0, 0, 0, 0, 0, 0, 1],
                &[b'x'; 500],
            ]
            .concat();
            stream.write_all(&half).await.unwrap();
            continue;
        }
        let begun = Instant::now();
        let mut client = vm.client().await;
        let (sender, receiver) = tokio::sync::mpsc::channel(4);
        let request = OutputRequest {
            container_id: "chatty".into(),
            stdout_offset: position,
            stderr_offset: 0,
        };
        sender.send(request.clone()).await.unwrap();
        let mut chunks = client.output(ReceiverStream::new(receiver)).await.unwrap().into_inner();
        for _ in 0..3 {
            let chunk = chunks.message().await.unwrap().unwrap();
            assert_eq!(chunk.offset, position);
            let whole = b"0123456789012345678901234567890123456789\n";
            assert!(chunk
                .data
                .iter()
                .enumerate()
                .all(|(i, b)| *b == whole[(position as usize + i) % whole.len()]));
            position += chunk.data.len() as u64;
            sender
                .send(OutputRequest {
                    stdout_offset: position,
                    ..request.clone()
                })
                .await
                .unwrap();
        }
        longest = longest.max(begun.elapsed());
        assert!(longest < Duration::from_secs(30), "round {round}");
    }
    eprintln!("reconnects: the longest took {longest:?}");
    let mut client = vm.client().await;
    client
        .remove_container(RemoveContainerRequest {
            container_id: "chatty".into(),
        })
        .await
        .unwrap();
    client
}

pub async fn many_and_nothing_left(client: &mut Client) {
    for round in 0..20 {
        begin(
            client,
            container(&format!("many-{round}"), "podvm-image", "echo here; sleep 600"),
        )
        .await;
    }
    let probe = shell(client, "many-0", "cat /proc/mounts").await;
    assert!(!probe.contains("podvm.agent"));
    for round in 0..20 {
        let container_id = format!("many-{round}");
        client
            .remove_container(RemoveContainerRequest { container_id })
            .await
            .unwrap();
    }
    let request = CreateContainerRequest {
        pid_namespace: PidNamespace::Node.into(),
        ..container("probe", "podvm-image", "sleep 600")
    };
    begin(client, request).await;
    let mounts = shell(client, "probe", "cat /proc/1/mounts").await;
    let left = mounts
        .lines()
        .filter(|l| l.contains("/run/podvm/c/") || l.contains("/run/podvm/images/"))
        .count();
    assert_eq!(left, 2, "{mounts}");
    client
        .remove_container(RemoveContainerRequest {
            container_id: "probe".into(),
        })
        .await
        .unwrap();
}
