//! The answer in a sentence, English or Japanese.

use std::collections::BTreeMap;
use std::time::Duration;

use clap::ValueEnum;
use yamabiko_envelope::Timestamp;
use yamabiko_ledger::{Entry, FAR, GUESS, History, State};

use super::show::{unproven, when};

/// The languages of sentences.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Language {
    /// English.
    En,
    /// Japanese.
    Ja,
}

impl Language {
    /// That of `LC_ALL`, `LC_MESSAGES` or `LANG`.
    pub fn of_locale() -> Self {
        let set = |name| std::env::var(name).ok().filter(|value| !value.is_empty());
        let locale = set("LC_ALL").or_else(|| set("LC_MESSAGES")).or_else(|| set("LANG")).unwrap_or_default();
        if locale.starts_with("ja") { Self::Ja } else { Self::En }
    }
}

/// Reasons in words: name, English, Japanese.
const REASONS: [(&str, &str, &str); 34] = [
    ("userunknown", "there is no such mailbox", "宛先のメールボックスが存在しない"),
    ("hostunknown", "there is no such host or domain", "宛先のドメインが存在しない"),
    ("mailboxfull", "the mailbox is full", "メールボックスがいっぱい"),
    ("suspend", "the mailbox is out of use", "メールボックスが停止中"),
    ("hasmoved", "the mailbox has moved", "宛先が移転した"),
    (
        "filtered",
        "the recipient's filter (a domain filter, often) refused it",
        "受信者のフィルター(ドメイン指定など)が拒否した",
    ),
    ("rejected", "the sender's address was refused", "送信者アドレスが拒否された"),
    ("blocked", "our address or host is blocked there", "送信元がブロックされている"),
    ("badreputation", "our address has a bad reputation there", "送信元の評判を理由に拒否された"),
    ("spamdetected", "it was taken for spam", "迷惑メールと判定された"),
    ("virusdetected", "a virus was found in it", "ウイルスが検出された"),
    ("contenterror", "its content was refused", "内容が拒否された"),
    ("policyviolation", "it is against their policy", "先方の方針に反する"),
    ("securityerror", "their security rules refused it", "先方のセキュリティ規則が拒否した"),
    ("authfailure", "SPF, DKIM or DMARC failed", "SPF・DKIM・DMARC の認証に失敗した"),
    ("requireptr", "our address has no proper name in the DNS", "送信元に正しい逆引きがない"),
    ("norelaying", "that host does not relay for us", "中継が拒否された"),
    ("notaccept", "that host takes no mail", "先方がメールを受け取らない"),
    ("networkerror", "the network failed", "ネットワークの障害"),
    ("expired", "it was tried for too long", "配送を試みる期限が過ぎた"),
    ("systemerror", "the other system has an error", "先方のシステムの障害"),
    ("systemfull", "the other system has no room", "先方のシステムの容量不足"),
    ("mailererror", "a program there failed", "先方のプログラムの失敗"),
    ("mesgtoobig", "the message is too large", "メールが大きすぎる"),
    ("exceedlimit", "the message is too large for that mailbox", "メールが受信者の上限を超えている"),
    ("emailtoolarge", "the message is too large", "メールが大きすぎる"),
    ("toomanyconn", "too many connections at once", "接続数が多すぎる"),
    ("ratelimited", "too much mail at once", "送信の速さが制限された"),
    ("speeding", "too much mail at once", "送信の速さが制限された"),
    ("syntaxerror", "the protocol was misunderstood", "プロトコルの書式の誤り"),
    ("notcompliantrfc", "the message does not follow the standards", "メールが規格に合っていない"),
    ("failedstarttls", "the connection could not be encrypted", "暗号化に失敗した"),
    ("onhold", "no reason was given that is known", "理由が読み取れない"),
    ("abuse", "it was reported as spam", "迷惑メールとして報告された"),
];

/// A reason in words; its own name where there are none.
pub fn reason(name: &str, language: Language) -> &str {
    match REASONS.iter().find(|(known, ..)| *known == name) {
        Some((_, english, _)) if language == Language::En => english,
        Some((.., japanese)) => japanese,
        None => name,
    }
}

