//! A configuration from text, for tables of tests.

use std::net::IpAddr;

use yamabiko_config::{Config, Host, Interface, View};

/// main.cf of a host `mx.lab.test` with these lines more.
pub fn view(lines: &str) -> View {
    let main = format!("myhostname = mx.lab.test\nmydestination = $myhostname, localhost, lab.test\n{lines}\n");
    let interfaces = ["127.0.0.1", "192.0.2.1", "::1"].iter().filter_map(|text| text.parse::<IpAddr>().ok());
    let host =
        Host { interfaces: interfaces.map(|address| Interface { address, prefix: 24 }).collect(), ..Host::default() };
    Config::from_texts(&main, "", ("main.cf", "master.cf"), &host).unwrap_or_else(|e| panic!("{e}")).main()
}
