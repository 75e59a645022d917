//! Who the sandbox's user is: pure, from what was read out of the image.

use serde::{Deserialize, Serialize};

use crate::backend::Identity;

/// The user of most images that are made for people: `node`, `ubuntu`, `vscode`, …
const USUAL_UID: u32 = 1000;

/// One line of `/etc/passwd`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(in crate::backend) struct Account {
    pub name: String,
    pub uid: u32,
    pub gid: u32,
    pub home: String,
}

/// One line of `/etc/group`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(in crate::backend) struct Group {
    pub name: String,
    pub gid: u32,
    pub members: Vec<String>,
}

/// Who may be in an image, and whom the image itself names.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(in crate::backend) struct Accounts {
    /// The image's `USER`, when it names one.
    pub user: Option<String>,
    /// `HOME` in the image's own environment.
    pub home: Option<String>,
    pub accounts: Vec<Account>,
    pub groups: Vec<Group>,
}

/// The user that a machine is made with, in numbers: the guest cannot change what they mean.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::backend) struct User {
    pub identity: Identity,
    /// Further groups that the user is in.
    pub groups: Vec<u32>,
    /// Nobody chose root: the image names no user and has no uid 1000.
    pub root_by_default: bool,
}

impl User {
    /// As the engine takes it.
    pub(in crate::backend) fn spec(&self) -> String {
        format!("{}:{}", self.identity.uid, self.identity.gid)
    }
}

pub(in crate::backend) fn parse_passwd(text: &str) -> Vec<Account> {
    let account = |line: &str| {
        let fields: Vec<&str> = line.split(':').collect();
        let [name, _, uid, gid, _, home, ..] = fields[..] else { return None };
        let (uid, gid) = (uid.parse().ok()?, gid.parse().ok()?);
        Some(Account { name: name.to_owned(), uid, gid, home: home.to_owned() })
    };
    text.lines().filter_map(account).collect()
}

pub(in crate::backend) fn parse_group(text: &str) -> Vec<Group> {
    let group = |line: &str| {
        let fields: Vec<&str> = line.split(':').collect();
        let [name, _, gid, members, ..] = fields[..] else { return None };
        let members = members.split(',').map(|m| m.trim().to_owned()).filter(|m| !m.is_empty());
        Some(Group { name: name.to_owned(), gid: gid.parse().ok()?, members: members.collect() })
    };
    text.lines().filter_map(group).collect()
}

impl Accounts {
    /// The user that `wanted` (the bottle's `user:`), else the image, else custom names. `home` is
    /// what the bottle's own environment says.
    pub(in crate::backend) fn resolve(
        &self,
        wanted: Option<&str>,
        home: Option<&str>,
    ) -> Result<User, String> {
        let usual = self.accounts.iter().find(|account| account.uid == USUAL_UID);
        let named = wanted.or(self.user.as_deref());
        let (uid, group) = match (named, usual) {
            (Some(text), _) => match text.split_once(':') {
                Some((user, group)) => (self.uid(user)?, Some(self.gid(group)?)),
                None => (self.uid(text)?, None),
            },
            (None, Some(account)) => (account.uid, None),
            (None, None) => (0, None),
        };
        let account = self.accounts.iter().find(|account| account.uid == uid);
        // A number without an account gets a group of its own, and never the engine's choice: root.
        let gid = group.or(account.map(|account| account.gid)).unwrap_or(uid);
        let member = |group: &&Group| {
            group.gid != gid && account.is_some_and(|a| group.members.contains(&a.name))
        };
        let groups = self.groups.iter().filter(member).map(|group| group.gid).collect();
        let home = [home, self.home.as_deref(), account.map(|account| account.home.as_str())]
            .into_iter()
            .flatten()
            .find(|home| home.starts_with('/'))
            .unwrap_or("/");
        let home = match home.trim_end_matches('/') {
            "" => "/",
            home => home,
        };
        Ok(User {
            identity: Identity { uid, gid, home: home.to_owned() },
            groups,
            root_by_default: uid == 0 && wanted.is_none(),
        })
    }