/// What an attempt ended with that nobody answered: beginning of the text, English, Japanese.
const CUT: [(&str, &str, &str); 5] = [
    ("lost connection", "the connection was cut before they had answered", "応答の前に接続が切れた"),
    ("conversation with", "there was no answer in time", "時間内に応答がなかった"),
    ("timed out", "there was no answer in time", "時間内に応答がなかった"),
    ("timeout", "there was no answer in time", "時間内に応答がなかった"),
    ("connect to", "their server could not be reached", "先方のサーバーに接続できなかった"),
];

/// The reason of an entry in words. The classes know one word for all that ends without an answer, `expired`; that is
/// what becomes of a message in the end and not what happened in an attempt.
fn why(entry: &Entry, language: Language) -> &str {
    let given_up = entry.what == yamabiko_ledger::What::Expired;
    let attempt = matches!(entry.reason.as_str(), "expired" | "networkerror") && !given_up;
    let text = entry.text.strip_prefix("delivery temporarily suspended: ").unwrap_or(&entry.text);
    match CUT.iter().find(|(begin, ..)| attempt && text.starts_with(begin)) {
        Some((_, english, _)) if language == Language::En => english,
        Some((.., japanese)) => japanese,
        None => reason(&entry.reason, language),
    }
}

/// The text is what the other side said, and not ours about what was seen.
fn is_theirs(entry: &Entry) -> bool {
    let reported = entry.what == yamabiko_ledger::What::Report;
    reported || entry.reply.is_some() || entry.text.contains(" said: ") || entry.text.contains(" refused to talk")
}

/// The host's name without address and port.
fn host(entry: &Entry) -> &str {
    entry.relay.split(['[', ':']).next().filter(|name| !name.is_empty()).unwrap_or("the next hop")
}

fn japanese_host(entry: &Entry) -> &str {
    entry.relay.split(['[', ':']).next().filter(|name| !name.is_empty()).unwrap_or("次のサーバー")
}

/// The answer.
pub fn sentence(history: &History, now: Timestamp, quiet: Duration, language: Language) -> String {
    let verdict = history.verdict(now, quiet);
    let whole = Entry::new(history.began(), yamabiko_ledger::What::Note, "", "");
    let entry = verdict.decided_by.and_then(|position| history.entries.get(position)).unwrap_or(&whole);
    let to = match history.original.is_empty() {
        true => history.recipient.clone(),
        false => format!("{} ({})", history.original, history.recipient),
    };
    let to = if to.is_empty() { "?".to_owned() } else { to };
    let doubt = unproven(history, &verdict);
    let heard = verdict.decided_by.and_then(|position| heard_since(history.entries.get(position + 1..)?));
    let silent = doubt.is_none() && heard.is_none();
    let mut text = match language {
        Language::En => english(verdict.state, &to, entry, silent),
        Language::Ja => japanese(verdict.state, &to, entry, silent),
    };
    if let Some((known, claimed)) = doubt {
        match language {
            Language::En => {
                text.truncate(text.trim_end_matches('.').len());
                text.push_str(&english_doubt(known, claimed));
            }
            Language::Ja => text.push_str(&japanese_doubt(known, claimed)),
        }
    }
    if let Some((at, english, japanese)) = heard
        && verdict.state.is_good()
    {
        text.push_str(&match language {
            Language::En => format!(" {english} came at {}.", when(at)),
            Language::Ja => format!("{} に{japanese}がありました。", when(at)),
        });
    }
    // What was given up has its reason in the last attempt.
    let last = || history.entries.iter().rev().find(|entry| entry.what == yamabiko_ledger::What::Deferred);
    let given_up = verdict.state == State::Expired && entry.text.is_empty();
    let entry = if given_up { last().unwrap_or(entry) } else { entry };
    if verdict.state.is_open() || verdict.state.is_failure() || verdict.state == State::Complained {
        if !entry.reason.is_empty() {
            let why = why(entry, language);
            text.push_str(&match language {
                Language::En => format!(" Reason: {why}."),
                Language::Ja => format!("理由: {why}。"),
            });
        }
        if !entry.text.is_empty() && entry.what != yamabiko_ledger::What::Complaint {
            let said: String = entry.text.chars().take(300).collect();
            text.push_str(&match (language, is_theirs(entry)) {
                (Language::En, true) => format!(" It said: {said}"),
                (Language::En, false) => format!(" What happened: {said}"),
                (Language::Ja, true) => format!("応答: {said}"),
                (Language::Ja, false) => format!("状況: {said}"),
            });
        }
    }
    if verdict.confidence < 100 && verdict.state != State::Sent {
        text.push_str(&match language {
            Language::En => format!(" (Joined by {}: {} % sure.)", entry.by, verdict.confidence),
            Language::Ja => format!("({} による対応付け、確度 {} %)", entry.by, verdict.confidence),
        });
    }
    if verdict.maybe_twice && verdict.state != State::Uncertain {
        text.push_str(match language {
            Language::En => {
                " A connection was lost after the whole message had been sent: it may have arrived earlier, or twice."
            }
            Language::Ja => "本文を送り終えた後に接続が切れたことがあるため、重複して届いた可能性がある。",
        });
    }
    text
}

