//! How a SmartOS kernel is told what it boots as: boot properties (C§1.1).

use serde::Serialize;

use crate::source::firmware::LoaderKind;

/// Names that begin so are not taken from the environment by the kernel (C§1.1).
const BLOCKED: &[&str] = &[
    "ISADIR",
    "acpi",
    "autoboot_delay",
    "beansi_",
    "beastie",
    "bemenu",
    "boot.",
    "bootenv",
    "currdev",
    "dhcp.",
    "interpret",
    "kernel",
    "loaddev",
    "loader_",
    "mainansi_",
    "mainmenu_",
    "maintoggled_",
    "menu_timeout_command",
    "menuset_",
    "module_path",
    "nfs.",
    "optionsansi_",
    "optionsmenu_",
    "optionstoggled_",
    "pcibios",
    "prompt",
    "smbios",
    "tem",
    "twiddle_divisor",
    "zfs_be",
];
/// The mode of every serial port.
const MODE: &str = "115200,8,n,1,-";
/// illumos' serial ports, in the order of the machine's.
pub const SERIAL: [&str; 4] = ["ttya", "ttyb", "ttyc", "ttyd"];

/// A boot property.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Property {
    /// Its name.
    pub name: String,
    /// Its value.
    pub value: String,
}

/// Why a property cannot be passed to the kernel.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// Its name is none.
    #[error("{0:?} is no name of a boot property: letters, digits and . _ - are allowed")]
    Name(String),
    /// The kernel takes no property of this name from a loader.
    #[error(
        "the boot property {0:?} does not reach the kernel: names that begin with {1:?} are the loader's own"
    )]
    Blocked(String, &'static str),
    /// Its value cannot be written so that the kernel reads it back.
    #[error(
        "the value of the boot property {0:?} holds control characters, or both kinds of quotes"
    )]
    Value(String),
}

/// What a SmartOS headnode boots with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Options {
    /// The console: `text`, or one of [`SERIAL`].
    pub console: &'static str,
    /// The serial port that the menu uses and offers: one of [`SERIAL`].
    pub serial: &'static str,
    /// Whether hyper-threading is used.
    pub smt: bool,
    /// Whether the menu boots from the network by default, as a compute node, and not the headnode
    /// (C§1.11). Triton's fresh keys do, until setup writes `ipxe="false"` into `loader.conf`. Nothing
    /// changes GRUB's menu after the build, and a headnode that never again comes up by itself is of
    /// no use: without a wish, keys with GRUB boot the headnode. So do disks of virtual machines, when
    /// no key is made of the same tree.
    pub ipxe: bool,
    /// More boot properties.
    pub properties: Vec<Property>,
}

impl Default for Options {
    /// Triton's defaults (C§1.11).
    fn default() -> Self {
        Self { console: "ttyb", serial: "ttyb", smt: true, ipxe: true, properties: Vec::new() }
    }
}

impl Options {
    /// Checks the properties. With the illumos loader all of them go by its environment; with GRUB
    /// only those that cannot stand on the command line, where every name is good.
    ///
    /// # Errors
    /// See [`Error`].
    pub fn check(&self, loader: LoaderKind) -> Result<(), Error> {
        self.properties.iter().try_for_each(|property| property.check(loader))
    }

    /// The properties for the kernel's command line that every entry of GRUB's menu has, without
    /// those for [`Options::environment`].
    pub fn command_line(&self) -> String {
        let own = [("headnode", "true"), ("smt_enabled", if self.smt { "true" } else { "false" })];
        let own =
            own.map(|(name, value)| Property { name: name.to_owned(), value: value.to_owned() });
        let more = self.properties.iter().filter(|property| property.is_plain());
        let all: Vec<Property> = own.into_iter().chain(more.cloned()).collect();
        dash_b(&all)
    }

