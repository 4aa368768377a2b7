//! `doctor` and `migrate-pool` on real hosts: what doctor names is mended by the very lines that it prints, and a pool becomes generations, and
//! becomes itself again, by the steps of the README that migrate-pool writes.

#![allow(clippy::disallowed_methods, reason = "the bans of clippy.toml are for core")]

use std::collections::BTreeSet;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use lab::agent::{Agent, CONFIG};
use lab::{Host, Output, Release, load, wait_for};
use serde_json::Value;

const SITE: &str = "127.0.0.1:8081";
/// The same by Apache.
const APACHE: &str = "127.0.0.1:8083";
/// The package has it.
const OPCACHE: &str = include_str!("../units/opcache.php");
const SOON: Duration = Duration::from_secs(20);

fn main() -> ExitCode {
    lab::suite()
        .on_each("what_doctor_finds_its_lines_mend", traps)
        .on_each("a_pool_becomes_generations_by_its_readme_and_goes_back", unix)
        .on_each("a_port_is_handed_to_a_socket_unit_and_back", tcp)
        .run()
}

/// The distribution's php-fpm with one pool, behind nginx.
fn begin(host: &Host, pool: &str, nginx: &str, passes_to: &str) -> Result<()> {
    let release = host.release();
    host.write(&format!("{}/pool.d/www.conf", release.fpm_etc()), pool)?;
    host.write("/srv/app/who.php", "<?php echo trim(explode('::', file_get_contents('/proc/self/cgroup'))[1]);\n")?;
    host.write(
        "/etc/nginx/nginx.conf",
        format!(
            "user www-data;\npid /run/nginx.pid;\nevents {{}}\nhttp {{\n    access_log off;\n    include conf.d/*.conf;\n    server {{\n        listen {SITE};\n        root /srv/app;\n        \
             location ~ \\.php$ {{\n            include fastcgi_params;\n            fastcgi_param SCRIPT_FILENAME $document_root$fastcgi_script_name;\n            \
             {nginx}\n            fastcgi_pass {passes_to};\n        }}\n    }}\n}}\n"
        ),
    )?;
    host.sh_ok(&format!("systemctl daemon-reload; systemctl enable nginx; systemctl restart {} nginx", release.fpm_unit()))?;
    Ok(())
}

/// Apache in front of the same socket.
fn apache(host: &Host, listen: &str) -> Result<()> {
    host.write(
        "/etc/apache2/sites-available/app.conf",
        format!(
            "Listen {APACHE}\n<VirtualHost {APACHE}>\n  ServerName app\n  DocumentRoot /srv/app\n  <Directory /srv/app>\n    Require all granted\n  </Directory>\n  \
             <FilesMatch \"\\.php$\">\n    SetHandler \"proxy:unix:{listen}|fcgi://localhost\"\n  </FilesMatch>\n</VirtualHost>\n"
        ),
    )?;
    host.sh_ok("a2enmod --quiet proxy_fcgi; a2ensite --quiet app; systemctl enable apache2; systemctl restart apache2").map(drop)
}

fn pool(listen: &str) -> String {
    format!(
        "; the pool\n[www]\nuser = www-data\ngroup = www-data\nlisten = {listen}\nlisten.owner = www-data\nlisten.group = www-data\n\
         pm = static\npm.max_children = 3 ; few\nphp_admin_value[memory_limit] = \"96M\"\nenv[SITE] = $pool\n"
    )
}

/// The unit whose php-fpm answers nginx.
fn served_by(host: &Host) -> Result<String> {
    answers(host, SITE)
}

fn answers(host: &Host, site: &str) -> Result<String> {
    let answer = load::get(host, site, "/who.php", Duration::from_secs(5))?;
    ensure!(answer.status == 200, "{answer:?}");
    Ok(answer.body.trim().rsplit('/').next().unwrap_or_default().to_owned())
}

fn run(host: &Host, arguments: &[&str]) -> Result<Output> {
    host.run(&[&["restart-agent"], arguments].concat())
}

fn findings(host: &Host) -> Result<(i32, Value)> {
    let said = run(host, &["doctor", "--json"])?;
    let report = serde_json::from_str(&said.stdout).with_context(|| format!("{said:?}"))?;
    Ok((said.status, report))
}

