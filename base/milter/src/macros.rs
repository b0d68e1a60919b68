//! Macros: what filters are told beside the commands.

use std::collections::HashMap;

use crate::packet::Stage;

/// Values of macros at a step: the name as filters write it (`i`, `{client_addr}`), `None` where there is none.
pub trait Macros: Sync {
    /// The value of one.
    fn value(&self, name: &str) -> Option<String>;
}

/// Which macros go with which step.
#[derive(Clone, Debug, Default)]
pub(crate) struct MacroLists {
    lists: [Vec<String>; 8],
    /// `milter_macro_defaults`: for macros that have no value.
    pub(crate) defaults: HashMap<String, String>,
}

impl MacroLists {
    pub(crate) fn set(&mut self, stage: Stage, names: Vec<String>) {
        self.lists[stage as usize] = names;
    }

    pub(crate) fn of(&self, stage: Stage) -> &[String] {
        &self.lists[stage as usize]
    }

    /// Names and values for a step, in order.
    pub(crate) fn values(&self, stage: Stage, macros: &dyn Macros) -> Vec<(&str, String)> {
        let mut values = Vec::new();
        for name in self.of(stage) {
            if let Some(value) = macros.value(name).or_else(|| self.defaults.get(bare(name)).cloned()) {
                values.push((name.as_str(), value));
            }
        }
        values
    }
}

/// A name without braces.
pub(crate) fn bare(name: &str) -> &str {
    name.strip_prefix('{').and_then(|name| name.strip_suffix('}')).unwrap_or(name)
}
