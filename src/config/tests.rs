use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use proptest::prelude::*;

use super::*;
use crate::core::opcache::OpcacheRules;
use crate::core::policy::{After, Identity, Overdue, StampRules, StrayAction, TargetRules};

/// A directory with configuration files, and their paths without it in what is shown.
struct Tree(tempfile::TempDir);

impl Tree {
    fn new(files: &[(&str, &str)]) -> Tree {
        let tree = Tree(tempfile::tempdir().unwrap());
        for (path, text) in files {
            tree.write(path, text);
        }
        tree
    }

    fn path(&self, path: &str) -> PathBuf {
        self.0.path().join(path)
    }

    fn write(&self, path: &str, text: &str) {
        fs::create_dir_all(self.path(path).parent().unwrap()).unwrap();
        fs::write(self.path(path), text).unwrap();
    }

    fn roots(&self) -> Roots {
        Roots { etc: self.path("etc"), run: self.path("run"), usr_lib: self.path("usr/lib") }
    }

    fn load(&self) -> Result<Loaded, Errors> {
        load(&self.roots())
    }

    fn shown(&self, errors: &Errors) -> String {
        errors.to_string().replace(&format!("{}/", self.0.path().display()), "")
    }

    fn errors(&self) -> String {
        self.shown(&self.load().unwrap_err())
    }
}

fn errors_of(text: &str) -> String {
    Tree::new(&[("etc/config.toml", text)]).errors()
}

fn policy_of(text: &str) -> Policy {
    let tree = Tree::new(&[("etc/config.toml", text)]);
    tree.load().unwrap_or_else(|errors| panic!("{errors}")).policy
}

const STAMP: &str = "[stamp]\npath = \"/srv/deploy/stamp\"\n";

fn with_stamp(text: &str) -> String {
    format!("{STAMP}{text}")
}

#[test]
fn nothing_is_a_configuration() {
    assert_eq!(Tree::new(&[]).load().unwrap(), Loaded { policy: Policy::default(), files: vec![] });
    assert_eq!(policy_of("# nothing yet\n"), Policy::default());
    assert_eq!(policy_of("[stamp]\n").stamp, StampRules::default());
}

#[test]
fn the_defaults_are_those_of_the_contract() {
    let policy = policy_of(&with_stamp(
        r#"
        [pool]
        depool = ["/usr/local/bin/depool"]
        repool = ["/usr/local/bin/pool", "all services"]
        check = ["/usr/local/bin/pool-state"]
        [target.jobrunner]
        kind = "php-fpm"
        unit = "php8.2-fpm.service"
        [target.maintenance]
        kind = "scheduled"
        units = ["mediawiki_job_*.service"]
        [target.workers]
        kind = "service"
        units = ["queue-worker@*.service"]
        [target.strays]
        kind = "strays"
        code = ["php*"]
        "#,
    ));
    insta::assert_debug_snapshot!(policy);
}

