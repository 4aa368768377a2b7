//! Golden pages of `doctor`, and golden files of `migrate-pool`.

use std::collections::BTreeSet;
use std::time::Duration;

use insta::assert_snapshot;

use super::doctor::page;
use crate::core::doctor::examine;
use crate::core::doctor::seen::{Files, FpmMute, FpmSeen, HostSeen, UnitSettings};
use crate::core::migrate::Migration;
use crate::core::policy::{FpmRules, Policy, ProofRules, ScheduledRules, TargetRules};
use crate::core::seen::{Active, Load, OpcacheSeen};
use crate::host::fpm::layout::settings;

const DEBIAN: &str = include_str!("../../tests/fixtures/fpm/tt-8.2-debian.txt");
const TWO_POOLS: &str = include_str!("../../tests/fixtures/fpm/tt-8.2-two-pools.txt");
const UNIT: &str = "\
[Unit]
Description=The PHP 8.2 FastCGI Process Manager
After=network.target

[Service]
Type=notify
ExecStart=/usr/sbin/php-fpm8.2 --nodaemonize --fpm-config /etc/php/8.2/fpm/php-fpm.conf
ExecStartPost=-/usr/lib/php/php-fpm-socket-helper install /run/php/php-fpm.sock /etc/php/8.2/fpm/pool.d/www.conf 82
ExecReload=/bin/kill -USR2 $MAINPID

[Install]
WantedBy=multi-user.target
";

fn words(line: &str) -> Vec<String> {
    line.split(' ').map(str::to_owned).collect()
}

/// The php-fpm of Debian 12, with a limit and a variable of the site's.
fn fpm() -> FpmSeen {
    let drop_in = "[Service]\nLimitNOFILE=1024000\nEnvironment=\"SITE=my wiki\"\n";
    let unit = UnitSettings {
        unit: "php8.2-fpm.service".to_owned(),
        load: Load::Loaded,
        active: Active::Active,
        files: vec![
            ("/lib/systemd/system/php8.2-fpm.service".to_owned(), UNIT.to_owned()),
            ("/etc/systemd/system/php8.2-fpm.service.d/site.conf".to_owned(), drop_in.to_owned()),
        ],
        kind: "notify".to_owned(),
        kill_mode: "control-group".to_owned(),
        send_sigkill: true,
        final_kill_signal: 9,
        timeout_stop: Some(Duration::from_secs(90)),
        start_limit_burst: 5,
        start_limit_interval: Duration::from_secs(10),
        exec_start: vec![words("/usr/sbin/php-fpm8.2 --nodaemonize --fpm-config /etc/php/8.2/fpm/php-fpm.conf")],
        exec_reload: vec![words("/bin/kill -USR2 $MAINPID")],
        ..UnitSettings::default()
    };
    let files: Files = [
        ("/etc/php/8.2/fpm/php-fpm.conf", "; global\n[global]\npid = /run/php/php8.2-fpm.pid\nerror_log = /var/log/php8.2-fpm.log\ninclude=/etc/php/8.2/fpm/pool.d/*.conf\n"),
        ("/etc/php/8.2/fpm/pool.d/www.conf", "[www]\nuser = www-data\ngroup = www-data\n; where\nlisten = /run/php/php8.2-fpm.sock\nlisten.owner = www-data\nlisten.group = www-data\npm = dynamic\npm.max_children = 5\n"),
    ]
    .map(|(path, text)| (path.to_owned(), text.to_owned()))
    .into();
    FpmSeen {
        unit,
        target: None,
        said: Ok(settings(DEBIAN)),
        root: "/etc/php/8.2/fpm/php-fpm.conf".to_owned(),
        files,
        ini_files: Vec::new(),
        children: Vec::new(),
        opcache: None,
    }
}

