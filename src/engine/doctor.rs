//! `doctor` and `migrate-pool`: look at the host, beside an agent that may be at work and without it, and let core judge. What php-fpm is
//! asked it is asked as a transient unit (law 9); nothing else is run, and nothing is changed.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Result, anyhow, bail};

use crate::config::{self, Roots};
use crate::core;
use crate::core::doctor::lines::includes;
use crate::core::doctor::seen::{Files, FpmMute, FpmSaid, FpmSeen, HostSeen, UnitSettings};
use crate::core::doctor::{self, Report};
use crate::core::effect::{Effect, Looked, Outcome};
use crate::core::generation_name::{BOOT, unit_of};
use crate::core::migrate::Migration;
use crate::core::policy::{Policy, TargetRules};
use crate::core::seen::{Load, OpcacheSeen};
use crate::host::{self, Host, files};

/// For systemd to be there at all.
const CONNECT: Duration = Duration::from_secs(5);
const ASK: Duration = Duration::from_secs(2);
/// php-fpm itself goes no deeper.
const INCLUDE_DEPTH: u32 = 5;
const WEB: [&str; 8] = [
    "/etc/nginx/nginx.conf",
    "/etc/nginx/conf.d/*.conf",
    "/etc/nginx/sites-enabled/*",
    "/etc/nginx/snippets/*",
    "/etc/apache2/apache2.conf",
    "/etc/apache2/conf-enabled/*.conf",
    "/etc/apache2/mods-enabled/*.conf",
    "/etc/apache2/sites-enabled/*.conf",
];

/// Where the host's things are.
#[derive(Debug, Clone)]
pub struct Options {
    pub roots: Roots,
    pub run_dir: PathBuf,
    pub bus: Option<String>,
}

/// Looks for every trap.
///
/// # Errors
/// systemd does not answer. What else cannot be looked at the report says.
pub async fn examine(options: Options) -> Result<Report> {
    let (looker, mut seen) = Looker::begin(options).await?;
    let targets: BTreeMap<String, String> = seen
        .policy
        .targets
        .iter()
        .filter_map(|(name, rules)| match rules {
            TargetRules::PhpFpm(rules) => Some((rules.unit.clone(), name.clone())),
            TargetRules::Generations(rules) => Some((unit_of(&rules.unit, BOOT), name.clone())),
            _ => None,
        })
        .collect();
    let running = looker.running(&mut seen.unknown).await;
    let units: BTreeSet<&String> = targets.keys().chain(running.iter()).collect();
    for unit in looker.host.settings_in_full(&units.into_iter().cloned().collect::<Vec<_>>()).await? {
        let target = targets.get(&unit.unit).or_else(|| targets.get(&boot_of(&unit.unit)?)).cloned();
        let fpm = looker.fpm(unit, target).await;
        seen.fpms.push(fpm);
    }
    let wanted: Vec<(String, Vec<String>)> = seen
        .policy
        .targets
        .iter()
        .filter_map(|(name, rules)| match rules {
            TargetRules::Scheduled(rules) => Some((name.clone(), rules.units.clone())),
            TargetRules::Service(rules) => Some((name.clone(), rules.units.clone())),
            _ => None,
        })
        .collect();
    for (name, units) in wanted {
        seen.units.insert(name, looker.host.settings_in_full(&units).await?);
    }
    Ok(doctor::examine(&seen))
}

/// The files that turn the pool of `unit` into generations, by name.
///
/// # Errors
/// Why it cannot be, and what to do about it.
pub async fn migrate(options: Options, unit: &str, name: Option<&str>) -> Result<Vec<(String, String)>> {
    let (looker, seen) = Looker::begin(options).await?;
    let unit = if unit.contains('.') && unit.ends_with(".service") { unit.to_owned() } else { format!("{unit}.service") };
    let found = looker.host.settings_in_full(std::slice::from_ref(&unit)).await?;
    let Some(settings) = found.into_iter().find(|found| found.unit == unit && matches!(found.load, Load::Loaded | Load::Masked)) else {
        bail!("there is no unit {unit}: systemctl list-units '*fpm*' shows those that there are");
    };
    let target = seen.policy.targets.iter().find_map(|(name, rules)| match rules {
        TargetRules::PhpFpm(rules) if rules.unit == unit => Some(name.clone()),
        _ => None,
    });
    let fpm = looker.fpm(settings, target).await;
    let migration = Migration::of(&fpm, name, &seen.policy, &seen.web).map_err(|refused| anyhow!("{unit}: {refused}"))?;
    Ok(migration.files())
}