    fn uid(&self, user: &str) -> Result<u32, String> {
        let by_name = || self.accounts.iter().find(|a| a.name == user).map(|a| a.uid);
        user.parse().ok().or_else(by_name).ok_or_else(|| {
            let mut names: Vec<&str> = self.accounts.iter().map(|a| a.name.as_str()).collect();
            names.truncate(40);
            format!("it has no user `{user}`; it has: {}", names.join(", "))
        })
    }

    fn gid(&self, group: &str) -> Result<u32, String> {
        let by_name = || self.groups.iter().find(|g| g.name == group).map(|g| g.gid);
        group.parse().ok().or_else(by_name).ok_or_else(|| format!("it has no group `{group}`"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn accounts(user: Option<&str>, passwd: &str) -> Accounts {
        Accounts {
            user: user.map(str::to_owned),
            home: None,
            accounts: parse_passwd(passwd),
            groups: parse_group("root:x:0:\nnode:x:1000:\naudio:x:29:node,ann\nbad\nbin:x:z:\n"),
        }
    }

    const PASSWD: &str = "root:x:0:0:root:/root:/bin/sh\nnode:x:1000:1000::/home/node:/bin/sh\n\
                          # comment\nann:x:1001:50:Ann:/home/ann/:/bin/sh\nbroken:x:y:z:::\n";

    fn shape(user: &User) -> (String, &str, &[u32], bool) {
        (user.spec(), &user.identity.home, &user.groups, user.root_by_default)
    }

    #[test]
    fn the_bottle_then_the_image_then_1000_then_root() {
        let image = accounts(Some("ann"), PASSWD);
        let wanted = image.resolve(Some("node"), None).unwrap();
        assert_eq!(shape(&wanted), ("1000:1000".into(), "/home/node", &[29][..], false));
        let own = image.resolve(None, None).unwrap();
        assert_eq!(shape(&own), ("1001:50".into(), "/home/ann", &[29][..], false));
        let usual = accounts(None, PASSWD).resolve(None, None).unwrap();
        assert_eq!(shape(&usual), ("1000:1000".into(), "/home/node", &[29][..], false));
        let root = accounts(None, "root:x:0:0::/root:").resolve(None, None).unwrap();
        assert_eq!(shape(&root), ("0:0".into(), "/root", &[][..], true));
        let chosen = accounts(None, PASSWD).resolve(Some("root"), None).unwrap();
        assert!(!chosen.root_by_default);
    }

    #[test]
    fn numbers_and_groups() {
        let image = accounts(None, PASSWD);
        let stranger = image.resolve(Some("4242"), None).unwrap();
        assert_eq!(shape(&stranger), ("4242:4242".into(), "/", &[][..], false));
        let grouped = image.resolve(Some("node:audio"), None).unwrap();
        assert_eq!(shape(&grouped), ("1000:29".into(), "/home/node", &[][..], false));
        assert_eq!(image.resolve(Some("5:6"), None).unwrap().spec(), "5:6");
        let error = image.resolve(Some("nobody"), None).unwrap_err();
        assert_eq!(error, "it has no user `nobody`; it has: root, node, ann");
        assert_eq!(image.resolve(Some("node:x"), None).unwrap_err(), "it has no group `x`");
    }

    #[test]
    fn the_environments_home_wins_where_it_is_a_path() {
        let mut image = accounts(None, PASSWD);
        image.home = Some("/srv/home".into());
        let home = |image: &Accounts, bottle| image.resolve(None, bottle).unwrap().identity.home;
        assert_eq!(home(&image, Some("/work/")), "/work");
        assert_eq!(home(&image, Some("relative")), "/srv/home");
        assert_eq!(home(&image, None), "/srv/home");
        image.home = None;
        assert_eq!(home(&image, None), "/home/node");
    }
}
