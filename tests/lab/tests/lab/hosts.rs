//! One host: commands, files, units, power.

use std::fs;
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use lab::{Host, Release, wait_for};

pub fn wait_for_says_what_it_saw() -> Result<()> {
    let mut looks = 0;
    let seen = wait_for("the third look", Duration::from_secs(5), || {
        looks += 1;
        Ok((looks == 3).then_some(looks))
    })?;
    ensure!(seen == 3);
    let Err(error) = wait_for("nothing", Duration::from_millis(20), || -> Result<Option<()>> { bail!("state is odd") }) else {
        bail!("it came");
    };
    let error = error.to_string();
    ensure!(error.contains("for nothing in vain") && error.ends_with("last seen: state is odd"), "{error}");
    Ok(())
}

pub fn commands(release: Release) -> Result<()> {
    let host = Host::boot(release, "commands")?;
    let output = host.sh("echo out; echo err >&2; exit 7")?;
    ensure!((output.status, output.stdout.as_str(), output.stderr.as_str()) == (7, "out\n", "err\n"), "{output:?}");
    ensure!(host.sh("kill -TERM $$")?.status == 128 + 15);
    let Err(error) = host.ok(&["ls", "/nowhere"]) else { bail!("ls found it") };
    ensure!(error.to_string().contains("No such file or directory"), "{error:#}");
    ensure!(host.command(["tr", "a-z", "A-Z"]).stdin("hello").ok()? == "HELLO");
    ensure!(host.command(["sh", "-c", "id -un; echo $WORD"]).user("www-data").env("WORD", "x").ok()? == "www-data\nx\n");
    ensure!(host.ok(&["hostname"])? == "commands\n");

    // The clock is the machine's: CAP_SYS_TIME is bit 25.
    let capabilities = host.sh_ok("grep -E 'Cap(Bnd|Eff|Inh)' /proc/self/status | cut -f 2")?;
    for set in capabilities.lines() {
        ensure!(u64::from_str_radix(set, 16)? & (1 << 25) == 0, "{capabilities}");
    }

    // A command that hangs is ended with its children.
    let begin = Instant::now();
    let Err(error) = host.command(["bash", "-c", "echo begun; sleep 4321 & sleep 4321"]).timeout(Duration::from_millis(500)).run() else {
        bail!("it ended");
    };
    ensure!(begin.elapsed() < Duration::from_secs(5) && error.to_string().contains("begun"), "{error:#}");
    let sleeping = || -> Result<bool> { Ok(host.run(&["pgrep", "-f", "sleep 4321"])?.success()) };
    wait_for("its children to be gone", Duration::from_secs(5), || Ok((!sleeping()?).then_some(())))?;

    // One that leaves a child behind has ended all the same; a spawned one ends at drop.
    host.sh_ok("sleep 4321 & echo left")?;
    ensure!(sleeping()?);
    host.ok(&["pkill", "-f", "sleep 4321"])?;
    let mut child = host.spawn(&["sleep", "4321"])?;
    let pid = wait_for("the pid of sleep", Duration::from_secs(5), || Ok(child.pid()))?;
    wait_for("sleep", Duration::from_secs(5), || Ok(sleeping()?.then_some(())))?;
    ensure!(child.is_running()? && host.exists(&format!("/proc/{pid}/stat")));
    drop(child);
    ensure!(!sleeping()?);
    Ok(())
}

pub fn files(release: Release) -> Result<()> {
    let host = Host::boot(release, "files")?;
    host.write("/run/a/b/c", "one")?;
    ensure!(host.ok(&["cat", "/run/a/b/c"])? == "one");
    host.write_mode("/usr/local/bin/tool", "#!/bin/sh\necho tool\n", 0o755)?;
    ensure!(host.ok(&["tool"])? == "tool\n");
    // An absolute symlink leads into the host and not to the machine.
    host.write("/var/run/lab-probe", "inside")?;
    ensure!(host.read("/run/lab-probe")? == "inside" && !fs::exists("/run/lab-probe")?);
    let inode = host.ok(&["stat", "-c", "%i", "/run/a/b/c"])?;
    host.replace("/run/a/b/c", "two")?;
    ensure!(host.read("/run/a/b/c")? == "two" && host.ok(&["stat", "-c", "%i", "/run/a/b/c"])? != inode);
    host.ok(&["touch", "-d", "2001-01-01", "/run/a/b/c"])?;
    host.touch("/run/a/b/c")?;
    ensure!(host.ok(&["stat", "-c", "%y", "/run/a/b/c"])?.starts_with("20") && host.read("/run/a/b/c")? == "two");
    ensure!(!host.ok(&["stat", "-c", "%y", "/run/a/b/c"])?.starts_with("2001"));
    host.remove("/run/a/b/c")?;
    host.remove("/run/a")?;
    host.remove("/run/a/b/c")?;
    ensure!(!host.exists("/run/a"));
    ensure!(host.read("/run/a/b/c").is_err() && host.write("relative", "").is_err());
    Ok(())
}

