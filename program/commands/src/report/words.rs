//! Reasons in plain words, English and Japanese, for people who send and do not run mail servers.

use clap::ValueEnum;

/// Language of a sheet.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Language {
    /// English
    En,
    /// Japanese
    Ja,
}

impl Language {
    /// That of the locale.
    pub fn of_locale() -> Self {
        let set = ["LC_ALL", "LC_MESSAGES", "LANG"]
            .iter()
            .find_map(|name| std::env::var(name).ok().filter(|v| !v.is_empty()));
        if set.is_some_and(|locale| locale.starts_with("ja")) { Self::Ja } else { Self::En }
    }

    /// One of two.
    pub fn pick<'a>(self, english: &'a str, japanese: &'a str) -> &'a str {
        match self {
            Self::En => english,
            Self::Ja => japanese,
        }
    }
}

/// Reason, what it means, what to do; in English and in Japanese.
const WORDS: [(&str, [&str; 2], [&str; 2]); 32] = [
    (
        "userunknown",
        ["There is no such mailbox", "そのメールアドレスは存在しません"],
        ["remove it", "名簿から外してください"],
    ),
    (
        "hostunknown",
        ["There is no such domain", "ドメインが存在しません"],
        ["remove it, or look for a typing error", "外すか、綴りの誤りを確かめてください"],
    ),
    (
        "hasmoved",
        ["The mailbox has moved", "移転したアドレスです"],
        ["ask for the new address", "新しいアドレスを確かめてください"],
    ),
    (
        "notaccept",
        ["The domain takes no mail at all", "このドメインはメールを受け取りません"],
        ["remove it", "名簿から外してください"],
    ),
    (
        "mailboxfull",
        ["The mailbox is full", "メールボックスが一杯です"],
        ["try again in some days", "数日後に再送してください"],
    ),
    (
        "suspend",
        ["The mailbox is suspended", "アカウントが停止されています"],
        ["try again in some weeks; then remove it", "しばらく後に再送し、続くなら外してください"],
    ),
    (
        "filtered",
        ["The recipient's own filter refused it", "受信者の設定（ドメイン指定受信など）で拒否されました"],
        ["keep it; ask the recipient to let you through", "外さず、受信許可の設定をお願いしてください"],
    ),
    (
        "rejected",
        ["The sender's address was refused", "差出人アドレスが拒否されました"],
        ["keep it; look at your sender address", "外さず、差出人の設定を確かめてください"],
    ),
    (
        "expired",
        ["It could not be delivered in time", "期限までに届けられませんでした"],
        ["try again; if it goes on, remove it", "再送し、続くなら外してください"],
    ),
    (
        "networkerror",
        ["The way there is broken (DNS, routing)", "経路に問題があります（DNSなど）"],
        ["try again later", "後で再送してください"],
    ),
    (
        "systemerror",
        ["The receiving system has a defect", "相手サーバの不具合です"],
        ["try again later", "後で再送してください"],
    ),
    (
        "systemfull",
        ["The receiving system has no room", "相手サーバの容量不足です"],
        ["try again later", "後で再送してください"],
    ),
    (
        "mailererror",
        ["The program that should deliver it failed", "配送プログラムが失敗しました"],
        ["tell the recipient's postmaster", "相手の管理者に知らせてください"],
    ),
    (
        "mesgtoobig",
        ["The message is too large", "メールが大きすぎます"],
        ["send less at once", "小さくして送ってください"],
    ),
    (
        "exceedlimit",
        ["A limit of the recipient was exceeded", "受信者の上限を超えました"],
        ["send less at once", "小さくして送ってください"],
    ),
    (
        "norelaying",
        ["The server does not take mail for this address", "このサーバはこの宛先を受け付けません"],
        ["look for a typing error", "綴りの誤りを確かめてください"],
    ),
    (
        "authfailure",
        ["SPF, DKIM or DMARC failed", "SPF・DKIM・DMARC の認証に失敗しました"],
        ["keep it; your DNS or signing is wrong", "外さず、DNS と署名を直してください"],
    ),
    (
        "badreputation",
        ["Your server's reputation is too bad", "送信サーバの評判が低いとされました"],
        ["keep it; it is about your server", "外さず、送信側を改善してください"],
    ),
    (
        "blocked",
        ["Your server is blocked there", "送信サーバが拒否されています"],
        ["keep it; it is about your server", "外さず、送信側を改善してください"],
    ),
    (
        "requireptr",
        ["Your server has no name in DNS", "送信サーバの逆引きがありません"],
        ["keep it; have the PTR record made", "外さず、逆引きを設定してください"],
    ),
    (
        "speeding",
        ["Too much mail in too short a time", "短い時間に送りすぎました"],
        ["keep it; send more slowly", "外さず、ゆっくり送ってください"],
    ),
    (
        "toomanyconn",
        ["Too many connections", "接続が多すぎました"],
        ["keep it; send more slowly", "外さず、ゆっくり送ってください"],
    ),
    (
        "spamdetected",
        ["It was taken for spam", "迷惑メールと判定されました"],
        ["keep it; look at the content", "外さず、内容を見直してください"],
    ),
    (
        "virusdetected",
        ["It was taken for a virus", "ウイルスと判定されました"],
        ["look at the attachments", "添付を確かめてください"],
    ),
    (
        "contenterror",
        ["The content is malformed or not taken", "内容の形式が受け付けられません"],
        ["look at the content", "内容を見直してください"],
    ),
    (
        "notcompliantrfc",
        ["The message breaks a standard", "メールの形式が規格に合いません"],
        ["look at the program that made it", "作成したプログラムを見直してください"],
    ),
    (
        "policyviolation",
        ["A policy there forbids it", "相手の方針で拒否されました"],
        ["keep it; ask the recipient's postmaster", "外さず、相手の管理者に尋ねてください"],
    ),
    (
        "securityerror",
        ["Authentication or encryption failed", "認証または暗号化の失敗です"],
        ["keep it; tell your postmaster", "外さず、自分の管理者に知らせてください"],
    ),
    (
        "syntaxerror",
        ["The servers did not understand each other", "通信の手順の誤りです"],
        ["tell your postmaster", "自分の管理者に知らせてください"],
    ),
    (
        "failedstarttls",
        ["Encryption is needed and failed", "暗号化（STARTTLS）に失敗しました"],
        ["keep it; tell your postmaster", "外さず、自分の管理者に知らせてください"],
    ),
    (
        "suppressed",
        ["It is on the suppression list", "配信停止リストにあります"],
        ["it was not tried", "送信していません"],
    ),
    ("feedback", ["The recipient complained", "受信者から苦情がありました"], ["remove it", "名簿から外してください"]),
];

/// What a reason means, and what to do.
pub fn plain(reason: &str, language: Language) -> (&'static str, &'static str) {
    let unknown = (
        ["It failed, and nobody said clearly why", "理由がはっきりしません"],
        ["read what was said", "応答の文を確かめてください"],
    );
    let (meaning, advice) =
        WORDS.iter().find(|(name, ..)| *name == reason).map_or(unknown, |(_, meaning, advice)| (*meaning, *advice));
    let [en, ja] = meaning;
    let [do_en, do_ja] = advice;
    (language.pick(en, ja), language.pick(do_en, do_ja))
}
