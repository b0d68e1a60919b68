//! POSIX regular expressions of the C library: what `regexp:` tables are made of.

use std::ffi::CString;
use std::mem::MaybeUninit;

/// glibc's compiler recurses at each parenthesis: deeper nesting than this is refused.
const NESTING: usize = 250;
/// glibc copies what is repeated for each of them: forty of `+` are more than any memory.
const REPETITIONS: usize = 10;
/// A pattern longer than this is refused.
const LENGTH: usize = 64 * 1024;

/// How a pattern is read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Flags {
    /// `REG_EXTENDED`
    pub extended: bool,
    /// `REG_ICASE`
    pub ignore_case: bool,
    /// `REG_NEWLINE`: `^` and `$` match at line ends.
    pub newline: bool,
    /// Not `REG_NOSUB`: positions of groups are wanted.
    pub groups: bool,
}

/// A compiled expression. Matching may be done by several threads at once.
pub struct Regex {
    // Boxed: the C library may keep pointers into it.
    compiled: Box<libc::regex_t>,
    groups: usize,
}

// SAFETY: regexec takes the compiled expression as const and locks what it changes inside (POSIX requires it to be
// thread-safe).
unsafe impl Send for Regex {}
// SAFETY: as above.
unsafe impl Sync for Regex {}

/// Start and end of a group in the subject, in bytes; `None` for a group that took no part.
pub type Group = Option<(usize, usize)>;

impl Regex {
    /// Compiles; the error is the C library's text.
    pub fn new(pattern: &str, flags: Flags) -> Result<Self, String> {
        if pattern.len() > LENGTH {
            return Err(format!("pattern longer than {LENGTH} bytes"));
        }
        if nesting(pattern.as_bytes()) > NESTING {
            return Err(format!("parentheses nested more than {NESTING} levels deep"));
        }
        if repetitions(pattern.as_bytes(), flags.extended) > REPETITIONS {
            return Err(format!("more than {REPETITIONS} repetition operators in a row"));
        }
        let text = CString::new(pattern).map_err(|_| "null byte in pattern".to_owned())?;
        let mut bits = 0;
        for (set, bit) in [
            (flags.extended, libc::REG_EXTENDED),
            (flags.ignore_case, libc::REG_ICASE),
            (flags.newline, libc::REG_NEWLINE),
            (!flags.groups, libc::REG_NOSUB),
        ] {
            if set {
                bits |= bit;
            }
        }
        let mut compiled = Box::new(MaybeUninit::<libc::regex_t>::zeroed());
        // SAFETY: both pointers are valid for the call; `text` ends in a null byte.
        let code = unsafe { libc::regcomp(compiled.as_mut_ptr(), text.as_ptr(), bits) };
        if code != 0 {
            let mut message = [0u8; 256];
            // SAFETY: the buffer is as long as said; after an error regerror only reads `code`.
            unsafe { libc::regerror(code, compiled.as_ptr(), message.as_mut_ptr().cast(), message.len()) };
            let end = message.iter().position(|&byte| byte == 0).unwrap_or(message.len());
            return Err(String::from_utf8_lossy(message.get(..end).unwrap_or_default()).into_owned());
        }
        // SAFETY: regcomp succeeded, so it is initialised; the cast keeps the allocation.
        let compiled = unsafe { Box::from_raw(Box::into_raw(compiled).cast::<libc::regex_t>()) };
        let groups = if flags.groups { group_count(&compiled) } else { 0 };
        Ok(Self { compiled, groups })
    }

    /// Number of parenthesised groups; 0 when compiled without groups.
    pub fn group_count(&self) -> usize {
        self.groups
    }

    /// Whether it matches anywhere in `subject` (up to a null byte). An error means the C library ran out of memory.
    pub fn is_match(&self, subject: &[u8]) -> Result<bool, String> {
        Ok(self.run(subject, 0)?.is_some())
    }

    /// The groups of the first match: the whole match, then one for each parenthesis. Empty when the expression was
    /// compiled without groups.
    pub fn groups(&self, subject: &[u8]) -> Result<Option<Vec<Group>>, String> {
        self.run(subject, self.groups + 1)
    }