#[test]
fn every_key_is_read() {
    let policy = policy_of(
        r#"
        [stamp]
        path = "/srv/stamp"
        settle = "0ms"
        min_interval = "1m 30s"
        identity = "content"
        [pool.jobrunner]
        depool = ["/bin/d", "x"]
        repool = ["/bin/r"]
        check = ["/bin/c"]
        timeout = "1s"
        quiet = "0s"
        [pool.videoscaler]
        depool = ["/bin/d", "y"]
        repool = ["/bin/r"]
        check = ["/bin/c"]
        [target.fpm]
        kind = "php-fpm"
        unit = "php8.2-fpm.service"
        strategy = "restart"
        drain_timeout = "250ms"
        term_timeout = "1s"
        status = "/run/php/status.sock"
        status_path = "/fpm-status"
        warm = ["/w/health-check.php", "/w/warm.php?x=1"]
        proof = { script = "/srv/app/version.php", expect = "id" }
        opcache = { min_free = "200M", min_free_keys = 5_000, max_wasted = "20%", every = "30s" }
        [target.jobs]
        kind = "scheduled"
        units = ["a.service", "a.service", "mediawiki_job_cron-refreshlinks-s1@1.service"]
        exclude = ["b*.service"]
        drain_timeout = "1h"
        overdue = "finish"
        term_timeout = "2m"
        after = "until-next"
        quiet_within = "7d"
        code = ["php*", "refreshLinks"]
        [target.workers]
        kind = "service"
        units = ["worker.service"]
        code = ["php8.[234]"]
        [target.strays]
        kind = "strays"
        code = ["php*"]
        action = "stop"
        drain_timeout = "1m"
        term_timeout = "5s"
        "#,
    );
    assert_eq!(policy.targets["jobs"].code(), ["php*", "refreshLinks"]);
    let TargetRules::Strays(strays) = &policy.targets["strays"] else { panic!() };
    assert_eq!(
        (strays.action, strays.drain_timeout, strays.term_timeout),
        (StrayAction::Stop, Duration::from_secs(60), Duration::from_secs(5))
    );
    assert_eq!(policy.targets["strays"].code(), ["php*"]);
    assert_eq!(policy.targets["workers"].code(), ["php8.[234]"]);
    assert_eq!(policy.stamp.identity, Identity::Content);
    assert_eq!(policy.stamp.min_interval, Duration::from_secs(90));
    assert_eq!(policy.pools.keys().collect::<Vec<_>>(), ["jobrunner", "videoscaler"]);
    let TargetRules::Scheduled(jobs) = &policy.targets["jobs"] else { panic!() };
    assert_eq!((jobs.overdue, jobs.after), (Some(Overdue::Finish), After::UntilNext));
    assert_eq!(jobs.units, ["a.service", "mediawiki_job_cron-refreshlinks-s1@1.service"], "a name that is given twice counts once");
    insta::assert_debug_snapshot!(policy.targets["fpm"]);
}

#[test]
fn unknown_keys_come_with_a_guess() {
    insta::assert_snapshot!(errors_of(
        r#"colour = "blue"
[stmp]
path = "/srv/stamp"
[stamp]
path = "/srv/stamp"
setle = "1s"
[pool]
depool = ["/d"]
repool = ["/r"]
check = ["/c"]
verify = ["/v"]
[target.fpm]
kind = "php-fpm"
units = ["php8.2-fpm.service"]
unit = "php8.2-fpm.service"
drain-timout = "5s"
proof = { script = "/x.php", expekt = "id" }
quiet_within = "5s"
[target.jobs]
kind = "scheduled"
unit = "x.service"
units = ["x.service"]
proof = { script = "/x.php" }
"#
    ));
}

#[test]
fn keys_without_a_feature_say_so() {
    insta::assert_snapshot!(errors_of(
        r#"mode = "act"
[slot]
backend = "etcd"
[stamp]
path = "/srv/stamp"
begin_timeout = "15m"
[pool]
haproxy = "/run/haproxy/admin.sock"
servers = ["jobs/mw1"]
file = "/run/restart-agent/pooled"
[target.videoscaler]
kind = "php-fpm"
unit = "php8.2-fpm.service"
strategy = "generations"
socket = "/run/php/job/current.sock"
max_generations = 8
[target.maintenance]
kind = "scheduled"
units = ["x.service"]
hold_timeout = "5m"
"#
    ));
}

#[test]
fn an_opcache_guard_says_what_to_write() {
    insta::assert_snapshot!(errors_of(&with_stamp(
        r#"[target.a]
kind = "php-fpm"
unit = "a.service"
[target.a.opcache]
min_free = "200"
min_free_keys = "5000"
max_wasted = 20
every = "0s"
min_fre = "1M"
[target.b]
kind = "php-fpm"
strategy = "generations"
unit = "b@.service"
socket = "/run/b/current.sock"
opcache = { min_free_keys = 0, max_wasted = "+5%" }
[target.c]
kind = "php-fpm"
unit = "c.service"
opcache = "200M"
[target.d]
kind = "service"
units = ["d.service"]
opcache = { max_wasted = "100%" }
"#
    )));
    let text = with_stamp("[target.a]\nkind = \"php-fpm\"\nunit = \"a.service\"\nopcache = {}\n");
    let guard = OpcacheRules { min_free: None, min_free_keys: None, max_wasted: None, every: Duration::from_secs(60) };
    assert_eq!(policy_of(&text).targets["a"].opcache(), Some(&guard));
}

