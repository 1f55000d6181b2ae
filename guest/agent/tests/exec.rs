//! Commands in containers of an agent that runs as a plain process.

mod common;

use common::*;
use podvm_agent::pb::agent::v1::*;
use std::time::{Duration, Instant};
use tokio_stream::wrappers::ReceiverStream;

#[tokio::test]
async fn exec_sync_codes_output_and_time_out() {
    let Some(host) = start() else { return };
    let mut client = host.ready().await;
    host.run(&mut client, "a", "sleep 600").await;
    let request = |script: &str| ExecSyncRequest {
        container_id: "a".into(),
        args: ["sh", "-c", script].map(String::from).into(),
        ..Default::default()
    };
    let done = client
        .exec_sync(request("echo o; echo e >&2; exit 5"))
        .await
        .unwrap()
        .into_inner();
    assert_eq!(
        (&done.stdout[..], &done.stderr[..], done.exit_code),
        (&b"o\n"[..], &b"e\n"[..], 5)
    );
    assert!(!done.timed_out && !done.truncated);

    let cut = ExecSyncRequest {
        max_output_bytes: 10,
        ..request("head -c 100000 /dev/zero")
    };
    let cut = client.exec_sync(cut).await.unwrap().into_inner();
    assert_eq!((cut.stdout.len(), cut.truncated, cut.exit_code), (10, true, 0));

    for (args, code) in [
        (vec!["nope"], 127),
        (vec!["/etc/passwd"], 126),
        (vec!["/bin/nope"], 127),
    ] {
        let request = ExecSyncRequest {
            args: args.iter().map(|a| a.to_string()).collect(),
            ..request("")
        };
        let refused = client.exec_sync(request).await.unwrap().into_inner();
        assert_eq!(refused.exit_code, code, "{args:?}: {refused:?}");
    }

    // Daemons that left the session and the parent are killed as well.
    let marker = format!("60{}", u32::from_le_bytes(podvm_agent::sys::random()));
    let script = format!("(sleep {marker} & sleep {marker} & ) ; sleep {marker}");
    let late = client
        .exec_sync(ExecSyncRequest {
            timeout_ms: 1000,
            ..request(&script)
        })
        .await
        .unwrap()
        .into_inner();
    assert!(late.timed_out);
    assert_eq!(processes_with(&marker), 0);

    // What stays behind on purpose keeps the pipe for at most 2 s, and lives on.
    let begun = Instant::now();
    let left = client
        .exec_sync(request(&format!("sleep {marker} & echo done")))
        .await
        .unwrap()
        .into_inner();
    assert_eq!(&left.stdout[..], b"done\n");
    assert!(begun.elapsed() < Duration::from_secs(20));
    assert_eq!(processes_with(&marker), 1);
    client
        .remove_container(RemoveContainerRequest {
            container_id: "a".into(),
        })
        .await
        .unwrap();
    assert_eq!(processes_with(&marker), 0);
}

fn processes_with(marker: &str) -> usize {
    let processes = std::fs::read_dir("/proc").unwrap().flatten();
    let command_lines = processes.filter_map(|p| std::fs::read(p.path().join("cmdline")).ok());
    command_lines
        .filter(|c| c.split(|b| *b == 0).any(|arg| arg == marker.as_bytes()))
        .count()
}

/// Sends requests, collects answers.
async fn exec(
    client: &mut Client,
    start: ExecStart,
    input: Vec<exec_request::Kind>,
) -> (String, String, Option<ExitRecord>) {
    let kinds = [vec![exec_request::Kind::Start(start)], input].concat();
    let (sender, receiver) = tokio::sync::mpsc::channel(64);
    for kind in kinds {
        sender.send(ExecRequest { kind: Some(kind) }).await.unwrap();
    }
    let mut answers = client.exec(ReceiverStream::new(receiver)).await.unwrap().into_inner();
    let (mut out, mut err, mut exit) = (Vec::new(), Vec::new(), None);
    while let Some(answer) = answers.message().await.unwrap() {
        match answer.kind.unwrap() {
            exec_response::Kind::Stdout(data) => out.extend_from_slice(&data),
            exec_response::Kind::Stderr(data) => err.extend_from_slice(&data),
            exec_response::Kind::Exit(record) => exit = Some(record),
            exec_response::Kind::StartedPid(pid) => assert!(pid > 1),
        }
    }
    (String::from_utf8(out).unwrap(), String::from_utf8(err).unwrap(), exit)
}

fn command(id: &str, script: &str) -> ExecStart {
    ExecStart {
        container_id: "a".into(),
        exec_id: id.into(),
        args: ["sh", "-c", script].map(String::from).into(),
        ..Default::default()
    }
}

#[tokio::test]
async fn exec_streams() {
    let Some(host) = start() else { return };
    let mut client = host.ready().await;
    host.run(&mut client, "a", "sleep 600").await;
    let input = vec![
        exec_request::Kind::Stdin("hello".into()),
        exec_request::Kind::CloseStdin(true),
    ];
    let start = ExecStart {
        stdin: true,
        ..command("one", "cat; echo e >&2; exit 4")
    };
    let (out, err, exit) = exec(&mut client, start, input).await;
    assert_eq!(
        (out.as_str(), err.as_str(), exit.unwrap().exit_code),
        ("hello", "e\n", 4)
    );

    let start = ExecStart {
        tty: true,
        stdin: true,
        width: 93,
        height: 17,
        ..command("two", "stty size; read x; echo got $x")
    };
    let (out, err, exit) = exec(&mut client, start, vec![exec_request::Kind::Stdin("line\n".into())]).await;
    assert!(out.contains("17 93\r\n") && out.ends_with("got line\r\n"), "{out:?}");
    assert_eq!((err.as_str(), exit.unwrap().exit_code), ("", 0));

    let (out, err, exit) = exec(
        &mut client,
        ExecStart {
            args: vec!["nope".into()],
            ..command("three", "")
        },
        vec![],
    )
    .await;
    assert_eq!((out.as_str(), exit.unwrap().exit_code), ("", 127));
    assert!(err.contains("nope"));

    let (_, _, exit) = exec(&mut client, command("four", "kill -9 $$"), vec![]).await;
    assert_eq!(exit.map(|e| (e.exit_code, e.signal)), Some((137, 9)));
}

#[tokio::test]
async fn an_exec_whose_caller_goes_is_killed() {
    let Some(host) = start() else { return };
    let mut client = host.ready().await;
    host.run(&mut client, "a", "sleep 600").await;
    let marker = format!("60{}", u32::from_le_bytes(podvm_agent::sys::random()));
    let request = ExecRequest {
        kind: Some(exec_request::Kind::Start(command(
            "one",
            &format!("echo up; sleep {marker}"),
        ))),
    };
    let (sender, receiver) = tokio::sync::mpsc::channel(1);
    sender.send(request).await.unwrap();
    let mut other = host.client().await;
    let mut answers = other.exec(ReceiverStream::new(receiver)).await.unwrap().into_inner();
    answers.message().await.unwrap().unwrap();
    answers.message().await.unwrap().unwrap();
    let begun = Instant::now();
    while processes_with(&marker) == 0 {
        assert!(begun.elapsed() < Duration::from_secs(10), "the command does not run");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    // A newer connection ends the older.
    let mut client = host.client().await;
    client.hello(HelloRequest::default()).await.unwrap();
    let begun = Instant::now();
    while processes_with(&marker) > 0 {
        assert!(begun.elapsed() < Duration::from_secs(10), "the command still runs");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}
