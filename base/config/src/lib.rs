//! main.cf and master.cf: grammar, expansion, the one parameter table, a typed view.
