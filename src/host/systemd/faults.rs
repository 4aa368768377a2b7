//! What systemd's and the bus's errors mean for whoever asked.

use zbus::fdo;

use crate::core::effect::Fault;

/// Whether nobody can say if the call was carried out, so that an idempotent one is to be tried again: the bus went away (facts F5.3), or
/// systemd re-executed and is not back on it yet (facts F5.2).
pub(super) fn is_transient(error: &zbus::Error) -> bool {
    match error {
        zbus::Error::InputOutput(_) | zbus::Error::Connection(..) | zbus::Error::Handshake(_) => true,
        zbus::Error::FDO(error) => matches!(
            **error,
            fdo::Error::NoReply(_)
                | fdo::Error::Disconnected(_)
                | fdo::Error::NameHasNoOwner(_)
                | fdo::Error::ServiceUnknown(_)
                | fdo::Error::NoServer(_)
                | fdo::Error::Timeout(_)
                | fdo::Error::TimedOut(_)
                | fdo::Error::IOError(_)
                // Too many calls in flight: the bus has not even passed it on.
                | fdo::Error::LimitsExceeded(_)
        ),
        zbus::Error::MethodError(name, ..) => name.as_str().starts_with("org.freedesktop.DBus.Error.Spawn."),
        _ => false,
    }
}

/// Whether systemd says that there is no such unit, job or object.
pub(super) fn is_absent(error: &zbus::Error) -> bool {
    match error {
        zbus::Error::FDO(error) => matches!(**error, fdo::Error::UnknownObject(_)),
        zbus::Error::MethodError(name, ..) => {
            matches!(systemd_error(name.as_str()), Some("NoSuchUnit" | "NoSuchJob" | "NoUnitForInvocationID"))
        }
        _ => false,
    }
}

/// The error's name within org.freedesktop.systemd1, if it is one of systemd's own.
pub(super) fn is_named(error: &zbus::Error, wanted: &str) -> bool {
    matches!(error, zbus::Error::MethodError(name, ..) if systemd_error(name.as_str()) == Some(wanted))
}

/// The fault of a failed call. `what` completes "cannot …" for people: `stop x.service`.
pub(super) fn fault(what: &str, error: &zbus::Error) -> Fault {
    if is_transient(error) {
        return Fault::Unreachable(format!("cannot {what}: systemd does not answer on the system bus: {}", said(error)));
    }
    let text = format!("cannot {what}: {}", said(error));
    match error {
        _ if is_absent(error) => Fault::NoSuchUnit(text),
        zbus::Error::FDO(error) if matches!(**error, fdo::Error::AccessDenied(_) | fdo::Error::InteractiveAuthorizationRequired(_)) => {
            Fault::Refused(text)
        }
        zbus::Error::MethodError(name, ..) if systemd_error(name.as_str()).is_some_and(is_refusal) => Fault::Refused(text),
        _ => Fault::Other(text),
    }
}

fn systemd_error(name: &str) -> Option<&str> {
    name.strip_prefix("org.freedesktop.systemd1.")
}

/// systemd's names for "I will not", as opposed to "I cannot" (facts F1.9, F2.7, F3.9, F3.12, F4.8).
fn is_refusal(name: &str) -> bool {
    matches!(
        name,
        "OnlyByDependency"
            | "UnitMasked"
            | "UnitGenerated"
            | "UnitBusy"
            | "BadUnitSetting"
            | "LoadFailed"
            | "JobTypeNotApplicable"
            | "TransactionIsDestructive"
            | "TransactionJobsConflicting"
            | "TransactionOrderIsCyclic"
            | "ShuttingDown"
            | "ConcurrencyLimitReached"
    )
}

/// The error's own sentence, without D-Bus names where it has one.
fn said(error: &zbus::Error) -> String {
    match error {
        zbus::Error::MethodError(_, Some(text), _) => text.clone(),
        zbus::Error::FDO(error) => zbus::DBusError::description(&**error).map_or_else(|| error.to_string(), str::to_owned),
        other => other.to_string(),
    }
}
