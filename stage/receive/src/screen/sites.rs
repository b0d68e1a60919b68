//! `postscreen_dnsbl_sites`: lists in DNS with weights, and what they say of a client together.

use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::join_all;
use yamabiko_address::domain;
use yamabiko_dns::{Answer, Resolver};
use yamabiko_envelope::Timestamp;
use yamabiko_lookup::Maps;

use super::machine::Line;
use crate::restrict::{Guard, ListAnswers, judge, reversed};

/// One element: `domain[=answers][*weight]`.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Site {
    /// Index of the domain.
    domain: usize,
    answers: Option<ListAnswers>,
    weight: i64,
}

/// All lists of a configuration.
pub struct Sites {
    sites: Vec<Site>,
    domains: Vec<(String, Guard)>,
    /// `postscreen_dnsbl_reply_map`: names to tell instead, where they are secret.
    reply_map: Maps,
}

/// What all lists say.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Score {
    /// Weights added up.
    pub rank: i64,
    /// The list that weighs most, as clients are told.
    pub name: String,
    /// How long it holds, where lists said so.
    pub ttl: Option<Duration>,
    /// For the log.
    pub lines: Vec<Line>,
}

impl Sites {
    /// Reads the list; what is wrong with an element is told, and it counts for nothing.
    pub fn read(elements: &[String], reply_map: Maps, notices: &mut Vec<String>) -> Self {
        let mut all = Self { sites: Vec::new(), domains: Vec::new(), reply_map };
        for element in elements {
            if let Err(why) = all.add(element) {
                notices.push(format!("postscreen_dnsbl_sites: \"{element}\": {why}"));
            }
        }
        all
    }

    fn add(&mut self, element: &str) -> Result<(), String> {
        let (rest, weight) = match element.rsplit_once('*') {
            Some((rest, weight)) => (rest, weight.parse::<i32>().map_err(|_| format!("bad weight \"{weight}\""))?),
            None => (element, 1),
        };
        let (name, answers) = match rest.split_once('=') {
            Some((name, pattern)) => (name, Some(ListAnswers::parse(pattern)?)),
            None => (rest, None),
        };
        let ascii = domain::to_ascii(name.strip_suffix('.').unwrap_or(name)).unwrap_or_default().to_lowercase();
        if !domain::valid_hostname(&ascii) {
            return Err(format!("bad domain name \"{name}\""));
        }
        let known = self.domains.iter().position(|(domain, _)| *domain == ascii);
        let domain = known.unwrap_or_else(|| {
            self.domains.push((ascii.clone(), Guard::new(&ascii)));
            self.domains.len() - 1
        });
        self.sites.push(Site { domain, answers, weight: i64::from(weight) });
        Ok(())
    }

    /// There are none.
    pub fn is_empty(&self) -> bool {
        self.sites.is_empty()
    }

    /// Asks all of them about a client, at once.
    pub async fn ask(&self, client: IpAddr, resolver: &dyn Resolver, now: Timestamp) -> Score {
        let subject = reversed(client);
        let asked = join_all(self.domains.iter().map(|(domain, guard)| {
            let query = format!("{subject}.{domain}");
            async move {
                if !guard.may_ask(now) {
                    return (Vec::new(), None, None);
                }
                match resolver.a(&query).await {
                    Answer::Found { records, ttl } => match judge(&records) {
                        Ok(()) => (records, Some(ttl), guard.answered()),
                        Err(nonsense) => (Vec::new(), None, guard.nonsense(nonsense, &query, now)),
                    },
                    Answer::NotFound | Answer::NoData => (Vec::new(), None, guard.answered()),
                    Answer::TryAgain(why) | Answer::Fail(why) => {
                        let line = guard.failed(&why, now);
                        let plain = || Some(format!("dnsblog: lookup error for DNS query {query}: {why}"));
                        (Vec::new(), None, line.unwrap_or_else(plain))
                    }
                }
            }
        }));
        let asked: Vec<(Vec<Ipv4Addr>, Option<Duration>, Option<String>)> = asked.await;
        let mut score = self.score(&asked.iter().map(|(records, _, _)| records.as_slice()).collect::<Vec<_>>());
        for ((records, _, warning), (domain, _)) in asked.iter().zip(&self.domains) {
            score.lines.extend(warning.clone().map(Line::warning));
            for record in records {
                score.lines.push(Line::dnsblog(format!("addr {client} listed by domain {domain} as {record}")));
            }
        }
        score.ttl = asked.iter().filter_map(|(_, ttl, _)| *ttl).min();
        if let Ok(Some(told)) = self.reply_map.find(&score.name).await {
            score.name = told;
        }
        score
    }

    /// Adds up what the domains answered, in their order.
    fn score(&self, answers: &[&[Ipv4Addr]]) -> Score {
        let mut score = Score::default();
        let mut heaviest = i64::MIN;
        for site in &self.sites {
            let records = answers.get(site.domain).copied().unwrap_or_default();
            let counts = |a: &Ipv4Addr| site.answers.as_ref().is_none_or(|answers| answers.contain(*a));
            if !records.iter().any(counts) {
                continue;
            }
            score.rank = score.rank.saturating_add(site.weight);
            if site.weight > heaviest {
                heaviest = site.weight;
                // An index that `add` made.
                score.name.clone_from(&self.domains[site.domain].0);
            }
        }
        score
    }
}

/// Shared by sessions.
pub(crate) type SharedSites = Arc<Sites>;

#[cfg(test)]
mod tests {
    use yamabiko_lookup::TableSet;

    use super::*;

    fn sites(text: &str) -> (Sites, Vec<String>) {
        let mut notices = Vec::new();
        let map = Maps::open(&TableSet::default(), "x", "");
        let elements: Vec<String> = text.split_whitespace().map(str::to_owned).collect();
        (Sites::read(&elements, map, &mut notices), notices)
    }

    #[test]
    fn scores() {
        let text = "a.test b.test*2 c.test=127.0.0.[2;4..9]*3 c.test=127.0.0.3*-4 d.test=127.0.[0..255].1*-2";
        let (sites, notices) = sites(text);
        assert_eq!(notices, Vec::<String>::new());
        let cases: &[(&[&[&str]], i64, &str)] = &[
            (&[&[], &[], &[], &[]], 0, ""),
            (&[&["127.0.0.2"], &[], &[], &[]], 1, "a.test"),
            (&[&["127.0.0.2"], &["127.0.0.2", "127.0.0.3"], &[], &[]], 3, "b.test"),
            (&[&[], &[], &["127.0.0.5"], &[]], 3, "c.test"),
            (&[&[], &[], &["127.0.0.3"], &[]], -4, "c.test"),
            (&[&[], &[], &["127.0.0.10"], &[]], 0, ""),
            (&[&["127.0.0.2"], &[], &["127.0.0.3", "127.0.0.2"], &["127.0.7.1"]], -2, "c.test"),
        ];
        for (answers, rank, name) in cases {
            let parsed: Vec<Vec<Ipv4Addr>> =
                answers.iter().map(|list| list.iter().map(|a| a.parse().unwrap()).collect()).collect();
            let score = sites.score(&parsed.iter().map(Vec::as_slice).collect::<Vec<_>>());
            assert_eq!((score.rank, score.name.as_str()), (*rank, *name), "{answers:?}");
        }
    }

    #[test]
    fn bad_elements_are_told() {
        for text in ["a.test*x", "a..test", "a.test=1.2.3", "=127.0.0.1", "*2"] {
            let (sites, notices) = sites(text);
            assert!(sites.is_empty() && notices.len() == 1, "{text}");
        }
    }
}
