//! Classes, transports and next hops, as tables.

mod common;

use pollster::block_on;
use yamabiko_lookup::TableSet;
use yamabiko_route::{Listing, Lists, Party, Resolved, Router};

const CLASSES: &str = "virtual_alias_domains = alias.test, inline:{aliased.test=x}
virtual_mailbox_domains = box.test
relay_domains = relayed.test
virtual_alias_maps = inline:{ known@alias.test=user, user@lab.test=other, gone@remote.test=x }
virtual_mailbox_maps = inline:{ user@box.test=user/, @any.box.test=x }
local_recipient_maps = inline:{ user=x, full@lab.test=x }
relay_recipient_maps = inline:{ user@relayed.test=x }
proxy_interfaces = 203.0.113.5
recipient_delimiter = +
local_transport = local:$myhostname
compatibility_level = 3.6
";

fn router(lines: &str) -> Router {
    Router::new(&common::view(lines), &TableSet::default())
}

fn resolve(lines: &str, sender: &str, recipient: &str) -> Resolved {
    block_on(router(&format!("{CLASSES}{lines}")).resolve(sender, recipient)).unwrap()
}

fn check(lines: &str, table: &[(&str, &str)]) {
    for (recipient, expected) in table {
        let r = resolve(lines, "s@remote.test", recipient);
        let routed = if r.routed { " routed" } else { "" };
        let got = format!("{:?} {}:{} {}{routed}", r.class, r.transport, r.nexthop, r.recipient);
        assert_eq!(got, *expected, "{recipient} with {lines}");
    }
}

#[test]
fn classes() {
    check(
        "",
        &[
            ("user@lab.test", "Local local:mx.lab.test user@lab.test"),
            ("user@LAB.test", "Local local:mx.lab.test user@LAB.test"),
            ("user", "Local local:mx.lab.test user@mx.lab.test"),
            ("", "Local local:mx.lab.test MAILER-DAEMON@mx.lab.test"),
            ("@lab.test", "Local local:mx.lab.test MAILER-DAEMON@lab.test"),
            ("user@lab.test.", "Local local:mx.lab.test user@lab.test"),
            ("user@[192.0.2.1]", "Local local:mx.lab.test user@[192.0.2.1]"),
            ("user@[203.0.113.5]", "Local local:mx.lab.test user@[203.0.113.5]"),
            ("user@[IPv6:::1]", "Local local:mx.lab.test user@[IPv6:::1]"),
            ("user@[192.0.2.2]", "Default smtp:[192.0.2.2] user@[192.0.2.2]"),
            ("..da.me.@docomo.ne.jp", "Default smtp:docomo.ne.jp ..da.me.@docomo.ne.jp"),
            ("a b@lab.test", "Local local:mx.lab.test a b@lab.test"),
            ("x@alias.test", "VirtualAlias error:5.1.1 User unknown in virtual alias table x@alias.test"),
            ("x@aliased.test", "VirtualAlias error:5.1.1 User unknown in virtual alias table x@aliased.test"),
            ("x@sub.alias.test", "Default smtp:sub.alias.test x@sub.alias.test"),
            ("x@box.test", "VirtualMailbox virtual:box.test x@box.test"),
            ("x@relayed.test", "Relay relay:relayed.test x@relayed.test"),
            ("x@sub.relayed.test", "Relay relay:sub.relayed.test x@sub.relayed.test"),
            ("x@remote.test", "Default smtp:remote.test x@remote.test"),
        ],
    );
    check(
        "show_user_unknown_table_name = no",
        &[("x@alias.test", "VirtualAlias error:5.1.1 User unknown x@alias.test")],
    );
}

