//! The commands but XCLIENT and XFORWARD. Checks and replies are in Postfix's order (smtpd): of several things wrong
//! with a command, the client hears of the same one.

use std::sync::Arc;

use futures_util::FutureExt;
use yamabiko_address::path::{self, PathError};
use yamabiko_envelope::{Kind, Notify, Recipient, SaslIdentity, VerpDelimiters};
use yamabiko_smtp::command::{Allowed, Bdat, BdatError, MailParameters, RcptParameters, Tokens};
use yamabiko_smtp::data::DataDecoder;
use yamabiko_smtp::reply;

use super::verb::Verb;
use super::{Chunks, MailRequest, RcptRequest, Session, Step, Transaction, Waiting, push};
use crate::admission::Etrn;
use crate::limits::Counted;
use crate::restrict::Outcome;
use crate::settings::ErrorClasses;

/// Replaces what could be taken for something else in a header or a log line (Postfix: `NEUTER_CHARACTERS`).
pub(super) fn neuter(text: &str) -> String {
    let mut neutered = String::with_capacity(text.len());
    neutered.extend(text.chars().map(|c| if c.is_control() || " <>()\\\";@".contains(c) { '?' } else { c }));
    neutered
}

const BAD_SENDER: &str = "501 5.1.7 Bad sender address syntax";
const BAD_RECIPIENT: &str = "501 5.1.3 Bad recipient address syntax";
const MAIL_SYNTAX: &str = "501 5.5.4 Syntax: MAIL FROM:<address>";
const RCPT_SYNTAX: &str = "501 5.5.4 Syntax: RCPT TO:<address>";

impl Session {
    /// A command line.
    pub(super) fn command(&mut self, line: &str, ahead: &[u8]) {
        let mut words = Tokens::new(line);
        let Some(first) = words.next() else {
            return self.protocol_error("500 5.5.2 Error: bad syntax");
        };
        let verb = Verb::of(first.text);
        let listed = |list: &yamabiko_lookup::matchlist::StringList| {
            // Not critical, so a table that does not answer at once is not waited for.
            !list.is_empty() && matches!(list.contains(first.text).now_or_never(), Some(Ok(true)))
        };
        if listed(&self.settings.noop_commands) {
            self.reply("250 2.0.0 Ok");
            self.count_junk();
            return;
        }
        // The array has an entry per verb.
        self.counts[verb as usize].0 += 1;
        self.verb = verb;
        if verb == Verb::Unknown {
            self.stage = "UNKNOWN";
            if looks_like_header(first.text) || listed(&self.settings.forbidden_commands) {
                let mut shown = line.to_owned();
                reply::truncate(&mut shown, 100);
                self.warn(format!("non-SMTP command from {}: {shown}", self.peer.name_and_address));
                self.reply("221 2.7.0 Error: I can break rules, too. Goodbye.");
                self.hang_up = true;
                return;
            }
        }
        if self.access_denied && verb != Verb::Quit {
            let text = format!("503 5.7.0 Error: access denied for {}", self.peer.name_and_address);
            return self.reply_error(&text);
        }
        if verb == Verb::Unknown && self.filters_object() {
            return;
        }
        if verb == Verb::Unknown && self.filters {
            // Only the first word, as Postfix tells it.
            let word = line.split_ascii_whitespace().next().unwrap_or_default();
            return self.wait(Waiting::Filter(Box::new(Step::Unknown(word.to_owned()))));
        }
        if verb == Verb::Unknown {
            return self.protocol_error("500 5.5.2 Error: command not recognized");
        }
        if self.settings.enforce_tls && self.tls.is_none() && self.user.is_none() && !verb.is_before_tls() {
            return self.reply_error("530 5.7.0 Must issue a STARTTLS command first");
        }
        self.stage = verb.upper();
        if self.talks_out_of_turn(verb, ahead) {
            self.seen.add(ErrorClasses::PROTOCOL);
            self.reply("554 5.5.0 Error: SMTP protocol synchronization");
            self.hang_up = true;
            return;
        }
        match verb {
            Verb::Helo | Verb::Ehlo => self.helo(words, verb == Verb::Ehlo),
            Verb::Xclient => self.xclient(words),
            Verb::Xforward => self.xforward(words),
            Verb::Starttls => self.starttls(words, ahead),
            Verb::Auth => self.auth(words),
            Verb::Mail => self.mail(words),
            Verb::Rcpt => self.rcpt(words),
            Verb::Data => self.start_data(words),
            Verb::Bdat => self.bdat(words, line),
            Verb::Rset => self.rset(words),
            // RFC 5321 section 4.1.1.9: a parameter is ignored.
            Verb::Noop => self.reply_ok("250 2.0.0 Ok"),
            Verb::Vrfy => self.vrfy(words),
            Verb::Etrn => self.etrn(words),
            Verb::Quit => {
                self.reply_ok("221 2.0.0 Bye");
                self.hang_up = true;
            }
            Verb::Unknown => {}
        }
        if verb.is_junk() {
            self.count_junk();
        }
    }

