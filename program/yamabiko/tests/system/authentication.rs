//! What senders prove and what we sign, over a name server of the test's own: SPF and DMARC refuse, results are written
//! down, mail of our own is signed and the signature holds.

use std::net::{SocketAddr, UdpSocket};
use std::sync::{Arc, Mutex};

use crate::harness::{Instance, as_root};

/// TXT records by name. A name that is not there does not exist; `!` as the text: SERVFAIL.
type Zone = Arc<Mutex<Vec<(String, String)>>>;

fn name_server(zone: Zone) -> SocketAddr {
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    let address = socket.local_addr().unwrap();
    std::thread::spawn(move || {
        let mut buffer = [0; 1500];
        while let Ok((length, from)) = socket.recv_from(&mut buffer) {
            let query = &buffer[..length];
            let (mut at, mut labels) = (12, Vec::new());
            while query[at] > 0 {
                let end = at + 1 + query[at] as usize;
                labels.push(String::from_utf8_lossy(&query[at + 1..end]).to_lowercase());
                at = end;
            }
            let name = labels.join(".");
            let zone = zone.lock().unwrap();
            let is_text = query[at + 1..at + 3] == [0, 16];
            let text = zone.iter().find(|(known, _)| *known == name).map(|(_, text)| text.clone());
            let code = match text.as_deref() {
                None => 3,
                Some("!") => 2,
                Some(_) => 0,
            };
            let found = text.filter(|text| is_text && text != "!");
            let mut reply = query[..2].to_vec();
            reply.extend([0x85, 0x80 | code, 0, 1, 0, u8::from(found.is_some()), 0, 0, 0, 0]);
            reply.extend_from_slice(&query[12..at + 5]);
            if let Some(text) = found {
                let data: Vec<u8> =
                    text.as_bytes().chunks(255).flat_map(|part| [&[part.len() as u8], part].concat()).collect();
                reply.extend([0xc0, 12, 0, 16, 0, 1, 0, 0, 0, 0]);
                reply.extend((data.len() as u16).to_be_bytes());
                reply.extend(data);
            }
            let _ = socket.send_to(&reply, from);
        }
    });
    address
}

/// MAIL, RCPT and DATA; the last reply.
fn send(instance: &Instance, sender: &str, author: &str, subject: &str) -> String {
    let mut client = instance.client();
    client.expect("EHLO h.example", 250);
    let text = format!(
        "From: {author}\r\nTo: one@box.example\r\nSubject: {subject}\r\nDate: Sat, 21 Nov 2026 12:00:00 +0900\r\n\
         Message-ID: <{subject}@x>\r\nAuthentication-Results: mx.test.example; spf=pass by forgery\r\n\
         Authentication-Results: elsewhere.example; spf=fail\r\n\r\nText\r\n"
    );
    let reply = client.mail(sender, &["one@box.example"], &text).unwrap();
    reply.lines.join("\n")
}

#[test]
fn strangers_prove_who_they_are() {
    let zone: Zone = Arc::default();
    let put = |name: &str, text: &str| zone.lock().unwrap().push((name.to_owned(), text.to_owned()));
    put("good.example", "v=spf1 ip4:127.0.0.0/8 -all");
    put("bad.example", "v=spf1 ip4:192.0.2.1 -all exp=why.bad.example");
    put("why.bad.example", "%{i} is not ours");
    put("_dmarc.strict.example", "v=DMARC1; p=reject");
    put("_dmarc.softer.example", "v=DMARC1; p=quarantine");
    put("trouble.example", "!");
    put("_dmarc.trouble.example", "!");
    let mut instance = Instance::new();
    instance.set("dns_servers", &name_server(Arc::clone(&zone)).to_string());
    instance.set("mynetworks", "192.0.2.1");
    instance.set("smtpd_recipient_restrictions", "reject_spf_fail");
    instance.set("smtpd_end_of_data_restrictions", "reject_dmarc_policy, hold_dmarc_policy");
    instance.set("smtpd_sender_authentication", "spf dkim dmarc arc");
    instance.start();
    let said = |sender: &str, author: &str, subject: &str| send(&instance, sender, author, subject);
    assert!(said("a@good.example", "a@good.example", "good").starts_with("250"));
    let refused = said("a@bad.example", "a@good.example", "spf");
    assert!(refused.contains("SPF fail for bad.example from 127.") && refused.contains("is not ours"), "{refused}");
    let refused = said("a@none.example", "a@strict.example", "dmarc");
    assert!(refused.starts_with("550") && refused.contains("DMARC policy of strict.example is reject"), "{refused}");
    // Held, not refused; and trouble with DNS refuses nothing.
    assert!(said("a@none.example", "a@softer.example", "held").starts_with("250"));
    instance.until_queued("hold", 1);
    assert!(said("a@trouble.example", "a@trouble.example", "trouble").starts_with("250"));
    let mails = instance.until_mails("one", 2);
    let mail = |subject: &str| mails.iter().find(|mail| mail.contains(&format!("Subject: {subject}\n"))).unwrap();
    let good = mail("good");
    for words in ["Authentication-Results: mx.test.example;\n\tdkim=none;\n\tspf=pass", "dmarc=none", "arc=none"] {
        assert!(good.contains(words), "{words}: {good}");
    }
    assert!(!good.contains("by forgery") && good.contains("elsewhere.example; spf=fail"), "{good}");
    assert!(mail("trouble").contains("spf=temperror"), "{}", mail("trouble"));
    let log = instance.log();
    assert!(log.contains("reject: END-OF-MESSAGE") && log.contains("hold: END-OF-MESSAGE"), "{log}");
    // Only told of behind warn_if_reject.
    instance.set("smtpd_end_of_data_restrictions", "warn_if_reject reject_dmarc_policy");
    instance.write();
    instance.reload();
    assert!(send(&instance, "a@none.example", "a@strict.example", "warned").starts_with("250"));
    instance.until("the warning", || instance.log().contains("reject_warning: END-OF-MESSAGE"));
}

