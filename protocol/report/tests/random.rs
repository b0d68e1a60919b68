//! The fuzz bodies on made-up input, so that every test run has some of it.

mod fuzz;

/// Texts that make trouble next to each other.
const PIECES: &[&str] = &[
    "Content-Type: multipart/report; boundary=b\n\n",
    "--b\n",
    "--b--\n",
    "Content-Type: message/delivery-status\n\n",
    "Content-Type: message/rfc822\n\n",
    "Final-Recipient: rfc822; a@b\n",
    "Status: 5.1.1\n",
    "Action: failed\n",
    "\n",
    " ",
    "failure_template = <<EOF\n",
    "delay_template=<<X\n",
    "EOF\n",
    "X\n",
    "Subject: x\n",
    "Charset: us-ascii\n",
    "é",
    "$name",
    "Postmaster-Subject: y\n",
    "=",
    "<<",
    "#",
    "text\n",
    ":",
    "success_template = text\n",
    "\r",
];

fn inputs(rounds: usize) -> impl Iterator<Item = Vec<u8>> {
    let mut state = 0x1234_5678_9abc_def1_u64;
    let mut next = move || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state
    };
    (0..rounds).map(move |_| {
        // Most begin like one of the two formats.
        let mut input = match next() % 4 {
            0 | 1 => b"Content-Type: multipart/report; boundary=b\n\n--b\n".to_vec(),
            2 => b"failure_template = <<EOF\n".to_vec(),
            _ => Vec::new(),
        };
        for _ in 0..next() % 30 {
            match next() % 40 {
                0 => input.push(next() as u8),
                _ => input.extend_from_slice(PIECES[next() as usize % PIECES.len()].as_bytes()),
            }
        }
        input
    })
}

#[test]
fn reports() {
    inputs(30_000).for_each(|input| fuzz::report(&input));
}

#[test]
fn template_files() {
    inputs(30_000).for_each(|input| fuzz::template_file(&input));
}
