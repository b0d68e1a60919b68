//! The bodies of fuzz targets on made-up input: pieces of what is really published, put together at random.

mod fuzz;

const PIECES: &[&str] = &[
    "version: STSv1\n",
    "mode: enforce\n",
    "mode: testing\r\n",
    "mx: *.a.test\n",
    "mx: ",
    "max_age: 86400\n",
    "max_age: ",
    "v=STSv1; id=1",
    "v=STSv1",
    ";",
    "id=",
    "v=TLSRPTv1; rua=",
    "mailto:a@b.test",
    "https://a.test/x",
    "https://",
    ",",
    "%0d%0a",
    "%",
    "HTTP/1.1 200 OK\r\n",
    "Content-Length: 5\r\n",
    "Transfer-Encoding: chunked\r\n",
    "Content-Type: text/plain\r\n",
    "\r\n",
    "5\r\nhello\r\n",
    "0\r\n\r\n",
    "ffffffff\r\n",
    "\u{0}",
    "é",
    "*",
    ":",
    "999999999999999999999",
];

#[test]
fn published() {
    let mut state = 0x9e37_79b9_7f4a_7c15u64;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state
    };
    for _ in 0..20_000 {
        let mut input = Vec::new();
        for _ in 0..next() % 12 {
            input.extend_from_slice(PIECES[usize::try_from(next()).unwrap_or(0) % PIECES.len()].as_bytes());
        }
        fuzz::published(&input);
    }
}
