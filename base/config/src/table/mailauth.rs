//! Authentication of senders: SPF, DKIM, DMARC, ARC. Postfix leaves these to milters.

use super::{Parameter, list, tables, text};

const OURS: &str = "yamabiko 0.1";

pub(super) const PARAMETERS: &[Parameter] = &[
    text("arc_sealing_identity", "").since(OURS).used_by("cleanup"),
    list("arc_trusted_sealers", "").since(OURS).used_by("cleanup"),
    text("authentication_results_hostname", "$myhostname").since(OURS).used_by("cleanup"),
    tables("dkim_signing_table", "").since(OURS).used_by("cleanup"),
    list("smtpd_sender_authentication", "").since(OURS).used_by("cleanup"),
];