    fn count_junk(&mut self) {
        if self.junk > self.pressure.junk_command_limit {
            self.errors += 1;
        }
        self.junk = self.junk.saturating_add(1);
    }

    // --- HELO, EHLO

    fn helo(&mut self, words: Tokens<'_>, extended: bool) {
        let mut name = String::new();
        for word in words {
            if !name.is_empty() {
                name.push(' ');
            }
            name.push_str(word.text);
        }
        if name.is_empty() {
            let text = if extended { "501 Syntax: EHLO hostname" } else { "501 Syntax: HELO hostname" };
            return self.protocol_error(text);
        }
        if self.user.is_some() || self.settings.delay_reject {
            return self.helo_checked(name, extended, Outcome::Pass);
        }
        self.wait(Waiting::Helo { name, extended });
    }

    pub(super) fn helo_checked(&mut self, name: String, extended: bool, outcome: Outcome) {
        if let Outcome::Refused(reply) = outcome {
            return self.reply_error(&reply);
        }
        if self.filters && self.filters_refused.is_none() {
            return self.wait(Waiting::Filter(Box::new(Step::Helo { name, extended })));
        }
        self.helo_accepted(name, extended);
    }

    pub(super) fn helo_accepted(&mut self, name: String, extended: bool) {
        self.end_transaction();
        self.trim_transcript();
        self.helo = Some(neuter(&name));
        if extended {
            self.protocol = "ESMTP";
            if self.mechanisms.is_none() && self.offers_logins() {
                return self.wait(Waiting::Mechanisms(None));
            }
            self.ehlo_reply();
        } else {
            let text = format!("250 {}", self.settings.myhostname);
            self.reply(&text);
            self.succeed();
        }
    }

