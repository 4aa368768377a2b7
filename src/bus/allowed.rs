//! Who may give orders: root, and whoever polkit says may, where polkitd runs.

use std::collections::BTreeMap;
use std::time::Duration;

use zbus::message::Header;
use zbus::{Connection, Variant, fdo};

/// The action in units/org.wikimedia.RestartAgent1.policy.
const ACTION: &str = "org.wikimedia.RestartAgent1.manage";
/// polkit may ask the person for a password.
const PATIENCE: Duration = Duration::from_secs(60);
const ALLOW_INTERACTION: u32 = 1;

#[zbus::proxy(
    interface = "org.freedesktop.PolicyKit1.Authority",
    default_service = "org.freedesktop.PolicyKit1",
    default_path = "/org/freedesktop/PolicyKit1/Authority"
)]
trait Authority {
    fn check_authorization(
        &self,
        subject: &(&str, BTreeMap<&str, Variant<'_>>),
        action: &str,
        details: BTreeMap<&str, &str>,
        flags: u32,
        cancellation: &str,
    ) -> zbus::Result<(bool, bool, BTreeMap<String, String>)>;
}

/// Whether the caller may. No answer from polkit means no.
pub(super) async fn allowed(header: &Header<'_>, connection: &Connection) -> bool {
    let Some(sender) = header.sender() else { return false };
    let uid = async {
        let bus = fdo::DBusProxy::new(connection).await.ok()?;
        bus.get_connection_unix_user(sender.to_owned().into()).await.ok()
    };
    if tokio::time::timeout(Duration::from_secs(5), uid).await.ok().flatten() == Some(0) {
        return true;
    }
    let asked = async {
        let authority = AuthorityProxy::new(connection).await?;
        let subject = ("system-bus-name", BTreeMap::from([("name", Variant::from(sender.as_str()))]));
        authority.check_authorization(&subject, ACTION, BTreeMap::new(), ALLOW_INTERACTION, "").await
    };
    matches!(tokio::time::timeout(PATIENCE, asked).await, Ok(Ok((true, _, _))))
}