fn ids(report: &Value) -> BTreeSet<String> {
    let findings = report["findings"].as_array().into_iter().flatten();
    findings.map(|finding| format!("{} {}", finding["about"], finding["id"]).replace('"', "")).collect()
}

fn traps(release: Release) -> Result<()> {
    let host = Host::boot(release, "doctor")?;
    Agent::install(&host)?;
    let (fpm, listen) = (release.fpm_unit(), release.fpm_socket());
    let (status, report) = findings(&host)?;
    let of_debian =
        ["fpm-no-status-path", "fpm-slow-status-text", "fpm-no-status-listen", "fpm-no-ping", "fpm-reload-cuts", "unit-kill-mode"];
    let expected: BTreeSet<String> = of_debian.iter().map(|id| format!("{fpm} {id}")).collect();
    ensure!(status == 1 && ids(&report) == expected, "exit {status}; {report:#}");

    let shared = format!("{}listen.mode = 0666\npm.status_listen = /run/php/www-status.sock\n", pool(listen));
    begin(&host, &shared, "fastcgi_keep_conn on;", &format!("unix:{listen}"))?;
    host.write("/etc/apache2/sites-enabled/a.conf", "<Proxy \"fcgi://localhost/\">\n  ProxySet enablereuse=on max=10\n</Proxy>\n")?;
    host.write(
        &format!("{}/conf.d/zz-site.ini", release.fpm_etc()),
        "opcache.validate_timestamps = 1\nopcache.file_update_protection = 30\nopcache.max_accelerated_files = 200\n",
    )?;
    host.write("/usr/share/restart-agent/opcache.php", OPCACHE)?;
    host.write("/srv/app/fill.php", "<?php foreach (glob('/srv/app/parts/*.php') as $part) include $part;\n")?;
    host.sh_ok(
        "mkdir /srv/app/parts; for n in $(seq 230); do echo '<?php' > /srv/app/parts/$n.php; done; touch -d '1 hour ago' /srv/app/*.php /srv/app/parts/*",
    )?;
    let units = [
        (
            "job-hooks.service",
            "[Unit]\nOnSuccess=good.service\nOnFailure=bad.service\n[Service]\nType=oneshot\nExecStart=/bin/true\nExecStart=/bin/true\nExecStop=/bin/true\n",
        ),
        (
            "job-process.service",
            "[Unit]\nRefuseManualStart=yes\nRefuseManualStop=yes\n[Service]\nKillMode=process\nSendSIGKILL=no\nExecStart=/bin/sleep infinity\n",
        ),
        ("good.service", "[Service]\nExecStart=/bin/true\n"),
        ("bad.service", "[Service]\nExecStart=/bin/true\n"),
    ];
    for (unit, text) in units {
        host.write(&format!("/etc/systemd/system/{unit}"), text)?;
    }
    host.write(
        &format!("/etc/systemd/system/{fpm}.d/10-site.conf"),
        "[Unit]\nStartLimitIntervalSec=1h\n[Service]\nKillMode=process\nTimeoutStopSec=1d\n",
    )?;
    host.sh_ok(&format!("ln -s /dev/null /etc/systemd/system/job-masked.service; systemctl daemon-reload; systemctl restart {fpm}"))?;
    let config = |overdue: &str, units: &str| {
        format!(
            "[stamp]\npath = \"/srv/deploy/stamp\"\n[target.web]\nkind = \"php-fpm\"\nunit = \"{fpm}\"\nwarm = [\"/srv/app/who.php\"]\n\
             [target.jobs]\nkind = \"scheduled\"\nunits = [{units}]\n{overdue}\n"
        )
    };
    let named = "\"job-hooks.service\", \"job-process.service\"";
    host.write(CONFIG, config("", &format!("{named}, \"job-masked.service\", \"job-gone.service\", \"nothing-*.service\"")))?;

    ensure!(load::get(&host, SITE, "/fill.php", SOON)?.status == 200, "the opcache is not filled");
    let (status, report) = findings(&host)?;
    let fpm_traps = [
        "fpm-status-open",
        "fpm-no-ping",
        "fpm-reload-cuts",
        "opcache-validates",
        "opcache-not-warm",
        "opcache-nearly-full",
        "unit-kill-mode-process",
        "unit-stop-too-long",
        "unit-start-limit",
    ];
    let mut expected: BTreeSet<String> = fpm_traps.iter().map(|id| format!("{fpm} {id}")).collect();
    expected.extend(
        [
            "nginx web-nginx-keeps",
            "apache web-apache-reuses",
            "job-hooks.service script-both-hooks",
            "job-hooks.service unit-several-commands",
            "job-hooks.service unit-stop-hook",
            "job-process.service unit-leaves-processes",
            "job-process.service unit-is-not-killed",
            "job-process.service unit-refuses-stop",
            "job-process.service unit-refuses-start",
            "job-masked.service unit-masked",
            "job-gone.service unit-missing",
            "nothing-*.service target-matches-nothing",
        ]
        .map(str::to_owned),
    );
    ensure!(
        status == 1 && ids(&report) == expected,
        "exit {status}; {:#?}\n{report}",
        ids(&report).symmetric_difference(&expected).collect::<Vec<_>>()
    );
    ensure!(report["unknown"] == serde_json::json!([]), "{report:#}");
    ensure!(report["generations"][0]["command"] == format!("restart-agent migrate-pool {fpm}"), "{report:#}");
    let page = run(&host, &["doctor"])?;
    ensure!(page.status == 1 && page.stdout.contains("21 findings.") && page.stdout.contains("ping.path = /fpm-ping"), "{page:?}");

    let mut mends = report["findings"].as_array().context("findings")?.clone();
    // From below, so that no line moves before its turn.
    mends.sort_by_key(|finding| std::cmp::Reverse(finding["mend"]["line"].as_u64()));
    for finding in &mends {
        mend(&host, &finding["mend"]).with_context(|| finding.to_string())?;
    }
    host.write(CONFIG, config("overdue = \"finish\"", named))?;
    host.sh_ok(&format!(
        "systemctl daemon-reload; {} -t; nginx -t; systemctl restart {fpm}; systemctl reload nginx",
        release.fpm_binary()
    ))?;
    let (status, report) = findings(&host)?;
    ensure!(status == 0 && ids(&report).is_empty(), "exit {status}: {report:#}");
    ensure!(served_by(&host)? == fpm, "the mended pool does not serve");

    ensure!(host.command(["restart-agent", "doctor"]).user("www-data").run()?.status == 77, "doctor needs root");
    host.sh_ok(&format!("echo 'pm.max_childs = 1' >> {}/pool.d/www.conf", release.fpm_etc()))?;
    let (status, report) = findings(&host)?;
    ensure!(status == 1 && ids(&report) == [format!("{fpm} fpm-config-broken")].into(), "{report:#}");
    let left =
        host.sh("systemctl list-units --all --no-legend 'restart-agent-look-*'; ls /run/restart-agent/inspect-* 2>/dev/null")?.stdout;
    ensure!(left.trim().is_empty(), "left behind: {left}");
    Ok(())
}