    pub(super) fn ehlo_reply(&mut self) {
        self.succeed();
        let discard = self.standing.discard;
        if !discard.silent && discard != Default::default() {
            self.info(format!("discarding EHLO keywords: {}", discard.words()));
        }
        let settings = Arc::clone(&self.settings);
        let size = match settings.message_size_limit {
            0 => String::new(),
            limit => format!(" {limit}"),
        };
        let logins = if self.offers_logins() { self.offered().join(" ") } else { String::new() };
        let starttls = settings.tls.is_wanted() && self.tls.is_none() && self.user.is_none();
        // Offered, the keyword, and what stands behind it.
        let offers: [(bool, &str, &str); 17] = [
            (true, &settings.myhostname, ""),
            (!discard.pipelining, "PIPELINING", ""),
            (!discard.size, "SIZE", &size),
            (!discard.vrfy && !settings.disable_vrfy, "VRFY", ""),
            (!discard.etrn, "ETRN", ""),
            (starttls && !discard.starttls, "STARTTLS", ""),
            (!logins.is_empty(), "AUTH ", &logins),
            (!logins.is_empty() && settings.sasl.broken_clients, "AUTH=", &logins),
            (self.standing.verp, "XVERP", ""),
            (
                self.standing.xclient && !discard.xclient,
                "XCLIENT NAME ADDR PROTO HELO REVERSE_NAME PORT LOGIN DESTADDR DESTPORT",
                "",
            ),
            (self.standing.xforward && !discard.xforward, "XFORWARD NAME ADDR PROTO HELO SOURCE PORT IDENT", ""),
            (!discard.enhanced_status_codes, "ENHANCEDSTATUSCODES", ""),
            (!discard.eight_bit_mime, "8BITMIME", ""),
            (!discard.dsn, "DSN", ""),
            (!discard.smtputf8 && settings.smtputf8, "SMTPUTF8", ""),
            (self.takes_requiretls(), "REQUIRETLS", ""),
            (!discard.chunking, "CHUNKING", ""),
        ];
        let mut offered = offers.iter().filter(|(offered, ..)| *offered).peekable();
        let mut line = String::with_capacity(80);
        self.output.reserve(320);
        while let Some((_, keyword, arguments)) = offered.next() {
            line.clear();
            line.push_str(if offered.peek().is_some() { "250-" } else { "250 " });
            line.push_str(keyword);
            line.push_str(arguments);
            self.say(&line);
        }
    }

    /// REQUIRETLS is offered (RFC 8689): what comes encrypted, and does not leave us by a filter that knows nothing of it.
    fn takes_requiretls(&self) -> bool {
        let settings = &self.settings;
        settings.requiretls
            && self.tls.is_some()
            && !self.standing.discard.requiretls
            && settings.before_queue.is_none()
    }

    /// The login, with what MAIL says of who sent the message before us.
    pub(super) fn identity(&self) -> Option<SaslIdentity> {
        let mut identity = SaslIdentity::clone(self.sasl.as_deref()?);
        let sender = self.transaction.as_ref().and_then(|t| t.parameters.auth.as_deref()).filter(|auth| *auth != "<>");
        let mut encoded = Vec::new();
        yamabiko_smtp::xtext::encode(sender.unwrap_or_default(), &mut encoded);
        // Xtext is ASCII.
        identity.sender = String::from_utf8_lossy(&encoded).into_owned();
        Some(identity)
    }

    // --- MAIL

    fn mail(&mut self, mut words: Tokens<'_>) {
        if self.settings.helo_required && self.helo.is_none() {
            return self.policy_error("503 5.5.1 Error: send HELO/EHLO first");
        }
        match &self.transaction {
            Some(_) => return self.protocol_error("503 5.5.1 Error: nested MAIL command"),
            None if self.chunks_astray => return self.protocol_error("503 5.5.1 Error: MAIL after BDAT"),
            None => {}
        }
        let keyword = words.next();
        let (Some(_), Some(address)) = (keyword.filter(|word| word.is("FROM:")), words.next()) else {
            return self.protocol_error(MAIL_SYNTAX);
        };
        if address.unbalanced {
            return self.protocol_error(BAD_SENDER);
        }
        if self.over_rate(Counted::Messages) {
            return;
        }
        let Some(sender) = self.address(address.text, "MAIL") else {
            return self.protocol_error(BAD_SENDER);
        };
        self.transactions = self.transactions.wrapping_add(1);
        self.note_words(&sender, &words);
        let settings = std::sync::Arc::clone(&self.settings);
        let allowed = Allowed {
            dsn: !self.standing.discard.dsn,
            smtputf8: settings.smtputf8,
            requiretls: self.takes_requiretls(),
            // Of no effect without a login, and no error.
            auth: true,
            xverp: self.standing.verp.then_some((&settings.verp_delimiters, &settings.verp_filter)),
        };
        let (parameters, mut refused) = match MailParameters::parse(words, allowed) {
            Ok(parameters) => (parameters, None),
            Err(error) => {
                self.seen.add(ErrorClasses::PROTOCOL);
                (MailParameters::default(), Some(error.to_string()))
            }
        };
        if refused.is_none() && settings.strict_smtputf8 && !parameters.smtputf8 && !sender.is_ascii() {
            refused = Some("553 5.6.7 Must declare SMTPUTF8 to send unicode address".to_owned());
        }
        if refused.is_none() && parameters.verp.is_some() && sender.is_empty() {
            refused = Some("503 5.5.4 Error: XVERP requires non-null sender".to_owned());
        }
        // The null reverse-path needs no look at the address.
        if sender.is_empty() && (self.settings.delay_reject || self.user.is_some() || refused.is_some()) {
            return self.mail_checked(MailRequest { sender, parameters, refused }, Outcome::Pass);
        }
        self.wait(Waiting::Mail(Box::new(MailRequest { sender, parameters, refused })));
    }

