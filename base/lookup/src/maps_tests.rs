//! Tests of the query orders.

use pollster::block_on;

use crate::{AddressForms, Locality, Maps, ParentStyle, TableSet};

/// Which of the keys in the table answers for the address.
fn find(table: &str, address: &str, forms: &AddressForms<'_>) -> Option<String> {
    let set = TableSet::default();
    let hit = block_on(Maps::open(&set, "test", table).find_address(address, forms)).unwrap()?;
    Some(hit.value)
}

#[test]
fn mapping_order() {
    let local = AddressForms::mapping("+", Locality::Known(true));
    let remote = AddressForms::mapping("+", Locality::Known(false));
    let all = "inline:{u+x@d.test=1, u@d.test=2, u+x=3, u=4, @d.test=5}";
    let cases = [
        (all, true, Some("1")),
        ("inline:{u@d.test=2, u+x=3, u=4, @d.test=5}", true, Some("2")),
        ("inline:{u+x=3, u=4, @d.test=5}", true, Some("3")),
        ("inline:{u=4, @d.test=5}", true, Some("4")),
        ("inline:{@d.test=5}", true, Some("5")),
        ("inline:{u+x=3, u=4, @d.test=5}", false, Some("5")),
        ("inline:{d.test=6, u+x@=7}", true, None),
        // Each form in all tables before the next form.
        ("inline:{@d.test=5} inline:{u@d.test=2}", true, Some("2")),
    ];
    for (table, is_local, expected) in cases {
        let forms = if is_local { &local } else { &remote };
        assert_eq!(find(table, "u+x@d.test", forms).as_deref(), expected, "{table}");
        assert_eq!(find(table, "U+X@D.test", forms).as_deref(), expected, "{table}");
    }
}

#[test]
fn access_and_transport_order() {
    let access = AddressForms::access("+", ParentStyle::Plain);
    let dots = AddressForms::access("+", ParentStyle::Dot);
    let transport = AddressForms::transport("+", ParentStyle::Dot);
    let address = "u+x@a.d.test";
    let cases = [
        ("inline:{a.d.test=dom, u@=user}", &access, Some("dom")),
        ("inline:{d.test=dom, u+x@=user}", &access, Some("dom")),
        ("inline:{d.test=dom, u+x@=user}", &dots, Some("user")),
        ("inline:{.d.test=dom, u@=user}", &dots, Some("dom")),
        ("inline:{u@=user}", &access, Some("user")),
        ("inline:{u=user}", &access, None),
        ("inline:{*=any}", &access, None),
        ("inline:{*=any, .test=top}", &transport, Some("top")),
        ("inline:{*=any, d.test=dom}", &transport, Some("any")),
        ("inline:{u@a.d.test=bare, *=any}", &transport, Some("bare")),
    ];
    for (table, forms, expected) in cases {
        assert_eq!(find(table, address, forms).as_deref(), expected, "{table}");
    }
}

#[test]
fn quoting_and_extensions() {
    let forms = AddressForms::mapping("+-", Locality::Known(true));
    // Written forms are asked for first, then the internal ones.
    assert_eq!(find("inline:{{\"a b\"@d = quoted}, {a b@d = plain}}", "a b@d", &forms).as_deref(), Some("quoted"));
    assert_eq!(find("inline:{{a b@d = plain}}", "a b@d", &forms).as_deref(), Some("plain"));
    // Never split.
    for whole in ["owner-list@d", "list-request@d", "double-bounce@d"] {
        assert_eq!(find("inline:{owner@d=x, list@d=x, double@d=x}", whole, &forms), None, "{whole}");
    }
    assert_eq!(find("inline:{@d=x}", "+x@d", &forms).as_deref(), Some("x"));
    assert_eq!(find("inline:{a@d=x}", "", &forms), None);
    let set = TableSet::default();
    let maps = Maps::open(&set, "test", "inline:{a@d=x}");
    let hit = block_on(maps.find_address("a+b@d", &forms)).unwrap().unwrap();
    assert_eq!((hit.extension.as_deref(), &*hit.key, &*hit.source()), (Some("+b"), "a@d", "inline:{a@d=x}"));
}

#[test]
fn domains_and_networks() {
    let set = TableSet::default();
    let find_domain = |table: &str, name: &str, style| {
        block_on(Maps::open(&set, "test", table).find_domain(name, style)).unwrap().map(|hit| hit.value)
    };
    assert_eq!(find_domain("inline:{b.c=x}", "a.b.c", ParentStyle::Plain).as_deref(), Some("x"));
    assert_eq!(find_domain("inline:{b.c=x}", "a.b.c", ParentStyle::Dot), None);
    assert_eq!(find_domain("inline:{.c=x}", "a.b.c", ParentStyle::Dot).as_deref(), Some("x"));
    assert_eq!(find_domain("inline:{.c=x}", "a.b.c", ParentStyle::None), None);
    let find_network = |table: &str, address: &str| {
        block_on(Maps::open(&set, "test", table).find_network(address)).unwrap().map(|hit| hit.value)
    };
    assert_eq!(find_network("inline:{192.0=x}", "192.0.2.1").as_deref(), Some("x"));
    assert_eq!(find_network("inline:{192=x}", "192.0.2.1").as_deref(), Some("x"));
    assert_eq!(find_network("inline:{2001:db8=x}", "2001:db8::1").as_deref(), Some("x"));
    assert_eq!(find_network("inline:{192.0.2.=x}", "192.0.2.1"), None);
}

#[test]
fn trouble_is_an_error() {
    let set = TableSet::default();
    for table in ["fail:x", "hash:/no/such/table", "nosuchtype:x", "hash", "inline:{a=b} fail:x", "mysql:/x"] {
        let found = block_on(Maps::open(&set, "test", table).find("key"));
        assert!(found.is_err(), "{table}");
    }
    // Found before the trouble is reached.
    assert_eq!(block_on(Maps::open(&set, "test", "inline:{a=b} fail:x").find("a")), Ok(Some("b".into())));
    assert_eq!(block_on(Maps::open(&set, "test", "fail:x").find("")), Ok(None));
}