#[test]
fn wrong_values_say_what_to_write() {
    insta::assert_snapshot!(errors_of(
        r#"[stamp]
path = "srv/stamp"
settle = 500
min_interval = "5 sec"
identity = "ctime"
[pool]
depool = ["depool"]
repool = []
check = "/usr/local/bin/check"
timeout = "0s"
[target.fpm]
kind = "php-fpm"
unit = "php8.*-fpm.service"
term_timeout = "0ms"
drain_timeout = 5.5
status = "run/php.sock"
warm = ["w/health-check.php", 7]
proof = "/srv/app/version.php"
[target.jobs]
kind = "scheduled"
units = [
    "a",
    "a.timer",
    "/etc/systemd/system/b.service",
    "worker@.service",
    "c d.service",
    "[.service",
    "x.socket",
]
overdue = true
after = "til-next"
quiet_within = "99999999d"
code = ["/usr/bin/php", "", "php["]
[target.workers]
kind = "service"
units = []
code = []
[target.strays]
kind = "strays"
code = ["php*", "*", "bash", "[s]u"]
action = "kill"
units = ["x.service"]
[target.other]
kind = "php_fpm"
"#
    ));
}

#[test]
fn what_is_missing_is_told_at_the_header() {
    insta::assert_snapshot!(errors_of(
        "[target.fpm]\nkind = \"php-fpm\"\n[target.jobs]\nunits = [\"x.service\"]\n[pool]\nquiet = \"1s\"\n"
    ));
}

#[test]
fn combinations_that_cannot_be() {
    insta::assert_snapshot!(errors_of(&with_stamp(
        r#"[pool]
check = ["/c"]
[pool.other]
depool = ["/d"]
[target."Job Runner"]
kind = "service"
units = ["a.service"]
[target.one]
kind = "service"
units = ["b.service", "php*.service"]
[target.two]
kind = "service"
units = ["b.service"]
[target.fpm]
kind = "php-fpm"
unit = "php8.2-fpm.service"
"#
    )));
}

#[test]
fn tables_of_the_wrong_shape() {
    insta::assert_snapshot!(errors_of(
        "pool = \"x\"\n[[stamp]]\npath = \"/x\"\n[target]\nkind = \"service\"\nunits = [\"b.service\"]\n[[target.x]]\nkind = \"service\"\n"
    ));
}

#[test]
fn an_excluded_unit_belongs_to_the_other() {
    let text = with_stamp(
        r#"[target.all]
kind = "scheduled"
units = ["job_*.service", "extra.service"]
exclude = ["job_mail.service", "ex*.service"]
[target.mail]
kind = "scheduled"
units = ["job_mail.service", "extra.service"]
"#,
    );
    assert_eq!(policy_of(&text).targets.len(), 2);
}

#[test]
fn syntax_errors_have_a_caret() {
    insta::assert_snapshot!(errors_of("[stamp]\npath = /srv/stamp\n[target.x\nkind = \"service\"\n"));
    insta::assert_snapshot!(errors_of("[stamp]\npath = \"/a\"\npath = \"/b\"\n"));
}

#[test]
fn files_that_are_no_text() {
    let tree = Tree::new(&[("etc/conf.d/20-big.toml", &"#".repeat(1 + (1 << 20))), ("etc/conf.d/30-ok.toml", "[stamp]\nptah = 1\n")]);
    fs::write(tree.path("etc/config.toml"), b"[stamp]\npath = \"/srv/\xff\"\n").unwrap();
    fs::create_dir(tree.path("etc/conf.d/40-directory.toml")).unwrap();
    std::os::unix::fs::symlink("nowhere", tree.path("etc/conf.d/50-broken.toml")).unwrap();
    insta::assert_snapshot!(tree.errors());
}

