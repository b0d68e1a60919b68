//! Services of master.cf that run spawn(8): a program of the administrator's for each connection. The engine has the
//! connection and asks for the program.

use std::path::PathBuf;

use nix::unistd::{Group, User};
use yamabiko_config::{Config, ServiceType};

/// What such a service runs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Spawned {
    /// The program and its arguments, at least one word.
    pub command: Vec<String>,
    /// `user` or `user:group`
    user: String,
    /// Where it runs: the queue directory.
    pub directory: PathBuf,
    /// How many may run at once; `None`: as many as there may be at all.
    pub limit: Option<usize>,
}

impl Spawned {
    /// What the service `name` runs: `NAME` of type `unix`, or `NAME/TYPE`.
    ///
    /// # Errors
    /// There is no such service, or it has no `user=` or `argv=`.
    pub fn of(config: &Config, name: &str) -> Result<Self, String> {
        let service = config
            .services()
            .iter()
            .filter(|service| service.command == "spawn")
            .find(|service| service.id() == name || (service.name == name && service.kind == ServiceType::Unix))
            .ok_or_else(|| format!("there is no service {name} that runs spawn"))?;
        let at = format!("{}: service {name}", service.place);
        let mut user = None;
        let mut words = service.arguments.iter();
        while let Some(word) = words.next() {
            if let Some(value) = word.strip_prefix("user=") {
                user = Some(value.to_owned());
            } else if let Some(first) = word.strip_prefix("argv=") {
                let command: Vec<String> = std::iter::once(first.to_owned()).chain(words.cloned()).collect();
                let user = user.ok_or_else(|| format!("{at}: missing user= attribute before argv="))?;
                if first.is_empty() {
                    break;
                }
                let view = config.service_view(service);
                let limit = service.process_limit().map_or_else(|| view.int("default_process_limit"), i64::from);
                let limit = usize::try_from(limit).ok().filter(|limit| *limit > 0);
                return Ok(Self { command, user, directory: view.text("queue_directory").into(), limit });
            } else {
                return Err(format!("{at}: unknown attribute: {word}"));
            }
        }
        Err(format!("{at}: missing argv= attribute"))
    }

    /// User and group ID; never root's.
    ///
    /// # Errors
    /// There is no such user or group, or it is root.
    pub fn ids(&self) -> Result<(u32, u32), String> {
        let (name, group) = self.user.split_once(':').map_or((&*self.user, None), |(user, group)| (user, Some(group)));
        let user = User::from_name(name).map_err(|error| format!("cannot look up user {name}: {error}"))?;
        let user = user.ok_or_else(|| format!("unknown user: {name}"))?;
        let gid = match group {
            None => user.gid.as_raw(),
            Some(name) => {
                let group = Group::from_name(name).map_err(|error| format!("cannot look up group {name}: {error}"))?;
                group.ok_or_else(|| format!("unknown group: {name}"))?.gid.as_raw()
            }
        };
        if user.uid.is_root() || gid == 0 {
            return Err(format!("user= attribute specifies root privileges: {}", self.user));
        }
        Ok((user.uid.as_raw(), gid))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use yamabiko_config::Host;

    fn read(line: &str) -> Result<Spawned, String> {
        let text = format!("{line}\n");
        let config =
            Config::from_texts("compatibility_level = 3.6\n", &text, ("main.cf", "master.cf"), &Host::default());
        Spawned::of(&config.expect("configuration"), "policy")
    }

    #[test]
    fn programs_of_services() {
        let spawned = read("policy unix - n n - 0 spawn user=nobody argv=/usr/bin/policyd-spf -x y").unwrap();
        assert_eq!(spawned.command, ["/usr/bin/policyd-spf", "-x", "y"]);
        assert_eq!((spawned.user.as_str(), spawned.limit), ("nobody", None));
        assert_eq!(read("policy unix - n n - 7 spawn user=nobody argv=/bin/cat").unwrap().limit, Some(7));
        for (line, why) in [
            ("policy inet - n n - 0 spawn user=nobody argv=/bin/cat", "there is no service policy"),
            ("policy unix - n n - 0 pipe user=nobody argv=/bin/cat", "there is no service policy"),
            ("policy unix - n n - 0 spawn argv=/bin/cat", "missing user= attribute"),
            ("policy unix - n n - 0 spawn user=nobody", "missing argv= attribute"),
            ("policy unix - n n - 0 spawn user=nobody argv=", "missing argv= attribute"),
            ("policy unix - n n - 0 spawn user=nobody flags=x argv=/bin/cat", "unknown attribute: flags=x"),
        ] {
            let error = read(line).unwrap_err();
            assert!(error.contains(why), "{line}: {error}");
        }
    }

    #[test]
    fn never_root() {
        let as_user =
            |user: &str| read(&format!("policy unix - n n - 0 spawn user={user} argv=/bin/cat")).unwrap().ids();
        for user in ["root", "nobody:root", "no-such-user-here", "nobody:no-such-group-here"] {
            assert!(as_user(user).is_err(), "{user}");
        }
        assert!(as_user("nobody").is_ok());
    }
}