#[test]
fn local_domains_come_off_and_routing_shows() {
    check(
        "",
        &[
            ("relaytest%rbl.test@lab.test", "Default smtp:rbl.test relaytest@rbl.test"),
            ("relaytest%rbl.test@[192.0.2.1]", "Default smtp:rbl.test relaytest@rbl.test"),
            ("rbl.test!relaytest@lab.test", "Default smtp:rbl.test relaytest@rbl.test"),
            ("user%lab.test@lab.test", "Local local:mx.lab.test user@lab.test"),
            ("user@lab.test@lab.test", "Local local:mx.lab.test user@lab.test"),
            ("relay@rbl.test@lab.test", "Default smtp:rbl.test relay@rbl.test"),
            ("x y@rbl.test@lab.test", "Default smtp:rbl.test x y@rbl.test"),
            ("x y%rbl.test@lab.test", "Default smtp:rbl.test x y@rbl.test"),
            ("x%y@remote.test", "Default smtp:remote.test x%y@remote.test routed"),
            ("x@y@remote.test", "Default smtp:remote.test x@y@remote.test routed"),
            ("y!x@relayed.test", "Relay relay:relayed.test y!x@relayed.test routed"),
        ],
    );
    check(
        "allow_percent_hack = no\nswap_bangpath = no",
        &[
            ("relaytest%rbl.test@lab.test", "Local local:mx.lab.test relaytest%rbl.test@lab.test routed"),
            ("rbl.test!relaytest", "Local local:mx.lab.test rbl.test!relaytest@mx.lab.test routed"),
        ],
    );
    check(
        "resolve_dequoted_address = no",
        &[("a@b.test@lab.test", "Local local:mx.lab.test a@b.test@lab.test routed")],
    );
}

#[test]
fn bad_addresses() {
    for recipient in ["x@", "x@a..b", "x@192.0.2.9", "x@[nonsense]", "x@a_b c", "-x@remote.test", "-x"] {
        let resolved = resolve("", "", recipient);
        assert!(resolved.bad_syntax, "{recipient}");
        assert_eq!((&*resolved.transport, &*resolved.nexthop), ("error", "5.1.3 bad address syntax"));
    }
    assert!(!resolve("allow_min_user = yes", "", "-x@remote.test").bad_syntax);
    check(
        "resolve_numeric_domain = yes",
        &[
            ("x@192.0.2.9", "Default smtp:[192.0.2.9] x@[192.0.2.9]"),
            ("x@192.0.2.1", "Local local:mx.lab.test x@[192.0.2.1]"),
        ],
    );
    check("resolve_null_domain = yes", &[("x@", "Local local:mx.lab.test x@mx.lab.test")]);
}

#[test]
fn transports_and_relayhosts() {
    check(
        "relayhost = [up.test]:587",
        &[
            ("x@remote.test", "Default smtp:[up.test]:587 x@remote.test"),
            ("x@relayed.test", "Relay relay:[up.test]:587 x@relayed.test"),
            ("x@box.test", "VirtualMailbox virtual:box.test x@box.test"),
        ],
    );
    check("relayhost = [up.test]\ndefault_transport = smtp:[here]", &[("x@r.test", "Default smtp:[here] x@r.test")]);
    check("relay_transport = smtp:mail1.test", &[("x@relayed.test", "Relay smtp:mail1.test x@relayed.test")]);
    check(
        "virtual_transport = lmtp:unix:private/dovecot-lmtp",
        &[("x@box.test", "VirtualMailbox lmtp:unix:private/dovecot-lmtp x@box.test")],
    );
    let transport = "transport_maps = inline:{ hoge.test=smtp:[192.0.2.27], .hoge.test=smtp:[192.0.2.28],
        special@hoge.test=smtp:[192.0.2.29], { gone.test=error:5.1.2 this domain is closed },
        { later.test=retry:4.0.0 try in the evening }, noreason.test=error:, keep.test=:, hop.test=:other.test,
        slow.test=slow:, lab.test=cyrus: }\nrelayhost = [up.test]";
    check(
        transport,
        &[
            ("a@hoge.test", "Default smtp:[192.0.2.27] a@hoge.test"),
            ("a@x.hoge.test", "Default smtp:[192.0.2.28] a@x.hoge.test"),
            ("a@x.y.hoge.test", "Default smtp:[192.0.2.28] a@x.y.hoge.test"),
            ("special@hoge.test", "Default smtp:[192.0.2.29] special@hoge.test"),
            ("special+ext@hoge.test", "Default smtp:[192.0.2.29] special+ext@hoge.test"),
            ("a@gone.test", "Default error:5.1.2 this domain is closed a@gone.test"),
            ("a@later.test", "Default retry:4.0.0 try in the evening a@later.test"),
            ("a@noreason.test", "Default error:Address is undeliverable a@noreason.test"),
            ("a@keep.test", "Default smtp:[up.test] a@keep.test"),
            ("a@hop.test", "Default smtp:other.test a@hop.test"),
            ("a@slow.test", "Default slow:slow.test a@slow.test"),
            ("a@other.test", "Default smtp:[up.test] a@other.test"),
            ("a@lab.test", "Local cyrus:lab.test a@lab.test"),
        ],
    );
    check(
        "transport_maps = inline:{ {*=smtp:[all]}, alias.test=smtp: }",
        &[
            ("a@any.test", "Default smtp:[all] a@any.test"),
            ("a@alias.test", "VirtualAlias error:5.1.1 User unknown in virtual alias table a@alias.test"),
        ],
    );
    check(
        "relocated_maps = inline:{ { moved@lab.test=new@there.test } }\nrelocated_prefix_enable = yes",
        &[("moved@lab.test", "Local error:5.1.6 User has moved to new@there.test moved@lab.test")],
    );
}

