use super::place::Places;
use super::*;

fn places(paths: &[(&str, Rule)]) -> Places {
    let guarded: Vec<_> = paths.iter().map(|(path, rule)| Guarded { path: path.into(), rule: *rule }).collect();
    Places::new(&guarded).unwrap()
}

fn at(places: &Places, path: &str) -> Position {
    path.split('/').fold(places.root(), |position, name| places.child(position, name.as_bytes()))
}

#[test]
fn rules_hold_at_their_place_and_below() {
    let places = places(&[(".git/hooks", Rule::Protect), ("secret", Rule::Hide)]);
    assert!(at(&places, ".git/hooks").is_guarded());
    assert!(at(&places, ".git/hooks/deep/pre-commit").is_guarded());
    assert!(at(&places, "secret/key").is_hidden());
    assert!(!at(&places, ".git/hooks").is_hidden());
    for free in [".git/index", "src", "src/.git/hooks", "hooks", ".github"] {
        assert!(!at(&places, free).is_guarded(), "{free}");
    }
}

#[test]
fn way_to_a_guarded_place_is_fixed() {
    let places = places(&[("a/b/c", Rule::Protect)]);
    assert!(at(&places, "a").is_fixed() && at(&places, "a/b").is_fixed());
    assert!(!at(&places, "a/b").is_guarded());
    assert!(!at(&places, "a/x").is_fixed());
}

#[test]
fn stricter_rule_wins_whatever_the_order() {
    for order in [[Rule::Protect, Rule::Hide], [Rule::Hide, Rule::Protect]] {
        let places = places(&[("a", order[0]), ("a", order[1])]);
        assert!(at(&places, "a").is_hidden());
    }
    let inner = places(&[("a", Rule::Hide), ("a/b", Rule::Protect)]);
    assert!(at(&inner, "a/b").is_hidden());
}

#[test]
fn spelling_does_not_matter() {
    let places = places(&[(".git/hooks", Rule::Protect), ("straße", Rule::Hide)]);
    // The last has a long s, which is an S in upper case.
    for path in [".GIT/hooks", ".git/HOOKS", ".Git/Hooks", ".git/hook\u{17f}"] {
        assert!(at(&places, path).is_guarded(), "{path}");
    }
    assert!(at(&places, "STRASSE").is_hidden());
}

#[test]
fn paths_that_leave_the_share_are_no_rules() {
    for path in ["/etc", "../x", "a/../b"] {
        assert!(Places::new(&[Guarded { path: path.into(), rule: Rule::Hide }]).is_err(), "{path}");
    }
}