/// The last thing heard that changes nothing, and is news all the same: when, and what, in both languages.
fn heard_since(entries: &[Entry]) -> Option<(Timestamp, &'static str, &'static str)> {
    use yamabiko_ledger::{ReportAction, What};
    entries.iter().rev().find_map(|entry| {
        let (english, japanese) = match (entry.what, entry.action) {
            (What::AutoReply, _) => ("An automatic reply", "自動応答"),
            (What::Report, Some(ReportAction::Delayed)) => ("A report that it is delayed", "遅れているという報告"),
            (What::Report, Some(ReportAction::Relayed)) => {
                ("A report that it was passed on", "さらに転送したという報告")
            }
            (What::Report, Some(ReportAction::Expanded)) => {
                ("A report that it went to a list", "メーリングリストへ送ったという報告")
            }
            _ => return None,
        };
        Some((entry.at, english, japanese))
    })
}

/// What is reported and proves nothing, behind a sentence that has no full stop yet.
fn english_doubt(known: &Entry, claimed: State) -> String {
    let says = match claimed {
        State::Complained => "that the recipient complained",
        State::Delivered => "that it arrived",
        _ => "that it did not arrive",
    };
    let why = match known.reason.as_str() {
        "" => String::new(),
        name => format!(" ({})", reason(name, Language::En)),
    };
    let but = match () {
        () if known.by.ends_with(FAR) => "it comes from a host that has nothing to do with the message".to_owned(),
        () if known.confidence <= GUESS => "it names no message, and which one it is about is a guess".to_owned(),
        () => format!("it was joined by {}", known.by),
    };
    let at = when(known.at);
    format!("; a report of {at} says {says}{why}, but {but}: confidence {} %, it proves nothing.", known.confidence)
}

fn japanese_doubt(known: &Entry, claimed: State) -> String {
    let says = match claimed {
        State::Complained => "受信者から苦情があった",
        State::Delivered => "届いた",
        _ => "届かなかった",
    };
    let why = match known.reason.as_str() {
        "" => String::new(),
        name => format!("({})", reason(name, Language::Ja)),
    };
    let but = match () {
        () if known.by.ends_with(FAR) => "このメールと関係のないホストから来たもの".to_owned(),
        () if known.confidence <= GUESS => "どのメールについてかは推測".to_owned(),
        () => format!("{} による対応付け", known.by),
    };
    let at = when(known.at);
    format!("{at} に{says}という報告{why}がありますが、{but}で、確度 {} % のため確かではありません。", known.confidence)
}

