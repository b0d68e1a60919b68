//! The bodies of the fuzz targets on pieces put together at random.

mod fuzz;

const PIECES: [&str; 18] = [
    "From MAILER-DAEMON Thu Sep 18 17:54:04 2008\n",
    "From a@example.jp Thu Sep  8 17:54:04 2008 +0900\r\n",
    "From ",
    ">From here\n",
    ">>From there\n",
    "From: a@example.jp\n",
    "Content-Length: 10\n",
    "Content-Length: 99999999999999999999\n",
    "Content-Length: -1\r\n",
    "\n",
    "\n\n",
    "\r\n\r\n",
    "\r\r",
    "text\n",
    "\nFrom ",
    "0123456789",
    "\u{3042}\n",
    "\0",
];

#[test]
fn mbox_files_put_together_at_random() {
    let mut state = 20_261_122_u64;
    let mut below = |limit: usize| {
        state ^= state >> 12;
        state ^= state << 25;
        state ^= state >> 27;
        (state.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 33) as usize % limit
    };
    for _ in 0..120 {
        let text: String = (0..below(40)).map(|_| PIECES[below(PIECES.len())]).collect();
        fuzz::mbox_split(text.as_bytes());
    }
}
