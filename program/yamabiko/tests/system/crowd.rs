//! Many who say nothing: they cost little and keep nobody from sending.

use std::fs;
use std::io::Read;
use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4, TcpStream};
use std::os::fd::{AsRawFd, OwnedFd};
use std::time::{Duration, Instant};

use nix::sys::resource::{Resource, getrlimit, setrlimit};
use nix::sys::socket::{AddressFamily, SockFlag, SockType, SockaddrIn, bind, connect, socket};

use crate::harness::{Client, Instance};

/// Connections, where there are as many descriptors.
const CROWD: usize = 10_000;
/// What one of them may cost the engine.
const BYTES_EACH: usize = 16 << 10;

/// As many descriptors as we may have; how many connections that allows.
fn room() -> usize {
    let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE).unwrap();
    setrlimit(Resource::RLIMIT_NOFILE, hard, hard).unwrap();
    CROWD.min(usize::try_from(hard).unwrap_or(CROWD).saturating_sub(600))
}

/// A connection from an address of the loopback network.
fn from(source: Ipv4Addr, to: SocketAddr) -> TcpStream {
    let socket: OwnedFd =
        socket(AddressFamily::Inet, SockType::Stream, SockFlag::SOCK_CLOEXEC, None).expect("a descriptor");
    bind(socket.as_raw_fd(), &SockaddrIn::from(SocketAddrV4::new(source, 0)))
        .expect("an address of the loopback network");
    let SocketAddr::V4(to) = to else { panic!("IPv4 only") };
    connect(socket.as_raw_fd(), &SockaddrIn::from(to)).expect("the server listens");
    TcpStream::from(socket)
}

/// Resident memory of a process in bytes.
fn memory(pid: i32) -> usize {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    line.trim().trim_end_matches(" kB").trim().parse::<usize>().unwrap() * 1024
}

#[track_caller]
fn sends(instance: &Instance, client: &mut Client, number: usize) {
    let reply = client.mail("me@test.example", &["one@box.example"], "Subject: through the crowd\n\nx\n").unwrap();
    assert_eq!(reply.code, 250, "{reply:?}");
    instance.until_mails("one", number);
}

/// A site that lets in as many as come.
#[test]
fn ten_thousand_silent_clients_keep_nobody_from_sending() {
    let number = room();
    let mut instance = Instance::new();
    instance.set("default_process_limit", "20000");
    instance.set("smtpd_client_connection_count_limit", "0");
    instance.set("smtpd_timeout", "20s");
    instance.start();
    sends(&instance, &mut instance.client(), 1);
    let before = memory(instance.engine().unwrap());
    let began = Instant::now();
    let mut crowd: Vec<TcpStream> =
        (0..number).map(|number| from(Ipv4Addr::new(127, 1, 0, 1 + (number % 250) as u8), instance.smtp)).collect();
    // The last in the line has been greeted: all are in.
    let mut greeting = [0; 3];
    crowd.last_mut().unwrap().read_exact(&mut greeting).unwrap();
    assert_eq!(&greeting, b"220");
    let arrived = began.elapsed();
    let began = Instant::now();
    sends(&instance, &mut instance.client(), 2);
    let took = began.elapsed();
    let grown = memory(instance.engine().unwrap()).saturating_sub(before);
    println!(
        "{number} silent clients in {} ms, {} bytes of memory each; meanwhile a mail took {} ms",
        arrived.as_millis(),
        grown / number,
        took.as_millis()
    );
    assert!(grown < number * BYTES_EACH, "{} bytes for each", grown / number);
    // And they do not stay for ever.
    crowd[0].set_read_timeout(Some(Duration::from_secs(60))).unwrap();
    let mut said = String::new();
    crowd[0].read_to_string(&mut said).unwrap();
    assert!(said.contains("421 4.4.2 mx.test.example Error: timeout exceeded"), "{said}");
    drop(crowd);
    sends(&instance, &mut instance.client(), 3);
}

/// With the limits as they are by default, one address has its fifty connections and no more.
#[test]
fn one_client_cannot_take_all_sessions() {
    let number = room() / 10;
    let mut instance = Instance::new();
    // Whoever is in mynetworks may come as often as he likes.
    instance.set("mynetworks", "127.0.0.1");
    instance.start();
    let crowd: Vec<TcpStream> = (0..number).map(|_| from(Ipv4Addr::new(127, 1, 0, 9), instance.smtp)).collect();
    sends(&instance, &mut instance.client(), 1);
    // Those beyond the limit were told so.
    let mut said = String::new();
    (&crowd[number - 1]).read_to_string(&mut said).unwrap();
    assert!(said.starts_with("421 4.7.0 ") && said.contains("too many connections"), "{said}");
}