    /// Keeps what mail filters are told of a command.
    fn note_words(&mut self, address: &str, parameters: &Tokens<'_>) {
        if self.filters {
            let parameters = (*parameters).map(|word| word.text.to_owned());
            let address = format!("<{}>", yamabiko_address::quote(address));
            self.filter_words = std::iter::once(address).chain(parameters).collect();
        }
    }

    /// An address in a command; the log says what is wrong with it.
    fn address(&mut self, text: &str, command: &str) -> Option<String> {
        match path::parse(text, self.settings.strict_rfc821) {
            Ok(path) if command == "MAIL" || !path.address.is_empty() => Some(path.address),
            Ok(_) | Err(PathError::Missing | PathError::BadSyntax) => {
                self.illegal_address(text, command);
                None
            }
        }
    }

    fn illegal_address(&self, text: &str, command: &str) {
        self.warn(format!("Illegal address syntax from {} in {command} command: {text}", self.peer.name_and_address));
    }

    pub(super) fn mail_checked(&mut self, request: MailRequest, outcome: Outcome) {
        let MailRequest { sender, parameters, refused } = request;
        if outcome == Outcome::BadAddress {
            self.illegal_address(&format!("<{}>", yamabiko_address::quote(&sender)), "MAIL");
            return self.protocol_error(BAD_SENDER);
        }
        if let Some(reply) = refused {
            return self.reply_error(&reply);
        }
        let limit = self.settings.message_size_limit;
        if limit > 0 && parameters.size > limit {
            self.seen.add(ErrorClasses::POLICY);
            return self.refuse_mail(sender, "552 5.3.4 Message size exceeds fixed limit");
        }
        if let Outcome::Refused(reply) = outcome {
            self.checks.reset();
            return self.reply_error(&reply);
        }
        if self.around.admission.is_stuck() {
            self.checks.reset();
            return self.refuse_mail(sender, "451 4.3.0 Error: queue file write error");
        }
        if let Some(free) = self.around.admission.free_space()
            && free / 3 < limit / 2
        {
            self.warn(format!("not enough free space in mail queue: {free} bytes < 1.5*message size limit"));
            self.seen.add(ErrorClasses::RESOURCE);
            self.checks.reset();
            return self.refuse_mail(sender, "452 4.3.1 Insufficient system storage");
        }
        self.transaction = Some(Transaction {
            sender,
            parameters,
            arrival: self.now,
            queue_id: None,
            recipients: Vec::new(),
            overshoot: 0,
            chunks: Chunks::None,
        });
        if self.filters_object() {
            return self.end_transaction();
        }
        if self.filters {
            return self.wait(Waiting::Filter(Box::new(Step::Mail)));
        }
        self.reply_ok("250 2.1.0 Ok");
    }

    /// A refusal of MAIL that is logged as a restriction's is.
    fn refuse_mail(&mut self, sender: String, reply: &str) {
        let mut reply = reply.to_owned();
        if self.settings.soft_bounce {
            crate::restrict::soften(&mut reply);
        }
        let parameters = MailParameters::default();
        self.wait(Waiting::Mail(Box::new(MailRequest { sender, parameters, refused: None })));
        self.decided("reject", reply.clone());
        self.phase = super::Phase::Command;
        self.reply_error(&reply);
    }