/// Does what a finding says: replaces its line, or puts a new one into its section.
fn mend(host: &Host, mend: &Value) -> Result<()> {
    let (file, section) = (mend["file"].as_str().unwrap_or_default(), mend["section"].as_str().unwrap_or_default());
    let write: Vec<String> = mend["write"].as_array().into_iter().flatten().filter_map(|line| line.as_str().map(str::to_owned)).collect();
    // The agent's own rules are written by the test; what has no file is told to a person.
    if file.is_empty() || file.starts_with("/etc/restart-agent/") {
        return Ok(());
    }
    let text = if host.exists(file) { host.read(file)? } else { String::new() };
    let mut lines: Vec<String> = text.lines().map(str::to_owned).collect();
    if let Some(line) = mend["line"].as_u64() {
        lines[usize::try_from(line)? - 1] = write.join("\n");
    } else if section.is_empty() {
        lines.extend(write);
    } else {
        let head = format!("[{section}]");
        if !lines.contains(&head) {
            lines.push(head.clone());
        }
        let at = lines.iter().position(|line| *line == head).context("no such section")?;
        lines.insert(at + 1, write.join("\n"));
    }
    host.write(file, lines.join("\n") + "\n")
}

/// The `sh` blocks of a README with this mark, one after the other.
fn steps(readme: &str, mark: &str) -> String {
    let blocks = readme.split("```sh").skip(1).filter_map(|rest| rest.split_once('\n'));
    blocks.filter(|(head, _)| head.trim() == mark).filter_map(|(_, rest)| rest.split("```").next()).collect()
}

