use proptest::prelude::*;

use super::*;

fn parsed(text: &str) -> String {
    text.parse::<Rule>().unwrap().text().to_owned()
}

fn refusal(text: &str) -> String {
    text.parse::<Rule>().unwrap_err().to_string()
}

#[test]
fn every_documented_form_is_understood() {
    for (text, normal) in [
        ("93.184.216.34", "allow 93.184.216.34"),
        ("93.184.216.34:443", "allow 93.184.216.34:443"),
        ("10.0.0.0/8", "allow 10.0.0.0/8"),
        ("10.0.0.0/8:22", "allow 10.0.0.0/8:22"),
        ("2606:4700::1111", "allow 2606:4700::1111"),
        ("[2606:4700::1111]:443", "allow [2606:4700::1111]:443"),
        ("2606:4700::/32", "allow 2606:4700::/32"),
        ("[2606:4700::/32]:443", "allow [2606:4700::/32]:443"),
        ("::ffff:1.2.3.4", "allow 1.2.3.4"),
        ("API.Example.com.", "allow api.example.com"),
        ("api.example.com:443", "allow api.example.com:443"),
        ("*.pkg.example", "allow *.pkg.example"),
        ("*.pkg.example:443", "allow *.pkg.example:443"),
    ] {
        assert_eq!(parsed(text), normal, "{text}");
    }
}

#[test]
fn errors_name_the_field_the_value_and_a_right_example() {
    for (text, field, value) in [
        ("api.example.com:0", "port", "\"0\""),
        ("api.example.com:65536", "port", "\"65536\""),
        ("api.example.com:+443", "port", "\"+443\""),
        ("api.example.com:", "port", "\"\""),
        ("10.0.0.0/33", "prefix length", "\"33\""),
        ("10.0.0.1/8", "network", "\"10.0.0.1/8\""),
        ("ten/8", "network", "\"ten/8\""),
        ("::ffff:10.0.0.0/104", "network", "\"::ffff:10.0.0.0/104\""),
        ("[::1", "address", "\"[::1\""),
        ("1:2:3", "address", "\"1:2:3\""),
        ("*", "domain", "\"*\""),
        ("*.com", "domain", "\"*.com\""),
        ("a.*.com", "domain", "\"a.*.com\""),
        ("127.1", "domain", "\"127.1\""),
        ("", "domain", "\"\""),
        ("a b", "domain", "\"a b\""),
        ("evil.test\r\n", "domain", "\"evil.test\\r\\n\""),
    ] {
        let message = refusal(text);
        assert!(message.starts_with(&format!("{field} {value}: ")), "{message}");
        assert!(message.contains("(for example: "), "{message}");
    }
}

proptest! {
    #[test]
    fn any_text_is_a_rule_or_an_error(text in ".{0,80}") {
        if let Ok(rule) = text.parse::<Rule>() {
            let again: Rule = rule.text().strip_prefix("allow ").unwrap().parse().unwrap();
            prop_assert_eq!(again, rule);
        }
    }
}
