use std::path::Path;

use policy::{Flow, HostAddresses, Name, Preset, Protocol};

use super::narrow::Narrowing;
use super::read::Source;
use super::*;

const PROJECT: &str = "/home/me/src/app";

fn source(text: &str) -> Source {
    Source { path: "/config.toml".into(), text: text.into() }
}

fn parse(text: &str) -> Result<Settings, SettingsError> {
    Settings::parse(&source(text), Path::new(PROJECT))
}

fn effective(text: &str) -> Effective {
    parse(text).unwrap().network(NetworkLayer::default()).unwrap()
}

fn allows(effective: &Effective, address: &str, names: &[&str]) -> bool {
    let names: Vec<Name> = names.iter().map(|name| name.parse().unwrap()).collect();
    let flow = Flow::egress(Protocol::Tcp, address.parse().unwrap(), &names, 443);
    effective.policy().evaluate(&flow, &HostAddresses::default()).allow
}

fn narrowed(user: &str, own: &str) -> Result<Effective, SettingsError> {
    Narrowing::parse(Source { path: "/p/vmm.toml".into(), text: own.into() })?.narrow(effective(user))
}

#[test]
fn every_key_is_read() {
    let text = "engine = \"qemu\"\ncpus = 4\nmemory = \"4G\"\ndisk = \"40G\"\nimage = \"/i\"\nkernel = \"/k\"\n\
                mounts = [\"/data:/d:ro\"]\nenv = [\"A=b\"]\nuser = \"1000\"\nprotect = [\"Makefile\"]\nhide = [\".env\"]\n";
    let settings = parse(text).unwrap();
    assert_eq!(settings.engine, Some(vmm::Engine::Qemu));
    assert_eq!((settings.cpus, settings.memory, settings.disk), (Some(4), Some(vmm::Mib(4096)), Some(vmm::Mib(40960))));
    assert_eq!(
        (settings.image.unwrap().as_path(), settings.kernel.unwrap().as_path()),
        (Path::new("/i"), Path::new("/k"))
    );
    assert_eq!((settings.mounts, settings.env), (vec!["/data:/d:ro".into()], vec!["A=b".into()]));
    assert_eq!(settings.user, Some("1000".into()));
    assert_eq!((settings.protect, settings.hide), (vec!["Makefile".into()], vec![".env".into()]));
}

#[test]
fn a_project_s_table_is_nearer_than_the_top_level() {
    let text = "cpus = 2\nmounts = [\"/a\"]\n[policy]\negress = \"public\"\ndeny = [\"evil.test\"]\nhost = [1]\n\
                [project.\"/home/me/src/app\"]\ncpus = 8\nmounts = [\"/b\"]\n\
                [project.\"/home/me/src/app\".policy]\negress = \"none\"\nallow = [\"ok.test\"]\nhost = [2]\n\
                [project.\"/elsewhere\"]\ncpus = 1\n";
    let settings = parse(text).unwrap();
    assert_eq!(settings.cpus, Some(8));
    assert_eq!(settings.mounts, ["/a", "/b"]);
    let effective = settings.network(NetworkLayer::default()).unwrap();
    assert_eq!(effective.egress.value, Preset::None);
    let rules: Vec<_> = effective.rules.iter().map(|rule| rule.value.text()).collect();
    assert_eq!(rules, ["allow ok.test", "deny evil.test"]);
    assert_eq!(effective.host.iter().map(|port| port.value).collect::<Vec<_>>(), [Some(2)]);
    assert_eq!(effective.origin_of("allow ok.test").unwrap().to_string(), "/config.toml:12");
}

#[test]
fn a_folder_s_table_holds_below_it_and_the_closest_counts() {
    let text = "cpus = 1\nmemory = \"1G\"\n[project.\"/home/me/src\"]\ncpus = 2\nengine = \"qemu\"\n\
                [project.\"/home/me/src\".policy]\negress = \"none\"\n\
                [project.\"/home/me/src/app\"]\ncpus = 3\n[project.\"/home/me/src/ap\"]\ncpus = 4\n\
                [project.\"/home/me/src/app/deep\"]\ncpus = 5\n[project.\"/home\"]\ncpus = 6\nmemory = \"2G\"\n";
    let settings = parse(text).unwrap();
    assert_eq!((settings.cpus, settings.memory), (Some(3), Some(vmm::Mib(2048))));
    assert_eq!(settings.engine, Some(vmm::Engine::Qemu));
    // What a folder above takes away stays away.
    assert!(settings.network(NetworkLayer::default()).unwrap().policy().is_closed());
    let elsewhere = Settings::parse(&source(text), Path::new("/home/me/src/apple")).unwrap();
    assert_eq!(elsewhere.cpus, Some(2));
    let above = Settings::parse(&source(text), Path::new("/home/me")).unwrap();
    assert_eq!((above.cpus, above.engine), (Some(6), None));
}