fn rules() -> FpmRules {
    FpmRules {
        unit: "php8.2-fpm.service".to_owned(),
        drain_timeout: Duration::from_secs(5),
        term_timeout: Duration::from_secs(10),
        status: None,
        status_path: None,
        warm: vec!["/srv/app/health.php".to_owned()],
        proof: Some(ProofRules { script: "/srv/app/version.php".to_owned() }),
        opcache: None,
    }
}

fn policy(name: &str, rules: TargetRules) -> Policy {
    Policy { targets: [(name.to_owned(), rules)].into(), ..Policy::default() }
}

fn web() -> Files {
    [
        ("/etc/nginx/sites-enabled/site", "server {\n    # fastcgi_pass unix:/run/php/php8.2-fpm.sock;\n    fastcgi_pass unix:/run/php/php8.2-fpm.sock;\n    fastcgi_keep_conn on;\n}\n"),
        ("/etc/apache2/sites-enabled/site.conf", "SetHandler \"proxy:unix:/run/php/php8.2-fpm.sock|fcgi://localhost\"\n<Proxy \"fcgi://localhost/\">\nProxySet enablereuse=on\n</Proxy>\n"),
    ]
    .map(|(path, text)| (path.to_owned(), text.to_owned()))
    .into()
}

#[test]
fn what_doctor_says_of_a_debian() {
    assert_snapshot!(page(&examine(&HostSeen { fpms: vec![fpm()], ..HostSeen::default() })));
}

#[test]
fn what_doctor_says_of_a_host_with_every_trap() {
    let mut web_pool = fpm();
    web_pool.target = Some("jobrunner".to_owned());
    web_pool.children = vec!["ffmpeg".to_owned(), "sh".to_owned()];
    web_pool.opcache = Some(OpcacheSeen { used: 119 << 20, free: 9 << 20, keys: 100, max_keys: 16229, ..OpcacheSeen::default() });
    web_pool.unit.kill_mode = "process".to_owned();
    web_pool.unit.timeout_stop = None;
    web_pool.unit.start_limit_interval = Duration::from_secs(3600);
    web_pool.files.insert(
        "/etc/php/8.2/fpm/php-fpm.conf".to_owned(),
        "[global]\nerror_log = /dev/stderr\ninclude=/etc/php/8.2/fpm/pool.d/*.conf\n".to_owned(),
    );
    web_pool.ini_files = vec![(
        "/etc/php/8.2/fpm/conf.d/10-opcache.ini".to_owned(),
        "zend_extension=opcache.so\nopcache.validate_timestamps = 1\n".to_owned(),
    )];
    if let Ok(said) = &mut web_pool.said {
        for (key, value) in [
            ("opcache.enable", "On"),
            ("opcache.validate_timestamps", "On"),
            ("opcache.file_update_protection", "30"),
            ("Scan this dir for additional .ini files", "/etc/php/8.2/fpm/conf.d"),
        ] {
            said.ini.0.insert(key.to_owned(), value.to_owned());
        }
        for (key, value) in [
            ("request_terminate_timeout", "60s"),
            ("pm.status_path", "/st"),
            ("pm.status_listen", "127.0.0.1:9001"),
            ("php_admin_value[opcache.file_update_protection]", ""),
        ] {
            said.pools[0].1.0.insert(key.to_owned(), value.to_owned());
        }
    }
    let mut short = fpm();
    short.unit.unit = "php8.2-fpm@b.service".to_owned();
    short.unit.timeout_stop = Some(Duration::from_secs(5));
    short.unit.kill_mode = "mixed".to_owned();
    short.said = Ok(settings(TWO_POOLS));
    let mut broken = fpm();
    broken.unit.unit = "php-fpm-broken.service".to_owned();
    broken.said = Err(FpmMute::Broken("ERROR: [pool.d/x.conf:3] unknown entry 'nonsense'".to_owned()));
    let mut wrapped = fpm();
    wrapped.unit.unit = "php-fpm-wrapped.service".to_owned();
    wrapped.said =
        Err(FpmMute::Unasked("/bin/sh is not php-fpm itself: let ExecStart= start php-fpm without a shell or wrapper".to_owned()));
    let unit = |name: &str| UnitSettings {
        unit: name.to_owned(),
        load: Load::Loaded,
        send_sigkill: true,
        kill_mode: "control-group".to_owned(),
        final_kill_signal: 9,
        ..UnitSettings::default()
    };
    let jobs = vec![
        UnitSettings {
            on_success: vec!["good.service".to_owned()],
            on_failure: vec!["alert.service".to_owned()],
            exec_start: vec![words("/usr/bin/one"), words("/usr/bin/two --all")],
            exec_stop: vec![words("/usr/bin/bye")],
            ..unit("job-hooks.service")
        },
        UnitSettings {
            kill_mode: "none".to_owned(),
            send_sigkill: false,
            refuse_manual_start: true,
            refuse_manual_stop: true,
            ..unit("job-odd.service")
        },
        UnitSettings { final_kill_signal: 3, transient: true, ..unit("job-run.service") },
        UnitSettings { load: Load::Masked, active: Active::Active, ..unit("job-masked.service") },
        UnitSettings { load: Load::Bad, ..unit("job-bad.service") },
        UnitSettings { unit: "job-gone.service".to_owned(), ..UnitSettings::default() },
    ];
    let mut policy = policy("jobrunner", TargetRules::PhpFpm(rules()));
    policy.targets.insert("jobs".to_owned(), TargetRules::Scheduled(scheduled(&["job-*.service", "job-gone.service", "cron-*.service"])));
    let seen = HostSeen {
        policy,
        config_problem: None,
        fpms: vec![web_pool, short, broken, wrapped],
        units: [("jobs".to_owned(), jobs)].into(),
        web: web(),
        unknown: Vec::new(),
    };
    let report = examine(&seen);
    assert!(!report.clean());
    assert_snapshot!(page(&report));
}