#[test]
fn sender_dependent() {
    let lines = "relayhost = [default]
sender_dependent_relayhost_maps = inline:{ a@lab.test=[second], @branch.test=[third]:2525, b@lab.test=DUNNO, <>=[null] }
sender_dependent_default_transport_maps = inline:{ {stop@lab.test=error:5.7.1 sender may not send out}, slow@lab.test=slow: }";
    for (sender, expected) in [
        ("a@lab.test", "smtp:[second]"),
        ("who@branch.test", "smtp:[third]:2525"),
        ("b@lab.test", "smtp:[default]"),
        ("c@lab.test", "smtp:[default]"),
        ("", "smtp:[null]"),
        ("stop@lab.test", "error:5.7.1 sender may not send out"),
        ("slow@lab.test", "slow:[default]"),
    ] {
        let resolved = resolve(lines, sender, "x@any.test");
        assert_eq!(format!("{}:{}", resolved.transport, resolved.nexthop), expected, "{sender}");
    }
    let resolved = resolve(lines, "stop@lab.test", "x@any.test");
    let refusal = resolved.refusal().unwrap();
    assert_eq!((refusal.status.to_string().as_str(), refusal.text), ("5.7.1", "sender may not send out"));
    assert_eq!(resolved.transport_by.parameter, "sender_dependent_default_transport_maps");
    assert_eq!(resolved.transport_by.entry.unwrap().key, "stop@lab.test");
}

#[test]
fn says_what_decided() {
    let resolved = resolve("relayhost = [up]", "", "x@sub.relayed.test");
    assert_eq!(resolved.class_by.element.unwrap().element, "relayed.test");
    assert_eq!(resolved.transport_by.parameter, "relay_transport");
    assert_eq!(resolved.nexthop_by.parameter, "relayhost");
    let resolved = resolve("", "", "x@lab.test");
    assert_eq!(resolved.nexthop_by.parameter, "local_transport");
    let resolved = resolve("", "", "x@remote.test");
    assert_eq!(resolved.nexthop_by.parameter, "");
}

#[test]
fn domains_of_two_classes_are_told() {
    let both = "mydestination = lab.test, alias.test\nvirtual_mailbox_domains = alias.test, relayed.test";
    let warnings = resolve(both, "", "x@alias.test").warnings;
    assert_eq!(
        warnings,
        [
            "do not list domain alias.test in BOTH mydestination and virtual_alias_domains",
            "do not list domain alias.test in BOTH mydestination and virtual_mailbox_domains",
        ]
    );
    let warnings = resolve(both, "", "x@relayed.test").warnings;
    assert_eq!(warnings, ["do not list domain relayed.test in BOTH virtual_mailbox_domains and relay_domains"]);
}