/// `silent`: nothing was heard since.
fn english(state: State, to: &str, entry: &Entry, silent: bool) -> String {
    let at = when(entry.at);
    let host = host(entry);
    match state {
        State::Queued => format!("Waiting: the message to {to} is in the queue since {at} and has not been tried yet."),
        State::Deferred => format!("Not yet: {to} could not be reached at {at}; it is being tried again."),
        State::Sent => {
            let id = if entry.remote_id.is_empty() { String::new() } else { format!(" as {}", entry.remote_id) };
            let since = match silent {
                false => "",
                true => " Nothing has been heard since, good or bad; whether it is in the mailbox only they can say.",
            };
            format!("Handed over: {host} took the message to {to} at {at}{id}.{since}")
        }
        State::Relayed => {
            format!("Handed over: {host} took the message to {to} at {at} and has promised to report.")
        }
        State::Delivered => format!("Delivered: the message to {to} is in the mailbox ({at})."),
        State::PresumedDelivered => {
            format!("Very likely delivered: {host} took the message to {to} at {at}, and no bad news came since.")
        }
        State::LateBounced => {
            format!(
                "Came back: the message to {to} was taken by the next hop, and {host} reported at {at} that it failed."
            )
        }
        State::Complained => format!("Delivered, and {to} complained about it at {at}."),
        State::Bounced => format!("Failed: the message to {to} was refused at {at} and not delivered."),
        State::Expired => format!("Failed: {to} could not be reached for too long; the message was given up at {at}."),
        State::Suppressed => {
            format!("Not sent: {to} is on the suppression list; the message was not tried at {at}.")
        }
        State::Held => {
            format!("On hold: the message to {to} is kept in the queue since {at} until an operator releases it.")
        }
        State::Discarded => format!("Dropped: a rule made the message to {to} vanish at {at} ({}).", entry.by),
        State::Rejected => {
            format!("Refused: the message to {to} was not accepted here at {at}; its sender was told so at once.")
        }
        State::Deleted => format!("Removed: an operator deleted the message to {to} from the queue at {at}."),
        State::Uncertain => {
            format!(
                "Uncertain: the connection was lost at {at} after the whole message to {to} had been sent. It may have arrived; it is \
                 tried again."
            )
        }
        State::Moved => format!("Forwarded: the message to {to} goes on as {} ({at}).", related(entry)),
        State::Unknown => format!("Something was heard of a message to {to}, but nothing that says what became of it."),
    }
}

fn related(entry: &Entry) -> &str {
    match entry.related.is_empty() {
        false => &entry.related,
        true => entry.text.strip_prefix("forwarded as ").unwrap_or(&entry.text),
    }
}

fn japanese(state: State, to: &str, entry: &Entry, silent: bool) -> String {
    let at = when(entry.at);
    let host = japanese_host(entry);
    match state {
        State::Queued => format!("待機中: {to} 宛のメールは {at} からキューにあり、まだ配送を試みていません。"),
        State::Deferred => format!("未達: {to} 宛のメールは {at} の時点で届けられず、再送を続けています。"),
        State::Sent => {
            let id =
                if entry.remote_id.is_empty() { String::new() } else { format!("(先方の ID: {})", entry.remote_id) };
            let since = match silent {
                false => "",
                true => "その後の知らせはありません。メールボックスに入ったかどうかは先方にしか分かりません。",
            };
            format!("引き渡し済み: {to} 宛のメールは {at} に {host} が受け取りました{id}。{since}")
        }
        State::Relayed => {
            format!("引き渡し済み: {to} 宛のメールは {at} に {host} が受け取り、結果を報告することになっています。")
        }
        State::Delivered => format!("配達済み: {to} 宛のメールはメールボックスに入りました({at})。"),
        State::PresumedDelivered => {
            format!("おそらく配達済み: {to} 宛のメールは {at} に {host} が受け取り、その後悪い知らせはありません。")
        }
        State::LateBounced => {
            format!(
                "後から不達: {to} 宛のメールはいったん受け取られましたが、{at} に {host} から届かなかったと知らせがありました。"
            )
        }
        State::Complained => format!("配達済みですが、{at} に {to} から苦情がありました。"),
        State::Bounced => format!("不達: {to} 宛のメールは {at} に拒否され、届いていません。"),
        State::Expired => format!("不達: {to} 宛のメールは期限内に届けられず、{at} に配送をあきらめました。"),
        State::Suppressed => format!("送信せず: {to} は抑止リストにあるため、{at} のメールは送っていません。"),
        State::Held => format!("保留中: {to} 宛のメールは {at} から保留され、管理者が解除するまで送られません。"),
        State::Discarded => format!("破棄: {to} 宛のメールは {at} に規則により破棄されました({})。", entry.by),
        State::Rejected => {
            format!("受付拒否: {to} 宛のメールは {at} に受け付けられず、送信側にその場で通知されました。")
        }
        State::Deleted => format!("削除: {to} 宛のメールは {at} に管理者がキューから削除しました。"),
        State::Uncertain => {
            format!(
                "不明: {to} 宛のメールを送り終えた直後の {at} に接続が切れました。届いた可能性がありますが、再送します。"
            )
        }
        State::Moved => format!("転送: {to} 宛のメールは {} として続いています({at})。", related(entry)),
        State::Unknown => format!("{to} 宛のメールの記録はありますが、結果を示すものがありません。"),
    }
}