fn scheduled(units: &[&str]) -> ScheduledRules {
    ScheduledRules {
        units: units.iter().map(|unit| (*unit).to_owned()).collect(),
        exclude: Vec::new(),
        drain_timeout: Duration::from_secs(30),
        overdue: None,
        checkpoint_timeout: Duration::ZERO,
        hold_timeout: Duration::ZERO,
        max_interruptions: 3,
        term_timeout: Duration::from_secs(20),
        ask: Vec::new(),
        unask: Vec::new(),
        settle_after: Duration::ZERO,
        after: crate::core::policy::After::Auto,
        quiet_within: Duration::from_secs(86400),
        code: Vec::new(),
    }
}

#[test]
fn a_host_without_traps_is_clean() {
    let report = examine(&HostSeen::default());
    assert!(report.clean());
    assert_eq!(page(&report), "Nothing was found that hurts.\n");
    let report = examine(&HostSeen { unknown: vec!["which php-fpm run: no answer".to_owned()], ..HostSeen::default() });
    assert!(!report.clean());
}

/// All files, one after the other.
fn files(migration: &Migration<'_>) -> String {
    migration.files().into_iter().map(|(name, text)| format!("==> {name} <==\n{text}\n")).collect()
}

#[test]
fn the_files_of_a_pool_with_a_unix_socket() {
    let mut fpm = fpm();
    fpm.target = Some("jobrunner".to_owned());
    let (policy, web) = (policy("jobrunner", TargetRules::PhpFpm(rules())), web());
    let migration = Migration::of(&fpm, None, &policy, &web).unwrap();
    assert_snapshot!(files(&migration));
    let (_, target) = migration.files().into_iter().find(|(name, _)| name.ends_with(".toml")).unwrap();
    assert!(toml::from_str::<toml::Table>(&target).is_ok(), "{target}");
}

