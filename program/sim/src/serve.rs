//! `yamabiko sim`: sites listening, their name server, mail sent back, and the report.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use clap::Parser;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream, UdpSocket};
use tokio::signal::unix::{SignalKind, signal};

use yamabiko_tls::{Server, Stream};

use crate::client::{Connection, Outcome};
use crate::dns::{self, Zone};
use crate::later;
use crate::profile::{Connect, Profile, SHIPPED, parse, time};
use crate::session::{Act, GREYLISTING, Return, Session, TRICKLE, World};
use crate::site::{Seen, Site};
use crate::tally::{Report, Tally};

/// Attempts to send a letter back, and the time between them.
const RETURN_ATTEMPTS: (u32, Duration) = (5, Duration::from_secs(2));
/// A client that says nothing for so long is given up.
const SILENCE: Duration = Duration::from_secs(600);

/// A receiving side on the loopback: several hosts with limits and moods, and a name server that leads to them.
///
/// What becomes of a recipient is said by its address: unknown-1@, suspended-, full-, overquota-, filtered-, spam-,
/// toolarge-, policy-, defer-, deferdata-, grey-, slow-, tarpit-, dropmail-, droprcpt-, dropdata-, dropcontent-, dropdot-,
/// lostreply-, lost-, later- (laterpostfix-, laterexim-, latersendmail-, laterqmail-, laterexchange-, latergmail-,
/// latercourier-, laterjapanese-,
/// laterdocomo-, laterkddi-, laterdomino-), complaint-, vacation-. All others take their mail.
#[derive(Parser, Debug)]
#[command(name = "yamabiko sim", no_binary_name = true)]
pub struct Args {
    /// Profiles, each with its own domains or with these: docomo, docomo=docomo.ne.jp,example.jp
    #[arg(value_name = "PROFILE[=DOMAIN,...]")]
    profiles: Vec<String>,
    /// Say what profiles there are
    #[arg(long)]
    list: bool,
    /// Profiles of your own; what they say of a shipped one changes that
    #[arg(long = "profiles", value_name = "FILE")]
    files: Vec<PathBuf>,
    /// First address; each host takes the next one
    #[arg(long, default_value = "127.0.80.1")]
    address: Ipv4Addr,
    /// Port of all hosts
    #[arg(long, default_value_t = 2525)]
    port: u16,
    /// Port of the name server, at the first address
    #[arg(long, default_value_t = 5353)]
    dns_port: u16,
    /// So many domains more (d0001.sim.test, ...), spread over the profiles
    #[arg(long, default_value_t = 0)]
    domains: u32,
    /// Where bounces, complaints and automatic replies are sent
    #[arg(long = "return", value_name = "ADDRESS:PORT")]
    back: Option<SocketAddr>,
    /// After what time
    #[arg(long, value_parser = time, default_value = "5s")]
    later: Duration,
    /// How long grey- recipients refuse
    #[arg(long, value_parser = time)]
    greylisting: Option<Duration>,
    /// Where the report is written, anew every second
    #[arg(long, default_value = "sim.json")]
    report: PathBuf,
    /// End when so many messages were taken
    #[arg(long)]
    messages: Option<u64>,
    /// End after this time
    #[arg(long = "for", value_parser = time)]
    duration: Option<Duration>,
    /// Receive nothing: join what `yamabiko source` wrote with the report, and say what is missing or doubled
    #[arg(long, value_name = "SOURCE-FILE")]
    verdict: Option<PathBuf>,
}

/// The command. Exit status 0; 1 when the verdict finds something; 64 for wrong usage; 69 when it cannot listen.
pub fn run(args: &[String]) -> ExitCode {
    let args = match Args::try_parse_from(args) {
        Ok(args) => args,
        Err(error) => {
            let _ = error.print();
            return ExitCode::from(if error.use_stderr() { 64 } else { 0 });
        }
    };
    if let Some(source) = &args.verdict {
        return crate::verdict::run(source, &args.report);
    }
    let profiles = match profiles(&args.files) {
        Ok(profiles) => profiles,
        Err(why) => return failed(64, &why),
    };
    if args.list {
        for profile in &profiles {
            println!("{:<12} {}", profile.name, profile.domains.join(" "));
        }
        return ExitCode::SUCCESS;
    }
    let chosen = match choose(&args.profiles, profiles, args.domains) {
        Ok(chosen) => chosen,
        Err(why) => return failed(64, &why),
    };
    let hosts: u32 = chosen.iter().map(|profile| u32::from(profile.hosts)).sum();
    let last = u32::from(args.address).checked_add(hosts).map(Ipv4Addr::from);
    if !args.address.is_loopback() || !last.is_some_and(|last| last.is_loopback()) {
        return failed(64, "a rehearsal is for this machine alone: --address must be in 127.0.0.0/8");
    }
    let runtime = match tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return failed(71, &error.to_string()),
    };
    match runtime.block_on(serve(args, chosen)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(why) => failed(69, &why),
    }
}

