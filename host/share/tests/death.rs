//! A share that dies is replaced: the guest sees a pause, and no request is lost or done twice.

mod common;

use common::{one_folder, open_rw, within};
use std::fs;
use std::io::{Read, Seek, SeekFrom, Write};
use std::os::unix::fs::FileExt;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// One test at a time: a process made by one (its shell) would hold copies of the other's open files, see common::Relay.
fn alone() -> MutexGuard<'static, ()> {
    static ALONE: Mutex<()> = Mutex::new(());
    ALONE.lock().unwrap_or_else(PoisonError::into_inner)
}

#[test]
fn open_files_and_folders_go_on() {
    let _alone = alone();
    let relay = one_folder();
    fs::create_dir_all(relay.guest("v/a/b")).expect("folders");
    let mut file = open_rw(&relay.guest("v/a/b/f"));
    file.write_all(b"before").expect("write");
    let mut append = fs::OpenOptions::new()
        .append(true)
        .open(relay.guest("v/a/b/f"))
        .expect("open");
    fs::rename(relay.guest("v/a/b"), relay.guest("v/a/c")).expect("rename");
    relay.kill_share();
    // Asked while nobody serves: waits.
    let path = relay.guest("v/a/c/new");
    let waiting = std::thread::spawn(move || fs::write(path, b"waited"));
    std::thread::sleep(Duration::from_millis(200));
    assert!(!waiting.is_finished());
    relay.share();
    waiting.join().expect("thread").expect("written");
    assert_eq!(fs::read(relay.source().join("a/c/new")).expect("read"), b"waited");
    append.write_all(b" after").expect("append");
    file.seek(SeekFrom::Start(0)).expect("seek");
    let mut text = String::new();
    file.read_to_string(&mut text).expect("read");
    assert_eq!(text, "before after");
    within(Duration::from_secs(5), "the log", || {
        relay.log().contains("open files, 0 stale")
    });
}

#[test]
fn what_the_host_replaced_meanwhile_is_stale() {
    let _alone = alone();
    let relay = one_folder();
    fs::write(relay.source().join("f"), b"old").expect("write");
    fs::write(relay.source().join("gone"), b"old").expect("write");
    let old = fs::File::open(relay.guest("v/f")).expect("open");
    let gone = fs::File::open(relay.guest("v/gone")).expect("open");
    relay.kill_share();
    fs::write(relay.source().join("f.new"), b"new").expect("write");
    fs::rename(relay.source().join("f.new"), relay.source().join("f")).expect("rename");
    fs::remove_file(relay.source().join("gone")).expect("unlink");
    relay.share();
    for stale in [&old, &gone] {
        let read = stale.read_at(&mut [0; 3], 0);
        assert_eq!(read.expect_err("stale").raw_os_error(), Some(libc::ESTALE));
    }
    within(Duration::from_secs(3), "the new file", || {
        fs::read(relay.guest("v/f")).is_ok_and(|bytes| bytes == b"new")
    });
    assert!(fs::read(relay.guest("v/gone")).is_err());
}

/// Each worker makes, links, renames, appends and removes in a folder of its own, and knows what must be there; none may ever see an error.
#[test]
fn work_goes_on_through_many_deaths() {
    let _alone = alone();
    let relay = one_folder();
    let stop = Arc::new(AtomicBool::new(false));
    let rounds = Arc::new(AtomicU64::new(0));
    let workers: Vec<_> = (0..4)
        .map(|worker| {
            let (stop, rounds) = (stop.clone(), rounds.clone());
            let dir = relay.guest(&format!("v/w{worker}"));
            std::thread::spawn(move || {
                fs::create_dir(&dir).expect("mkdir");
                let mut log = fs::OpenOptions::new()
                    .append(true)
                    .create(true)
                    .read(true)
                    .open(dir.join("log"))
                    .expect("log");
                let mut round = 0u64;
                while !stop.load(Ordering::Relaxed) {
                    let (a, b) = (dir.join(format!("a{round}")), dir.join(format!("b{round}")));
                    let data = vec![round as u8; 30_000];
                    fs::write(&a, &data).expect("write");
                    fs::create_dir(dir.join("sub")).expect("mkdir");
                    fs::hard_link(&a, dir.join("sub/link")).expect("link");
                    std::os::unix::fs::symlink("../log", dir.join("sub/s")).expect("symlink");
                    fs::rename(&a, &b).expect("rename");
                    assert!(fs::read(&b).expect("read") == data);
                    fs::remove_file(dir.join("sub/link")).expect("unlink");
                    fs::remove_file(dir.join("sub/s")).expect("unlink");
                    fs::remove_dir(dir.join("sub")).expect("rmdir");
                    fs::remove_file(&b).expect("unlink");
                    log.write_all(format!("{round}\n").as_bytes()).expect("append");
                    round += 1;
                    rounds.fetch_add(1, Ordering::Relaxed);
                }
                round
            })
        })
        .collect();
    for death in 0..12u64 {
        let seen = rounds.load(Ordering::Relaxed);
        // At a different moment of the work each time; but every share gets some of it done.
        within(Duration::from_secs(30), "some work", || {
            rounds.load(Ordering::Relaxed) > seen + 2
        });
        std::thread::sleep(Duration::from_millis(death * 7 % 40));
        relay.kill_share();
        relay.share();
    }
    stop.store(true, Ordering::Relaxed);
    for (i, worker) in workers.into_iter().enumerate() {
        let done = worker.join().expect("a worker without an error");
        let wanted: String = (0..done).map(|round| format!("{round}\n")).collect();
        assert_eq!(
            fs::read_to_string(relay.source().join(format!("w{i}/log"))).expect("log"),
            wanted
        );
        let names: Vec<_> = fs::read_dir(relay.source().join(format!("w{i}")))
            .expect("list")
            .flatten()
            .collect();
        assert_eq!(names.len(), 1, "only the log is left");
    }
}
