//! What must hold for any input. Run on made-up input by `random.rs`, and on what a fuzzer finds by `fuzz/`.

use yamabiko_address::header::AddressList;
use yamabiko_address::{domain, path, quote, split_domain, unquote};

/// The argument of MAIL FROM and RCPT TO.
pub fn address_path(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    let lenient = path::parse(text, false);
    if let Ok(strict) = path::parse(text, true) {
        assert_eq!(lenient.as_ref(), Ok(&strict), "what is strictly right is right");
    }
    if let Ok(found) = &lenient {
        assert!(text.ends_with(found.rest));
        let (local, host) = split_domain(&found.address);
        // What we send must be read as the same address by others who read as we do.
        if !local.is_empty() && !local.starts_with('@') && host.is_some_and(domain::valid_hostname) {
            let sent = format!("<{}>", quote(&found.address));
            assert_eq!(path::parse(&sent, true).map(|p| p.address).as_deref(), Ok(&*found.address), "{sent}");
        }
    }
    if !text.starts_with('@') && split_domain(text).1.is_none_or(|d| !d.contains(['"', '\\'])) {
        assert_eq!(unquote(&quote(text)), text);
    }
    let _ = domain::to_ascii(text);
    let _ = domain::valid_mail_domain(text);
    let folded = domain::fold_case(text);
    assert_eq!(domain::fold_case(&folded), folded, "folding twice changes nothing");
}

/// The value of an address header.
pub fn header_addresses(data: &[u8]) {
    let mut list = AddressList::parse(data);
    let header = list.to_header("To").text;
    assert!(header.starts_with(b"To: "));
    // A word becomes an address of its own: comma, blank, quotes, a backslash per byte.
    assert!(header.len() <= 16 + 6 * data.len(), "{} bytes from {}", header.len(), data.len());
    // Nothing in it may begin a header of its own.
    for (at, _) in header.iter().enumerate().filter(|(_, b)| **b == b'\n') {
        assert!(matches!(header.get(at + 1), Some(b' ' | b'\t')), "a bare line end");
    }
    let count = list.addresses().count();
    let changed = list.replace(|_| Some("new@new.test".into()));
    assert!(changed || count == 0 || list.addresses().all(|a| a == "new@new.test"));
}
