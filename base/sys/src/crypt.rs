//! Password hashes of the system (crypt(3), crypt(5)): `$6$`, `$5$`, `$y$`, `$2b$`, `$1$`, whatever the C library has.

use std::ffi::{CStr, CString, c_char, c_void};

#[link(name = "crypt")]
unsafe extern "C" {
    fn crypt_r(phrase: *const c_char, setting: *const c_char, data: *mut c_void) -> *mut c_char;
}

/// Words of `struct crypt_data`: the largest that is known (glibc's own, 131,232 bytes) fits.
const ROOM: usize = 160 * 1024 / 8;

/// The hash of `phrase` under `setting`, which is a hash made earlier, or its beginning. `None` when the C library does
/// not know this kind, or when either holds a NUL. Takes as long as the setting asks for.
pub fn crypt(phrase: &str, setting: &str) -> Option<String> {
    let (phrase, setting) = (CString::new(phrase).ok()?, CString::new(setting).ok()?);
    let mut data = vec![0u64; ROOM];
    // SAFETY: both texts end with NUL and live until after the call; `data` is zeroed, aligned to eight bytes and larger
    // than any struct crypt_data. The result points into it, or is null.
    let text = unsafe {
        let found = crypt_r(phrase.as_ptr(), setting.as_ptr(), data.as_mut_ptr().cast());
        if found.is_null() {
            return None;
        }
        CStr::from_ptr(found).to_str().ok()?.to_owned()
    };
    // crypt(3): a failure may be a text that begins with an asterisk.
    data.fill(0);
    (!text.starts_with('*')).then_some(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn known_hashes() {
        // From the specification of SHA-crypt, and one of bcrypt.
        for (phrase, hash) in [
            (
                "Hello world!",
                "$6$saltstring$svn8UoSVapNtMuq1ukKS4tPQd8iKwSMHWjl/O817G3uBnIFNjnQJuesI68u4OTLiBFdcbYEdFCoEOfaS35inz1",
            ),
            ("Hello world!", "$5$saltstring$5B8vYYiY.CVt1RlTTf8KbXBH3hsxY/GNooZaBBGWEc5"),
            ("U*U", "$2a$05$CCCCCCCCCCCCCCCCCCCCC.E5YPO9kmyuRGyh0XouQYb4YMJKvyOeW"),
        ] {
            assert_eq!(crypt(phrase, hash).as_deref(), Some(hash));
            assert_ne!(crypt("other", hash).as_deref(), Some(hash));
        }
        for bad in ["", "$", "$zz$x", "*0", "$6$x\0y"] {
            assert!(crypt("x", bad).is_none_or(|hash| hash != bad), "{bad:?}");
        }
        assert_eq!(crypt("a\0b", "$6$saltstring$"), None);
    }
}
