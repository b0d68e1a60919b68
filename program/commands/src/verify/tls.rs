//! `yamabiko verify --tls DOMAIN`: TLS with the mail servers of a domain, as the client would have it.

use std::process::ExitCode;
use std::sync::Arc;

use yamabiko_deliver::finger::{self, Standing};
use yamabiko_dns::Resolver;
use yamabiko_lookup::{Options as TableOptions, TableSet};

use crate::context::{Context, instance};

/// Asks for each domain; the worst decides about the exit status.
pub fn run(config: Option<&str>, domains: &[String]) -> ExitCode {
    let context = match Context::open("verify", instance(config, true)) {
        Ok(context) => context,
        Err(code) => return code,
    };
    let resolver: Arc<dyn Resolver> = match yamabiko_engine::resolver(&context.config) {
        Ok(resolver) => Arc::new(resolver),
        Err(why) => {
            eprintln!("verify: fatal: {why}");
            return ExitCode::from(64);
        }
    };
    let tables = TableSet::new(TableOptions::default());
    let view = context.main();
    let mut worst = Standing::Good;
    for domain in domains {
        match finger::ask(&view, &tables, &resolver, domain) {
            Ok(found) => {
                crate::say_text!("{}", found.text);
                worst = worst.max(found.standing);
            }
            Err(error) => {
                eprintln!("verify: fatal: {error}");
                return ExitCode::from(71);
            }
        }
    }
    ExitCode::from(match worst {
        Standing::Good => 0,
        Standing::Open => 1,
        Standing::Refused => 2,
        Standing::Unknown => 3,
    })
}