    // --- RCPT

    fn rcpt(&mut self, mut words: Tokens<'_>) {
        match &self.transaction {
            None => return self.protocol_error("503 5.5.1 Error: need MAIL command"),
            Some(transaction) if transaction.chunks != Chunks::None => {
                return self.protocol_error("503 5.5.1 Error: RCPT after BDAT");
            }
            Some(_) => {}
        }
        let keyword = words.next();
        let (Some(_), Some(address)) = (keyword.filter(|word| word.is("TO:")), words.next()) else {
            return self.protocol_error(RCPT_SYNTAX);
        };
        if address.unbalanced {
            return self.protocol_error(BAD_RECIPIENT);
        }
        if self.over_rate(Counted::Recipients) {
            return;
        }
        let Some(recipient) = self.address(address.text, "RCPT") else {
            return self.protocol_error(BAD_RECIPIENT);
        };
        self.note_words(&recipient, &words);
        let allowed = Allowed { dsn: !self.standing.discard.dsn, ..Allowed::default() };
        let (parameters, mut refused) = match RcptParameters::parse(words, allowed) {
            Ok(parameters) => (parameters, None),
            Err(error) => {
                self.seen.add(ErrorClasses::PROTOCOL);
                (RcptParameters::default(), Some((error.to_string(), true)))
            }
        };
        if refused.is_none() {
            refused = self.too_many_recipients();
        }
        let notify = parameters.notify.unwrap_or_default();
        let recipient = Recipient {
            address: recipient,
            orcpt: parameters.orcpt,
            notify: Notify {
                never: notify.never,
                success: notify.success,
                failure: notify.failure,
                delay: notify.delay,
            },
            ..Recipient::default()
        };
        let request = RcptRequest { recipient, refused };
        if self.user.is_some() && request.refused.is_none() {
            return self.rcpt_checked(request, Outcome::Pass);
        }
        self.wait(Waiting::Rcpt(Box::new(request)));
    }

    /// Beyond the limit, so many more are refused before that counts as an error.
    fn too_many_recipients(&mut self) -> Option<(String, bool)> {
        let limit = self.settings.recipient_limit;
        let overshoot_limit = self.settings.recipient_overshoot;
        let transaction = self.transaction.as_mut()?;
        if limit == 0 || transaction.recipients.len() < limit {
            return None;
        }
        let error = transaction.overshoot >= overshoot_limit;
        transaction.overshoot = transaction.overshoot.saturating_add(1);
        if error {
            self.seen.add(ErrorClasses::POLICY);
        }
        Some(("452 4.5.3 Error: too many recipients".to_owned(), error))
    }

    pub(super) fn rcpt_checked(&mut self, request: RcptRequest, outcome: Outcome) {
        let RcptRequest { recipient, refused } = request;
        if outcome == Outcome::BadAddress {
            self.illegal_address(&format!("<{}>", yamabiko_address::quote(&recipient.address)), "RCPT");
            return self.protocol_error(BAD_RECIPIENT);
        }
        match refused {
            Some((reply, true)) => return self.reply_error(&reply),
            // Within the overshoot limit Postfix counts it as a success.
            Some((reply, false)) => return self.reply_ok(&reply),
            None => {}
        }
        if let Outcome::Refused(reply) = outcome {
            if self.filters_hear_refused {
                return self.wait(Waiting::Filter(Box::new(Step::RefusedRcpt(recipient, reply))));
            }
            return self.reply_error(&reply);
        }
        if self.filters {
            return self.wait(Waiting::Filter(Box::new(Step::Rcpt(recipient))));
        }
        self.recipient_accepted(recipient);
    }

