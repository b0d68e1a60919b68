//! Tests of tables in files: which of the files answers, and reading again what has changed.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime};

use pollster::block_on;

use crate::{CdbWriter, Notice, Options, Table, TableSet};

struct World {
    dir: tempfile::TempDir,
    set: TableSet,
    said: Arc<Mutex<Vec<String>>>,
}

impl World {
    fn new() -> Self {
        let said: Arc<Mutex<Vec<String>>> = Arc::default();
        let ear = Arc::clone(&said);
        let notify = Arc::new(move |notice: Notice| ear.lock().unwrap().push(notice.text));
        let set = TableSet::new(Options { notify, check_every: Duration::ZERO, ..Options::default() });
        Self { dir: tempfile::tempdir().unwrap(), set, said }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// Writes a file whose time is so many seconds after a fixed moment.
    fn write(&self, name: &str, content: &[u8], age: u64) {
        let path = self.path(name);
        std::fs::write(&path, content).unwrap();
        touch(&path, age);
    }

    fn write_cdb(&self, name: &str, pairs: &[(&str, &str)], age: u64) {
        let mut writer = CdbWriter::new();
        for (key, value) in pairs {
            writer.add(key.as_bytes(), value.as_bytes()).unwrap();
        }
        let mut content = Vec::new();
        writer.finish(&mut content).unwrap();
        self.write(name, &content, age);
    }

    fn open(&self, kind: &str, name: &str) -> Arc<dyn Table> {
        self.set.open(&format!("{kind}:{}", self.path(name).display())).unwrap()
    }

    fn said(&self) -> String {
        self.said.lock().unwrap().drain(..).collect::<Vec<_>>().join("\n")
    }
}

fn touch(path: &Path, age: u64) {
    let time = SystemTime::UNIX_EPOCH + Duration::from_secs(1_700_000_000 + age);
    std::fs::File::open(path).unwrap().set_modified(time).unwrap();
}

fn get(table: &Arc<dyn Table>, key: &str) -> Option<String> {
    block_on(table.lookup(key)).unwrap()
}

#[test]
fn which_file_answers() {
    let world = World::new();
    world.write("t", b"key text\nOther More words\n", 10);
    let table = world.open("hash", "t");
    assert_eq!(get(&table, "KEY").as_deref(), Some("text"));
    assert_eq!(get(&table, "other").as_deref(), Some("More words"));
    assert_eq!(table.source_of("Other"), Some(format!("{}:2", world.path("t").display())));
    assert!(world.said().contains("has no index"));
    // An index that is not older than its text answers.
    world.write_cdb("t.cdb", &[("key", "index")], 10);
    assert_eq!(get(&table, "key").as_deref(), Some("index"));
    // The text was changed after the index was made.
    world.write("t", b"key newer\n", 20);
    assert_eq!(get(&table, "key").as_deref(), Some("newer"));
    assert!(world.said().contains("is newer than its index"));
    // Only the index is left.
    std::fs::remove_file(world.path("t")).unwrap();
    assert_eq!(get(&table, "key").as_deref(), Some("index"));
    // Nothing is left: what was known stays.
    std::fs::remove_file(world.path("t.cdb")).unwrap();
    assert_eq!(get(&table, "key").as_deref(), Some("index"));
    assert!(world.said().contains("its former content stays in use"));
    assert_eq!(get(&table, "key").as_deref(), Some("index"));
    assert_eq!(world.said(), "");
    world.write("t", b"key again\n", 30);
    assert_eq!(get(&table, "key").as_deref(), Some("again"));
}

#[test]
fn files_of_others() {
    let world = World::new();
    world.write("b.db", include_bytes!("../tests/data/btree.db"), 10);
    let table = world.open("btree", "b");
    assert_eq!(get(&table, "Key5@example.com").as_deref(), Some("value 5"));
    assert_eq!(table.source_of("key5@example.com"), None);
    assert!(world.said().contains("Berkeley DB"));
    world.write("n.cdb", b"not a cdb", 10);
    assert!(world.set.open(&format!("cdb:{}", world.path("n").display())).is_err());
    // Keys and values that end in a null byte.
    world.write_cdb("z.cdb", &[("root\0", "a, b\0")], 10);
    assert_eq!(get(&world.open("cdb", "z"), "Root").as_deref(), Some("a, b"));
    let pairs = vec![(b"key\0".to_vec(), b"value\0".to_vec()), (b"other".to_vec(), b"v".to_vec())];
    yamabiko_sys::lmdb::write(&world.path("l.lmdb"), &pairs).unwrap();
    let table = world.open("lmdb", "l");
    assert_eq!(get(&table, "KEY").as_deref(), Some("value"));
    assert_eq!(get(&table, "other").as_deref(), Some("v"));
    assert_eq!(get(&table, "none"), None);
}

#[test]
fn pattern_files_are_read_again() {
    let world = World::new();
    world.write("p", b"/a/ one\n", 10);
    let table = world.open("pcre", "p");
    assert_eq!(get(&table, "xax").as_deref(), Some("one"));
    assert_eq!(table.source_of("xax"), Some(format!("{}:1", world.path("p").display())));
    world.write("p", b"# new\n/a/ two\n", 20);
    assert_eq!(get(&table, "xax").as_deref(), Some("two"));
    assert_eq!(table.source_of("xax"), Some(format!("{}:2", world.path("p").display())));
}

#[test]
fn missing_tables_are_tried_again() {
    let world = World::new();
    let spec = format!("texthash:{}", world.path("late").display());
    let table = world.set.open_or_defer(&spec, crate::Usage::MAP);
    let error = block_on(table.lookup("a")).unwrap_err();
    assert!(error.why.starts_with("is unavailable. open database "), "{error}");
    world.write("late", b"a b\n", 10);
    assert_eq!(get(&table, "a").as_deref(), Some("b"));
}

#[test]
fn text_warnings() {
    let world = World::new();
    let text = "   leading\na b\ndup first\nDUP second\nnovalue\n\"un closed x\nkey: value\nbytes \u{e9}\n".to_owned();
    let mut bytes = text.into_bytes();
    bytes.extend_from_slice(b"bad \xff\n");
    world.write("w", &bytes, 10);
    let table = world.open("texthash", "w");
    assert_eq!(get(&table, "dup").as_deref(), Some("first"));
    assert_eq!(get(&table, "bytes").as_deref(), Some("é"));
    let name = world.path("w").display().to_string();
    let expected = [
        "W: logical line must not start with whitespace: \"   leading\"",
        "W, line 4: duplicate entry: \"dup\"",
        "W, line 5: expected format: key whitespace value -- ignoring this line",
        "W, line 6: unbalanced '\"' in '\"un closed x' -- ignoring this line",
        "W, line 7: record is in \"key: value\" format; is this an alias file?",
        "W, line 9: non-UTF-8 input \"bad ?\" -- ignoring this line",
    ];
    assert_eq!(world.said(), expected.join("\n").replace('W', &name));
}

#[test]
fn hostile_texts_are_read_in_linear_time() {
    let world = World::new();
    let long = "k".repeat(5_000_000);
    world.write("h", format!("{long} v\n{}\n{}", "\"\\".repeat(100_000), " x\n".repeat(300_000)).as_bytes(), 10);
    let table = world.open("texthash", "h");
    assert_eq!(get(&table, &long).as_deref(), Some("v"));
    let mut random = 88172645463325252_u64;
    for format in [crate::Format::Map, crate::Format::Alias] {
        for _ in 0..20_000 {
            let mut text = Vec::new();
            for _ in 0..random % 60 {
                random ^= random << 13;
                random ^= random >> 7;
                random ^= random << 17;
                let alphabet = b"ab \t\n\\\"(){}[]<>:,;@.#\xc3\xa9\0\r";
                text.push(alphabet[random as usize % alphabet.len()]);
            }
            random = random.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
            crate::text::read(&text, format, |entry| {
                if let crate::text::Entry::Pair(pair) = entry {
                    assert!(!pair.key.is_empty() || format == crate::Format::Alias);
                }
            });
        }
    }
}