struct Looker {
    host: Host,
}

impl Looker {
    async fn begin(options: Options) -> Result<(Looker, HostSeen)> {
        let mut places = host::Places { run: options.run_dir, look_only: true, ..host::Places::default() };
        places.systemd.bus = options.bus;
        let (host, _) = Host::connect(places);
        host.connected(CONNECT).await?;
        let (policy, config_problem) = match config::load(&options.roots) {
            Ok(loaded) => (loaded.policy, None),
            Err(errors) => (Policy::default(), Some(errors.first_line())),
        };
        let web = files::read(&WEB.map(str::to_owned));
        Ok((Looker { host }, HostSeen { policy, config_problem, web, ..HostSeen::default() }))
    }

    /// The services that run a php-fpm.
    async fn running(&self, unknown: &mut Vec<String>) -> BTreeSet<String> {
        match self.host.perform(&Effect::FindStrays { code: vec!["php-fpm*".to_owned()] }).await {
            Outcome::Strays(found) => found
                .into_iter()
                .filter(|stray| !stray.contained)
                .map(|stray| core::unit_of(&stray.cgroup).to_owned())
                .filter(|unit| unit.ends_with(".service") && !unit.starts_with("restart-agent"))
                .collect(),
            other => {
                unknown.push(format!("which php-fpm run: {}", other.said()));
                BTreeSet::new()
            }
        }
    }

    async fn fpm(&self, unit: UnitSettings, target: Option<String>) -> FpmSeen {
        let name = unit.unit.clone();
        let mut fpm = FpmSeen {
            unit,
            target,
            said: Err(FpmMute::Unasked(String::new())),
            root: String::new(),
            files: Files::new(),
            ini_files: Vec::new(),
            children: Vec::new(),
            opcache: None,
        };
        let mute = |why: String| Err(FpmMute::Unasked(why));
        fpm.said = match self.host.perform(&Effect::TestConfig { unit: name.clone() }).await {
            Outcome::Tested { ok: false, output } => Err(FpmMute::Broken(output)),
            Outcome::Tested { output, .. } => {
                let path = output.split("configuration file ").nth(1).and_then(|rest| rest.split(" test is").next());
                fpm.root = path.unwrap_or_default().to_owned();
                read(&mut fpm.files, &fpm.root, 0);
                self.host.ask_fpm(&name).await.or_else(|fault| mute(fault.to_string()))
            }
            other => mute(other.said()),
        };
        if let Ok(said) = &fpm.said {
            let scanned = said.ini.get("Scan this dir for additional .ini files").map(|dir| format!("{dir}/*.ini"));
            let globs = [said.ini.get("Loaded Configuration File").map(str::to_owned), scanned];
            fpm.ini_files = globs.into_iter().flatten().flat_map(|glob| files::read(&[glob])).collect();
            fpm.opcache = self.opcache(said).await;
        }
        let look = Effect::Look { units: vec![name], looked: Looked::Bare, cgroups: BTreeMap::new(), names: false };
        if let Outcome::Units(units) = self.host.perform(&look).await {
            let others = units.iter().flat_map(|unit| &unit.processes).filter(|process| !process.comm.starts_with("php-fpm"));
            fpm.children = others.map(|process| process.comm.clone()).collect::<BTreeSet<_>>().into_iter().collect();
        }
        fpm
    }

    /// `None` if nobody says.
    async fn opcache(&self, said: &FpmSaid) -> Option<OpcacheSeen> {
        let (_, pool) = said.pools.first()?;
        let socket = pool.get("pm.status_listen").or_else(|| pool.get("listen"))?.to_owned();
        match self.host.perform(&Effect::AskOpcache { socket, timeout: ASK }).await {
            Outcome::Opcache(seen) => Some(seen),
            _ => None,
        }
    }
}

/// The generation of the boot that this one is a sister of.
fn boot_of(unit: &str) -> Option<String> {
    let (name, rest) = unit.split_once('@')?;
    Some(unit_of(&format!("{name}@.{}", rest.rsplit_once('.')?.1), BOOT))
}

/// A configuration file of php-fpm and what it includes.
fn read(found: &mut Files, glob: &str, depth: u32) {
    for (path, text) in files::read(&[glob.to_owned()]) {
        if !found.contains_key(&path) && depth <= INCLUDE_DEPTH {
            let patterns = includes(&text);
            found.insert(path, text);
            for pattern in patterns {
                read(found, &pattern, depth + 1);
            }
        }
    }
}