#[test]
fn later_files_win_key_by_key() {
    let tree = Tree::new(&[
        ("etc/config.toml", &with_stamp("settle = \"1s\"\n[target.jobs]\nkind = \"scheduled\"\nunits = [\"a.service\", \"b.service\"]\n")),
        ("usr/lib/conf.d/10-vendor.toml", "[stamp]\nsettle = \"2s\"\n[target.jobs]\nterm_timeout = \"1s\"\n"),
        ("run/conf.d/20-units.toml", "[target.jobs]\nunits = [\"c.service\"]\n"),
        ("etc/conf.d/15-site.toml", "[stamp]\nsettle = \"3s\"\n"),
        ("etc/conf.d/ignored.conf", "nonsense"),
        ("etc/conf.d/.hidden.toml", "nonsense"),
        ("etc/conf.d/30-x.toml.dpkg-dist", "nonsense"),
    ]);
    let Loaded { policy, files } = tree.load().unwrap();
    assert_eq!(policy.stamp.settle, Duration::from_secs(3));
    let TargetRules::Scheduled(jobs) = &policy.targets["jobs"] else { panic!() };
    assert_eq!(jobs.units, ["c.service"], "a list is replaced as a whole");
    assert_eq!(jobs.term_timeout, Duration::from_secs(1));
    let names = ["etc/config.toml", "usr/lib/conf.d/10-vendor.toml", "etc/conf.d/15-site.toml", "run/conf.d/20-units.toml"];
    assert_eq!(files, names.map(|name| tree.path(name)));
}

#[test]
fn the_same_name_masks() {
    let tree = Tree::new(&[
        ("usr/lib/conf.d/10.toml", "[stamp]\nsettle = \"1s\"\nmin_interval = \"1s\"\n"),
        ("run/conf.d/10.toml", "[stamp]\nsettle = \"2s\"\n"),
        ("usr/lib/conf.d/20.toml", "[stamp]\nidentity = \"content\"\n"),
        ("elsewhere.toml", "[stamp]\npath = \"/linked\"\n"),
    ]);
    fs::create_dir_all(tree.path("etc/conf.d")).unwrap();
    std::os::unix::fs::symlink("/dev/null", tree.path("etc/conf.d/20.toml")).unwrap();
    std::os::unix::fs::symlink("../../elsewhere.toml", tree.path("etc/conf.d/30.toml")).unwrap();
    let stamp = tree.load().unwrap().policy.stamp;
    assert_eq!(stamp, StampRules { path: "/linked".into(), settle: Duration::from_secs(2), ..StampRules::default() });
}

#[test]
fn an_error_points_into_the_file_that_made_it() {
    let tree = Tree::new(&[
        ("etc/config.toml", &with_stamp("[target.jobs]\nkind = \"scheduled\"\nunits = [\"a.service\"]\nquiet_within = \"1d\"\n")),
        ("etc/conf.d/10.toml", "\n\n[target.jobs]\nkind = \"service\"\nterm_timeout = \"x\"\n"),
        ("etc/conf.d/20.toml", "[target.late]\n"),
    ]);
    insta::assert_snapshot!(tree.errors());
    insta::assert_snapshot!(tree.load().unwrap_err().first_line().replace(&format!("{}/", tree.0.path().display()), ""));
}

#[test]
fn a_broken_file_has_no_follow_up_errors() {
    let tree = Tree::new(&[("etc/config.toml", "[stamp\n"), ("etc/conf.d/10.toml", "[target.jobs]\nkind = \"service\"\n")]);
    assert_eq!(tree.load().unwrap_err().problems().len(), 1, "{}", tree.errors());
}

