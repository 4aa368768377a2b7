//! The Debian releases that the product supports.

use std::fmt;

/// A Debian release, with the PHP that it ships.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Release {
    /// Debian 12: systemd 252, PHP 8.2.
    Bookworm,
    /// Debian 13: systemd 257, PHP 8.4.
    Trixie,
}

impl Release {
    /// Every supported release, oldest first.
    pub const ALL: [Release; 2] = [Release::Bookworm, Release::Trixie];

    /// Debian's version number: 12 or 13.
    pub fn number(self) -> u8 {
        match self {
            Release::Bookworm => 12,
            Release::Trixie => 13,
        }
    }

    /// The code name, which is also the name of the suite on a mirror.
    pub fn codename(self) -> &'static str {
        match self {
            Release::Bookworm => "bookworm",
            Release::Trixie => "trixie",
        }
    }

    /// The version of PHP as it appears in package, unit and path names: "8.2" or "8.4".
    pub fn php(self) -> &'static str {
        match self {
            Release::Bookworm => "8.2",
            Release::Trixie => "8.4",
        }
    }

    /// The unit of the distribution's php-fpm: "php8.2-fpm.service" or "php8.4-fpm.service".
    pub fn fpm_unit(self) -> &'static str {
        match self {
            Release::Bookworm => "php8.2-fpm.service",
            Release::Trixie => "php8.4-fpm.service",
        }
    }

    /// The php-fpm program: "/usr/sbin/php-fpm8.2" or "/usr/sbin/php-fpm8.4".
    pub fn fpm_binary(self) -> &'static str {
        match self {
            Release::Bookworm => "/usr/sbin/php-fpm8.2",
            Release::Trixie => "/usr/sbin/php-fpm8.4",
        }
    }

    /// The directory of php-fpm's configuration, "/etc/php/8.2/fpm" or "/etc/php/8.4/fpm".
    pub fn fpm_etc(self) -> &'static str {
        match self {
            Release::Bookworm => "/etc/php/8.2/fpm",
            Release::Trixie => "/etc/php/8.4/fpm",
        }
    }

    /// The socket of the distribution's `www` pool.
    pub fn fpm_socket(self) -> &'static str {
        match self {
            Release::Bookworm => "/run/php/php8.2-fpm.sock",
            Release::Trixie => "/run/php/php8.4-fpm.sock",
        }
    }
}

/// "debian12" or "debian13": the prefix of trial and image names.
impl fmt::Display for Release {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "debian{}", self.number())
    }
}