fn failed(code: u8, why: &str) -> ExitCode {
    eprintln!("yamabiko sim: {why}");
    ExitCode::from(code)
}

/// Shipped profiles and those of files.
fn profiles(files: &[PathBuf]) -> Result<Vec<Profile>, String> {
    let mut all = Vec::new();
    parse(SHIPPED, &mut all).map_err(|bad| format!("shipped profiles: {bad}"))?;
    for path in files {
        let text = std::fs::read_to_string(path).map_err(|error| format!("{}: {error}", path.display()))?;
        parse(&text, &mut all).map_err(|bad| format!("{}: {bad}", path.display()))?;
    }
    Ok(all)
}

/// Those that the command line names, with their domains.
fn choose(wanted: &[String], all: Vec<Profile>, domains: u32) -> Result<Vec<Profile>, String> {
    let mut chosen = Vec::new();
    for word in wanted {
        let (name, own) = word.split_once('=').map_or((word.as_str(), None), |(name, own)| (name, Some(own)));
        let found = all.iter().find(|profile| profile.name == name);
        let mut profile = found.cloned().ok_or_else(|| {
            let names: Vec<_> = all.iter().map(|profile| profile.name.as_str()).collect();
            format!("there is no profile {name:?}; there are: {}", names.join(" "))
        })?;
        if let Some(own) = own {
            profile.domains = own.split(',').filter(|name| !name.is_empty()).map(str::to_ascii_lowercase).collect();
        }
        chosen.push(profile);
    }
    if chosen.is_empty() {
        return Err("which profiles? (--list shows them)".to_owned());
    }
    let number = chosen.len();
    for domain in 0..domains as usize {
        // The remainder is below the length.
        chosen[domain % number].domains.push(format!("d{:04}.sim.test", domain + 1));
    }
    Ok(chosen)
}

/// What runs.
struct Running {
    sites: Vec<(Arc<Site>, World)>,
    tally: Arc<Tally>,
    back: Back,
}

/// Sends letters back.
#[derive(Clone)]
struct Back {
    to: Option<SocketAddr>,
    after: Duration,
    turn: Arc<AtomicUsize>,
    tally: Arc<Tally>,
}