pub fn systemd(release: Release) -> Result<()> {
    let host = Host::boot(release, "systemd")?;
    ensure!(host.ok(&["systemctl", "is-system-running"])? == "running\n");
    let unit = release.fpm_unit();
    ensure!(host.unit(unit)?["ActiveState"] == "active" && host.property(unit, "Type")? == "notify");
    ensure!(host.unit("no-such.service")?["LoadState"] == "not-found");
    let pid = host.pid_of(unit)?;
    ensure!(host.ok(&["ps", "-o", "args=", "-p", &pid.to_string()])?.starts_with("php-fpm: master process"));
    ensure!(host.pid_of("no-such.service").is_err());
    host.ok(&["systemd-run", "--wait", "--unit=said", "echo", "hello from a unit"])?;
    ensure!(host.journal("said")?.contains("hello from a unit"));
    let socket = host.dbus_address()?;
    ensure!(fs::exists(socket.trim_start_matches("unix:path="))?, "{socket}");
    for stopped in ["nginx.service", "haproxy.service"] {
        ensure!(host.property(stopped, "ActiveState")? == "inactive");
    }
    let slice = host.cgroup_root()?.join("system.slice").join(unit);
    ensure!(fs::exists(&slice)?, "{}", slice.display());
    Ok(())
}

pub fn power(release: Release) -> Result<()> {
    let host = Host::boot(release, "power")?;
    let id = host.read("/etc/machine-id")?;
    host.write("/var/kept", "kept")?;
    host.write("/run/lost", "lost")?;
    host.power_off_hard()?;
    ensure!(host.run(&["true"]).is_err() && !host.exists("/var/kept"));
    host.boot_again()?;
    ensure!(host.boot_again().is_err(), "it was on");
    ensure!(host.read("/var/kept")? == "kept" && host.read("/etc/machine-id")? == id && !host.exists("/run/lost"));
    host.reboot()?;
    ensure!(host.read("/var/kept")? == "kept");
    ensure!(host.ok(&["journalctl", "--list-boots", "--no-pager"])?.lines().count() >= 3);
    Ok(())
}

pub fn packages(release: Release) -> Result<()> {
    let host = Host::boot(release, "packages")?;
    let directory = std::env::temp_dir().join(format!("lab-package-{}", std::process::id()));
    fs::create_dir_all(directory.join("DEBIAN"))?;
    let control = "Package: lab-probe\nVersion: 1\nArchitecture: all\nMaintainer: lab <lab@example.org>\nDescription: probe\n";
    fs::write(directory.join("DEBIAN/control"), control)?;
    let package = directory.with_extension("deb");
    let built = Command::new("dpkg-deb").arg("--build").args([&directory, &package]).output().context("dpkg-deb")?;
    ensure!(built.status.success(), "{}", String::from_utf8_lossy(&built.stderr));
    host.install_deb(&package)?;
    ensure!(host.ok(&["dpkg-query", "-W", "-f", "${Status}", "lab-probe"])? == "install ok installed");
    fs::remove_dir_all(&directory)?;
    fs::remove_file(&package)?;
    Ok(())
}

pub fn two_at_once(release: Release) -> Result<()> {
    let hosts = Host::boot_all(vec![Host::builder(release, "left"), Host::builder(Release::Trixie, "right")])?;
    ensure!(hosts[0].read("/etc/machine-id")? != hosts[1].read("/etc/machine-id")?);
    for host in &hosts {
        host.sh_ok("socat TCP-LISTEN:8080,fork EXEC:hostname >/dev/null 2>&1 &")?;
    }
    for host in &hosts {
        let answer = wait_for("socat", Duration::from_secs(5), || host.ok(&["socat", "-u", "TCP:127.0.0.1:8080", "-"]).map(Some))?;
        ensure!(answer.trim() == host.name(), "{answer}");
    }
    Ok(())
}
