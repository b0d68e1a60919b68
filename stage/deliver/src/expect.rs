//! The replies that a client can be waiting for, and the words in which logs and reasons speak of each.

use std::time::Duration;

use yamabiko_envelope::SmtpStage;

use crate::settings::Settings;

/// The reply that is expected next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Expect {
    /// The greeting.
    Greeting,
    /// To EHLO.
    Ehlo,
    /// To HELO.
    Helo,
    /// To LHLO.
    Lhlo,
    /// To STARTTLS.
    StartTls,
    /// To AUTH, or to a line of it.
    Auth,
    /// To RSET before the first command on a connection that was idle.
    Probe,
    /// To XFORWARD with name and address.
    XforwardName,
    /// To XFORWARD with protocol and HELO name.
    XforwardProtocol,
    /// To MAIL.
    Mail,
    /// To RCPT for this recipient of the job.
    Rcpt(usize),
    /// To DATA.
    Data,
    /// To the message.
    EndOfData,
    /// To the message, for this recipient of the job (LMTP).
    EndOfDataFor(usize),
    /// To RSET that gives up a transaction.
    Reset,
    /// To QUIT.
    Quit,
}

impl Expect {
    /// What was done while the reply did not come, as the log says it.
    pub fn activity(self) -> &'static str {
        match self {
            Expect::Greeting => "receiving the initial server greeting",
            Expect::Ehlo => "performing the EHLO handshake",
            Expect::Helo => "performing the HELO handshake",
            Expect::Lhlo => "performing the LHLO handshake",
            Expect::StartTls => "receiving the STARTTLS response",
            Expect::Auth => "performing SASL authentication",
            Expect::Probe => "sending RSET probe",
            Expect::XforwardName => "sending XFORWARD name/address",
            Expect::XforwardProtocol => "sending XFORWARD protocol/helo_name",
            Expect::Mail => "sending MAIL FROM",
            Expect::Rcpt(_) => "sending RCPT TO",
            Expect::Data => "sending DATA command",
            Expect::EndOfData | Expect::EndOfDataFor(_) => "sending end of data -- message may be sent more than once",
            Expect::Reset => "sending final RSET",
            Expect::Quit => "sending QUIT",
        }
    }
    /// The words after `in reply to`.
    pub fn command(self) -> &'static str {
        match self {
            Expect::Greeting => "connection",
            Expect::Ehlo => "EHLO command",
            Expect::Helo => "HELO command",
            Expect::Lhlo => "LHLO command",
            Expect::StartTls => "STARTTLS command",
            Expect::Auth => "AUTH command",
            Expect::Probe => "RSET probe",
            Expect::XforwardName => "XFORWARD name/address command",
            Expect::XforwardProtocol => "XFORWARD helo/protocol command",
            Expect::Mail => "MAIL FROM command",
            Expect::Rcpt(_) => "RCPT TO command",
            Expect::Data => "DATA command",
            Expect::EndOfData | Expect::EndOfDataFor(_) => "end of DATA command",
            Expect::Reset => "final RSET command",
            Expect::Quit => "QUIT command",
        }
    }
    /// The stage that stays with an outcome.
    pub fn stage(self) -> SmtpStage {
        match self {
            Expect::Greeting => SmtpStage::Greeting,
            Expect::Ehlo | Expect::Lhlo => SmtpStage::Ehlo,
            Expect::Helo => SmtpStage::Helo,
            Expect::StartTls => SmtpStage::StartTls,
            Expect::Auth => SmtpStage::Auth,
            Expect::Probe | Expect::Reset => SmtpStage::Rset,
            Expect::XforwardName | Expect::XforwardProtocol => SmtpStage::Xforward,
            Expect::Mail => SmtpStage::Mail,
            Expect::Rcpt(_) => SmtpStage::Rcpt,
            Expect::Data => SmtpStage::Data,
            Expect::EndOfData | Expect::EndOfDataFor(_) => SmtpStage::EndOfData,
            Expect::Quit => SmtpStage::Quit,
        }
    }
    /// How long to wait for it; zero is for ever.
    pub fn timeout(self, settings: &Settings) -> Duration {
        let t = &settings.timeouts;
        match self {
            Expect::Greeting | Expect::Ehlo | Expect::Helo | Expect::Lhlo | Expect::Auth => t.helo,
            Expect::StartTls => t.starttls,
            Expect::XforwardName | Expect::XforwardProtocol => t.xforward,
            Expect::Mail => t.mail,
            Expect::Rcpt(_) => t.rcpt,
            Expect::Data => t.data_init,
            Expect::EndOfData | Expect::EndOfDataFor(_) => t.data_done,
            Expect::Probe | Expect::Reset => t.rset,
            Expect::Quit => t.quit,
        }
    }
}
