//! Damage of every kind: nothing panics, and every byte is counted.

mod fuzz;

const LOG: &str = "\
Nov 21 10:00:00 mx postfix/smtpd[1]: 9C5269BCFE4: client=c[192.0.2.1], sasl_username=bob
<22>1 2026-11-21T16:42:26.5-01:30 mx postfix/smtp 77 - - 4XyZ0123456z1: to=<\"a>\"@b>, relay=m[192.0.2.9]:25, delay=1, dsn=5.1.1, status=bounced (host m[192.0.2.9] said: 550 5.1.1 no (in reply to RCPT TO command))
2026-11-21T16:42:26.123456+09:00 mx postfix/qmgr[1]: 4XyZ0123456z1: from=<s@x>, size=10, nrcpt=1 (queue active)
Nov 21 10:00:00 mx postfix/smtpd[1]: NOQUEUE: reject: RCPT from h[192.0.2.1]: 550 5.1.1 <u@v>: Recipient address rejected: x; from=<a> to=<u@v> proto=ESMTP helo=<h>
Nov 21 10:00:00 mx postfix/cleanup[1]: 9C5269BCFE4: reject: header Subject: x from h[192.0.2.1]; from=<a> to=<b> proto=ESMTP helo=<h>: 5.7.1 no
Nov 21 10:00:00 mx sm-mta[1]: 4AL7gQ1x012345: to=<a@b>,<c@d>, ctladdr=<s@x> (1/1), delay=1+00:00:01, mailer=esmtp, dsn=5.1.1, stat=User unknown
@400000003b4a39c23294b13c starting delivery 1: msg 5 to remote a@b
@400000003b4a39c23294b13c delivery 1: failure: 192.0.2.1_does_not_like_recipient./Remote_host_said:_550_no/
2026-11-21 16:42:26 1wABCD-0001ab-Cd ** a@b.jp <o@c> R=d T=s H=mx [192.0.2.9]: SMTP error from remote mail server after RCPT TO:<a@b.jp>: 550 no
{\"__REALTIME_TIMESTAMP\":\"1795280034000001\",\"_HOSTNAME\":\"mx\",\"SYSLOG_IDENTIFIER\":\"postfix/qmgr\",\"MESSAGE\":\"9C5269BCFE4: removed\"}
{\"time\":\"2026-11-21T16:42:26.1+09:00\",\"host\":\"mx\",\"service\":\"postfix/qmgr\",\"pid\":5,\"event\":\"removed\",\"queue_id\":\"4XyZ0123456z1\"}
";

#[test]
fn damaged_logs() {
    fuzz::maillog(LOG.as_bytes());
    for cut in 0..LOG.len() {
        fuzz::maillog(&LOG.as_bytes()[..cut]);
        fuzz::maillog(&LOG.as_bytes()[cut..]);
    }
    // The same numbers every time.
    let mut state = 7_u64;
    let mut random = |below: usize| {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 33) as usize % below
    };
    for _ in 0..3000 {
        let mut text = LOG.as_bytes().to_vec();
        for _ in 0..=random(8) {
            let at = random(text.len());
            match random(4) {
                0 => text[at] = random(256) as u8,
                1 => drop(text.drain(at..(at + random(30)).min(text.len()))),
                2 => text.insert(at, b" :<>[]=,\"\n\0\xff"[random(12)]),
                _ => {
                    let from = random(text.len());
                    let piece = text[from..(from + random(40)).min(text.len())].to_vec();
                    text.splice(at..at, piece);
                }
            }
            if text.is_empty() {
                text.push(b'x');
            }
        }
        fuzz::maillog(&text);
    }
}