    /// The properties whose values need quotes on a command line, as the module of type
    /// `environment` that the illumos loader hands to the kernel: `name=value`, each with a NUL
    /// behind it. GRUB cannot pass quotes on: it writes a backslash before each.
    pub fn environment(&self) -> Vec<u8> {
        let modes = SERIAL.map(|port| format!("{port}-mode={MODE}\0"));
        let more = self.properties.iter().filter(|property| !property.is_plain());
        let more = more.map(|property| format!("{}={}\0", property.name, property.value));
        modes.into_iter().chain(more).collect::<String>().into_bytes()
    }
}

impl Property {
    fn check(&self, loader: LoaderKind) -> Result<(), Error> {
        let allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"._-".contains(&byte);
        if self.name.is_empty() || !self.name.bytes().all(allowed) {
            return Err(Error::Name(self.name.clone()));
        }
        let blocked = BLOCKED.iter().find(|prefix| self.name.starts_with(**prefix));
        if let Some(prefix) = blocked
            && (loader == LoaderKind::Illumos || !self.is_plain())
        {
            return Err(Error::Blocked(self.name.clone(), prefix));
        }
        let quotes = self.value.contains('"') && self.value.contains('\'');
        if quotes || self.value.is_empty() || self.value.chars().any(char::is_control) {
            return Err(Error::Value(self.name.clone()));
        }
        Ok(())
    }

    /// Whether its value means the same on a command line without quotes, in GRUB's menu too.
    fn is_plain(&self) -> bool {
        self.value.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"._-:/@+=".contains(&byte))
    }
}

/// Properties as the kernel's option `-B` takes them: values that need it are put in quotes
/// (C§1.1). For loaders that pass quotes on, as iPXE does.
pub fn dash_b(properties: &[Property]) -> String {
    let one = |property: &Property| {
        let Property { name, value } = property;
        let quote = if value.contains('"') { '\'' } else { '"' };
        if property.is_plain() {
            format!("{name}={value}")
        } else {
            format!("{name}={quote}{value}{quote}")
        }
    };
    properties.iter().map(one).collect::<Vec<_>>().join(",")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn property(name: &str, value: &str) -> Property {
        Property { name: name.to_owned(), value: value.to_owned() }
    }

    #[test]
    fn values_with_commas_go_another_way() {
        let options = Options {
            properties: vec![
                property("rabbitmq", "guest:guest:10.0.0.2:5672"),
                property("aggr0_aggr", "00:01,00:02"),
            ],
            ..Options::default()
        };
        options.check(LoaderKind::Grub).unwrap();
        let line = options.command_line();
        assert_eq!(line, "headnode=true,smt_enabled=true,rabbitmq=guest:guest:10.0.0.2:5672");
        let environment = String::from_utf8(options.environment()).unwrap();
        let modes = "ttya-mode=115200,8,n,1,-\0ttyb-mode=115200,8,n,1,-\0\
            ttyc-mode=115200,8,n,1,-\0ttyd-mode=115200,8,n,1,-\0";
        assert_eq!(environment, format!("{modes}aggr0_aggr=00:01,00:02\0"));
        let quoted = dash_b(&[property("console", "ttyb"), property("ttyb-mode", MODE)]);
        assert_eq!(quoted, "console=ttyb,ttyb-mode=\"115200,8,n,1,-\"");
        assert_eq!(dash_b(&[property("a", "say \"x\"")]), "a='say \"x\"'");
    }

    #[test]
    fn what_would_not_reach_the_kernel_is_refused() {
        for (name, value, word) in [
            ("a b", "x", "no name"),
            ("", "x", "no name"),
            ("kernel_x", "y", "\"kernel\""),
            ("x", "", "control characters"),
            ("x", "a\nb", "control characters"),
            ("x", "\"'", "quotes"),
        ] {
            let options = Options { properties: vec![property(name, value)], ..Options::default() };
            let error = options.check(LoaderKind::Illumos).unwrap_err().to_string();
            assert!(error.contains(word), "{name:?}: {error}");
        }
        let options =
            Options { properties: vec![property("acpi-user-options", "2")], ..Options::default() };
        options.check(LoaderKind::Grub).unwrap();
    }
}