#[test]
fn fragments_are_checked_alone() {
    let tree = Tree::new(&[
        ("target.toml", "[target.jobs]\nkind = \"scheduled\"\nunits = [\"a.service\"]\n"),
        ("override.toml", "[target.jobs]\ndrain_timeout = \"1m\"\n[pool]\ntimeout = \"2m\"\n"),
        ("half.toml", "[target.jobs]\nkind = \"scheduled\"\n"),
        ("wrong.toml", "[target.jobs]\ndrain_timeout = 5\nfoo = 1\nask = [\"php\"]\n"),
    ]);
    let check = |names: &[&str]| check_files(&names.iter().map(|name| tree.path(name)).collect::<Vec<_>>());
    check(&["target.toml"]).unwrap();
    check(&["override.toml"]).unwrap();
    check(&["half.toml", "target.toml"]).unwrap();
    insta::assert_snapshot!(tree.shown(&check(&["half.toml"]).unwrap_err()));
    insta::assert_snapshot!(tree.shown(&check(&["wrong.toml", "absent.toml"]).unwrap_err()));
}

#[test]
fn a_long_line_is_cut_around_the_caret() {
    let long = format!("[stamp]\npath = \"/srv/stamp\" # {}\n", "x".repeat(300));
    let text = format!(
        "{long}[target.a]\nkind = \"service\"\nunits = [{}\t\"bad\", \"c.service\"]\n",
        "\"é.service\", ".repeat(30).replace('é', "a")
    );
    insta::assert_snapshot!(errors_of(&text));
}

#[test]
fn words_of_a_command_stay_out_of_the_message_t40() {
    let tree = Tree::new(&[("etc/config.toml", "[pool]\ndepool = [\"curl -u me:secret\"]\nrepool = [\"/r\"]\ncheck = [\"/c\"]\n")]);
    let errors = tree.load().unwrap_err();
    assert!(!errors.first_line().contains("secret"), "{}", errors.first_line());
    assert!(errors.to_string().contains("secret"), "the full text shows the line");
}

#[test]
fn everything_is_bounded() {
    let many: String = (0..300).map(|i| format!("[target.t{i}]\nkind = \"service\"\nunits = [\"u{i}.service\"]\n")).collect();
    assert!(errors_of(&with_stamp(&many)).contains("there are 300 targets, and the limit is 256"));
    let many: String = (0..65).map(|i| format!("[pool.p{i}]\ndepool = [\"/d\"]\nrepool = [\"/r\"]\ncheck = [\"/c\"]\n")).collect();
    assert!(errors_of(&many).contains("there are 65 pools, and the limit is 64"));
    let many: String = (0..10_000).map(|i| format!("k{i} = 1\n")).collect();
    assert!(errors_of(&many).ends_with("… and 9900 more problems"));
    let units: String = (0..40_000).map(|i| format!("\"u{i}.service\", ")).collect();
    assert!(errors_of(&with_stamp(&format!("[target.x]\nkind = \"service\"\nunits = [{units}]\n"))).contains("the limit is 4096"));
    let deep = format!("x = {}1{}\n", "[".repeat(100_000), "]".repeat(100_000));
    assert!(!errors_of(&deep).is_empty());
}

#[test]
fn every_default_is_a_good_value() {
    for key in keys::KEYS {
        let section::Fallback::Is(text) = key.default else { continue };
        match key.takes {
            section::Type::Time | section::Type::TimeAboveZero => assert!(crate::core::time::Span::parse(text).is_ok(), "{}", key.name),
            section::Type::Word { of, .. } => assert!(of.contains(&text), "{}", key.name),
            section::Type::Count => assert!(text.parse::<u32>().is_ok_and(|count| (1..=1000).contains(&count)), "{}", key.name),
            other => panic!("{}: {other:?} has no default", key.name),
        }
    }
    for word in keys::KINDS {
        assert!(section::Section::of_kind(word).is_some());
    }
}

#[test]
fn the_reference_page_is_up_to_date() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/reference/configuration.md");
    if std::env::var_os("UPDATE").is_some() {
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, reference::render()).unwrap();
    }
    assert!(
        fs::read_to_string(&path).unwrap_or_default() == reference::render(),
        "UPDATE=1 cargo test --lib config:: rewrites {}",
        path.display()
    );
}