fn follow(host: &Host, readme: &str, mark: &str) -> Result<()> {
    let script = steps(readme, mark);
    ensure!(!script.is_empty(), "no steps for {mark}: {readme}");
    host.write("/var/tmp/steps", format!("set -eux\ncd /var/tmp/files\n{script}"))?;
    host.ok(&["sh", "/var/tmp/steps"]).map(drop)
}

fn migrate(host: &Host) -> Result<String> {
    let fpm = host.release().fpm_unit();
    let written = run(host, &["migrate-pool", fpm, "--into", "/var/tmp/files"])?;
    ensure!(written.status == 0, "{written:?}");
    let listed: BTreeSet<String> = written.stdout.lines().map(str::to_owned).collect();
    let there: BTreeSet<String> = host.ok(&["find", "/var/tmp/files", "-type", "f"])?.lines().map(str::to_owned).collect();
    ensure!(listed == there && there.len() == 5, "{written:?}, {there:?}");
    host.read("/var/tmp/files/README.md")
}

/// The agent takes the target, and the next deploy has a generation of its own, which serves.
fn deploy(host: &Host, agent: &Agent<'_>, readme: &str) -> Result<()> {
    agent.deploy("d0")?;
    agent.configure("[stamp]\npath = \"/srv/deploy/stamp\"\nsettle = \"100ms\"\nmin_interval = \"0s\"\n")?;
    follow(host, readme, "agent")?;
    agent.wait_status("the target to be adopted", SOON, |status| status["targets"][0]["state"] == "adopted")?;
    agent.deploy_and_wait("d1", SOON)?;
    // On a port that generations share, an old worker that is busy while the idle ones are ended may take one more request.
    wait_for("the new generation to answer", SOON, || Ok(served_by(host)?.starts_with("php-fpm-www@d1").then_some(())))?;
    let (_, report) = findings(host)?;
    let of_debian: BTreeSet<String> = ["php-fpm-www@boot.service opcache-validates".to_owned()].into();
    ensure!(ids(&report) == of_debian && report["generations"] == serde_json::json!([]), "{report:#}");
    follow(host, readme, "agent-back")
}

fn unix(release: Release) -> Result<()> {
    let host = Host::boot(release, "migrate")?;
    let agent = Agent::install(&host)?;
    let (fpm, listen) = (release.fpm_unit(), release.fpm_socket());
    begin(&host, &pool(listen), "", &format!("unix:{listen}"))?;
    host.write(&format!("/etc/systemd/system/{fpm}.d/site.conf"), "[Service]\nLimitNOFILE=54321\nEnvironment=SITE_MODE=blue\n")?;
    host.sh_ok(&format!("systemctl daemon-reload; systemctl restart {fpm}"))?;
    apache(&host, listen)?;
    ensure!([served_by(&host)?, answers(&host, APACHE)?] == [fpm, fpm], "not served to begin with");

    let readme = migrate(&host)?;
    ensure!(run(&host, &["migrate-pool", fpm, "--into", "/var/tmp/files"])?.status == 1, "written over");
    follow(&host, &readme, "")?;
    for site in [SITE, APACHE] {
        ensure!(answers(&host, site)? == "php-fpm-www@boot.service", "{site}: {}", answers(&host, site)?);
    }
    let links = host.ok(&["readlink", "/run/php-fpm-www/current.sock"])?;
    ensure!(links.trim() == "boot.sock", "{links}");
    ensure!(host.property(fpm, "ActiveState")? == "inactive", "the old one still runs");
    ensure!(host.property("php-fpm-www@boot.service", "LimitNOFILE")? == "54321", "a limit is lost");
    ensure!(host.property("php-fpm-www@boot.service", "Environment")?.contains("SITE_MODE=blue"), "an environment is lost");
    same_settings(&host, release)?;
    let again = run(&host, &["migrate-pool", "php-fpm-www@boot.service", "--into", "/var/tmp/other"])?;
    ensure!(again.status == 1 && again.stderr.contains("generations already"), "{again:?}");

    // Another generation beside it, and the switch, as the agent does them.
    host.sh_ok("systemctl start php-fpm-www@next && ln -s next.sock /run/php-fpm-www/new && mv -T /run/php-fpm-www/new /run/php-fpm-www/current.sock")?;
    ensure!(served_by(&host)? == "php-fpm-www@next.service", "{}", served_by(&host)?);
    host.sh_ok("systemctl restart php-fpm-www@boot")?;
    ensure!(served_by(&host)? == "php-fpm-www@next.service", "boot takes what is another's");
    // After a boot there is none.
    host.reboot()?;
    wait_for("the generation of the boot to serve", SOON, || Ok((served_by(&host)? == "php-fpm-www@boot.service").then_some(())))?;
    agent.wait_active()?;
    deploy(&host, &agent, &readme)?;

    follow(&host, &readme, "back")?;
    ensure!([served_by(&host)?, answers(&host, APACHE)?] == [fpm, fpm], "{}", served_by(&host)?);
    let left = host
        .sh("systemctl list-units --no-legend 'php-fpm-www@*'; find /etc -name '*php-fpm-www*'; grep -rl /run/php-fpm-www /etc")?
        .stdout;
    ensure!(left.trim().is_empty(), "left behind: {left}");
    refusals(&host)
}

