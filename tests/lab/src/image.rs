//! The images that hosts boot from: built once per recipe, kept in the cache.

use std::fs::{self, File};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, bail};

use crate::{Release, apt, cache, wait_for};

/// Packages beside Debian's essential ones and PHP. Recommends are not installed.
const PACKAGES: [&str; 21] = [
    "adduser",
    "apache2",
    "at",
    "cron",
    "dbus",
    "faketime",
    "haproxy",
    "init-system-helpers",
    "iproute2",
    "libfcgi-bin",
    "libpam-systemd",
    "nginx-light",
    "polkitd",
    "procps",
    "psmisc",
    "python3-minimal",
    "rsync",
    "socat",
    "systemd",
    "systemd-sysv",
    "tzdata",
];

/// Run in the new root. Nothing in a host is to happen on its own that a test did not start, and nothing is
/// to be waited for at boot.
const RECIPE: &str = r"
set -e
systemctl --quiet disable apache2.service nginx.service haproxy.service
systemctl --quiet mask systemd-networkd-wait-online.service systemd-networkd.service \
    console-getty.service getty@tty1.service systemd-firstboot.service systemd-timesyncd.service \
    apt-daily.timer apt-daily-upgrade.timer dpkg-db-backup.timer e2scrub_all.timer fstrim.timer \
    logrotate.timer man-db.timer phpsessionclean.timer
mkdir -p /var/log/journal
printf '127.0.0.1 localhost\n::1 localhost\n' > /etc/hosts
rm -f /etc/hostname /etc/resolv.conf /etc/machine-id /var/lib/dbus/machine-id
rm -f /etc/apt/sources.list /etc/apt/sources.list.d/* /etc/apt/apt.conf.d/99mmdebstrap
rm -f /etc/dpkg/dpkg.cfg.d/99mmdebstrap
mkdir -p /srv/app /srv/deploy /var/log/app
chown www-data:www-data /var/log/app
";

/// Another process may be building the image.
const BUILD_DEADLINE: Duration = Duration::from_secs(900);

/// A root directory that hosts of one release use as the read-only lower layer.
#[derive(Debug, Clone)]
pub struct Image {
    release: Release,
    root: PathBuf,
}

impl Image {
    /// The image of `release`; builds it when the cache has none of this recipe (30 to 60 s, once, however
    /// many processes ask).
    ///
    /// # Errors
    /// When the machine lacks mmdebstrap or Debian sources in apt, or the build fails: the error has the
    /// end of what mmdebstrap said.
    pub fn ensure(release: Release) -> Result<Image> {
        let directory = cache::directory("images")?;
        let root = directory.join(format!("{release}-{:016x}", key(release)));
        let image = Image { release, root };
        if image.root.exists() {
            return Ok(image);
        }
        let lock = File::create(directory.join(format!("{release}.lock")))?;
        wait_for(&format!("the lock to build the image of {release}"), BUILD_DEADLINE, || Ok(lock.try_lock().is_ok().then_some(())))?;
        if !image.root.exists() {
            image.build(&directory.join(format!("{release}.building")))?;
        }
        Ok(image)
    }

    /// The release that it holds.
    pub fn release(&self) -> Release {
        self.release
    }

    /// Its root directory, which nobody may write to.
    pub fn root(&self) -> &Path {
        &self.root
    }

    fn build(&self, building: &Path) -> Result<()> {
        eprintln!("lab: building the image of {} (once, about a minute)", self.release);
        if building.exists() {
            fs::remove_dir_all(building).with_context(|| format!("cannot remove {}", building.display()))?;
        }
        let mut command = Command::new("mmdebstrap");
        command.args(["--mode=root", "--variant=minbase", "--format=directory"]);
        command.arg(format!("--include={}", packages(self.release).join(",")));
        for setting in apt::settings()? {
            command.arg(format!("--aptopt={setting}"));
        }
        for excluded in ["/usr/share/doc/*", "/usr/share/man/*", "/usr/share/locale/*"] {
            command.arg(format!("--dpkgopt=path-exclude={excluded}"));
        }
        command.arg(format!("--customize-hook=chroot \"$1\" sh -c {}", quoted(RECIPE)));
        command.arg(self.release.codename()).arg(building).args(apt::sources(self.release)?);
        let output = command.env("DEBIAN_FRONTEND", "noninteractive").stdin(Stdio::null()).output().context("cannot run mmdebstrap")?;
        if !output.status.success() {
            let said = String::from_utf8_lossy(&output.stderr);
            let lines: Vec<&str> = said.lines().collect();
            bail!("mmdebstrap could not build {}:\n{}", self.release, lines[lines.len().saturating_sub(30)..].join("\n"));
        }
        fs::rename(building, &self.root).with_context(|| format!("cannot put {} in place", self.root.display()))
    }
}

fn packages(release: Release) -> Vec<String> {
    let php = ["fpm", "cli", "opcache"].map(|part| format!("php{}-{part}", release.php()));
    PACKAGES.iter().map(|package| (*package).to_owned()).chain(php).collect()
}

fn key(release: Release) -> u64 {
    let mut hasher = DefaultHasher::new();
    (packages(release), RECIPE).hash(&mut hasher);
    hasher.finish()
}

fn quoted(text: &str) -> String {
    format!("'{}'", text.replace('\'', r"'\''"))
}
