//! Bodies of fuzz targets, run as ordinary tests too.

#[path = "../../src/analyze/mbox.rs"]
#[allow(dead_code)]
mod mbox;

use mbox::Mbox;
use std::io::{self, Read};

/// Hands out so many bytes at a time.
struct Drip<'a>(&'a [u8], usize);

impl Read for Drip<'_> {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        let n = self.1.min(self.0.len()).min(out.len());
        out[..n].copy_from_slice(&self.0[..n]);
        self.0 = &self.0[n..];
        Ok(n)
    }
}

/// An mbox cut into messages: at growing places, never more bytes than there are, and the same however it is read.
pub fn mbox_split(data: &[u8]) {
    let cut = |step: usize| {
        let mut mbox = Mbox::new(Drip(data, step));
        let (mut all, mut next, mut bytes) = (Vec::new(), 0, 0);
        while let Ok(Some(message)) = mbox.next_message() {
            assert!(message.offset >= next, "messages do not go back");
            next = message.offset + 1;
            bytes += message.bytes.len();
            all.push((message.offset, message.bytes));
        }
        assert!(bytes <= data.len(), "nothing is made up");
        assert!(mbox.position() == data.len() as u64, "all is read");
        all
    };
    assert_eq!(cut(usize::MAX), cut(61));
}