async fn serve(args: Args, profiles: Vec<Profile>) -> Result<(), String> {
    let tally = Arc::new(Tally::default());
    let back = Back { to: args.back, after: args.later, turn: Arc::default(), tally: Arc::clone(&tally) };
    let mut running = Running { sites: Vec::new(), tally: Arc::clone(&tally), back };
    let mut zone = Zone::default();
    let mut next = u32::from(args.address);
    let all = profiles.iter();
    let hosts = all.flat_map(|profile| (1..=profile.hosts).map(|number| host_name(profile, number))).collect();
    let tls = Arc::new(crate::certificate::server(hosts)?);
    for profile in profiles {
        let site = Arc::new(Site::new(profile));
        let greylisting = args.greylisting.unwrap_or(GREYLISTING);
        let world = World { site: Arc::clone(&site), tally: Arc::clone(&tally), greylisting };
        let mut names = Vec::new();
        for number in 1..=site.profile.hosts {
            next += 1;
            let (name, address) = (host_name(&site.profile, number), Ipv4Addr::from(next));
            zone.host(&name, address);
            if site.profile.connect != Connect::Dead {
                let at = SocketAddr::from((address, args.port));
                let listener = TcpListener::bind(at).await.map_err(|error| format!("{at}: {error}"))?;
                let host = Host {
                    world: world.clone(),
                    back: running.back.clone(),
                    name: name.clone(),
                    tls: Arc::clone(&tls),
                };
                tokio::spawn(listen(listener, host));
            }
            println!("{address}:{} {name} ({})", args.port, shown(&site.profile.domains));
            names.push(name);
        }
        for domain in &site.profile.domains {
            zone.domain(domain, &names);
        }
        running.sites.push((site, world));
    }
    let (zone, at) = (Arc::new(zone), SocketAddr::from((args.address, args.dns_port)));
    let socket = UdpSocket::bind(at).await.map_err(|error| format!("name server, {at}: {error}"))?;
    let listener = TcpListener::bind(at).await.map_err(|error| format!("name server, {at}: {error}"))?;
    tokio::spawn(dns::serve_udp(Arc::clone(&zone), socket));
    tokio::spawn(dns::serve_tcp(zone, listener));
    println!("name server {at}; in main.cf:\n  dns_servers = {at}\n  smtp_tcp_port = {}", args.port);

    let (mut interrupt, mut terminate) = (stop(SignalKind::interrupt())?, stop(SignalKind::terminate())?);
    let end = args.duration.map(|duration| Instant::now() + duration);
    loop {
        let signalled = tokio::select! {
            _ = interrupt.recv() => true,
            _ = terminate.recv() => true,
            () = tokio::time::sleep(Duration::from_secs(1)) => false,
        };
        running.write(&args.report)?;
        let enough = args.messages.is_some_and(|number| tally.messages() >= number);
        if signalled || enough || end.is_some_and(|end| Instant::now() >= end) {
            return Ok(());
        }
    }
}

fn host_name(profile: &Profile, number: u8) -> String {
    format!("mx{number}.{}", profile.exchangers)
}

/// The first few names.
fn shown(domains: &[String]) -> String {
    match domains.get(..4) {
        Some(first) if domains.len() > 5 => format!("{} and {} more", first.join(" "), domains.len() - 4),
        _ => domains.join(" "),
    }
}

fn stop(kind: SignalKind) -> Result<tokio::signal::unix::Signal, String> {
    signal(kind).map_err(|error| error.to_string())
}

impl Running {
    fn write(&self, path: &Path) -> Result<(), String> {
        let (recipients, totals) = self.tally.snapshot();
        let name = |site: &Site| site.profile.name.clone();
        let reachable = |site: &Site| matches!(site.profile.connect, Connect::Accepts);
        let report: Report<Seen> = Report {
            version: 1,
            sites: self.sites.iter().map(|(site, _)| (name(site), site.seen())).collect(),
            domains: self
                .sites
                .iter()
                .flat_map(|(site, _)| site.profile.domains.iter().map(|domain| (domain.clone(), name(site))))
                .collect::<BTreeMap<_, _>>(),
            unreachable: self.sites.iter().filter(|(site, _)| !reachable(site)).map(|(site, _)| name(site)).collect(),
            recipients,
            totals,
        };
        let text = serde_json::to_vec_pretty(&report).map_err(|error| error.to_string())?;
        // A reader sees a whole report, always.
        let aside = path.with_extension("json.new");
        let written = std::fs::write(&aside, text).and_then(|()| std::fs::rename(&aside, path));
        written.map_err(|error| format!("{}: {error}", path.display()))
    }
}

/// One mail exchanger.
#[derive(Clone)]
struct Host {
    world: World,
    back: Back,
    name: String,
    tls: Arc<Server>,
}

async fn listen(listener: TcpListener, host: Host) {
    loop {
        match listener.accept().await {
            Ok((stream, peer)) => {
                tokio::spawn(talk(stream, peer.ip(), host.clone()));
            }
            // Out of descriptors: those that talk will end.
            Err(_) => tokio::time::sleep(Duration::from_millis(50)).await,
        }
    }
}

/// A client is at a site for as long as this lives.
struct Visit {
    site: Arc<Site>,
    client: IpAddr,
}

impl Drop for Visit {
    fn drop(&mut self) {
        self.site.leave(self.client);
    }
}

