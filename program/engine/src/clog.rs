//! What the log says of a destination that clogs the active queue, in Postfix's words: administrators search for them.

use yamabiko_config::Config;
use yamabiko_schedule::{ClogLimit, Clogged};

/// The lines of one warning.
pub fn lines(clogged: &Clogged, config: &Config) -> Vec<String> {
    let Clogged { transport, nexthop, messages, active, limit } = clogged;
    let mut lines = vec![format!("mail for {nexthop} is using up {messages} of {active} active queue entries")];
    // Below nine tenths: there is other mail that waits.
    if messages * 10 < active * 9 {
        lines.push("this may slow down other mail deliveries".to_owned());
    }
    match limit {
        ClogLimit::Concurrency(limit) => lines.push(format!(
            "you may need to increase the main.cf {transport}_destination_concurrency_limit from {limit}"
        )),
        ClogLimit::Active(limit) => {
            lines.push(format!("you may need to increase the main.cf qmgr_message_active_limit from {limit}"));
        }
        ClogLimit::Shared => lines.push(format!("you may need a separate master.cf transport for {nexthop}")),
        ClogLimit::Slow => {
            let name = config.main().text("mail_name");
            lines.extend([
                format!("you may need to reduce {transport} connect and helo timeouts"),
                format!("so that {name} quickly skips unavailable hosts"),
                "you may need to increase the main.cf minimal_backoff_time and maximal_backoff_time".to_owned(),
                format!("so that {name} wastes less time on undeliverable mail"),
                format!("you may need to increase the master.cf {transport} process limit"),
            ]);
        }
    }
    lines.extend([
        "please avoid flushing the whole queue when you have".to_owned(),
        "lots of deferred mail, that is bad for performance".to_owned(),
        "to turn off these warnings specify: qmgr_clog_warn_time = 0".to_owned(),
    ]);
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words() {
        let names = ("main.cf", "master.cf");
        let config =
            Config::from_texts("mail_name = Yamabiko\n", "", names, &yamabiko_config::Host::default()).unwrap();
        let clogged = |limit, messages| Clogged {
            transport: "smtp".into(),
            nexthop: "slow.example".into(),
            messages,
            active: 20_000,
            limit,
        };
        let shared = lines(&clogged(ClogLimit::Shared, 5000), &config);
        assert_eq!(
            shared[..3],
            [
                "mail for slow.example is using up 5000 of 20000 active queue entries",
                "this may slow down other mail deliveries",
                "you may need a separate master.cf transport for slow.example",
            ]
        );
        let slow = lines(&clogged(ClogLimit::Slow, 19_000), &config);
        assert_eq!((slow.len(), slow[2].as_str()), (9, "so that Yamabiko quickly skips unavailable hosts"));
        let limit = lines(&clogged(ClogLimit::Concurrency(20), 19_000), &config);
        assert_eq!(limit[1], "you may need to increase the main.cf smtp_destination_concurrency_limit from 20");
        let active = lines(&clogged(ClogLimit::Active(20_000), 19_000), &config);
        assert_eq!(active[1], "you may need to increase the main.cf qmgr_message_active_limit from 20000");
    }
}
