//! The bodies of the fuzz targets on damaged beginnings of what they read.

mod fuzz;

#[test]
fn damaged_texts() {
    const SEEDS: [&str; 6] = [
        "250 2.0.0 Ok: queued as 4XyZ1234abcz1",
        "250 2.6.0 <m@x.test> [InternalId=12345678901234, Hostname=A1.prod] Queued mail for delivery",
        "250 ok 1363398899 qp 16023",
        "email,reason,created\na@b.test,bounce,1790000000\n\"x\"\"y\",,",
        "{\"items\":[{\"address\":\"a@b.test\",\"code\":550}]}",
        "mailboxfull 5 14d 14d news.test # all",
    ];
    // A small generator of numbers that are the same each time.
    let mut number = 7u64;
    let mut next = || {
        number = number.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (number >> 33) as usize
    };
    for _ in 0..3000 {
        let mut bytes = SEEDS[next() % SEEDS.len()].as_bytes().to_vec();
        for _ in 0..next() % 6 {
            let at = next() % bytes.len();
            match next() % 4 {
                0 => bytes[at] = next() as u8,
                1 => bytes.truncate(at + 1),
                2 => bytes.insert(at, next() as u8),
                _ => bytes.extend_from_slice(SEEDS[next() % SEEDS.len()].as_bytes()),
            }
        }
        fuzz::ledger_text(&bytes);
        fuzz::ledger_journal(&bytes);
    }
}
