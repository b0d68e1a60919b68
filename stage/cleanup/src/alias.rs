//! Virtual aliases: one address to many, again and again (Postfix: `cleanup_map1n`).

use std::collections::HashSet;

use yamabiko_address::quote;
use yamabiko_lookup::fold_case;
use yamabiko_status::{EnhancedStatus, ReplyCode};

use crate::{Cleanup, Job, Refusal};

impl Cleanup {
    /// The addresses that `address` stands for by `virtual_alias_maps`; itself when there is no entry. An address that
    /// stands for itself among others is kept and not expanded again.
    pub(crate) async fn expand_aliases(&self, job: &Job<'_>, address: &str) -> Result<Vec<String>, Refusal> {
        let settings = &self.settings;
        let maps = &settings.virtual_alias_maps;
        let mut list = vec![address.to_owned()];
        let mut itself: HashSet<String> = HashSet::new();
        let mut next = 0;
        while next < list.len() {
            if list.len() > settings.expansion_limit {
                return Err(self.unreasonable(job, &format!("map expansion size for {address}")));
            }
            for round in 0.. {
                // `next` is below the length, and the list only grows.
                let current = list[next].clone();
                if itself.contains(&*fold_case(&current)) {
                    break;
                }
                if round >= settings.recursion_limit {
                    return Err(self.unreasonable(job, &format!("map nesting for {address}")));
                }
                let found = match self.mapper.map_address(maps, &current, settings.propagate_virtual).await {
                    Ok(Some(found)) => found,
                    Ok(None) => break,
                    Err(_) => return Err(self.map_trouble(job, maps, address)),
                };
                for (number, new) in found.into_iter().enumerate() {
                    let quoted = quote(&new);
                    if quoted.len() > settings.address_limit {
                        let end = quoted.floor_char_boundary(300);
                        return Err(self.unreasonable(job, &format!("result {}...", &quoted[..end])));
                    }
                    if fold_case(&new) == fold_case(&current) {
                        itself.insert(fold_case(&current).into_owned());
                    }
                    if number == 0 {
                        list[next] = new;
                    } else {
                        list.push(new);
                    }
                }
            }
            next += 1;
        }
        Ok(list)
    }

    fn unreasonable(&self, job: &Job<'_>, what: &str) -> Refusal {
        let title = self.settings.virtual_alias_maps.title();
        self.warn(job, format!("unreasonable {title} {what} -- message not accepted, try again later"));
        Refusal {
            code: ReplyCode(451),
            status: EnhancedStatus::transient(6, 0),
            reason: "Alias expansion error".into(),
            specific: true,
        }
    }
}
