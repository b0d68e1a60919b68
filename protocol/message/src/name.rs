//! Field names that a mail server acts upon (Postfix: `header_opts`).

/// Whose address a field holds, for header rewriting: which maps and classes apply.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AddressRole {
    /// Sender rules: `sender_canonical_maps`, class `header_sender`.
    Sender,
    /// Recipient rules: `recipient_canonical_maps`, class `header_recipient`.
    Recipient,
}

macro_rules! names {
    ($( $variant:ident $text:literal $role:ident $extract:literal $resent:literal $mime:literal ),* $(,)?) => {
        /// A known field name.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        pub enum FieldName {
            $( #[doc = concat!("`", $text, "`")] $variant, )*
        }

        const TABLE: &[Row] = &[
            $( Row { field: FieldName::$variant, text: $text, role: role!($role), extract: $extract, resent: $resent, mime: $mime }, )*
        ];
    };
}

macro_rules! role {
    (none) => {
        None
    };
    (sender) => {
        Some(AddressRole::Sender)
    };
    (recipient) => {
        Some(AddressRole::Recipient)
    };
}

struct Row {
    field: FieldName,
    text: &'static str,
    role: Option<AddressRole>,
    extract: bool,
    resent: bool,
    mime: bool,
}

names! {
    // variant, name as written, whose address, recipients for `sendmail -t`, Resent, MIME
    ApparentlyTo "Apparently-To" recipient false false false,
    Bcc "Bcc" recipient true false false,
    Cc "Cc" recipient true false false,
    ContentDescription "Content-Description" none false false true,
    ContentDisposition "Content-Disposition" none false false true,
    ContentId "Content-ID" none false false true,
    ContentLength "Content-Length" none false false false,
    ContentTransferEncoding "Content-Transfer-Encoding" none false false true,
    ContentType "Content-Type" none false false true,
    Date "Date" none false false false,
    DeliveredTo "Delivered-To" none false false false,
    DispositionNotificationTo "Disposition-Notification-To" sender false false false,
    ErrorsTo "Errors-To" sender false false false,
    From "From" sender false false false,
    MailFollowupTo "Mail-Followup-To" sender false false false,
    MessageId "Message-Id" none false false false,
    MimeVersion "MIME-Version" none false false true,
    Received "Received" none false false false,
    ReplyTo "Reply-To" sender false false false,
    ResentBcc "Resent-Bcc" recipient true true false,
    ResentCc "Resent-Cc" recipient true true false,
    ResentDate "Resent-Date" none false true false,
    ResentFrom "Resent-From" sender false true false,
    ResentMessageId "Resent-Message-Id" none false true false,
    // By Postfix's table a recipient's address, oddly.
    ResentReplyTo "Resent-Reply-To" recipient false true false,
    ResentSender "Resent-Sender" sender false true false,
    ResentTo "Resent-To" recipient true true false,
    ReturnPath "Return-Path" sender false false false,
    ReturnReceiptTo "Return-Receipt-To" sender false false false,
    Sender "Sender" sender false false false,
    To "To" recipient true false false,
}

/// `message_drop_headers` when it is not set: fields that cleanup takes out.
pub const DROPPED_BY_DEFAULT: &[FieldName] =
    &[FieldName::Bcc, FieldName::ContentLength, FieldName::ResentBcc, FieldName::ReturnPath];

impl FieldName {
    /// The known name that `name` is, in any case of letters.
    pub fn find(name: &[u8]) -> Option<Self> {
        TABLE.iter().find(|row| row.text.as_bytes().eq_ignore_ascii_case(name)).map(|row| row.field)
    }
    /// All of them, in alphabetical order.
    pub fn all() -> impl Iterator<Item = Self> {
        TABLE.iter().map(|row| row.field)
    }
    /// As it is written.
    pub fn text(self) -> &'static str {
        self.row().text
    }
    /// Whose addresses it holds; `None` for fields without addresses.
    pub fn role(self) -> Option<AddressRole> {
        self.row().role
    }
    /// `sendmail -t` takes recipients from it.
    pub fn names_recipients(self) -> bool {
        self.row().extract
    }
    /// A `Resent-` field (RFC 5322 section 3.6.6): `sendmail -t` then takes recipients from these alone.
    pub fn is_resent(self) -> bool {
        self.row().resent
    }
    /// A field of MIME: it goes to `mime_header_checks` in a part.
    pub fn is_mime(self) -> bool {
        self.row().mime
    }
    fn row(self) -> &'static Row {
        // The table is written in the order of the variants, by the same macro.
        &TABLE[self as usize]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_found() {
        for name in FieldName::all() {
            assert_eq!(FieldName::find(name.text().to_ascii_uppercase().as_bytes()), Some(name));
        }
        assert_eq!(FieldName::find(b"Subject"), None);
        assert!(TABLE.is_sorted_by_key(|row| row.text.to_ascii_lowercase()));
    }

    #[test]
    fn classes() {
        use AddressRole::{Recipient, Sender};
        for (name, role, extract, resent) in [
            ("from", Some(Sender), false, false),
            ("To", Some(Recipient), true, false),
            ("apparently-to", Some(Recipient), false, false),
            ("resent-bcc", Some(Recipient), true, true),
            ("Resent-Reply-To", Some(Recipient), false, true),
            ("date", None, false, false),
        ] {
            let field = FieldName::find(name.as_bytes()).unwrap();
            assert_eq!((field.role(), field.names_recipients(), field.is_resent()), (role, extract, resent), "{name}");
        }
        assert!(FieldName::ContentType.is_mime() && !FieldName::ContentLength.is_mime());
    }
}
