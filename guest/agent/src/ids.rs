//! Names that come from the server, checked once where they enter.

use crate::fail::invalid;
use tonic::Status;

/// Container and exec ids: they become parts of paths.
pub fn check_id(what: &str, id: &str) -> Result<(), Status> {
    let legal = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-';
    if id.is_empty() || id.len() > 64 || !id.bytes().all(legal) {
        return Err(invalid(format!(
            "{what}: wanted 1 to 64 characters of [a-z0-9-], found {:?}",
            shorten(id, 80)
        )));
    }
    Ok(())
}

/// Serial of a block device.
pub fn check_serial(serial: &str) -> Result<(), Status> {
    let legal = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.' | b':');
    if serial.is_empty() || serial.len() > 64 || !serial.bytes().all(legal) {
        return Err(invalid(format!(
            "serial: wanted 1 to 64 characters of [A-Za-z0-9._:-], found {:?}",
            shorten(serial, 80)
        )));
    }
    Ok(())
}

/// At most `limit` bytes of a text, cut at a character.
pub fn shorten(text: &str, limit: usize) -> &str {
    if text.len() <= limit {
        return text;
    }
    let mut end = limit;
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    &text[..end]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_that_could_leave_their_folder_are_refused() {
        for id in ["", "..", "a/b", "A", "a b", "é", &"a".repeat(65)] {
            assert_eq!(
                check_id("container_id", id).unwrap_err().code(),
                tonic::Code::InvalidArgument,
                "{id:?}"
            );
        }
        assert!(check_id("container_id", "0-a").is_ok());
        assert!(check_id("container_id", &"a".repeat(64)).is_ok());
    }

    #[test]
    fn serials() {
        assert!(check_serial("podvm-img_0.1:2").is_ok());
        assert!(check_serial("a/b").is_err());
        assert!(check_serial("").is_err());
    }

    #[test]
    fn shorten_cuts_between_characters() {
        assert_eq!(shorten("aéb", 2), "a");
        assert_eq!(shorten("aéb", 3), "aé");
        assert_eq!(shorten("abc", 3), "abc");
    }
}