    fn run(&self, subject: &[u8], wanted: usize) -> Result<Option<Vec<Group>>, String> {
        let text = subject.split(|byte| *byte == 0).next().unwrap_or_default();
        // Without null bytes, as they were split off.
        let text = CString::new(text).map_err(|error| error.to_string())?;
        let mut places = vec![libc::regmatch_t { rm_so: -1, rm_eo: -1 }; wanted];
        // SAFETY: `compiled` was made by regcomp and lives; `text` ends in a null byte; `places` has `wanted` places.
        let code = unsafe { libc::regexec(&*self.compiled, text.as_ptr(), wanted, places.as_mut_ptr(), 0) };
        match code {
            0 => Ok(Some(
                places
                    .into_iter()
                    .map(|place| Some((usize::try_from(place.rm_so).ok()?, usize::try_from(place.rm_eo).ok()?)))
                    .collect(),
            )),
            libc::REG_NOMATCH => Ok(None),
            _ => Err("out of memory".to_owned()),
        }
    }
}

impl Drop for Regex {
    fn drop(&mut self) {
        // SAFETY: made by regcomp, freed once.
        unsafe { libc::regfree(&mut *self.compiled) }
    }
}

/// Repetition operators in a row, not knowing about brackets: an upper bound.
fn repetitions(pattern: &[u8], extended: bool) -> usize {
    let operator = |byte: &u8| *byte == b'*' || extended && matches!(byte, b'+' | b'?');
    pattern.split(|byte| !operator(byte)).map(<[u8]>::len).max().unwrap_or(0)
}

/// Depth of parentheses, not knowing about brackets: an upper bound.
fn nesting(pattern: &[u8]) -> usize {
    let (mut depth, mut deepest) = (0usize, 0);
    for byte in pattern {
        match byte {
            b'(' => depth += 1,
            b')' => depth = depth.saturating_sub(1),
            _ => {}
        }
        deepest = deepest.max(depth);
    }
    deepest
}

/// glibc's `regex_t` up to `re_nsub`, which the libc crate keeps private.
#[repr(C)]
struct Layout {
    buffer: *mut libc::c_void,
    allocated: libc::size_t,
    used: libc::size_t,
    syntax: libc::c_ulong,
    fastmap: *mut libc::c_char,
    translate: *mut libc::c_char,
    nsub: libc::size_t,
}

const _: () = assert!(size_of::<Layout>() <= size_of::<libc::regex_t>() && cfg!(target_env = "gnu"));

/// The number of parenthesised groups, as the C library counted them.
fn group_count(compiled: &libc::regex_t) -> usize {
    // SAFETY: glibc's regex_t begins with these members (its ABI is fixed), and is at least as large, as asserted.
    unsafe { (*std::ptr::from_ref(compiled).cast::<Layout>()).nsub }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PLAIN: Flags = Flags { extended: true, ignore_case: true, newline: false, groups: true };

    #[test]
    fn matches_and_groups() {
        let regex = Regex::new("^user([0-9]+)(x)?@(.*)$", PLAIN).unwrap();
        let groups = regex.groups(b"USER12@dom.test").unwrap().unwrap();
        assert_eq!(groups, [Some((0, 15)), Some((4, 6)), None, Some((7, 15))]);
        assert_eq!(regex.groups(b"x").unwrap(), None);
        assert!(regex.is_match(b"user1@").unwrap());
        assert!(!Regex::new("a", Flags { ignore_case: false, ..PLAIN }).unwrap().is_match(b"A").unwrap());
        assert!(Regex::new("b", PLAIN).unwrap().is_match(b"ab\0c").unwrap());
        assert!(!Regex::new("c", PLAIN).unwrap().is_match(b"ab\0c").unwrap());
    }

    #[test]
    fn bad_patterns_are_errors() {
        for pattern in ["(", "[a", "a{2,1}", &"(".repeat(100_000), &"a".repeat(100_000), "a\0b"] {
            assert!(Regex::new(pattern, PLAIN).is_err());
        }
        assert_eq!(Regex::new("(", PLAIN).err().unwrap(), "Unmatched ( or \\(");
    }

    #[test]
    fn repetitions_in_a_row_are_bounded() {
        let basic = Flags { extended: false, ..PLAIN };
        for (pattern, flags, good) in [
            (format!("D{}", "+".repeat(10)), PLAIN, true),
            (format!("D{}", "+".repeat(11)), PLAIN, false),
            (format!("D{}", "+?*".repeat(4)), PLAIN, false),
            // Characters like others.
            (format!("D{}", "+".repeat(40)), basic, true),
            (format!("D{}", "\\+".repeat(40)), PLAIN, true),
        ] {
            assert_eq!(Regex::new(&pattern, flags).is_ok(), good, "{pattern}");
        }
    }
}