#[test]
fn mail_of_our_own_is_signed() {
    let zone: Zone = Arc::default();
    let mut instance = Instance::new();
    let key = instance.etc().join("s1.private");
    let made = instance.ok("yamabiko", &["dkim", "genkey", "-o", &key.display().to_string(), "test.example", "s1"]);
    let record: String = made.split('"').skip(1).step_by(2).collect();
    assert!(record.starts_with("v=DKIM1; k=rsa; p="), "{made}");
    zone.lock().unwrap().push(("s1._domainkey.test.example".to_owned(), record));
    // Root's alone: the engine has it from the supervisor.
    let mode = std::os::unix::fs::PermissionsExt::mode(&std::fs::metadata(&key).unwrap().permissions());
    assert_eq!(mode & 0o777, 0o600);
    instance.file("signing", &format!("test.example s1 test.example {}\n", key.display()));
    instance.set("dkim_signing_table", &format!("texthash:{}/signing", instance.etc().display()));
    instance.set("dns_servers", &name_server(Arc::clone(&zone)).to_string());
    instance.start();
    let author = "Somebody <a@test.example>";
    assert!(send(&instance, "a@test.example", author, "ours").starts_with("250"));
    assert!(send(&instance, "a@other.example", "a@other.example", "theirs").starts_with("250"));
    let said = instance.run_with(
        "sendmail",
        &["-f", "a@test.example", "one@box.example"],
        "From: a@test.example\nSubject: local\n\nText\n",
    );
    assert_eq!(said.code, 0, "{said:?}");
    let mails = instance.until_mails("one", 3);
    let mail = |subject: &str| mails.iter().find(|mail| mail.contains(&format!("Subject: {subject}\n"))).unwrap();
    assert!(!mail("theirs").contains("DKIM-Signature:"), "{}", mail("theirs"));
    for subject in ["ours", "local"] {
        assert!(
            mail(subject).contains("DKIM-Signature: v=1; a=rsa-sha256; s=s1; d=test.example;"),
            "{}",
            mail(subject)
        );
    }
    // It comes back from a stranger: the signature holds.
    instance.set("mynetworks", "192.0.2.1");
    instance.set("smtpd_relay_restrictions", "permit_auth_destination, reject");
    instance.set("smtpd_sender_authentication", "dkim");
    instance.write();
    instance.reload();
    let (_, signed) = mail("ours").split_once("DKIM-Signature:").unwrap();
    let mut client = instance.client();
    client.expect("EHLO h.example", 250);
    let text = format!("DKIM-Signature:{}", signed.replace('\n', "\r\n"));
    assert_eq!(client.mail("b@x.example", &["two@box.example"], &text).unwrap().code, 250);
    let back = instance.until_mails("two", 1).remove(0);
    assert!(back.contains("dkim=pass header.d=test.example header.s=s1"), "{back}");
    if !as_root() {
        eprintln!("SKIPPED: keys for root alone, not run as root");
    }
}
