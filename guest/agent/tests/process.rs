//! The whole agent as a plain process, with real crun, over a real socket.

mod common;

use common::*;
use podvm_agent::pb::agent::v1::*;
use std::time::{Duration, Instant};
use tokio_stream::wrappers::ReceiverStream;
use tonic::Code;

#[tokio::test]
async fn a_container_from_creation_to_removal() {
    let Some(host) = start() else { return };
    let mut client = host.client().await;
    let hello = client.hello(HelloRequest::default()).await.unwrap().into_inner();
    assert!(hello.crun_version.starts_with("crun version"), "{hello:?}");
    assert_eq!(hello.pod_id, "");
    let early = client.create_container(host.request("a", "true")).await.unwrap_err();
    assert_eq!(early.code(), Code::FailedPrecondition);

    let mut client = host.ready().await;
    let script = "echo out; echo err >&2; pwd; cat /etc/hosts /etc/hostname; echo $HOME; exit 3";
    let request = CreateContainerRequest {
        user: Some(UserSpec {
            user: "web".into(),
            supplemental_groups: vec![1234],
            ..Default::default()
        }),
        ..host.request("a", script)
    };
    let made = client.create_container(request.clone()).await.unwrap().into_inner();
    assert_eq!((made.uid, made.gid, made.groups.clone()), (33, 34, vec![34, 77, 1234]));
    assert_eq!(client.create_container(request).await.unwrap().into_inner(), made);
    let other = client.create_container(host.request("a", "true")).await.unwrap_err();
    assert_eq!(other.code(), Code::AlreadyExists);

    let start = StartContainerRequest {
        container_id: "a".into(),
    };
    let started = client
        .start_container(start.clone())
        .await
        .unwrap()
        .into_inner()
        .started_ns;
    assert_eq!(
        client.start_container(start).await.unwrap().into_inner().started_ns,
        started
    );
    let record = exit(&mut client, "a").await;
    assert_eq!((record.exit_code, record.signal, record.oom_killed), (3, 0, false));
    let (out, err) = output(&mut client, "a").await;
    assert_eq!(err, "err\n");
    assert!(out.starts_with("out\n/work/dir\n127.0.0.1\tlocalhost\n"), "{out}");
    assert!(out.ends_with("10.0.0.1 me\ntest\n/srv\n"), "{out}");

    let list = client
        .list_containers(ListContainersRequest {})
        .await
        .unwrap()
        .into_inner();
    assert_eq!(list.containers.len(), 1);
    assert_eq!(list.containers[0].state(), ContainerState::Exited);
    assert_eq!(list.last_event_seq, 1);
    let mut events = client
        .events(EventsRequest { after_seq: 0 })
        .await
        .unwrap()
        .into_inner();
    let event = events.message().await.unwrap().unwrap();
    assert_eq!(event.seq, 1);
    assert!(matches!(event.kind, Some(event::Kind::Exited(ContainerExited { exit: Some(e), .. })) if e == record));

    for _ in 0..2 {
        client
            .remove_container(RemoveContainerRequest {
                container_id: "a".into(),
            })
            .await
            .unwrap();
    }
    assert_eq!(
        client
            .list_containers(ListContainersRequest {})
            .await
            .unwrap()
            .into_inner()
            .containers,
        vec![]
    );
    let left = |dir: &str| std::fs::read_dir(host.dir.join("state").join(dir)).unwrap().count();
    assert_eq!((left("c"), left("crun")), (0, 0));
}

#[tokio::test]
async fn what_cannot_be_made_leaves_nothing() {
    let Some(host) = start() else { return };
    let mut client = host.ready().await;
    let mut request = host.request("a", "true");
    request.spec.as_mut().unwrap().process.as_mut().unwrap().args = vec!["nope".into()];
    let status = client.create_container(request).await.unwrap_err();
    assert_eq!(status.code(), Code::InvalidArgument, "{status:?}");
    assert!(status.message().contains("nope"), "{status:?}");
    let unknown = CreateContainerRequest {
        user: Some(UserSpec {
            user: "who".into(),
            ..Default::default()
        }),
        ..host.request("a", "true")
    };
    assert_eq!(
        client.create_container(unknown).await.unwrap_err().code(),
        Code::InvalidArgument
    );
    let bad_id = host.request("../a", "true");
    assert_eq!(
        client.create_container(bad_id).await.unwrap_err().code(),
        Code::InvalidArgument
    );
    let left = |dir: &str| std::fs::read_dir(host.dir.join("state").join(dir)).unwrap().count();
    assert_eq!((left("c"), left("crun")), (0, 0));
    host.run(&mut client, "a", "exit 0").await;
    assert_eq!(exit(&mut client, "a").await.exit_code, 0);
}