/// There is nothing in the ledger.
pub fn nothing(asked: &str, language: Language) -> String {
    let asked: String = asked.chars().filter(|c| !c.is_control()).take(200).collect();
    match language {
        Language::En => format!("Nothing is known of {asked}: no message in the ledger's time has it."),
        Language::Ja => format!("{asked} についての記録はありません。"),
    }
}

/// Several were found; of so many of them something is reported that proves nothing.
pub fn several(asked: &str, states: &BTreeMap<State, u64>, unproven: usize, language: Language) -> String {
    let asked: String = asked.chars().filter(|c| !c.is_control()).take(200).collect();
    let total: u64 = states.values().sum();
    let each: Vec<String> = states.iter().map(|(state, count)| format!("{count} {}", name(*state, language))).collect();
    let doubt = match (unproven, language) {
        (0, _) => String::new(),
        (_, Language::En) => format!(" Of {unproven} of them there is a report that proves nothing."),
        (_, Language::Ja) => format!("うち {unproven} 件には確かでない報告があります。"),
    };
    match language {
        Language::En => format!("{total} recipients of messages are known for {asked}: {}.{doubt}", each.join(", ")),
        Language::Ja => format!("{asked} については {total} 件の記録があります: {}。{doubt}", each.join("、")),
    }
}