async fn talk(mut stream: TcpStream, client: IpAddr, host: Host) {
    let Host { world, back, name, tls } = host;
    let site = Arc::clone(&world.site);
    let may = site.enter(client);
    let visit = Visit { site: Arc::clone(&site), client };
    let _ = stream.set_nodelay(true);
    let refusal = match &site.profile.connect {
        Connect::Mute => return wait_for_end(&mut stream).await,
        Connect::Resets => return reset(&stream),
        Connect::Refuses(text) => Some(text.as_str()),
        _ if !may => Some(site.profile.sessions_refusal.as_str()),
        _ => None,
    };
    if let Some(text) = refusal {
        let _ = stream.write_all(format!("{text}\r\n").as_bytes()).await;
        // A client that sees the end may come again at once.
        drop(visit);
        let _ = stream.shutdown().await;
        return;
    }
    let mut session = Session::new(world, client, &name);
    let mut stream = Stream::Plain(stream);
    let mut buffer = vec![0; 16 << 10];
    loop {
        while let Some(act) = session.act() {
            match act {
                Act::Pause(time) => tokio::time::sleep(time).await,
                Act::Say(text) => {
                    if stream.write_all(text.as_bytes()).await.is_err() || stream.flush().await.is_err() {
                        return;
                    }
                }
                Act::Trickle(text) => {
                    for byte in text.bytes() {
                        tokio::time::sleep(TRICKLE).await;
                        if stream.write_all(&[byte]).await.is_err() || stream.flush().await.is_err() {
                            return;
                        }
                    }
                }
                Act::Close => {
                    drop(visit);
                    let _ = stream.shutdown().await;
                    return;
                }
                Act::Reset => {
                    drop(visit);
                    return stream.below().map_or((), reset);
                }
                Act::Secure => {
                    let Some(plain) = stream.take_plain() else { return };
                    let done = tokio::time::timeout(SILENCE, tls.accept(plain)).await;
                    let secured = done.ok().and_then(Result::ok);
                    site.shook_hands(secured.is_some());
                    match secured {
                        Some((encrypted, _)) => stream = encrypted,
                        None => return,
                    }
                }
                Act::Return(letter) => back.send(*letter),
            }
        }
        match tokio::time::timeout(SILENCE, stream.read(&mut buffer)).await {
            Ok(Ok(length)) if length > 0 => session.feed(&buffer[..length], Instant::now()),
            _ => return,
        }
    }
}

async fn wait_for_end(stream: &mut TcpStream) {
    let mut buffer = [0; 1024];
    while let Ok(Ok(1..)) = tokio::time::timeout(SILENCE, stream.read(&mut buffer)).await {}
}

fn reset(stream: &TcpStream) {
    // Without it the close is an orderly one, which is another mood of the same receiver.
    let _ = stream.set_zero_linger();
}

impl Back {
    fn send(&self, letter: Return) {
        let Some(server) = self.to else { return };
        let back = self.clone();
        tokio::spawn(async move {
            tokio::time::sleep(back.after).await;
            let turn = back.turn.fetch_add(1, Ordering::Relaxed);
            let (host, recipient, to) = (letter.host.clone(), letter.recipient.clone(), letter.to.clone());
            let written = later::write(&letter, turn, jiff::Timestamp::now());
            for _ in 0..RETURN_ATTEMPTS.0 {
                if let Ok(mut connection) = Connection::open(server, &host).await {
                    let sent = connection.send(&written.sender, std::slice::from_ref(&to), &written.content).await;
                    connection.close().await;
                    if matches!(sent, Ok(Outcome::Taken { .. })) {
                        back.tally.of(&recipient, |of| of.returned += 1);
                        return;
                    }
                }
                tokio::time::sleep(RETURN_ATTEMPTS.1).await;
            }
            back.tally.not_returned();
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn domains_are_spread_over_profiles() {
        let all = profiles(&[]).expect("shipped");
        let wanted = ["docomo=a.test,B.test".to_owned(), "au".to_owned()];
        let chosen = choose(&wanted, all.clone(), 3).expect("chosen");
        assert_eq!(chosen[0].domains, ["a.test", "b.test", "d0001.sim.test", "d0003.sim.test"]);
        assert_eq!(chosen[1].domains.last().map(String::as_str), Some("d0002.sim.test"));
        assert!(choose(&["nobody".to_owned()], all.clone(), 0).expect_err("unknown").contains("there are: plain"));
        assert!(choose(&[], all, 0).is_err());
    }

    #[test]
    fn the_command_line_is_sound() {
        use clap::CommandFactory as _;
        Args::command().debug_assert();
    }
}