fn ports(listed: &[&str], auto: Option<bool>) -> Ports {
    Ports { publish: listed.iter().map(|port| port.parse().unwrap()).collect(), auto }
}

#[test]
fn ports_add_up_and_the_nearer_one_takes_a_port_of_the_host() {
    let text = "publish = [\"8080:80\", \"9000:90\"]\nauto_publish = true\n\
                [project.\"/home/me/src/app\"]\npublish = [\"8080:81\", \"0.0.0.0:9000:91\"]\n";
    let settings = parse(text).unwrap();
    let flags = ports(&["9000:92/udp", "9000:93"], None);
    let expected = ["8080:81", "0.0.0.0:9000:91", "9000:92/udp", "9000:93"];
    assert_eq!(settings.ports(flags).unwrap(), ports(&expected, Some(true)));
    assert_eq!(settings.ports(ports(&[], Some(false))).unwrap().auto, Some(false));
}

#[test]
fn a_project_s_own_file_publishes_nothing() {
    let user = parse("publish = [\"8080:80\", \"9000:90\"]\n").unwrap().ports(Ports::default()).unwrap();
    let narrowed = |own: &str| {
        Narrowing::parse(Source { path: "/p/vmm.toml".into(), text: own.into() })?.narrow_ports(user.clone())
    };
    assert_eq!(narrowed("publish = [\"9000:90\"]\n").unwrap(), ports(&["9000:90"], None));
    assert_eq!(narrowed("publish = []\nauto_publish = false\n").unwrap(), ports(&[], Some(false)));
    for (own, words) in [
        ("publish = [\n\"9000:90\",\n\"7000:70\"]\n", [":3: publish: ", "7000:70", "can only narrow"]),
        ("publish = [\"0.0.0.0:8080:80\"]\n", [":1: publish: ", "0.0.0.0:8080:80", "can only narrow"]),
        ("\nauto_publish = true\n", [":2: auto_publish: ", "by themselves", "can only narrow"]),
        ("publish = [\"http\"]\n", [":1: publish: ", "\"http\"", "8080:80"]),
    ] {
        let error = narrowed(own).unwrap_err().to_string();
        words.iter().for_each(|word| assert!(error.contains(word), "{word:?} is not in {error}"));
    }
}

#[test]
fn flags_are_nearer_than_files_and_add_host_ports() {
    let settings = parse("network = true\n[policy]\negress = \"none\"\nhost = [1]\nlan = true\n").unwrap();
    let flags = NetworkLayer {
        egress: Some(Sourced::by_flag(Preset::Public)),
        host: Some(vec![Sourced::by_flag(Some(2))]),
        ..NetworkLayer::default()
    };
    let effective = settings.network(flags).unwrap();
    assert_eq!((effective.egress.value, effective.lan.value), (Preset::Public, true));
    assert_eq!(effective.host.iter().map(|port| port.value).collect::<Vec<_>>(), [Some(2), Some(1)]);
}

#[test]
fn a_running_vm_is_told_the_same_policy() {
    let text = "[policy]\negress = \"none\"\nallow = [\"a.test:443\", \"[2606:4700::/32]:80\", \"10.0.0.0/8\"]\n\
                deny = [\"b.test\"]\nlan = true\nhost = [80, 443]\n";
    let effective = effective(text);
    assert_eq!(policy::Policy::from_table(&effective.table()).unwrap(), effective.policy());
    let off = parse("network = false\n").unwrap().network(NetworkLayer::default()).unwrap();
    assert!(policy::Policy::from_table(&off.table()).unwrap().is_closed());
}

#[test]
fn an_empty_allow_list_denies() {
    let effective = effective("[policy]\negress = \"none\"\nallow = []\n");
    assert!(effective.policy().is_closed());
    assert!(!allows(&effective, "93.184.216.34", &["a.test"]));
}

#[test]
fn an_allow_list_without_egress_is_all_that_is_allowed() {
    let top = "[policy]\negress = \"public\"\n[project.\"/home/me/src/app\".policy]\n";
    assert!(effective("[policy]\nallow = []\n").policy().is_closed());
    assert!(effective(&format!("{top}allow = []\n")).policy().is_closed());
    let listed = effective(&format!("{top}allow = [\"a.test\"]\n"));
    assert!(allows(&listed, "93.184.216.34", &["a.test"]) && !allows(&listed, "93.184.216.34", &["b.test"]));
    assert!(narrowed("", "[policy]\nallow = []\n").unwrap().policy().is_closed());
}