#[test]
fn trouble_is_an_error() {
    for parameter in ["mydestination", "virtual_alias_domains", "relay_domains", "transport_maps", "relocated_maps"] {
        let router = router(&format!("{CLASSES}{parameter} = fail:now"));
        assert!(block_on(router.resolve("", "x@remote.test")).is_err(), "{parameter}");
    }
}

#[test]
fn listings() {
    let view = common::view(CLASSES);
    let tables = TableSet::default();
    let router = Router::new(&view, &tables);
    let lists = Lists::new(&view, &tables, router.mapper().clone());
    for (party, address, expected) in [
        (Party::Recipient, "user@lab.test", ""),
        (Party::Recipient, "user+x@lab.test", ""),
        (Party::Recipient, "full@lab.test", ""),
        (Party::Recipient, "nobody@lab.test", "550 5.1.1 User unknown in local recipient table"),
        (Party::Sender, "nobody@lab.test", "550 5.1.0 User unknown in local recipient table"),
        (Party::Recipient, "postmaster@lab.test", ""),
        (Party::Recipient, "Postmaster@[192.0.2.1]", ""),
        (Party::Recipient, "", ""),
        (Party::Recipient, "double-bounce@mx.lab.test", ""),
        (Party::Recipient, "known@alias.test", ""),
        (Party::Recipient, "x@alias.test", "550 5.1.1 User unknown in virtual alias table"),
        (Party::Recipient, "user@box.test", ""),
        (Party::Recipient, "x@box.test", "550 5.1.1 User unknown in virtual mailbox table"),
        (Party::Recipient, "user@relayed.test", ""),
        (Party::Recipient, "x@relayed.test", "550 5.1.1 User unknown in relay recipient table"),
        (Party::Recipient, "x@anywhere.test", ""),
    ] {
        let resolved = block_on(router.resolve("", address)).unwrap();
        let got = match block_on(lists.check(party, &resolved)).unwrap() {
            Listing::Listed => String::new(),
            Listing::Unlisted { code, status, text, .. } => format!("{code} {status} {text}"),
        };
        assert_eq!(got, expected, "{address}");
    }
}

#[test]
fn maps_keep_users_and_extensions() {
    let lines =
        "recipient_delimiter = +\nvirtual_alias_maps = inline:{ one@v.test=user, { two@v.test=user, other@x.test },
        @map.test=@lab.test, user=First.User, {odd@v.test=\"a b\"@c.test}, null@v.test=<>, { not@v.test=, } }";
    let view = common::view(lines);
    let tables = TableSet::default();
    let router = Router::new(&view, &tables);
    let maps = yamabiko_lookup::Maps::open(&tables, "virtual_alias_maps", &view.text("virtual_alias_maps"));
    for (address, propagate, expected) in [
        ("one@v.test", true, "user@mx.lab.test"),
        ("one+x@v.test", true, "user+x@mx.lab.test"),
        ("one+x@v.test", false, "user@mx.lab.test"),
        ("two+x@v.test", true, "user+x@mx.lab.test other+x@x.test"),
        ("any+x@map.test", true, "any+x@lab.test"),
        ("any+x@map.test", false, "any+x@lab.test"),
        ("a b@map.test", false, "a b@lab.test"),
        ("user@lab.test", false, "First.User@mx.lab.test"),
        ("user+x@lab.test", true, "First.User+x@mx.lab.test"),
        ("odd@v.test", true, "a b@c.test"),
        ("null@v.test", true, ""),
    ] {
        let got = block_on(router.mapper().map_address(&maps, address, propagate)).unwrap().unwrap();
        assert_eq!(got.join(" "), expected, "{address}");
    }
    assert_eq!(block_on(router.mapper().map_address(&maps, "x@y.test", true)), Ok(None));
    let error = block_on(router.mapper().map_address(&maps, "not@v.test", true)).unwrap_err();
    assert!(error.why.contains("returns non-address result"), "{error}");
}