    pub(super) fn recipient_accepted(&mut self, recipient: Recipient) {
        let Some(transaction) = self.transaction.as_mut() else { return };
        if transaction.queue_id.is_none() {
            let queue_id = self.around.admission.next_queue_id();
            transaction.queue_id = Some(queue_id);
            // What a local user sends is logged when it is picked up.
            if self.user.is_none() {
                let client = self.client.clone();
                let forwarded = self.forwarded.as_ref().map(|f| f.for_log(self.settings.port_logging));
                let sasl = self.identity();
                if self.settings.before_queue.is_some() {
                    // It gets no name here.
                    let login =
                        sasl.map(|sasl| format!(", sasl_method={}, sasl_username={}", sasl.method, sasl.username));
                    let who = &self.peer.name_and_address;
                    return self
                        .info_accepted(format!("NOQUEUE: client={who}{}", login.unwrap_or_default()), recipient);
                }
                self.emit(Kind::Accepted { queue_id, client, sasl, forwarded });
            }
        }
        self.keep_recipient(recipient);
    }

    fn info_accepted(&mut self, line: String, recipient: Recipient) {
        self.info(line);
        self.keep_recipient(recipient);
    }

    fn keep_recipient(&mut self, mut recipient: Recipient) {
        recipient.original = recipient.address.clone();
        if let Some(transaction) = self.transaction.as_mut() {
            transaction.recipients.push(recipient);
        }
        self.reply_ok("250 2.1.5 Ok");
    }

    // --- DATA, BDAT

    fn start_data(&mut self, mut words: Tokens<'_>) {
        let text = match &self.transaction {
            Some(transaction) if transaction.chunks != Chunks::None => "503 5.5.1 Error: DATA after BDAT",
            None => "503 5.5.1 Error: need RCPT command",
            Some(transaction) if transaction.recipients.is_empty() => "554 5.5.1 Error: no valid recipients",
            Some(_) if words.next().is_some() => "501 5.5.4 Syntax: DATA",
            Some(_) if self.user.is_some() => return self.data_checked(Outcome::Pass),
            Some(_) => return self.wait(Waiting::Data),
        };
        self.protocol_error(text);
    }

    pub(super) fn data_checked(&mut self, outcome: Outcome) {
        if let Outcome::Refused(reply) = outcome {
            return self.reply_error(&reply);
        }
        if self.filters {
            return self.wait(Waiting::Filter(Box::new(Step::Data)));
        }
        self.data_accepted();
    }

    pub(super) fn data_accepted(&mut self) {
        self.begin_incoming(DataDecoder::new(super::line_ends(self.bare_newline_policy())));
        self.reply("354 End data with <CR><LF>.<CR><LF>");
        self.stage = "DATA content";
        self.phase = super::Phase::Data;
    }

    fn bdat(&mut self, words: Tokens<'_>, line: &str) {
        if self.standing.discard.chunking {
            return self.protocol_error("521 5.5.1 Error: command not implemented");
        }
        let bdat = match Bdat::parse(words) {
            Ok(bdat) => bdat,
            // Nobody knows where the next command begins: 521 closes the session.
            Err(BdatError::Syntax | BdatError::BadCount(_)) => {
                let queue_id = self.queue_id().map_or_else(|| "NOQUEUE".to_owned(), |id| id.to_string());
                let mut shown = line.to_owned();
                reply::truncate(&mut shown, 100);
                self.warn(format!(
                    "{queue_id}: malformed BDAT command syntax from {}: {shown}",
                    self.peer.name_and_address
                ));
                return self.protocol_error("521 5.5.4 Syntax: BDAT count [LAST]");
            }
        };
        if bdat.count == 0 && !bdat.last {
            let queue_id = self.queue_id().map_or_else(String::new, |id| format!("{id}: "));
            self.warn(format!("{queue_id}null BDAT request from {}", self.peer.name_and_address));
            return self.skip_chunk(bdat, "551 5.7.1 Null BDAT request");
        }
        let (chunks, nobody) = match &self.transaction {
            Some(open) => (open.chunks, open.recipients.is_empty()),
            None if self.chunks_astray => (Chunks::Failed, true),
            None => return self.skip_chunk(bdat, "503 5.5.1 Error: need RCPT command"),
        };
        match chunks {
            Chunks::Failed => {
                let text = format!("551 5.0.0 Discarded {} bytes after earlier error", bdat.count);
                self.skip_chunk(bdat, &text)
            }
            Chunks::None if nobody => self.skip_chunk(bdat, "554 5.5.1 Error: no valid recipients"),
            Chunks::None if self.user.is_none() => self.wait(Waiting::Bdat(bdat)),
            Chunks::None | Chunks::Open => self.bdat_checked(bdat, Outcome::Pass),
        }
    }

