//! The bodies of the fuzz targets on pieces of mail put together at random.

mod fuzz;

const REPLIES: [&str; 12] = [
    "421 ",
    "451 4.7.1 ",
    "try again in ",
    "300 seconds",
    "5 minutes",
    "retry after ",
    "1h",
    "90s",
    "99999999999999999999",
    " hours",
    "\u{ff13} wait ",
    "0 seconds",
];

const PIECES: [&str; 40] = [
    "Content-Type: multipart/report; report-type=delivery-status; boundary=b\n",
    "Content-Type: text/plain; charset=iso-2022-jp\n",
    "Content-Transfer-Encoding: base64\n",
    "Content-Transfer-Encoding: quoted-printable\n",
    "Content-Type: message/delivery-status\n",
    "Content-Type: message/rfc822\n",
    "Content-Type: message/feedback-report\n",
    "Content-Type: text/html\n",
    "From: MAILER-DAEMON@example.com\n",
    "Subject: failure notice\n",
    "Subject: =?utf-8?B?44GC?= =?iso-8859-1?q?=FC?=\n",
    "Received: from a by b for <kim@example.com>; Thu, 29 Apr 2010 23:34:45 +0900 (JST)\n",
    "\n",
    "\n\n",
    "--b\n",
    "--b--\n",
    "Final-Recipient: rfc822; kim@example.com\n",
    "Original-Recipient: rfc822; <\"..a.\"@docomo.ne.jp>\n",
    "Action: failed\n",
    "Status: 5.1.1 (no)\n",
    "Diagnostic-Code: smtp; 550-5.1.1 <kim@example.com>... User\n unknown 550 5.1.1 x\n",
    "Remote-MTA: dns; [192.0.2.1]\n",
    "<kim@example.com>:\n",
    "kim@example.com\n    host mx.example.com [192.0.2.1]: 550 ",
    ">>> RCPT To:<kim@example.com>\n<<< 550 no such user\n",
    "--- Below this line is a copy of the message.\n",
    "Remote host said: 452 4.2.2 mailbox full\n",
    "\u{1b}$B$\"\u{1b}(B",
    "あて先が見つかりません\n",
    "почтовый ящик переполнен\n",
    "{\"notificationType\":\"Bounce\",\"bounce\":{\"bouncedRecipients\":[{\"emailAddress\":\"a@b\"}]}}",
    "{\"event\":\"bounce\",\"email\":\"a@b\",\"sg_event_id\":\"x\"}",
    "=?utf-8?B?",
    "<style>&#x3042;<p>&amp",
    "\r\n",
    "\r",
    "> ",
    "host [",
    "@",
    "\"@",
];

#[test]
fn mail_put_together_at_random() {
    // A generator of pseudo-random numbers (xorshift): the same mails in every run.
    let mut state = 0x2545_f491_4f6c_dd1d_u64;
    let mut next = move |limit: usize| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        usize::try_from(state >> 33).unwrap_or(0) % limit
    };
    for _ in 0..3000 {
        let mut message = Vec::new();
        for _ in 0..next(30) {
            let piece = PIECES[next(PIECES.len())].as_bytes();
            let end = if next(8) == 0 { next(piece.len() + 1) } else { piece.len() };
            message.extend_from_slice(&piece[..end]);
            if next(20) == 0 {
                message.push(u8::try_from(next(256)).unwrap_or(0));
            }
        }
        fuzz::analyze_message(&message);
        fuzz::analyze_text(&message);
        let reply: String = (0..next(10)).map(|_| REPLIES[next(REPLIES.len())]).collect();
        fuzz::hinted_wait(reply.as_bytes());
    }
}
