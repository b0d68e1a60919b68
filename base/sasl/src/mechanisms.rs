//! Mechanisms by name and property, and which of them a configuration offers.

/// What a mechanism is like, in Dovecot's words.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[allow(missing_docs)]
pub struct Properties {
    pub anonymous: bool,
    pub plaintext: bool,
    pub dictionary: bool,
    pub active: bool,
    pub forward_secrecy: bool,
    pub mutual_auth: bool,
    /// Not to be told to clients.
    pub private: bool,
}

/// A mechanism that a server has.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mechanism {
    /// As clients name it, in upper case.
    pub name: String,
    /// What it is like.
    pub properties: Properties,
}

impl Mechanism {
    /// A mechanism from its name and the words for its properties.
    pub fn new<'a>(name: &str, words: impl Iterator<Item = &'a str>) -> Self {
        let mut properties = Properties::default();
        for word in words {
            match word {
                "anonymous" => properties.anonymous = true,
                "plaintext" => properties.plaintext = true,
                "dictionary" => properties.dictionary = true,
                "active" => properties.active = true,
                "forward-secrecy" => properties.forward_secrecy = true,
                "mutual-auth" => properties.mutual_auth = true,
                "private" => properties.private = true,
                _ => {}
            }
        }
        Self { name: name.to_ascii_uppercase(), properties }
    }
}

/// `smtpd_sasl_security_options`: what mechanisms must and must not be.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[allow(missing_docs)]
pub struct SecurityOptions {
    pub no_plaintext: bool,
    pub no_active: bool,
    pub no_dictionary: bool,
    pub no_anonymous: bool,
    pub forward_secrecy: bool,
    pub mutual_auth: bool,
}

impl SecurityOptions {
    /// From the words of main.cf; words that nobody knows come back.
    pub fn parse(words: &[String]) -> (Self, Vec<String>) {
        let mut options = Self::default();
        let mut unknown = Vec::new();
        for word in words {
            match word.to_ascii_lowercase().as_str() {
                "noplaintext" => options.no_plaintext = true,
                "noactive" => options.no_active = true,
                "nodictionary" => options.no_dictionary = true,
                "noanonymous" => options.no_anonymous = true,
                "forward_secrecy" => options.forward_secrecy = true,
                "mutual_auth" => options.mutual_auth = true,
                _ => unknown.push(word.clone()),
            }
        }
        (options, unknown)
    }

    /// The mechanism may be offered.
    pub fn allow(self, mechanism: &Mechanism) -> bool {
        let is = mechanism.properties;
        let bad = (self.no_plaintext && is.plaintext)
            || (self.no_active && is.active)
            || (self.no_dictionary && is.dictionary)
            || (self.no_anonymous && is.anonymous);
        let lacking = (self.forward_secrecy && !is.forward_secrecy) || (self.mutual_auth && !is.mutual_auth);
        !bad && !lacking && !is.private
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn options_choose_mechanisms() {
        let have = [
            Mechanism::new("PLAIN", ["plaintext"].into_iter()),
            Mechanism::new("cram-md5", ["dictionary", "active"].into_iter()),
            Mechanism::new("ANONYMOUS", ["anonymous"].into_iter()),
            Mechanism::new("SCRAM-SHA-256", ["mutual-auth"].into_iter()),
            Mechanism::new("DOVECOT-TOKEN", ["private"].into_iter()),
        ];
        for (options, expected) in [
            ("", "PLAIN CRAM-MD5 ANONYMOUS SCRAM-SHA-256"),
            ("noanonymous", "PLAIN CRAM-MD5 SCRAM-SHA-256"),
            ("noplaintext, noanonymous", "CRAM-MD5 SCRAM-SHA-256"),
            ("noactive", "PLAIN ANONYMOUS SCRAM-SHA-256"),
            ("nodictionary noplaintext", "ANONYMOUS SCRAM-SHA-256"),
            ("mutual_auth", "SCRAM-SHA-256"),
            ("forward_secrecy", ""),
        ] {
            let words: Vec<String> = options.split([',', ' ']).filter(|w| !w.is_empty()).map(str::to_owned).collect();
            let (options, unknown) = SecurityOptions::parse(&words);
            assert!(unknown.is_empty());
            let left: Vec<&str> = have.iter().filter(|m| options.allow(m)).map(|m| m.name.as_str()).collect();
            assert_eq!(left.join(" "), expected, "{words:?}");
        }
        assert_eq!(SecurityOptions::parse(&["nothing".to_owned()]).1, ["nothing"]);
    }
}