    // --- RSET, VRFY, ETRN

    fn rset(&mut self, mut words: Tokens<'_>) {
        if words.next().is_some() {
            return self.protocol_error("501 5.5.4 Syntax: RSET");
        }
        self.end_transaction();
        self.reply_ok("250 2.0.0 Ok");
    }

    fn vrfy(&mut self, words: Tokens<'_>) {
        if self.settings.disable_vrfy {
            return self.policy_error("502 5.5.1 VRFY command is disabled");
        }
        if self.filters_object() {
            return;
        }
        let mut words: Vec<&str> = words.map(|word| word.text).collect();
        let announced = words.len() > 1 && words.last().is_some_and(|word| word.eq_ignore_ascii_case("SMTPUTF8"));
        let smtputf8 = self.settings.smtputf8 && announced;
        if smtputf8 {
            words.pop();
        }
        if words.is_empty() {
            let option = if self.settings.smtputf8 { " [SMTPUTF8]" } else { "" };
            return self.protocol_error(&format!("501 5.5.4 Syntax: VRFY address{option}"));
        }
        if self.over_rate(Counted::Recipients) {
            return;
        }
        let shown = words.join(" ");
        match path::parse_address(&shown) {
            Ok(address) if !address.is_empty() && self.user.is_some() => self.vrfy_checked(&shown, Outcome::Pass),
            Ok(address) if !address.is_empty() => self.wait(Waiting::Vrfy { address, shown, smtputf8 }),
            _ => {
                self.illegal_address(&shown, "VRFY");
                self.protocol_error(BAD_RECIPIENT);
            }
        }
    }

    pub(super) fn vrfy_checked(&mut self, shown: &str, outcome: Outcome) {
        match outcome {
            // RFC 5321 section 3.5.3: 252, because nothing was verified beyond the tables.
            Outcome::Pass => self.reply_ok(&format!("252 2.0.0 {shown}")),
            Outcome::Refused(reply) => self.reply_error(&reply),
            Outcome::BadAddress => {
                self.illegal_address(shown, "VRFY");
                self.protocol_error(BAD_RECIPIENT);
            }
        }
    }

    fn etrn(&mut self, words: Tokens<'_>) {
        if self.settings.helo_required && self.helo.is_none() {
            return self.policy_error("503 Error: send HELO/EHLO first");
        }
        if self.filters_object() {
            return;
        }
        if self.transaction.is_some() {
            return self.protocol_error("503 Error: MAIL transaction in progress");
        }
        let words: Vec<&str> = words.map(|word| word.text).collect();
        let [domain] = &words[..] else {
            return self.protocol_error("500 Syntax: ETRN domain");
        };
        // RFC 1985: `@` and `#` before a name ask for variants that nobody offers.
        let domain = domain.strip_prefix(['@', '#']).unwrap_or(domain);
        let valid =
            yamabiko_address::domain::valid_hostname(domain) || yamabiko_address::domain::valid_address_literal(domain);
        if !valid {
            return self.protocol_error("501 Error: invalid parameter syntax");
        }
        if self.user.is_some() {
            self.warn("do not use ETRN in \"sendmail -bs\" mode");
            return self.reply_error("458 Unable to queue messages");
        }
        self.wait(Waiting::EtrnCheck(domain.to_owned()));
    }

