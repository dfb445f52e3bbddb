//! A policy as a settings file spells it: texts in, a [`Policy`] or a helpful error out.
//!
//! Whoever reads the file maps its keys to the fields of [`Table`] and refuses keys that it does not know; the texts
//! are judged here, so that flags and files are understood the same way.

use crate::{Action, Policy, Preset, Rule};

/// Rules in one table. Each costs time for every flow, and nobody writes so many by hand.
pub const MAX_RULES: usize = 4096;

/// The keys of a policy table.
///
/// Judged in this order: `rules` as they are written, then all of `deny`, then all of `allow`, then `lan`, then the
/// preset. A table with an `allow` list and no preset allows what is on the list and nothing else, so an empty list
/// allows nothing.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Table {
    /// `public`, `none` or `open`.
    pub preset: Option<String>,
    /// `allow DESTINATION` or `deny DESTINATION`, in order.
    pub rules: Vec<String>,
    /// Destinations to deny.
    pub deny: Vec<String>,
    /// Destinations to allow.
    pub allow: Option<Vec<String>>,
    /// Whether private networks are open.
    pub lan: bool,
    /// Ports of the host's loopback that are open.
    pub host: Vec<u16>,
    /// Whether all of them are.
    pub host_all: bool,
}

/// A table that cannot be understood.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{field} = {value:?}: {problem}")]
pub struct TableError {
    field: String,
    value: String,
    problem: String,
}

impl TableError {
    /// The key at fault, with the index into a list.
    pub fn field(&self) -> &str {
        &self.field
    }
}

impl Policy {
    /// Makes a policy of a table.
    pub fn from_table(table: &Table) -> Result<Self, TableError> {
        let wrong =
            |field: String, value: &str, problem: String| TableError { field, value: value.to_owned(), problem };
        let preset = match &table.preset {
            Some(text) => text.parse().map_err(|_| {
                wrong(
                    "preset".into(),
                    text,
                    "it must be public, none or open (for example: preset = \"public\")".into(),
                )
            })?,
            None if table.allow.is_some() => Preset::None,
            None => Preset::default(),
        };
        let mut policy = Self::new(preset);
        let allow = table.allow.as_deref().unwrap_or_default();
        let count = table.rules.len() + table.deny.len() + allow.len();
        if count > MAX_RULES {
            let problem = format!("there may be {MAX_RULES} rules at most; write ranges or *.suffixes instead");
            return Err(wrong("rules, deny and allow".into(), &format!("{count} rules"), problem));
        }
        for (index, text) in table.rules.iter().enumerate() {
            let field = || format!("rules[{index}]");
            let (action, destination) = split_action(text).ok_or_else(|| {
                let problem = "it must begin with allow or deny (for example: \"deny telemetry.example.com\")";
                wrong(field(), text, problem.into())
            })?;
            policy.push(Rule::parse(action, destination).map_err(|error| wrong(field(), text, error.to_string()))?);
        }
        for (list, action, texts) in [("deny", Action::Deny, table.deny.as_slice()), ("allow", Action::Allow, allow)] {
            for (index, text) in texts.iter().enumerate() {
                let rule = Rule::parse(action, text)
                    .map_err(|error| wrong(format!("{list}[{index}]"), text, error.to_string()))?;
                policy.push(rule);
            }
        }
        if table.lan {
            policy.allow_lan();
        }
        for (index, port) in table.host.iter().enumerate() {
            if *port == 0 {
                let problem = "a port is a number from 1 to 65535 (for example: host = [8080])";
                return Err(wrong(format!("host[{index}]"), "0", problem.into()));
            }
            policy.allow_host(Some(*port));
        }
        if table.host_all {
            policy.allow_host(None);
        }
        Ok(policy)
    }
}

