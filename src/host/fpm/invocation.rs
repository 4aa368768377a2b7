//! How a unit's own php-fpm is asked about its configuration: from the `ExecStart=` of the unit, with all its options. Pure.
//!
//! `-t`, `-tt` and `-i` end php-fpm before it binds a socket or becomes a daemon, whatever options follow (php 8.2), so the
//! unit's own command line with one more option is the one that reads exactly what the unit reads. It needs the unit's
//! `Environment=` as well: pool files may hold `${VAR}`.

/// A `-tt` that prints whatever the configuration says about logging.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Inspect {
    pub argv: Vec<String>,
    /// What has to be in the wrapper file before `argv` is run. `None`: no file is needed; then the output may be hidden by
    /// `log_level`, and each run leaves its output in the pool's error_log too (facts M11).
    pub wrapper: Option<String>,
}

/// The command that tests the configuration (facts 1h): exit status 0 or 78, what is wrong on stderr.
///
/// # Errors
/// A sentence, when `exec_start` is not php-fpm itself: a shell or `env` in front would take the option for its own and start
/// the real thing.
pub fn test(exec_start: &[String]) -> Result<Vec<String>, String> {
    with_option(exec_start, "-t")
}

/// The command that prints the whole ini configuration on stdout: about 23 ms and 100 KiB, with the environment of the process
/// in it, so do not let it reach the journal. [`super::layout::parse`] wants only its `opcache.file_update_protection`.
///
/// # Errors
/// As [`test()`].
pub fn info(exec_start: &[String]) -> Result<Vec<String>, String> {
    with_option(exec_start, "-i")
}

/// The command whose output [`super::layout::parse`] reads.
///
/// With `log_level` above notice `-tt` prints nothing and still exits 0 (php 8.2), and it writes its output into the error_log
/// too (facts M11). So it is given a configuration file of ours, at `wrapper_path`, that includes the unit's own and then
/// sets both: the last `-y` and the last value win.
///
/// # Errors
/// As [`test()`].
pub fn inspect(exec_start: &[String], wrapper_path: &str) -> Result<Inspect, String> {
    let mut argv = with_option(exec_start, "-tt")?;
    // What an ini file or a glob could read otherwise than literally is not put into one.
    let literal = |path: &&str| path.starts_with('/') && path.chars().all(|c| c.is_alphanumeric() || "/._-@+:,".contains(c));
    let wrapper = config_file(exec_start)
        .filter(literal)
        .map(|config| format!("include = {config}\n[global]\nlog_level = notice\nerror_log = /dev/null\n"));
    if wrapper.is_some() {
        argv.extend(["-y".to_owned(), wrapper_path.to_owned()]);
    }
    Ok(Inspect { argv, wrapper })
}

fn with_option(exec_start: &[String], option: &str) -> Result<Vec<String>, String> {
    let [program, options @ ..] = exec_start else {
        return Err("the unit has no ExecStart=".to_owned());
    };
    let name = program.rsplit('/').next().unwrap_or(program);
    if !program.starts_with('/') || !name.contains("fpm") || name.ends_with(".sh") {
        return Err(format!("{program} is not php-fpm itself: let ExecStart= start php-fpm without a shell or wrapper"));
    }
    // Right behind the program: php-fpm reads no option behind a word that is none.
    Ok([program.clone(), option.to_owned()].into_iter().chain(options.iter().cloned()).collect())
}

/// What `-y` or `--fpm-config` names; the last one wins. `None`: the path that was compiled in.
#[must_use]
pub fn config_file(exec_start: &[String]) -> Option<&str> {
    let mut found = None;
    let mut words = exec_start.iter().skip(1).map(String::as_str);
    while let Some(word) = words.next() {
        if word == "--" || !word.starts_with('-') {
            break;
        }
        if let Some(long) = word.strip_prefix("--") {
            match long.split_once('=') {
                Some(("fpm-config", value)) => found = Some(value),
                Some(_) => {}
                None if long == "fpm-config" => found = words.next(),
                None if matches!(long, "php-ini" | "define" | "prefix" | "pid") => drop(words.next()),
                None => {}
            }
            continue;
        }
        // Flags may share a word; the first option that takes a value takes the rest of the word, or the next one.
        let Some(at) = word.find(['y', 'c', 'd', 'p', 'g']) else { continue };
        let rest = &word[at + 1..];
        let value = if rest.is_empty() { words.next() } else { Some(rest.strip_prefix('=').unwrap_or(rest)) };
        if word[at..].starts_with('y') {
            found = value;
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(line: &str) -> Vec<String> {
        line.split(' ').map(str::to_owned).collect()
    }

    #[test]
    fn the_units_options_are_kept() {
        let debian = words("/usr/sbin/php-fpm8.2 --nodaemonize --fpm-config /etc/php/8.2/fpm/php-fpm.conf");
        assert_eq!(test(&debian).unwrap(), words("/usr/sbin/php-fpm8.2 -t --nodaemonize --fpm-config /etc/php/8.2/fpm/php-fpm.conf"));
        assert_eq!(info(&debian).unwrap(), words("/usr/sbin/php-fpm8.2 -i --nodaemonize --fpm-config /etc/php/8.2/fpm/php-fpm.conf"));
        let Inspect { argv, wrapper } = inspect(&debian, "/run/w.conf").unwrap();
        assert_eq!(argv, words("/usr/sbin/php-fpm8.2 -tt --nodaemonize --fpm-config /etc/php/8.2/fpm/php-fpm.conf -y /run/w.conf"));
        assert_eq!(wrapper.unwrap(), "include = /etc/php/8.2/fpm/php-fpm.conf\n[global]\nlog_level = notice\nerror_log = /dev/null\n");
    }

    #[test]
    fn without_a_plain_configuration_file_there_is_no_wrapper() {
        for line in [
            "/usr/sbin/php-fpm8.2 -F",
            "/usr/sbin/php-fpm8.2 -F -y $CONF",
            "/usr/sbin/php-fpm8.2 -y /etc/[a].conf",
            "/usr/sbin/php-fpm8.2 -y etc/a.conf",
        ] {
            let Inspect { argv, wrapper } = inspect(&words(line), "/run/w.conf").unwrap();
            assert_eq!((argv[1].as_str(), argv.len(), wrapper), ("-tt", words(line).len() + 1, None), "{line}");
        }
    }

    #[test]
    fn the_configuration_file_in_every_spelling() {
        for line in [
            "-y /a",
            "-y/a",
            "-y=/a",
            "-Fy /a",
            "-F -O -y /a",
            "--fpm-config /a",
            "--fpm-config=/a",
            "-y /b -c /x -d y=1 -p /y -y /a",
            "-d y -g y --define y -Ry /a",
        ] {
            assert_eq!(config_file(&words(&format!("/usr/sbin/php-fpm {line}"))), Some("/a"), "{line}");
        }
        for line in ["-F", "-c y", "-cy", "word -y /a", "-- -y /a", "--php-ini -y", "-y"] {
            assert_eq!(config_file(&words(&format!("/usr/sbin/php-fpm {line}"))), None, "{line}");
        }
    }

    #[test]
    fn what_is_not_php_fpm_is_not_run() {
        for line in ["/bin/sh -c exec", "/usr/bin/env php-fpm8.2", "php-fpm8.2 -F", "/usr/local/bin/start-fpm.sh -F", "/usr/bin/php -S x"] {
            assert!(test(&words(line)).is_err(), "{line}");
        }
        assert!(test(&[]).is_err());
    }
}