/// A state in a word.
pub fn name(state: State, language: Language) -> &'static str {
    if language == Language::En {
        return state.word();
    }
    match state {
        State::Queued => "待機中",
        State::Deferred => "再送中",
        State::Sent => "引き渡し済み",
        State::Relayed => "報告待ち",
        State::Delivered => "配達済み",
        State::PresumedDelivered => "おそらく配達済み",
        State::LateBounced => "後から不達",
        State::Complained => "苦情",
        State::Bounced => "不達",
        State::Expired => "期限切れ",
        State::Suppressed => "抑止",
        State::Held => "保留中",
        State::Discarded => "破棄",
        State::Rejected => "受付拒否",
        State::Deleted => "削除",
        State::Uncertain => "不明",
        State::Moved => "転送",
        State::Unknown => "記録のみ",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use yamabiko_ledger::What;

    #[test]
    fn the_words_follow_the_attempt() {
        let entry = |what, reason: &str, text: &str| Entry {
            reason: reason.into(),
            text: text.into(),
            ..Entry::new(Timestamp::from_seconds(1), what, "Q", "a@b.test")
        };
        let cut = "lost connection with mx[192.0.2.1] while receiving the initial server greeting";
        let quiet = "conversation with mx[192.0.2.1] timed out while sending RCPT TO";
        for (what, name, text, english, japanese) in [
            (What::Deferred, "expired", cut, "was cut", "接続が切れた"),
            (What::Bounced, "expired", cut, "was cut", "接続が切れた"),
            (What::Deferred, "expired", quiet, "no answer in time", "応答がなかった"),
            (
                What::Deferred,
                "networkerror",
                "connect to mx[192.0.2.1]:25: Connection refused",
                "reached",
                "接続できなかった",
            ),
            (What::Expired, "expired", cut, "tried for too long", "期限"),
            (What::Deferred, "mailboxfull", "host mx said: 452 full", "full", "いっぱい"),
        ] {
            let entry = entry(what, name, text);
            assert!(why(&entry, Language::En).contains(english), "{text}: {}", why(&entry, Language::En));
            assert!(why(&entry, Language::Ja).contains(japanese), "{text}");
            assert_eq!(is_theirs(&entry), text.contains("said"));
        }
    }

    #[test]
    fn what_is_unsure_is_not_asserted() {
        let at = |seconds: u64| Timestamp::from_seconds(1_790_000_000 + seconds);
        let entry = |seconds, what| Entry::new(at(seconds), what, "Q", "a@b.test");
        let report = |confidence, by: &str| Entry {
            action: Some(yamabiko_ledger::ReportAction::Failed),
            reason: "userunknown".into(),
            by: by.into(),
            confidence,
            ..entry(9, What::Report)
        };
        let far = "Message-ID and recipient, from a host that has nothing to do with it";
        for (first, last, english, japanese) in [
            (
                What::Sent,
                report(60, far),
                &["Handed over", "nothing to do with the message", "60 %"][..],
                &["引き渡し済み", "関係のない", "60 %"][..],
            ),
            (
                What::Sent,
                report(40, "recipient and time: a guess"),
                &["Handed over", "a guess", "40 %"],
                &["推測", "40 %"],
            ),
            (What::Relayed, report(60, far), &["has promised to report; a report of", "60 %"], &["関係のない"]),
            (What::Delivered, report(60, far), &["Delivered", "did not arrive", "60 %"], &["配達済み", "60 %"]),
            (
                What::Sent,
                Entry { confidence: 60, by: far.into(), ..entry(9, What::Complaint) },
                &["that the recipient complained"],
                &["苦情"],
            ),
            (
                What::Sent,
                entry(9, What::AutoReply),
                &["Very likely delivered", "An automatic reply came at"],
                &["自動応答"],
            ),
            (
                What::Sent,
                report(92, "Message-ID and recipient"),
                &["Came back", "92 % sure"],
                &["後から不達", "確度 92 %"],
            ),
        ] {
            let entries = vec![entry(0, What::Queued), entry(1, first), last];
            let (recipient, queue_id) = ("a@b.test".to_owned(), "Q".to_owned());
            let history = History { host: String::new(), queue_id, recipient, original: String::new(), entries };
            let say = |language| sentence(&history, at(99_999_999), Duration::from_secs(60), language);
            let (en, ja) = (say(Language::En), say(Language::Ja));
            assert!(english.iter().all(|words| en.contains(words)), "{en}");
            assert!(japanese.iter().all(|words| ja.contains(words)), "{ja}");
            let sure = history.verdict(at(10), Duration::MAX).unproven.is_none();
            assert!(
                sure || !(en.contains("Came back")
                    || en.contains("Nothing has been heard")
                    || ja.contains("後から不達")),
                "{en} {ja}"
            );
        }
    }

    #[test]
    fn every_state_has_a_sentence_in_both_languages() {
        let entry = Entry::new(Timestamp::from_seconds(1_790_000_000), What::Note, "Q", "a@b.test");
        for state in State::ALL {
            for silent in [false, true] {
                let both = [english(state, "a@b.test", &entry, silent), japanese(state, "a@b.test", &entry, silent)];
                assert!(both.iter().all(|text| text.contains("a@b.test")), "{both:?}");
            }
        }
        assert_ne!(reason("userunknown", Language::En), reason("userunknown", Language::Ja));
        assert_eq!(reason("unheardof", Language::Ja), "unheardof");
    }
}
