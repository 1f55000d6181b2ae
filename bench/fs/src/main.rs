//! `fs-bench FOLDER MIB FILES`: one line per measurement, "NAME VALUE UNIT". As root, in an empty folder, which is empty again afterwards. "Cold" is after
//! /proc/sys/vm/drop_caches: the guest knows nothing, whoever serves it may know everything.

use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};
use std::time::Instant;

const BLOCK: usize = 1 << 20;
const SMALL: usize = 4096;

fn main() -> io::Result<()> {
    let arguments: Vec<String> = std::env::args().collect();
    let [_, folder, mib, files] = &arguments[..] else {
        return Err(io::Error::other("usage: fs-bench FOLDER MIB FILES"));
    };
    let number = |text: &String| text.parse::<usize>().map_err(io::Error::other);
    large(Path::new(folder), number(mib)?)?;
    small(Path::new(folder), number(files)?)
}

fn large(folder: &Path, mib: usize) -> io::Result<()> {
    let path = folder.join("large");
    let mut block: Vec<u8> = (0..BLOCK).map(|i| (i * 31 % 251) as u8).collect();
    let begun = Instant::now();
    let mut file = File::create(&path)?;
    for _ in 0..mib {
        file.write_all(&block)?;
    }
    file.sync_all()?;
    say("write+fsync", mib, begun, "MiB/s");
    drop(file);
    drop_caches()?;
    for name in ["read-cold", "read-again"] {
        let begun = Instant::now();
        let mut file = File::open(&path)?;
        for _ in 0..mib {
            file.read_exact(&mut block)?;
        }
        say(name, mib, begun, "MiB/s");
    }
    fs::remove_file(path)
}

fn small(folder: &Path, count: usize) -> io::Result<()> {
    let tree = folder.join("small");
    fs::create_dir(&tree)?;
    let paths: Vec<PathBuf> = (0..count).map(|i| tree.join(format!("file-{i:05}"))).collect();
    let content = [b'x'; SMALL];
    let begun = Instant::now();
    for path in &paths {
        File::create(path)?.write_all(&content)?;
    }
    say("create-4k", count, begun, "ops/s");

    drop_caches()?;
    let begun = Instant::now();
    for path in &paths {
        fs::metadata(path)?;
    }
    say("stat-cold", count, begun, "ops/s");

    drop_caches()?;
    let mut buffer = [0; SMALL];
    let begun = Instant::now();
    for path in &paths {
        File::open(path)?.read_exact(&mut buffer)?;
    }
    say("open-read-close-4k", count, begun, "ops/s");

    drop_caches()?;
    let begun = Instant::now();
    let found = fs::read_dir(&tree)?.filter(Result::is_ok).count();
    say("readdir-cold", found, begun, "entries/s");
    if found != count {
        return Err(io::Error::other(format!("{found} entries, wanted {count}")));
    }

    let begun = Instant::now();
    for path in &paths {
        fs::remove_file(path)?;
    }
    say("unlink", count, begun, "ops/s");
    fs::remove_dir(tree)
}

fn say(name: &str, count: usize, begun: Instant, unit: &str) {
    println!("{name} {:.2} {unit}", count as f64 / begun.elapsed().as_secs_f64());
}

fn drop_caches() -> io::Result<()> {
    fs::write("/proc/sys/vm/drop_caches", "3")
}
