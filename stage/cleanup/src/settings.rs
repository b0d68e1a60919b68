//! The settings of cleanup, read once.

use yamabiko_checks::Checks;
use yamabiko_config::View;
use yamabiko_lookup::matchlist::StringList;
use yamabiko_lookup::{Maps, TableSet, fold_case};
use yamabiko_message::{AddressRole, FieldName};

use crate::characters::Characters;

/// Which addresses a set of maps applies to (`canonical_classes` and its kin).
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Classes {
    pub(crate) envelope_sender: bool,
    pub(crate) envelope_recipient: bool,
    pub(crate) header_sender: bool,
    pub(crate) header_recipient: bool,
}

impl Classes {
    fn new(words: &[String]) -> Self {
        let has = |name: &str| words.iter().any(|word| word.eq_ignore_ascii_case(name));
        Self {
            envelope_sender: has("envelope_sender"),
            envelope_recipient: has("envelope_recipient"),
            header_sender: has("header_sender"),
            header_recipient: has("header_recipient"),
        }
    }
    pub(crate) fn has(self, place: Place) -> bool {
        match place {
            Place::EnvelopeSender => self.envelope_sender,
            Place::EnvelopeRecipient => self.envelope_recipient,
            Place::Header(AddressRole::Sender) => self.header_sender,
            Place::Header(AddressRole::Recipient) => self.header_recipient,
        }
    }
}

/// Where an address stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Place {
    EnvelopeSender,
    EnvelopeRecipient,
    Header(AddressRole),
}

impl Place {
    pub(crate) fn is_sender(self) -> bool {
        matches!(self, Place::EnvelopeSender | Place::Header(AddressRole::Sender))
    }
}

/// A parent domain that masquerades its subdomains, or with `!` one that does not.
pub(crate) struct Masquerade {
    pub(crate) domain: String,
    pub(crate) strip: bool,
}

/// What is done about headers that end in a line that is neither a header nor empty.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum UnendedHeader {
    /// `fix_quietly`: the empty line is put there.
    Mend,
    /// `add_header`: and a field says so.
    Tell,
    /// `reject`
    Refuse,
}

pub(crate) struct Settings {
    pub(crate) myhostname: String,
    pub(crate) long_queue_ids: bool,
    pub(crate) empty_address_recipient: String,
    pub(crate) canonical_maps: Maps,
    pub(crate) canonical_classes: Classes,
    pub(crate) sender_canonical_maps: Maps,
    pub(crate) sender_canonical_classes: Classes,
    pub(crate) recipient_canonical_maps: Maps,
    pub(crate) recipient_canonical_classes: Classes,
    pub(crate) propagate_canonical: bool,
    pub(crate) propagate_virtual: bool,
    pub(crate) masquerade: Vec<Masquerade>,
    pub(crate) masquerade_exceptions: StringList,
    pub(crate) masquerade_classes: Classes,
    pub(crate) virtual_alias_maps: Maps,
    pub(crate) recursion_limit: usize,
    pub(crate) expansion_limit: usize,
    pub(crate) address_limit: usize,
    pub(crate) always_bcc: String,
    pub(crate) sender_bcc_maps: Maps,
    pub(crate) recipient_bcc_maps: Maps,
    pub(crate) original_recipient: bool,
    pub(crate) duplicate_limit: usize,
    pub(crate) always_add_missing_headers: bool,
    pub(crate) undisclosed_recipients_header: String,
    pub(crate) name_in_comment: bool,
    pub(crate) dropped: u64,
    pub(crate) dropped_other: Vec<String>,
    pub(crate) hopcount_limit: usize,
    pub(crate) header_size_limit: usize,
    pub(crate) message_size_limit: u64,
    pub(crate) detect_8bit: bool,
    pub(crate) smtputf8_for_sendmail: bool,
    /// `tls_required_enable`
    pub(crate) tls_required: bool,
    /// `requiretls_esmtp_header`, where REQUIRETLS is obeyed.
    pub(crate) requiretls_header: bool,
    pub(crate) characters: Characters,
    /// `header_address_token_limit`
    pub(crate) token_limit: usize,
    /// `cleanup_replace_stray_cr_lf`
    pub(crate) replace_stray_cr: bool,
    /// `force_mime_input_conversion`
    pub(crate) to_seven_bits: bool,
    /// `non_empty_end_of_header_action`
    pub(crate) unended_header: UnendedHeader,
    pub(crate) checks: Checks,
}

/// The bit of a known field in a set.
pub(crate) fn bit(name: FieldName) -> u64 {
    // There are fewer than 64 names.
    1 << (name as u8)
}