#[tokio::test]
async fn output_survives_readers_that_go_and_blocks_when_full() {
    let Some(host) = start() else { return };
    let mut client = host.ready().await;
    // 3 MiB through a spool of 1 MiB: only acknowledgements let it end.
    host.run(&mut client, "a", "head -c 3145728 /dev/zero; echo end").await;
    tokio::time::sleep(Duration::from_millis(500)).await;
    let still = client
        .wait_container(WaitContainerRequest {
            container_id: "a".into(),
            timeout_ms: 1,
        })
        .await
        .unwrap();
    assert_eq!(still.into_inner().exit, None);

    let mut first: Option<OutputChunk> = None;
    for _ in 0..20 {
        let mut client = host.client().await;
        let (sender, receiver) = tokio::sync::mpsc::channel(1);
        sender
            .send(OutputRequest {
                container_id: "a".into(),
                ..Default::default()
            })
            .await
            .unwrap();
        let mut chunks = client.output(ReceiverStream::new(receiver)).await.unwrap().into_inner();
        let chunk = chunks.message().await.unwrap().unwrap();
        assert_eq!(first.get_or_insert(chunk.clone()), &chunk);
    }
    let mut client = host.client().await;
    let (out, err) = output(&mut client, "a").await;
    assert_eq!((out.len(), err.len()), (3_145_728 + 4, 0));
    assert!(out.ends_with("end\n"));
    assert_eq!(exit(&mut client, "a").await.exit_code, 0);
}

#[tokio::test]
async fn a_newer_reader_ends_the_older() {
    let Some(host) = start() else { return };
    let mut client = host.ready().await;
    host.run(&mut client, "a", "sleep 60").await;
    let request = || {
        tokio_stream::iter([OutputRequest {
            container_id: "a".into(),
            ..Default::default()
        }])
    };
    let mut older = client.output(request()).await.unwrap().into_inner();
    let _newer = client.output(request()).await.unwrap().into_inner();
    assert_eq!(older.message().await.unwrap_err().code(), Code::Aborted);
}

#[tokio::test]
async fn standard_input_and_terminal_of_a_container() {
    let Some(host) = start() else { return };
    let mut client = host.ready().await;
    let request = CreateContainerRequest {
        stdin: true,
        stdin_once: true,
        ..host.request("a", "cat; echo done")
    };
    client.create_container(request).await.unwrap();
    client
        .start_container(StartContainerRequest {
            container_id: "a".into(),
        })
        .await
        .unwrap();
    let data = InputRequest {
        container_id: "a".into(),
        data: "typed ".into(),
        close: false,
    };
    let answer = client.input(tokio_stream::iter([data])).await.unwrap().into_inner();
    assert_eq!(answer.written, 6);
    assert_eq!(output(&mut client, "a").await.0, "typed done\n");

    let mut request = CreateContainerRequest {
        stdin: true,
        ..host.request("b", "read x; stty size; exit 9")
    };
    request.spec.as_mut().unwrap().process.as_mut().unwrap().terminal = true;
    client.create_container(request).await.unwrap();
    client
        .start_container(StartContainerRequest {
            container_id: "b".into(),
        })
        .await
        .unwrap();
    let size = ResizeTerminalRequest {
        container_id: "b".into(),
        width: 91,
        height: 7,
        ..Default::default()
    };
    client.resize_terminal(size).await.unwrap();
    let data = InputRequest {
        container_id: "b".into(),
        data: "x\n".into(),
        close: false,
    };
    client.input(tokio_stream::iter([data])).await.unwrap();
    let (out, err) = output(&mut client, "b").await;
    assert!(out.ends_with("7 91\r\n"), "{out:?}");
    assert_eq!((err.as_str(), exit(&mut client, "b").await.exit_code), ("", 9));
}

