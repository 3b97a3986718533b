//! The command line.

use std::net::Ipv4Addr;
use std::path::PathBuf;

use clap::Parser;
use headnode_model::paths;
use sdc_booter::settings::Ports;

/// What `--help` ends with.
const MORE: &str = "\
Alone, in a rack with a file server's boot files below /srv/boot:

    apt install ipxe
    sdc-booter --example-config >/etc/sdc-booter/booter.toml     # then edit it, for instance to:

        interface = \"eth1\"

        [[network]]
        name = \"rack\"
        subnet = \"10.0.0.0/24\"
        ranges = [{ first = \"10.0.0.100\", last = \"10.0.0.200\" }]

        [default]
        kernel = \"debian/linux\"
        initrd = \"debian/initrd.gz\"
        arguments = \"auto=true url=http://{server}/files/preseed.cfg\"

        [[host]]
        mac = \"52:54:00:12:34:56\"
        local_disk = true

    sdc-booter --config /etc/sdc-booter/booter.toml --check-config
    sdc-booter --config /etc/sdc-booter/booter.toml

Beside another DHCP server write mode = \"proxy\" into [dhcp], and leave [[network]] out.
`sdc boot list` shows who asked for what, and how far each machine came.

Ports: UDP 67 and 69, TCP 80; UDP 4011 in proxy mode, the port of [http.tls] when there is one.
Rights: root, or CAP_NET_BIND_SERVICE and CAP_NET_RAW, until they are open; none afterwards, but a
headnode's booter that stays root may still read all files.
Signals: SIGHUP has the settings read again (running downloads go on), SIGTERM and SIGINT end it.

Exit codes:
  0  stopped by a signal, or --check-config found nothing
  1  could not start (a network interface or address that is not there yet), or a server failed:
     worth another try
  2  wrong arguments
  3  the configuration is wrong: all that is wrong was told. It does not get better by itself";

/// Boots machines over the network: DHCP and TFTP hand out iPXE, HTTP a boot script per machine
/// and what it loads.
///
/// With a configuration whose name ends in .toml it runs alone, as a PXE server for any operating
/// system: booter.toml(5).
///
/// With any other it is a headnode's booter, reads the headnode's configuration (keys admin_ip,
/// admin_netmask, admin_nic, admin_gateway, dhcp_range_start, dhcp_range_end, dhcp_lease_time,
/// dns_resolvers), and asks CNAPI what a node boots; while CNAPI is down, known nodes boot as
/// before. config.inc/booter.toml in the root folder, when it is there, adds networks behind
/// relays, admission, limits and TLS.
#[derive(Parser)]
#[command(name = "sdc-booter", version, after_long_help = MORE)]
#[command(after_help = "--help shows an example and the exit codes")]
pub(crate) struct Args {
    /// The configuration: booter.toml to run alone, or a headnode's
    #[arg(long, value_name = "FILE", default_value = paths::USBKEY_CONFIG)]
    pub config: PathBuf,
    /// Folder with boot files [default: alone the key root, else /usbkey]
    #[arg(long, value_name = "DIR")]
    pub root: Option<PathBuf>,
    /// Folder for leases and decisions [default: alone the key state, else /var/lib/sdc-booter]
    #[arg(long, value_name = "DIR")]
    pub state: Option<PathBuf>,
    /// NIC to serve on [default: alone the key interface, else the one with the address admin_ip,
    /// else with the MAC admin_nic]
    #[arg(long, value_name = "NAME")]
    pub interface: Option<String>,
    /// CNAPI's base URL [default: the key cnapi_client_url, else port 8010 of admin_ip]; not used
    /// alone
    #[arg(long, value_name = "URL")]
    pub cnapi: Option<String>,
    /// Unix socket of the operator's interface (`sdc boot list`) [default: alone the key socket,
    /// else /run/sdc-booter/sdc-booter.sock]
    #[arg(long, value_name = "FILE")]
    pub socket: Option<PathBuf>,
    /// User to run as once the ports are open [default: alone the key user, else as started]
    #[arg(long, value_name = "NAME")]
    pub user: Option<String>,
    /// Report all problems of configuration and files, and end
    #[arg(long)]
    pub check_config: bool,
    /// Print a configuration for running alone, with what is set most, and end
    #[arg(long)]
    pub example_config: bool,
    /// Print the manual page and end
    #[arg(long, hide = true)]
    pub man_page: bool,
    /// UDP port of the DHCP server
    #[arg(long, value_name = "PORT", default_value_t = Ports::default().dhcp_server, hide_short_help = true)]
    pub dhcp_port: u16,
    /// UDP port of DHCP clients
    #[arg(long, value_name = "PORT", default_value_t = Ports::default().dhcp_client, hide_short_help = true)]
    pub dhcp_client_port: u16,
    /// UDP port of the TFTP server
    #[arg(long, value_name = "PORT", default_value_t = Ports::default().tftp, hide_short_help = true)]
    pub tftp_port: u16,
    /// TCP port of the HTTP server
    #[arg(long, value_name = "PORT", default_value_t = Ports::default().http, hide_short_help = true)]
    pub http_port: u16,
    /// Address that DHCP replies to machines without an address are sent to
    #[arg(long, value_name = "IP", default_value_t = Ipv4Addr::BROADCAST, hide_short_help = true)]
    pub broadcast: Ipv4Addr,
}

impl Args {
    /// Whether it runs without a headnode.
    pub fn alone(&self) -> bool {
        self.config.extension().is_some_and(|extension| extension == "toml")
    }

    /// The ports.
    pub fn ports(&self) -> Ports {
        Ports {
            dhcp_server: self.dhcp_port,
            dhcp_client: self.dhcp_client_port,
            tftp: self.tftp_port,
            http: self.http_port,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_command_line_is_sound_and_the_name_of_the_configuration_decides() {
        Args::command().debug_assert();
        let alone = |words: &[&str]| Args::parse_from([&["x"], words].concat()).alone();
        assert!(!alone(&[]));
        assert!(!alone(&["--config", "/usbkey/config"]));
        assert!(alone(&["--config", "/etc/sdc-booter/booter.toml"]));
    }
}
