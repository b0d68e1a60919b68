//! What a configuration says about the log: where, in which form, under which host name.

use std::io;
use std::sync::Arc;

use yamabiko_config::View;
use yamabiko_envelope::{Event, Origin};

use crate::line::Style;
use crate::{Destination, Form, Host, Logger, Options, Target, append};

/// The log of a mail system, as configured. Nothing is open yet.
#[derive(Clone, Debug)]
pub struct Setup {
    /// Where lines go.
    pub destination: Destination,
    /// How they look.
    pub form: Form,
    /// Settings of the text.
    pub style: Style,
    /// Host and process in front of each line.
    pub host: Host,
    /// `syslog_name`
    pub syslog_name: Arc<str>,
}

impl Setup {
    /// From main.cf (or a service's view of it).
    pub fn from_view(view: &View) -> Self {
        let destination = Destination::from_settings(&view.text("maillog_file"), &view.text("syslog_facility"));
        let form = if view.text("log_format") == "json" { Form::Json } else { Form::Postfix };
        let resolution = u32::try_from(view.int("delay_logging_resolution_limit")).unwrap_or(2);
        let hostname = nix::unistd::gethostname().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
        Self {
            destination,
            form,
            style: Style {
                delay_resolution: resolution,
                internal_addresses: view.text("info_log_address_format").eq_ignore_ascii_case("internal"),
            },
            host: Host::new(&hostname, std::process::id()),
            syslog_name: view.text("syslog_name").into(),
        }
    }

    /// Opens the destination and starts a logger; `program` speaks for the logger itself.
    pub fn start(&self, program: &'static str) -> io::Result<Arc<Logger>> {
        self.start_with(program, Target::open(self.destination.clone())?)
    }

    /// The same with a target that is open already.
    pub fn start_with(&self, program: &'static str, target: Target) -> io::Result<Arc<Logger>> {
        let mut options = Options::new(Origin::new(&self.syslog_name, program));
        options.form = self.form;
        options.style = self.style;
        Logger::start(self.host.clone(), vec![target], options)
    }

    /// Writes a few events at once, without a logger: for commands.
    pub fn append(&self, events: &[Event]) -> io::Result<()> {
        append(self.destination.clone(), self.host.clone(), self.form, self.style, events)
    }
}
