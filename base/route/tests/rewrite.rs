//! The rewriting rules, as tables: adding a case is adding a line.

mod common;

use yamabiko_envelope::RewriteContext::{Local, Remote};
use yamabiko_route::Rewriter;

const DOTS: &str = "append_dot_mydomain = yes";

fn check(lines: &str, table: &[(&str, &str)]) {
    let rewriter = Rewriter::new(&common::view(lines));
    for (address, expected) in table {
        assert_eq!(rewriter.rewrite(Local, address), *expected, "{address} with {lines}");
    }
}

#[test]
fn internal_addresses() {
    check(
        "append_dot_mydomain = no",
        &[
            ("", ""),
            ("user", "user@mx.lab.test"),
            ("user@lab.test", "user@lab.test"),
            ("user@host", "user@host"),
            ("user@lab.test.", "user@lab.test"),
            ("user@lab.test..", "user@lab.test.."),
            ("user@.", "user@."),
            ("user@", "user@"),
            ("a b", "a b@mx.lab.test"),
            ("..da.me.@docomo.ne.jp", "..da.me.@docomo.ne.jp"),
            ("a@b@c.test", "a@b@c.test"),
            ("site!user", "user@site"),
            ("a!b!c", "b!c@a"),
            ("site!user@lab.test", "site!user@lab.test"),
            ("user%remote.test", "user@remote.test"),
            ("user%a%b", "user%a@b"),
            ("user%remote.test@lab.test", "user%remote.test@lab.test"),
            ("site!user%x", "user%x@site"),
            ("@a,@b:user@c.test", "user@c.test"),
            ("@a:user", "user@mx.lab.test"),
            ("user@[192.0.2.1]", "user@[192.0.2.1]"),
            ("山彦", "山彦@mx.lab.test"),
        ],
    );
    check(
        DOTS,
        &[
            ("user@host", "user@host.lab.test"),
            ("user@", "user@"),
            ("user@[192.0.2.1]", "user@[192.0.2.1]"),
            ("user@host.", "user@host"),
            ("site!user", "user@site.lab.test"),
            ("user%host", "user@host.lab.test"),
        ],
    );
    check(
        "swap_bangpath = no\nallow_percent_hack = no\nappend_dot_mydomain = no",
        &[("site!user", "site!user@mx.lab.test"), ("user%remote.test", "user%remote.test@mx.lab.test")],
    );
    check("append_at_myorigin = no", &[("user", "user"), ("a b", "a b")]);
    check("myorigin = $mydomain", &[("user", "user@lab.test")]);
}

#[test]
fn external_addresses_keep_their_quotes() {
    let rewriter = Rewriter::new(&common::view(DOTS));
    for (address, expected) in [
        ("\"\"", "\"\""),
        ("@", "\"\""),
        ("\"a b\"", "\"a b\"@mx.lab.test"),
        ("\"a%b\"", "\"a%b\"@mx.lab.test"),
        ("\"x@y\"@host", "\"x@y\"@host.lab.test"),
        ("\"a\\\"b\"@lab.test", "\"a\\\"b\"@lab.test"),
        ("user@[1.2.3.4].", "user@[1.2.3.4]"),
    ] {
        assert_eq!(rewriter.rewrite_external(Local, address), expected, "{address}");
    }
}

#[test]
fn remote_context_completes_with_its_own_domain() {
    let rewriter =
        Rewriter::new(&common::view("remote_header_rewrite_domain = domain.invalid\nappend_dot_mydomain = yes"));
    assert!(rewriter.rewrites_remote());
    for (address, expected) in [("user", "user@domain.invalid"), ("user@host", "user@host.domain.invalid")] {
        assert_eq!(rewriter.rewrite(Remote, address), expected, "{address}");
    }
}

#[test]
fn hostile_addresses_end() {
    let rewriter = Rewriter::new(&common::view(DOTS));
    for piece in ["@", "!", "%", "\"", "\\", "[", "(", ".", ":", "a@b:", "\u{e9}", " ", "\0", "@a:", "!\""] {
        let address = piece.repeat(20_000);
        let _ = rewriter.rewrite(Local, &address);
        let _ = rewriter.rewrite_external(Local, &address);
    }
}