fn split_action(text: &str) -> Option<(Action, &str)> {
    let (word, destination) = text.split_once(' ')?;
    let action = match word {
        "allow" => Action::Allow,
        "deny" => Action::Deny,
        _ => return None,
    };
    Some((action, destination.trim_matches(' ')))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Flow, HostAddresses, Name, Protocol};

    fn texts(texts: &[&str]) -> Vec<String> {
        texts.iter().map(ToString::to_string).collect()
    }

    fn allows(policy: &Policy, address: &str, names: &[&str], port: u16) -> bool {
        let names: Vec<Name> = names.iter().map(|name| name.parse().unwrap()).collect();
        let flow = Flow::egress(Protocol::Tcp, address.parse().unwrap(), &names, port);
        policy.evaluate(&flow, &HostAddresses::default()).allow
    }

    #[test]
    fn an_empty_allow_list_denies_everything() {
        let policy = Policy::from_table(&Table { allow: Some(vec![]), ..Table::default() }).unwrap();
        assert!(policy.is_closed());
        assert!(!allows(&policy, "93.184.216.34", &[], 443));
    }

    #[test]
    fn an_empty_table_is_the_default_policy() {
        assert_eq!(Policy::from_table(&Table::default()).unwrap(), Policy::new(Preset::Public));
    }

    #[test]
    fn rules_come_before_denials_and_those_before_allowances() {
        let table = Table {
            rules: texts(&["allow a.example.com:443"]),
            deny: texts(&["*.example.com"]),
            allow: Some(texts(&["*.example.com", "93.184.216.35"])),
            ..Table::default()
        };
        let policy = Policy::from_table(&table).unwrap();
        assert!(allows(&policy, "93.184.216.34", &["a.example.com"], 443));
        assert!(!allows(&policy, "93.184.216.34", &["a.example.com"], 80));
        assert!(!allows(&policy, "93.184.216.34", &["b.example.com"], 443));
        assert!(allows(&policy, "93.184.216.35", &[], 443));
    }

    #[test]
    fn lan_and_host_ports_are_understood() {
        let table = Table { preset: Some("none".into()), lan: true, host: vec![8080], ..Table::default() };
        let policy = Policy::from_table(&table).unwrap();
        assert!(allows(&policy, "192.168.1.1", &[], 22));
        assert!(!allows(&policy, "169.254.169.254", &[], 80));
        let host = |port| policy.evaluate(&Flow::to_host(Protocol::Tcp, port), &HostAddresses::default()).allow;
        assert!(host(8080) && !host(8081));
    }

    #[test]
    fn errors_name_the_field_the_value_and_a_right_example() {
        let table = Table::default;
        for (table, start) in [
            (Table { preset: Some("all".into()), ..table() }, "preset = \"all\": "),
            (Table { rules: texts(&["allow a.test", "a.test"]), ..table() }, "rules[1] = \"a.test\": "),
            (Table { rules: texts(&["permit a.test"]), ..table() }, "rules[0] = \"permit a.test\": "),
            (Table { rules: texts(&["deny "]), ..table() }, "rules[0] = \"deny \": "),
            (Table { deny: texts(&["10.0.0.0/33"]), ..table() }, "deny[0] = \"10.0.0.0/33\": prefix length"),
            (Table { allow: Some(texts(&["a.test", "*"])), ..table() }, "allow[1] = \"*\": "),
            (Table { allow: Some(texts(&["*.com"])), ..table() }, "allow[0] = \"*.com\": "),
            (Table { allow: Some(texts(&["a.test:0"])), ..table() }, "allow[0] = \"a.test:0\": port"),
            (Table { allow: Some(texts(&["a.test\r\n"])), ..table() }, "allow[0] = \"a.test\\r\\n\": "),
            (Table { host: vec![0], ..table() }, "host[0] = \"0\": "),
        ] {
            let message = Policy::from_table(&table).unwrap_err().to_string();
            assert!(message.starts_with(start), "{message}");
            assert!(message.contains("(for example: "), "{message}");
        }
    }

    #[test]
    fn the_number_of_rules_is_bounded() {
        let table = Table { deny: vec!["a.test".into(); MAX_RULES + 1], ..Table::default() };
        assert!(Policy::from_table(&table).unwrap_err().to_string().contains("4097"));
        let table = Table { deny: vec!["a.test".into(); MAX_RULES], ..Table::default() };
        assert!(Policy::from_table(&table).is_ok(), "the same rule twice is no error");
    }
}