/// What php-fpm makes of both configurations differs in nothing but what the migration changes.
fn same_settings(host: &Host, release: Release) -> Result<()> {
    let settings = |file: &str| -> Result<BTreeSet<String>> {
        let dump = host.sh_ok(&format!("GENERATION=x {} -tt -y {file} 2>&1", release.fpm_binary()))?;
        Ok(dump.lines().filter_map(|line| line.split_once("NOTICE: \t")).map(|(_, setting)| setting.to_owned()).collect())
    };
    let etc = release.fpm_etc();
    let (old, new) = (settings(&format!("{etc}/php-fpm.conf"))?, settings(&format!("{etc}/php-fpm-www.conf"))?);
    let changed: BTreeSet<&str> = old.symmetric_difference(&new).filter_map(|line| line.split(" = ").next()).collect();
    ensure!(
        changed == ["daemonize", "listen", "pid", "ping.path", "ping.response", "pm.status_listen", "pm.status_path"].into(),
        "{changed:?}"
    );
    Ok(())
}

fn refusals(host: &Host) -> Result<()> {
    let (fpm, etc) = (host.release().fpm_unit(), host.release().fpm_etc());
    let refused = |arguments: &[&str], why: &str| -> Result<()> {
        let said = run(host, &[&["migrate-pool"], arguments, &["--into", "/var/tmp/refused"]].concat())?;
        ensure!(said.status == 1 && said.stderr.contains(why), "{said:?}");
        ensure!(!host.exists("/var/tmp/refused"), "something was written");
        Ok(())
    };
    refused(&["gone.service"], "there is no unit gone.service")?;
    refused(&[fpm, "--name", &"n".repeat(70)], "a path of a socket may have 107")?;
    refused(&[fpm, "--name", "a/b"], "a name is made of")?;
    host.write(&format!("{etc}/pool.d/b.conf"), pool("/run/php/b.sock").replace("[www]", "[api]"))?;
    refused(&[fpm], "it has 2 pools (api, www)")
}

fn tcp(release: Release) -> Result<()> {
    let host = Host::boot(release, "port")?;
    let agent = Agent::install(&host)?;
    let fpm = release.fpm_unit();
    begin(&host, &format!("{}listen.allowed_clients = 127.0.0.1\n", pool("127.0.0.1:9000")), "", "127.0.0.1:9000")?;
    ensure!(served_by(&host)? == fpm, "not served to begin with");
    let readme = migrate(&host)?;
    follow(&host, &readme, "")?;
    ensure!(served_by(&host)? == "php-fpm-www@boot.service", "{}", served_by(&host)?);
    // The next generation takes from the same queue, and the port stays when the first one goes.
    host.sh_ok("systemctl start php-fpm-www@next && systemctl stop php-fpm-www@boot")?;
    ensure!(served_by(&host)? == "php-fpm-www@next.service", "{}", served_by(&host)?);
    deploy(&host, &agent, &readme)?;
    follow(&host, &readme, "back")?;
    ensure!(served_by(&host)? == fpm, "{}", served_by(&host)?);
    Ok(())
}