#[test]
fn windows_line_ends_and_duplicates_are_fine() {
    let text = "[policy]\r\negress = \"none\"\r\nallow = [\r\n  \"a.test\",\r\n  \"a.test\",\r\n]\r\n";
    let effective = effective(text);
    assert_eq!(effective.rules.len(), 1);
    assert_eq!(effective.rules[0].origin.to_string(), "/config.toml:4");
}

#[test]
fn ranges_of_everything_open_the_public_internet_only() {
    let effective = effective("[policy]\negress = \"none\"\nallow = [\"0.0.0.0/0\", \"::/0\"]\n");
    assert!(allows(&effective, "93.184.216.34", &[]));
    for address in ["10.0.0.5", "169.254.169.254", "127.0.0.1", "fd00::1"] {
        assert!(!allows(&effective, address, &[]), "{address}");
    }
}

#[test]
fn errors_name_line_key_value_and_a_right_example() {
    for (text, words) in [
        ("cpu = 2\n", &["/config.toml:1: ", "cpu", "expected", "cpus"][..]),
        ("\ncpus = \"two\"\n", &[":2: cpus: ", "two", "cpus = 4"]),
        ("memory = 2048\n", &[":1: memory: ", "2048", "\"4G\""]),
        ("memory = \"2X\"\n", &[":1: memory: ", "2X", "2G"]),
        ("engine = \"xen\"\n", &[":1: engine: ", "xen", "kvm"]),
        ("mounts = [\n\"data\",\n]\n", &[":2: mounts: ", "\"data\"", "~/"]),
        ("publish = [\n\"8080:80\",\n\"8080\"]\n", &[":3: publish: ", "\"8080\"", "8080:80"]),
        ("publish = \"8080:80\"\n", &[":1: publish: ", "publish = [\"8080:80\""]),
        ("auto_publish = \"yes\"\n", &[":1: auto_publish: ", "yes", "auto_publish = true"]),
        ("[policy]\negress = \"all\"\n", &[":2: policy.egress: ", "all", "public"]),
        ("[policy]\negress = \"none\"\nallow = [\"*\"]\n", &[":3: policy.allow: ", "\"*\"", "api.example.com:443"]),
        (
            "[policy]\negress = \"none\"\nallow = [\n\"ok.test\",\n\"*.com\"]\n",
            &[":5: policy.allow: ", "*.com", "*.example.com"],
        ),
        ("[policy]\ndeny = [\"10.0.0.0/33\"]\n", &[":2: policy.deny: ", "33", "10.20.0.0/16"]),
        ("[policy]\nhost = [70000]\n", &[":2: policy.host", "70000", "host = [5432]"]),
        ("[policy]\nhost = [0]\n", &[":2: policy.host", "1 to 65535"]),
        ("[policy]\nalow = []\n", &[":2: policy", "alow", "allow"]),
        ("[project.\"src/app\"]\ncpus = 1\n", &[":1: project", "src/app", "[project.\"/home"]),
        ("[project.\"/a\".project.\"/b\"]\ncpus = 1\n", &["project: "]),
        ("[policy]\negress = \"none\"\ndeny = [\"a.test\"]\nallow = [\"a.test\"]\n", &[":4: policy.allow: ", "a.test"]),
        ("cpus = 2\ncpus = 3\n", &[":2: ", "duplicate key"]),
        ("cpus = \n", &[":1: ", "not TOML"]),
    ] {
        let error = parse(text).unwrap_err().to_string();
        for word in words {
            assert!(error.contains(word), "{word:?} is not in {error:?} about {text:?}");
        }
        assert!(!error.contains('\n'), "{error}");
    }
}

#[test]
fn a_file_of_a_megabyte_is_read_and_a_longer_one_refused() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("config.toml");
    let rule = |index| format!("  \"host-{index}.{}.example.com:443\", # {}\n", "a".repeat(60), "-".repeat(130));
    let text = format!("[policy]\nallow = [\n{}]\n", (0..policy::MAX_RULES).map(rule).collect::<String>());
    assert!(text.len() > 900_000 && text.len() < 1 << 20, "{}", text.len());
    std::fs::write(&path, &text).unwrap();
    let settings = Settings::read(&path, Path::new(PROJECT)).unwrap();
    let rules = settings.network(NetworkLayer::default()).unwrap().rules;
    assert_eq!(rules.len(), policy::MAX_RULES);
    assert!(rules.last().unwrap().origin.to_string().ends_with(&format!(":{}", 2 + policy::MAX_RULES)));

    std::fs::write(&path, text + &"#".repeat(200_000)).unwrap();
    assert!(Settings::read(&path, Path::new(PROJECT)).unwrap_err().to_string().contains("longer than 1 MiB"));
}

