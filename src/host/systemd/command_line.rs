//! What a unit starts: its command line and environment, for asking the same program about its configuration.

use zbus::Variant;

use super::Systemd;
use super::properties::SERVICE;
use crate::core::effect::Fault;

/// How a service is started.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct CommandLine {
    /// The last `ExecStart=`, without systemd's prefixes.
    pub argv: Vec<String>,
    /// `Environment=`, as `NAME=value`.
    pub environment: Vec<String>,
}

impl Systemd {
    /// The command line of a service.
    ///
    /// # Errors
    /// [`Fault::NoSuchUnit`], [`Fault::Unreachable`]; [`Fault::Other`] if it has no `ExecStart=`.
    pub async fn command_line(&self, unit: &str) -> Result<CommandLine, Fault> {
        let values = self.properties(unit, &[(SERVICE, "ExecStart"), (SERVICE, "Environment")]).await?;
        let argv = values.commands(0).pop().filter(|argv| !argv.is_empty());
        let argv = argv.ok_or_else(|| Fault::Other(format!("{unit} has no ExecStart=")))?;
        Ok(CommandLine { argv, environment: values.texts(1) })
    }
}

/// The argv of one entry of `ExecStart`: `(path, argv, ignore failure, …)`.
pub(super) fn argv(entry: &Variant<'_>) -> Option<Vec<String>> {
    let Variant::Structure(entry) = entry else { return None };
    let Variant::Array(argv) = entry.fields().get(1)? else { return None };
    Some(argv.iter().filter_map(|word| if let Variant::Str(word) = word { Some(word.to_string()) } else { None }).collect())
}