#[test]
fn what_the_documents_show_is_right() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut shown = 0;
    let documents = ["README.md", "docs/guide/jobrunner.md", "docs/guide/maintenance.md", "docs/guide/service.md", "docs/guide/strays.md"];
    for document in documents.into_iter().chain(["docs/guide/cooperation.md"]) {
        let text = fs::read_to_string(root.join(document)).unwrap();
        for block in text.split("```toml\n").skip(1) {
            // A block in a list is indented by three blanks, and TOML does not mind.
            let block = block.split("```").next().unwrap();
            let tree = Tree::new(&[("block.toml", block)]);
            check_files(&[tree.path("block.toml")]).unwrap_or_else(|errors| panic!("{document}: {errors}"));
            shown += 1;
        }
    }
    assert_eq!(shown, 10);
    let installed = fs::read_to_string(root.join("packaging/debian/config.toml")).unwrap();
    assert_eq!(policy_of(&installed), Policy::default(), "the installed configuration does nothing");
    let example: String = installed.lines().filter_map(|line| line.strip_prefix("#   ")).map(|line| format!("{line}\n")).collect();
    assert_eq!(policy_of(&example).targets.len(), 1, "and its example does something: {example}");
}

/// Text that is often TOML, and often a configuration.
fn texts() -> impl Strategy<Value = String> {
    let word = prop_oneof![
        proptest::sample::select(keys::KEYS.iter().map(|key| key.name.to_string()).collect::<Vec<_>>()),
        proptest::sample::select(keys::NOT_YET.iter().map(|(_, name)| (*name).to_string()).collect::<Vec<_>>()),
        "[a-zA-Zé\"._-]{0,8}",
    ];
    let header = prop_oneof![
        Just("[stamp]".to_string()),
        Just("[pool]".to_string()),
        "\\[pool\\.[a-c]\\]",
        "\\[target\\.[a-cA é\"]{1,3}\\]",
        "\\[\\[target(\\.a)?\\]\\]",
        Just("[target]".to_string()),
    ];
    let text = prop_oneof![
        "[a-c*@./\\[\\]!é\t-]{0,8}(\\.service)?",
        "/[a-z/.]{0,6}",
        "[0-9]{1,25}(ms|s|m|h|d|x)?",
        Just("php-fpm".into()),
        Just("scheduled".into()),
        Just("service".into()),
        "\\PC{0,12}"
    ];
    let string = text.prop_map(|text| format!("{text:?}"));
    let value = prop_oneof![
        string.clone(),
        proptest::collection::vec(string.clone(), 0..4).prop_map(|items| format!("[{}]", items.join(",\n"))),
        string.prop_map(|text| format!("{{ script = {text} }}")),
        "[0-9]{1,30}(\\.[0-9])?",
        Just("true".into()),
        Just("1979-05-27T07:32:00Z".into()),
        "\\PC{0,12}",
    ];
    let line = prop_oneof![1 => header, 4 => (word, value).prop_map(|(word, value)| format!("{word} = {value}")), 1 => "\\PC{0,20}"];
    proptest::collection::vec(line, 0..12).prop_map(|lines| lines.join("\n"))
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]

    #[test]
    fn no_text_panics(one in texts(), two in texts()) {
        let tree = Tree::new(&[("etc/config.toml", &one), ("etc/conf.d/10.toml", &two)]);
        if let Err(errors) = tree.load() {
            prop_assert!(!errors.problems().is_empty());
            prop_assert_eq!(errors.first_line().lines().count(), 1);
            let _ = errors.to_string();
        }
        let _ = check_files(&[tree.path("etc/conf.d/10.toml")]);
    }

    #[test]
    fn no_bytes_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
        let tree = Tree::new(&[]);
        fs::create_dir_all(tree.path("etc")).unwrap();
        fs::write(tree.path("etc/config.toml"), bytes).unwrap();
        if let Err(errors) = tree.load() {
            let _ = (errors.to_string(), errors.first_line());
        }
    }
}