#[test]
fn too_many_rules_are_refused() {
    let rules = "\"a.test\",".repeat(policy::MAX_RULES + 1);
    let error = parse(&format!("[policy]\nallow = [{rules}]\n")).unwrap_err().to_string();
    assert!(error.contains(":2: policy.allow: 4097 rules"), "{error}");
}

#[test]
fn what_is_not_text_or_no_file_is_an_error_and_nothing_is_no_settings() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("config.toml");
    assert!(Source::read(&path, true).unwrap().is_none());
    std::fs::write(&path, b"cpus = 1\n\xff\xfe").unwrap();
    assert!(Source::read(&path, true).unwrap_err().to_string().contains(":2: it is not UTF-8"));
    assert!(Source::read(folder.path(), true).unwrap_err().to_string().contains("not a regular file"));
    let link = folder.path().join("link");
    std::os::unix::fs::symlink(&path, &link).unwrap();
    assert!(Source::read(&link, false).is_err());
}

#[test]
fn settings_inside_the_project_are_not_the_user_s() {
    let folder = tempfile::tempdir().unwrap();
    let project = folder.path().canonicalize().unwrap();
    let path = project.join("config.toml");
    std::fs::write(&path, "cpus = 1\n").unwrap();
    assert!(matches!(Settings::read(&path, &project), Err(crate::Error::Share { .. })));
    assert_eq!(Settings::read(&path, Path::new(PROJECT)).unwrap().cpus, Some(1));
}

#[test]
fn a_project_s_own_file_narrows() {
    let own = "[policy]\negress = \"none\"\nallow = [\"api.test:443\", \"93.184.216.0/24\"]\ndeny = [\"evil.test\"]\n";
    let effective = narrowed("", own).unwrap();
    assert!(allows(&effective, "93.184.216.34", &[]));
    assert!(allows(&effective, "1.1.1.1", &["api.test"]));
    assert!(!allows(&effective, "1.1.1.1", &[]));
    assert!(!allows(&effective, "1.1.1.1", &["api.test", "evil.test"]));
    assert!(!narrowed("", "network = false\n").unwrap().network.value);
    let user = "[policy]\nlan = true\nhost = [1, 2]\n";
    let effective = narrowed(user, "[policy]\nlan = false\nhost = [2]\n").unwrap();
    assert_eq!((effective.lan.value, effective.host.len()), (false, 1));
}

#[test]
fn the_user_s_denials_stand_before_a_project_s_allow_list() {
    let user = "[policy]\negress = \"public\"\ndeny = [\"api.test\", \"93.184.216.34\"]\n";
    let effective = narrowed(user, "[policy]\negress = \"none\"\nallow = [\"api.test\", \"93.184.216.34\"]\n").unwrap();
    assert!(!allows(&effective, "1.1.1.1", &["api.test"]));
    assert!(!allows(&effective, "93.184.216.34", &[]));
}

#[test]
fn a_project_s_own_file_opens_nothing() {
    let listed = "[policy]\negress = \"none\"\nallow = [\"a.test\"]\n";
    for (user, own, key) in [
        ("", "[policy]\negress = \"open\"\n", "policy.egress"),
        (listed, "[policy]\negress = \"public\"\n", "policy.egress"),
        (listed, "[policy]\negress = \"none\"\nallow = [\"b.test\"]\n", "policy.allow"),
        ("", "[policy]\negress = \"none\"\nallow = [\"10.0.0.0/8\"]\n", "policy.allow"),
        ("", "[policy]\negress = \"none\"\nallow = [\"169.254.169.254\"]\n", "policy.allow"),
        ("", "[policy]\negress = \"none\"\nallow = [\"64:ff9b::10.0.0.1\"]\n", "policy.allow"),
        ("", "[policy]\negress = \"public\"\nallow = [\"192.168.0.0/16\"]\n", "policy.allow"),
        ("", "[policy]\nlan = true\n", "policy.lan"),
        ("", "[policy]\nhost = [80]\n", "policy.host"),
        ("network = false\n", "network = true\n", "network"),
        ("", "cpus = 8\n", "cpus"),
        ("", "mounts = [\"/\"]\n", "mounts"),
    ] {
        let error = narrowed(user, own).unwrap_err().to_string();
        assert!(error.contains(key) && error.contains("can only narrow"), "{own:?}: {error}");
        assert!(error.starts_with("/p/vmm.toml:"), "{error}");
    }
    assert!(narrowed(listed, listed).is_ok());
}
