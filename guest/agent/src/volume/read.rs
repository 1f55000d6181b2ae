//! ReadVolume: the end of a file as the containers left it.

use super::Kind;
use crate::agent::Agent;
use crate::fail::{internal, invalid, precondition};
use crate::pb::agent::v1::ReadVolumeRequest;
use crate::rootfs::Rootfs;
use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use tonic::Status;

const MOST: u32 = 1 << 20;

pub async fn read(agent: &Agent, request: ReadVolumeRequest) -> Result<Vec<u8>, Status> {
    let ReadVolumeRequest {
        volume_id: id,
        path,
        max_bytes,
    } = request;
    if max_bytes > MOST {
        return Err(invalid(format!("max_bytes: wanted at most {MOST}, found {max_bytes}")));
    }
    let volume = agent.volumes.get(&id)?;
    let Kind::Synced { single_file } = volume.kind else {
        return Err(precondition(format!(
            "volume {id:?}: wanted a synced one, it is of another kind"
        )));
    };
    if single_file != path.is_empty() {
        return Err(invalid("path: wanted \"\" for a single file, a path in a folder"));
    }
    let reading = tokio::task::spawn_blocking(move || -> io::Result<Vec<u8>> {
        let file = if single_file {
            open(&volume.path)?
        } else {
            Rootfs::open(&volume.path)?.file(&path)?
        };
        tail(file, max_bytes.into())
    });
    match reading.await {
        Ok(Ok(data)) => Ok(data),
        Ok(Err(e)) if e.kind() == io::ErrorKind::NotFound => Err(Status::not_found(format!("volume {id:?}: {e}"))),
        Ok(Err(e)) => Err(precondition(format!("volume {id:?}: {e}"))),
        Err(e) => Err(internal(format!("volume {id:?}"), e)),
    }
}

fn open(path: &Path) -> io::Result<File> {
    let mut options = File::options();
    options
        .read(true)
        .custom_flags(libc::O_NOFOLLOW | libc::O_NONBLOCK)
        .open(path)
}

fn tail(mut file: File, most: u64) -> io::Result<Vec<u8>> {
    let length = file.metadata()?.len();
    file.seek(SeekFrom::Start(length.saturating_sub(most)))?;
    let mut data = Vec::new();
    file.take(most).read_to_end(&mut data)?;
    Ok(data)
}