    pub(super) fn etrn_checked(&mut self, domain: String, outcome: Outcome) {
        match outcome {
            Outcome::Refused(reply) => self.reply_error(&reply),
            _ => self.wait(Waiting::Etrn(domain)),
        }
    }

    pub(super) fn etrn_answered(&mut self, domain: &str, result: Etrn) {
        let mut shown = domain.to_owned();
        reply::truncate(&mut shown, 100);
        match result {
            Etrn::Started => self.reply_ok("250 Queuing started"),
            Etrn::Denied => {
                self.warn(format!("reject: ETRN {shown}... from {}", self.peer.name_and_address));
                self.reply_error(&format!("459 <{domain}>: service unavailable"));
            }
            Etrn::Failed => {
                self.warn(format!("bad ETRN {shown}... from {}", self.peer.name_and_address));
                self.reply_error("458 Unable to queue messages");
            }
        }
    }
}

/// A mail header where a command should be: somebody's web form sends mail to our port.
fn looks_like_header(word: &str) -> bool {
    match word.split_once(':') {
        Some((name, _)) => !name.is_empty() && name.bytes().all(|b| (33..127).contains(&b)),
        None => false,
    }
}

/// The `Received:` field (RFC 5321 section 4.4) as Postfix writes it, lines ending in LF.
pub(super) fn received(session: &Session, transaction: &Transaction, date: &str) -> String {
    let settings = &session.settings;
    let (host, name) = (&settings.myhostname, &settings.mail_name);
    let id = transaction.queue_id.map(|id| id.to_string()).unwrap_or_default();
    if let Some(user) = session.user {
        return format!("Received: by {host} ({name}, from userid {user})\n\tid {id}; {date}\n");
    }
    if settings.hide_client {
        let mut text = format!("Received: by {host} ({name})");
        if settings.before_queue.is_none() {
            push(&mut text, format_args!(" id {id}"));
        }
        push(&mut text, format_args!(";\n\t{date}\n"));
        return text;
    }
    let peer = &session.peer;
    let helo = session.helo.as_deref().unwrap_or(&peer.name);
    // RFC 3848, RFC 6531 section 4.3.
    let (secure, known) = match session.protocol {
        "ESMTP" => (if session.tls.is_some() { "S" } else { "" }, if session.sasl.is_some() { "A" } else { "" }),
        _ => ("", ""),
    };
    let protocol = match session.protocol {
        "ESMTP" if transaction.parameters.smtputf8 => "UTF8SMTP",
        protocol => protocol,
    };
    let mut text = String::with_capacity(256);
    push(&mut text, format_args!("Received: from {helo} ({} [{}])\n", peer.name, peer.literal_text()));
    if let Some(tls) = session.tls.as_ref().filter(|_| settings.tls.received_header) {
        text.push_str(&tls.session.received(settings.tls.options.ask_certificate));
    }
    if let Some(sasl) = session.sasl.as_ref().filter(|_| settings.sasl.header) {
        push(&mut text, format_args!("\t(Authenticated sender: {})\n", yamabiko_tls::comment(&sasl.username)));
    }
    push(&mut text, format_args!("\tby {host} ({name}) with {protocol}{secure}{known}"));
    if settings.before_queue.is_none() {
        push(&mut text, format_args!(" id {id}"));
    }
    match &transaction.recipients[..] {
        [only] => push(&mut text, format_args!("\n\tfor <{}>; {date}\n", yamabiko_address::quote(&only.address))),
        _ => push(&mut text, format_args!(";\n\t{date}\n")),
    }
    text
}

/// `XVERP` as the envelope keeps it.
pub(super) fn verp(parameters: &MailParameters) -> Option<VerpDelimiters> {
    parameters.verp.map(|(first, second)| VerpDelimiters { first, second })
}