#[test]
fn the_files_of_a_pool_with_a_port() {
    let mut fpm = fpm();
    fpm.unit.unit = "php-fpm@site.service".to_owned();
    fpm.unit.files.push(("/etc/x".to_owned(), "[Service]\nSyslogIdentifier=fpm-%i\n".to_owned()));
    let www = "[www]\nuser = www-data\nlisten = 127.0.0.1:9000\nlisten.backlog = 511\nlisten.allowed_clients = 127.0.0.1,::1\n";
    fpm.files.insert("/etc/php/8.2/fpm/pool.d/www.conf".to_owned(), www.to_owned());
    fpm.files.insert(
        "/etc/php/8.2/fpm/php-fpm.conf".to_owned(),
        "error_log = /dev/stderr\n[global]\nerror_log=/dev/stderr\ninclude=/etc/php/8.2/fpm/pool.d/*.conf\n".to_owned(),
    );
    if let Ok(said) = &mut fpm.said {
        for (key, value) in [
            ("listen", "127.0.0.1:9000"),
            ("listen.backlog", "511"),
            ("listen.allowed_clients", "127.0.0.1,::1"),
            ("pm.status_path", "/st"),
        ] {
            said.pools[0].1.0.insert(key.to_owned(), value.to_owned());
        }
    }
    let (policy, web) = (Policy::default(), Files::new());
    assert_snapshot!(files(&Migration::of(&fpm, Some("site"), &policy, &web).unwrap()));
}

#[test]
fn what_cannot_become_generations_is_told_why() {
    let (policy, web) = (Policy::default(), Files::new());
    let mut said = String::new();
    let mut refused = |change: &dyn Fn(&mut FpmSeen), name: Option<&str>| {
        let mut fpm = fpm();
        change(&mut fpm);
        said.push_str(&format!("{}\n", Migration::of(&fpm, name, &policy, &web).unwrap_err()));
    };
    refused(&|fpm| fpm.said = Ok(settings(TWO_POOLS)), None);
    refused(&|fpm| fpm.said = Err(FpmMute::Broken("[x:3] unknown entry".to_owned())), None);
    refused(&|fpm| fpm.unit.kind = "forking".to_owned(), None);
    refused(&|fpm| fpm.unit.environment = vec!["FPM_SOCKETS=/x=3".to_owned()], None);
    refused(&|fpm| fpm.files.clear(), None);
    refused(&|_| (), Some(&"n".repeat(63)));
    refused(&|_| (), Some("A"));
    refused(
        &|fpm| {
            if let Ok(said) = &mut fpm.said {
                said.pools[0].1.0.insert("listen".to_owned(), "/run/x;reboot.sock".to_owned());
            }
        },
        None,
    );
    refused(
        &|fpm| {
            drop(
                fpm.files
                    .insert("/etc/php/8.2/fpm/pool.d/www.conf".to_owned(), "[www]\nlisten = /run/php/job/${GENERATION}.sock\n".to_owned()),
            )
        },
        None,
    );
    refused(
        &|fpm| {
            if let Ok(said) = &mut fpm.said {
                said.pools[0].1.0.remove("pm.status_listen");
            }
        },
        None,
    );
    assert_snapshot!(said);
}

/// Of core/doctor's files whatever is the name of a finding.
#[test]
fn the_guide_has_every_finding() {
    let mut named = BTreeSet::new();
    for file in std::fs::read_dir("src/core/doctor").unwrap() {
        let text = std::fs::read_to_string(file.unwrap().path()).unwrap();
        let words = text.split('"').filter(|word| word.contains('-') && word.bytes().all(|c| c.is_ascii_lowercase() || c == b'-'));
        let kinds = ["fpm-", "unit-", "opcache-", "web-", "script-", "target-", "config-"];
        named.extend(words.filter(|word| kinds.iter().any(|kind| word.starts_with(kind))).map(str::to_owned));
    }
    assert!(named.len() > 25, "{named:?}");
    let guide = std::fs::read_to_string("docs/guide/doctor.md").unwrap();
    for id in named {
        assert!(guide.contains(&format!("| `{id}` |")), "docs/guide/doctor.md has no row for {id}");
    }
}