#[tokio::test]
async fn pid_namespaces() {
    let Some(host) = start() else { return };
    let mut client = host.ready().await;
    let show = "readlink /proc/self/ns/pid; echo $$; sleep 600";
    let mut seen = Vec::new();
    for (id, namespace, target) in [
        ("own", PidNamespace::Container, ""),
        ("pod1", PidNamespace::Pod, ""),
        ("pod2", PidNamespace::Pod, ""),
        ("joins", PidNamespace::Target, "own"),
        ("node", PidNamespace::Node, ""),
    ] {
        let request = CreateContainerRequest {
            pid_namespace: namespace.into(),
            pid_target_container_id: target.into(),
            ..host.request(id, show)
        };
        client.create_container(request).await.unwrap();
        client
            .start_container(StartContainerRequest {
                container_id: id.into(),
            })
            .await
            .unwrap();
        let request = OutputRequest {
            container_id: id.into(),
            ..Default::default()
        };
        let mut chunks = client.output(tokio_stream::iter([request])).await.unwrap().into_inner();
        let mut text = String::new();
        while text.lines().count() < 2 {
            text += std::str::from_utf8(&chunks.message().await.unwrap().unwrap().data).unwrap();
        }
        let mut lines = text.lines();
        seen.push((lines.next().unwrap().to_string(), lines.next().unwrap() == "1"));
    }
    let namespace = |at: usize| seen[at].0.clone();
    assert!(seen[0].1 && !seen[1].1, "{seen:?}");
    assert_eq!(namespace(1), namespace(2));
    assert_eq!(namespace(0), namespace(3));
    let own = std::fs::read_link("/proc/self/ns/pid").unwrap();
    assert_eq!(namespace(4), own.to_str().unwrap());
    for id in ["pod1", "node", "joins", "own", "pod2"] {
        client
            .signal_container(SignalContainerRequest {
                container_id: id.into(),
                signal: 9,
                all: false,
            })
            .await
            .unwrap();
        let record = exit(&mut client, id).await;
        assert_eq!((record.exit_code, record.signal), (137, 9), "{id}");
        client
            .signal_container(SignalContainerRequest {
                container_id: id.into(),
                signal: 15,
                all: true,
            })
            .await
            .unwrap();
    }
}

#[tokio::test]
async fn garbage_and_reconnects() {
    use tokio::io::AsyncWriteExt;
    let Some(host) = start() else { return };
    let mut client = host.ready().await;
    host.run(&mut client, "a", "sleep 600").await;
    let instance = client
        .hello(HelloRequest::default())
        .await
        .unwrap()
        .into_inner()
        .instance;
    for round in 0..50u32 {
        match round % 5 {
            0 => {
                let mut stream = tokio::net::UnixStream::connect(&host.socket).await.unwrap();
                drop(stream.write_all(&[0xfe; 5000]).await);
            }
            1 => {
                let mut stream = greeted(&host.socket).await.unwrap();
                drop(stream.write_all(b"GET / HTTP/1.1\r\n\r\n").await);
            }
            2 => {
                let mut stream = greeted(&host.socket).await.unwrap();
                let frame = [&b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"[..], &[0xff; 3000]].concat();
                drop(stream.write_all(&frame).await);
            }
            3 => {
                let mut client = host.client().await;
                let huge = ExecSyncRequest {
                    container_id: "a".into(),
                    args: vec!["x".repeat(30 << 20)],
                    ..Default::default()
                };
                assert!(client.exec_sync(huge).await.is_err());
            }
            _ => {
                let mut client = host.client().await;
                drop(client.events(EventsRequest { after_seq: 0 }).await.unwrap());
            }
        }
        let mut client = host.client().await;
        let hello = client.hello(HelloRequest::default()).await.unwrap().into_inner();
        assert_eq!(hello.instance, instance);
    }
    let mut client = host.client().await;
    let list = client
        .list_containers(ListContainersRequest {})
        .await
        .unwrap()
        .into_inner();
    assert_eq!(list.containers[0].state(), ContainerState::Running);
    let stats = client.stats(StatsRequest::default()).await.unwrap().into_inner();
    assert_eq!(stats.containers.len(), 1);
    assert!(stats.guest.unwrap().agent_rss > 0);
    let logs = client
        .logs(LogsRequest { after_seq: 0 })
        .await
        .unwrap()
        .into_inner()
        .message()
        .await
        .unwrap();
    assert_eq!(logs.unwrap().seq, 1);
}

#[tokio::test]
async fn shutdown_ends_containers_and_agent() {
    let Some(host) = start() else { return };
    let mut client = host.ready().await;
    host.run(&mut client, "a", "trap 'exit 0' TERM; while :; do sleep 0.1; done")
        .await;
    client.shutdown(ShutdownRequest { grace_ms: 5000 }).await.unwrap();
    let begun = Instant::now();
    while host.socket.exists() {
        assert!(begun.elapsed() < Duration::from_secs(20));
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}