impl Settings {
    pub(crate) fn new(view: &View, tables: &TableSet) -> Self {
        let maps = |name: &str| Maps::open(tables, name, &view.text(name));
        let classes = |name: &str| Classes::new(&view.list(name));
        let count = |name: &str| usize::try_from(view.int(name)).unwrap_or(usize::MAX);
        let propagate = view.list("propagate_unmatched_extensions");
        let propagates = |name: &str| propagate.iter().any(|word| word.eq_ignore_ascii_case(name));
        let autodetect = view.list("smtputf8_autodetect_classes");
        let mut dropped = 0;
        let mut dropped_other = Vec::new();
        for name in view.list("message_drop_headers") {
            match FieldName::find(name.as_bytes()) {
                Some(known) => dropped |= bit(known),
                None => dropped_other.push(name),
            }
        }
        let undisclosed = view.text("undisclosed_recipients_header");
        Self {
            checks: Checks::incoming(view, tables),
            myhostname: view.text("myhostname"),
            long_queue_ids: view.bool("enable_long_queue_ids"),
            empty_address_recipient: view.text("empty_address_recipient"),
            canonical_maps: maps("canonical_maps"),
            canonical_classes: classes("canonical_classes"),
            sender_canonical_maps: maps("sender_canonical_maps"),
            sender_canonical_classes: classes("sender_canonical_classes"),
            recipient_canonical_maps: maps("recipient_canonical_maps"),
            recipient_canonical_classes: classes("recipient_canonical_classes"),
            propagate_canonical: propagates("canonical"),
            propagate_virtual: propagates("virtual"),
            masquerade: view.list("masquerade_domains").iter().map(|word| masquerade(word)).collect(),
            masquerade_exceptions: StringList::new(
                tables,
                "masquerade_exceptions",
                &view.text("masquerade_exceptions"),
                false,
            ),
            masquerade_classes: classes("masquerade_classes"),
            virtual_alias_maps: maps("virtual_alias_maps"),
            recursion_limit: count("virtual_alias_recursion_limit"),
            expansion_limit: count("virtual_alias_expansion_limit"),
            address_limit: count("virtual_alias_address_length_limit"),
            always_bcc: view.text("always_bcc"),
            sender_bcc_maps: maps("sender_bcc_maps"),
            recipient_bcc_maps: maps("recipient_bcc_maps"),
            original_recipient: view.bool("enable_original_recipient"),
            duplicate_limit: count("duplicate_filter_limit"),
            always_add_missing_headers: view.bool("always_add_missing_headers"),
            undisclosed_recipients_header: undisclosed,
            name_in_comment: view.text("header_from_format").eq_ignore_ascii_case("obsolete"),
            dropped,
            dropped_other,
            hopcount_limit: count("hopcount_limit"),
            header_size_limit: count("header_size_limit"),
            message_size_limit: u64::try_from(view.int("message_size_limit")).unwrap_or(0),
            detect_8bit: view.bool("detect_8bit_encoding_header"),
            tls_required: view.bool("tls_required_enable"),
            requiretls_header: view.bool("requiretls_enable") && view.bool("requiretls_esmtp_header"),
            token_limit: count("header_address_token_limit"),
            replace_stray_cr: view.bool("cleanup_replace_stray_cr_lf"),
            to_seven_bits: view.bool("force_mime_input_conversion") && !view.bool("disable_mime_input_processing"),
            unended_header: match view.text("non_empty_end_of_header_action").to_ascii_lowercase().as_str() {
                "add_header" => UnendedHeader::Tell,
                "reject" => UnendedHeader::Refuse,
                _ => UnendedHeader::Mend,
            },
            smtputf8_for_sendmail: view.bool("smtputf8_enable")
                && autodetect.iter().any(|class| matches!(&**class, "sendmail" | "all")),
            characters: Characters::new(
                &view.text("message_reject_characters"),
                &view.text("message_strip_characters"),
            ),
        }
    }

    pub(crate) fn is_remote(&self) -> bool {
        let maps = [
            &self.canonical_maps,
            &self.sender_canonical_maps,
            &self.recipient_canonical_maps,
            &self.virtual_alias_maps,
            &self.sender_bcc_maps,
            &self.recipient_bcc_maps,
        ];
        maps.iter().any(|maps| maps.is_remote()) || self.checks.is_remote()
    }

    /// No map and no masquerade has a say about addresses in this place.
    pub(crate) fn leaves_alone(&self, place: Place) -> bool {
        let own = if place.is_sender() { &self.sender_canonical_maps } else { &self.recipient_canonical_maps };
        own.is_empty() && self.canonical_maps.is_empty() && self.masquerade.is_empty()
    }
}

fn masquerade(word: &str) -> Masquerade {
    let domain = word.trim_start_matches('!');
    // Each `!` turns the meaning of the one after it around.
    Masquerade { domain: fold_case(domain).into_owned(), strip: (word.len() - domain.len()).is_multiple_of(2) }
}
