//! Notices in the language of whoever reads them: the templates that are shipped, what a sender can do by reason, and the
//! guess in which language a message was written.
//!
//! A language is a name of some letters (`en`, `ja`). English and Japanese are built in; others are template files. A text
//! says in its first lines what happened, to which address, whether it is final, and what the sender can do.

use encoding_rs::ISO_2022_JP;
use memchr::memmem;
use yamabiko_message::Fields;
use yamabiko_status::{Class, EnhancedStatus};

use crate::template::{Template, TemplateKind};

/// Texts of one language, in the order of [`TemplateKind::ALL`].
struct Words {
    name: &'static str,
    subjects: [&'static str; 4],
    texts: [&'static str; 4],
}

const ENGLISH: Words = Words {
    name: "en",
    subjects: [
        "Undelivered Mail Returned to Sender",
        "Delayed Mail (still being retried)",
        "Successful Mail Delivery Report",
        "Mail Delivery Status Report",
    ],
    texts: [
        "This is the mail system at host $myhostname.\n\n\
         Your message was NOT delivered to:\n\n$notice_recipients\n\
         This is final: it will not be tried again.\n\n$notice_advice\n\
         The exact reason follows, in the words of the server that refused the\n\
         message where there was one. Your message is attached.\n",
        "This is the mail system at host $myhostname.\n\n\
         Your message has NOT YET been delivered to:\n\n$notice_recipients\n\
         This is only a warning. You need not send it again: it will be tried\n\
         until it is $maximal_queue_lifetime_days day(s) old.\n\n\
         What is in the way follows.\n",
        "This is the mail system at host $myhostname.\n\n\
         Your message WAS delivered to these recipients, or handed to the next\n\
         server on their way:\n\n$notice_recipients\n\
         There is nothing to do.\n",
        "This is the mail system at host $myhostname.\n\n\
         This is the report that you asked for, about:\n\n$notice_recipients",
    ],
};

const JAPANESE: Words = Words {
    name: "ja",
    subjects: [
        "Undelivered Mail Returned to Sender / メールを配達できませんでした",
        "Delayed Mail (still being retried) / メールの配達が遅れています",
        "Successful Mail Delivery Report / メールを配達しました",
        "Mail Delivery Status Report / メールの配達状況",
    ],
    texts: [
        "This is the mail system at host $myhostname.\n\
         （$myhostname のメールシステムからのお知らせです。）\n\n\
         お送りになったメールは、次の宛先に届きませんでした。\n\n$notice_recipients\n\
         これで終わりです。もう再送は行いません。\n\n$notice_advice\n\
         詳しい理由は下のとおりです。相手のサーバが断った場合は、その言葉をそのまま\n\
         載せています。元のメールも添付しました。\n",
        "This is the mail system at host $myhostname.\n\
         （$myhostname のメールシステムからのお知らせです。）\n\n\
         お送りになったメールは、次の宛先にまだ届いていません。\n\n$notice_recipients\n\
         これは途中経過のお知らせです。送り直す必要はありません。\n\
         送信から $maximal_queue_lifetime_days 日になるまで、配達を試み続けます。\n\n\
         届いていない理由は下のとおりです。\n",
        "This is the mail system at host $myhostname.\n\
         （$myhostname のメールシステムからのお知らせです。）\n\n\
         お送りになったメールは、次の宛先に届いたか、次のサーバに渡りました。\n\n$notice_recipients\n\
         何もなさる必要はありません。\n",
        "This is the mail system at host $myhostname.\n\
         （$myhostname のメールシステムからのお知らせです。）\n\n\
         ご依頼のあった配達状況の報告です。\n\n$notice_recipients",
    ],
};

/// What a sender can do, by enhanced status code: subject and detail (99: any), English, Japanese.
const ADVICE: &[(u16, u16, &str, &str)] = &[
    (
        1,
        6,
        "The recipient has moved. Ask them for the new address.\n",
        "受信者のアドレスが変わりました。新しいアドレスを先方にお確かめください。\n",
    ),
    (
        1,
        2,
        "The part after @ is not known as a mail domain. Check how it is written.\n",
        "アドレスの @ より後ろがメールの宛先として見つかりません。綴りをお確かめください。\n",
    ),
    (
        1,
        10,
        "This domain takes no mail at all. Ask the recipient for another address.\n",
        "このドメインはメールを受け付けていません。別のアドレスを先方にお尋ねください。\n",
    ),
    (
        1,
        99,
        "The address does not exist there. Check how it is written, or ask the\nrecipient by another way. Take it off your lists.\n",
        "そのアドレスは先方にありません。綴りをお確かめになるか、別の手段で先方にお尋ね\nください。名簿に載っている場合は外してください。\n",
    ),
    (
        2,
        2,
        "The mailbox is full. Send the message again in some days, or tell the\nrecipient by another way.\n",
        "先方のメールボックスがいっぱいです。数日後に送り直すか、別の手段で先方にお知らせ\nください。\n",
    ),
    (
        2,
        3,
        "The message is too large for the mailbox. Send less, or put the files\nwhere they can be fetched.\n",
        "メールが大きすぎます。添付を減らすか、ファイル置き場などをお使いください。\n",
    ),
    (
        2,
        1,
        "The mailbox is closed. Ask the recipient for another address.\n",
        "先方のメールボックスは使われていません。別のアドレスを先方にお尋ねください。\n",
    ),
    (
        3,
        4,
        "The message is too large for the other server. Send less, or put the\nfiles where they can be fetched.\n",
        "メールが大きすぎて先方のサーバが受け取りません。添付を減らすか、ファイル置き場\nなどをお使いください。\n",
    ),
    (
        4,
        4,
        "The domain has no mail server that can be found. Check how the address\nis written.\n",
        "そのドメインのメールサーバが見つかりません。アドレスの綴りをお確かめください。\n",
    ),
    (
        4,
        6,
        "The message goes round in a circle. Only the administrators can mend\nthat: show them this notice.\n",
        "メールが転送の輪に入っています。直せるのは管理者だけです。このお知らせを管理者に\nお見せください。\n",
    ),
    (
        4,
        99,
        "The other server could not be reached. Send the message again later, or\ntell the recipient by another way.\n",
        "先方のサーバに接続できませんでした。時間をおいて送り直すか、別の手段で先方に\nお知らせください。\n",
    ),
    (
        7,
        99,
        "The other server refuses this message by its rules. Sending it again will\nnot help. Show this notice to your postmaster, or ask the recipient.\n",
        "先方のサーバが規則により受け取りを断りました。送り直しても結果は同じです。この\nお知らせを管理者に見せるか、先方にお尋ねください。携帯電話宛の場合は、受信の設定\nを先方に確かめてもらってください。\n",
    ),
    (
        99,
        99,
        "If the reason below tells you nothing, show this notice to your\npostmaster, or ask the recipient by another way.\n",
        "下の理由でお分かりにならないときは、このお知らせを管理者に見せるか、別の手段で\n先方にお尋ねください。\n",
    ),
];

/// What a sender can do about a status, in a language; English where there is no other.
pub fn advice(language: &str, status: EnhancedStatus) -> &'static str {
    // What was tried until it was too old has a reason that passes, and the advice for it is the same.
    let fits = |(subject, detail): (u16, u16)| {
        (subject == 99 || subject == status.subject) && (detail == 99 || detail == status.detail)
    };
    let known = ADVICE.iter().find(|(subject, detail, _, _)| fits((*subject, *detail)));
    match known {
        Some((_, _, _, japanese)) if language == "ja" => japanese,
        Some((_, _, english, _)) => english,
        None => "",
    }
}

/// `true` when the status is final by itself.
pub fn is_final(status: EnhancedStatus) -> bool {
    status.class == Class::Permanent
}

/// The template of a language that is shipped.
pub fn built_in(language: &str, kind: TemplateKind, like: &Template) -> Option<Template> {
    let words = [&ENGLISH, &JAPANESE].into_iter().find(|words| words.name == language)?;
    let at = TemplateKind::ALL.iter().position(|known| *known == kind)?;
    Some(Template {
        charset: if language == "ja" { "utf-8".into() } else { like.charset.clone() },
        subject: words.subjects[at].into(),
        text: words.texts[at].into(),
        source: format!("[built-in, {language}]"),
        ..like.clone()
    })
}

/// The language of a message, of those that are `known`, as far as it shows: by `Content-Language:` (`de-AT` is `de` too), by
/// character sets that are used for one language only, by the letters of the beginning.
pub fn language_of(message: &[u8], known: impl Fn(&str) -> bool) -> Option<String> {
    let fields = Fields::of(message);
    for field in fields.iter().filter(|field| field.is("Content-Language") || field.is("Accept-Language")) {
        let value = String::from_utf8_lossy(&field.unfolded()).to_ascii_lowercase();
        let tags = value.split(',').map(|tag| tag.split(';').next().unwrap_or_default().trim());
        let with_wider = tags.flat_map(|tag| [tag, tag.split('-').next().unwrap_or_default()]);
        if let Some(tag) = with_wider.into_iter().find(|tag| !tag.is_empty() && known(tag)) {
            return Some(tag.to_owned());
        }
    }
    let ja = || Some("ja".to_owned());
    let start = &message[..message.len().min(64 * 1024)];
    let lower = start.to_ascii_lowercase();
    for word in [&b"iso-2022-jp"[..], b"shift_jis", b"euc-jp", b"cp932"] {
        if memmem::find(&lower, word).is_some() {
            return ja();
        }
    }
    let subject = fields.iter().find(|field| field.is("Subject")).map(|field| crate::decode::header(field.value()));
    let text = String::from_utf8_lossy(start);
    let kana = |text: &str| text.chars().any(|c| ('\u{3041}'..='\u{30ff}').contains(&c));
    if kana(&text) || subject.is_some_and(|subject| kana(&subject)) { ja() } else { None }
}

/// A `Subject:` as it can stand in a header: encoded words where it is not ASCII (RFC 2047), in UTF-8, or for readers who know
/// nothing else (`jis`) in ISO-2022-JP where that has all of its characters.
pub fn encoded_subject(subject: &str, jis: bool) -> String {
    if subject.is_ascii() {
        return subject.to_owned();
    }
    // What programs look for at the beginning stays readable for them.
    let plain =
        subject.find(|c: char| !c.is_ascii()).and_then(|at| subject[..at].rfind(' ')).map_or(0, |blank| blank + 1);
    let (plain, rest) = subject.split_at(plain);
    let jis = jis && to_iso_2022_jp(rest).is_some();
    // Each word begins and ends in ASCII, as RFC 1468 and RFC 2047 want it.
    let bytes_of = |text: &str| {
        let japanese = if jis { to_iso_2022_jp(text) } else { None };
        japanese.unwrap_or_else(|| text.as_bytes().to_vec())
    };
    let mut words = Vec::new();
    let mut held = String::new();
    for c in rest.chars() {
        held.push(c);
        // Base 64 of 42 bytes is 56 characters: a word of 74 at most, below the 75 that there may be.
        if bytes_of(&held).len() > 42 {
            held.pop();
            words.push(std::mem::take(&mut held));
            held.push(c);
        }
    }
    words.push(held);
    let charset = if jis { "ISO-2022-JP" } else { "UTF-8" };
    let word = |text: String| format!("=?{charset}?B?{}?=", base64(&bytes_of(&text)));
    let words = words.into_iter().map(word).collect::<Vec<_>>().join("\n ");
    if plain.is_empty() { words } else { format!("{}\n {words}", plain.trim_end()) }
}

fn base64(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut out = String::with_capacity(bytes.len().div_ceil(3) * 4);
    for three in bytes.chunks(3) {
        let held = three.iter().fold(0u32, |sum, byte| sum << 8 | u32::from(*byte)) << (8 * (3 - three.len()));
        for at in 0..4 {
            // Six bits: an index below 64.
            let digit = DIGITS[(held >> (18 - 6 * at) & 63) as usize];
            out.push(if at <= three.len() { char::from(digit) } else { '=' });
        }
    }
    out
}

/// UTF-8 text as ISO-2022-JP; `None` where it has characters that are not in it.
pub fn to_iso_2022_jp(text: &str) -> Option<Vec<u8>> {
    let (bytes, _, lost) = ISO_2022_JP.encode(text);
    (!lost).then(|| bytes.into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::template::Templates;

    #[test]
    fn every_language_has_every_text() {
        let built = Templates::built_in(false);
        for language in ["en", "ja"] {
            for kind in TemplateKind::ALL {
                let template = built_in(language, kind, built.get(kind)).unwrap();
                let text = String::from_utf8(template.text).unwrap();
                assert!(
                    text.starts_with("This is the mail system at host $myhostname.\n")
                        && text.contains("$notice_recipients")
                );
                assert!(template.subject.starts_with(&built.get(kind).subject));
                if language == "ja" {
                    assert!(to_iso_2022_jp(&text).is_some(), "{text}");
                }
            }
        }
        assert_eq!(built_in("xx", TemplateKind::Failure, &built.failure), None);
        for (_, _, english, japanese) in ADVICE {
            assert!(to_iso_2022_jp(japanese).is_some() && english.is_ascii() && english.ends_with('\n'), "{japanese}");
            assert!(english.lines().all(|line| line.len() <= 78), "{english}");
        }
    }

    #[test]
    fn advice_by_reason() {
        for (status, english) in [
            (EnhancedStatus::permanent(1, 1), "The address does not exist"),
            (EnhancedStatus::permanent(1, 2), "The part after @"),
            (EnhancedStatus::transient(2, 2), "The mailbox is full"),
            (EnhancedStatus::permanent(7, 26), "The other server refuses"),
            (EnhancedStatus::permanent(0, 0), "If the reason below"),
            (EnhancedStatus::transient(4, 1), "The other server could not"),
        ] {
            assert!(advice("en", status).starts_with(english), "{status}");
            assert!(!advice("ja", status).is_ascii() && advice("xx", status) == advice("en", status));
        }
    }

    #[test]
    fn languages_of_messages() {
        for (message, language) in [
            (&b"Subject: hello\n\nworld\n"[..], None),
            (b"Content-Language: ja-JP, en\n\nx\n", Some("ja")),
            (b"Content-Language: de, pt-BR;q=0.5, en\n\nx\n", Some("pt-br")),
            (b"Content-Language: EN-us\n\nx\n", Some("en")),
            (b"Content-Language: en\nSubject: =?ISO-2022-JP?B?GyRCJCIbKEI=?=\n\nx\n", Some("en")),
            (b"Subject: =?ISO-2022-JP?B?GyRCJCIbKEI=?=\n\nx\n", Some("ja")),
            (b"Subject: =?utf-8?B?44GC?=\n\nx\n", Some("ja")),
            ("Subject: x\n\nこんにちは\n".as_bytes(), Some("ja")),
            ("Subject: x\n\n你好\n".as_bytes(), None),
            (b"", None),
        ] {
            let known = |tag: &str| matches!(tag, "en" | "ja" | "pt-br");
            assert_eq!(language_of(message, known).as_deref(), language, "{:?}", String::from_utf8_lossy(message));
        }
    }

    #[test]
    fn subjects() {
        assert_eq!((encoded_subject("plain", false), encoded_subject("plain", true)), ("plain".into(), "plain".into()));
        let plain = "Undelivered Mail Returned to Sender / ";
        let alternating = "aあ1い".repeat(30);
        for (words, jis, charset) in [
            ("メールを配達できませんでした", false, "UTF-8"),
            ("メールを配達できませんでした", true, "ISO-2022-JP"),
            ("メールをまだ配達できていません（もう少し長い件名のための試験です）", true, "ISO-2022-JP"),
            (alternating.as_str(), true, "ISO-2022-JP"),
            (alternating.as_str(), false, "UTF-8"),
            ("без доставки ü", true, "UTF-8"),
        ] {
            let subject = format!("{plain}{words}");
            let encoded = encoded_subject(&subject, jis);
            let begin = format!("{}\n =?{charset}?B?", plain.trim_end());
            assert!(encoded.starts_with(&begin), "{encoded}");
            assert!(encoded.is_ascii() && encoded.lines().all(|line| line.len() <= 76), "{encoded}");
            assert_eq!(crate::decode::header(encoded.as_bytes()), subject);
        }
        for (bytes, text) in [(&b""[..], ""), (b"f", "Zg=="), (b"fo", "Zm8="), (b"foo", "Zm9v")] {
            assert_eq!(base64(bytes), text);
        }
    }
}
