//! Who a container runs as: UserSpec against the image's passwd and group. Pure.

use crate::pb::agent::v1::UserSpec;

#[derive(Debug, PartialEq, Eq)]
pub struct Identity {
    pub uid: u32,
    pub gid: u32,
    /// With `gid` first, without repetition: what the kernel gets.
    pub groups: Vec<u32>,
    /// "/" where passwd knows none.
    pub home: String,
}

struct Entry<'a> {
    name: &'a str,
    uid: u32,
    gid: u32,
    home: &'a str,
}

/// `passwd` and `group` are the files' texts. The error says which name is unknown.
pub fn resolve(spec: &UserSpec, passwd: &str, group: &str) -> Result<Identity, String> {
    let (user, group_part) = match spec.user.split_once(':') {
        Some((user, group)) => (user, group),
        None => (spec.user.as_str(), ""),
    };
    let (uid, entry) = match spec.uid {
        Some(uid) => (uid, entries(passwd).find(|e| e.uid == uid)),
        None if user.is_empty() => (0, entries(passwd).find(|e| e.uid == 0)),
        None => find_user(user, passwd)?,
    };
    let gid = match spec.gid {
        Some(gid) => gid,
        None if spec.uid.is_none() && !group_part.is_empty() => find_group(group_part, group)?,
        None => entry.as_ref().map_or(0, |e| e.gid),
    };
    let mut groups = vec![gid];
    if let (false, Some(entry)) = (spec.strict_groups, &entry) {
        groups.extend(groups_of(entry.name, group));
    }
    groups.extend(&spec.supplemental_groups);
    let mut seen = std::collections::HashSet::new();
    groups.retain(|g| seen.insert(*g));
    let home = entry.map_or("", |e| e.home);
    Ok(Identity {
        uid,
        gid,
        groups,
        home: if home.starts_with('/') { home.into() } else { "/".into() },
    })
}

/// A name wins over a number, as in docker.
fn find_user<'a>(user: &str, passwd: &'a str) -> Result<(u32, Option<Entry<'a>>), String> {
    if let Some(entry) = entries(passwd).find(|e| e.name == user) {
        return Ok((entry.uid, Some(entry)));
    }
    match user.parse::<u32>() {
        Ok(uid) => Ok((uid, entries(passwd).find(|e| e.uid == uid))),
        Err(_) => Err(format!("the image's /etc/passwd has no user {user:?}")),
    }
}

fn find_group(name: &str, group: &str) -> Result<u32, String> {
    let found = lines(group).find_map(|f| {
        if f.first() == Some(&name) {
            f.get(2)?.parse().ok()
        } else {
            None
        }
    });
    found
        .or_else(|| name.parse().ok())
        .ok_or_else(|| format!("the image's /etc/group has no group {name:?}"))
}

fn groups_of<'a>(user: &'a str, group: &'a str) -> impl Iterator<Item = u32> + 'a {
    lines(group).filter_map(move |fields| {
        let member = fields.get(3)?.split(',').any(|m| m.trim() == user);
        if member {
            fields.get(2)?.parse().ok()
        } else {
            None
        }
    })
}

fn entries(passwd: &str) -> impl Iterator<Item = Entry<'_>> {
    lines(passwd).filter_map(|f| {
        Some(Entry {
            name: f.first()?,
            uid: f.get(2)?.parse().ok()?,
            gid: f.get(3)?.parse().ok()?,
            home: f.get(5).copied().unwrap_or(""),
        })
    })
}

fn lines(text: &str) -> impl Iterator<Item = Vec<&str>> {
    text.lines()
        .map(str::trim)
        .filter(|l| !l.is_empty() && !l.starts_with('#'))
        .map(|l| l.split(':').collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    const PASSWD: &str =
        "root:x:0:0:root:/root:/bin/sh\n# comment\nbroken\nwww-data:x:33:33::/var/www:\n42:x:7:8::/odd:\n";
    const GROUP: &str = "root:x:0:\nwww-data:x:33:\nlog:x:4:root,www-data\nstaff:x:50:www-data\n";

    fn user(text: &str) -> UserSpec {
        UserSpec {
            user: text.into(),
            ..Default::default()
        }
    }

    fn id(uid: u32, gid: u32, groups: &[u32], home: &str) -> Result<Identity, String> {
        Ok(Identity {
            uid,
            gid,
            groups: groups.into(),
            home: home.into(),
        })
    }

    #[test]
    fn as_an_image_config_writes_it() {
        assert_eq!(resolve(&user(""), PASSWD, GROUP), id(0, 0, &[0, 4], "/root"));
        assert_eq!(
            resolve(&user("www-data"), PASSWD, GROUP),
            id(33, 33, &[33, 4, 50], "/var/www")
        );
        assert_eq!(
            resolve(&user("33:staff"), PASSWD, GROUP),
            id(33, 50, &[50, 4], "/var/www")
        );
        assert_eq!(resolve(&user("1000:1000"), PASSWD, GROUP), id(1000, 1000, &[1000], "/"));
        assert_eq!(resolve(&user("42"), PASSWD, GROUP), id(7, 8, &[8], "/odd"));
        assert_eq!(resolve(&user("1000"), "", ""), id(1000, 0, &[0], "/"));
    }

    #[test]
    fn unknown_names_are_errors() {
        assert!(resolve(&user("nobody"), PASSWD, GROUP)
            .unwrap_err()
            .contains("/etc/passwd"));
        assert!(resolve(&user("0:nogroup"), PASSWD, GROUP)
            .unwrap_err()
            .contains("/etc/group"));
        assert!(resolve(&user("4294967296"), PASSWD, GROUP).is_err());
    }

    #[test]
    fn numbers_of_the_pod_win_over_the_image() {
        let spec = UserSpec {
            uid: Some(33),
            supplemental_groups: vec![4, 1234],
            ..user("root:root")
        };
        assert_eq!(
            resolve(&spec, PASSWD, GROUP),
            id(33, 33, &[33, 4, 50, 1234], "/var/www")
        );
        let strict = UserSpec {
            strict_groups: true,
            gid: Some(9),
            ..spec
        };
        assert_eq!(resolve(&strict, PASSWD, GROUP), id(33, 9, &[9, 4, 1234], "/var/www"));
    }
}
