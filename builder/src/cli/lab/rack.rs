//! The options of `headnode lab up` for a rack behind a relay.

use crate::lab::Rack;

// No doc comment: clap would take it for the help of the whole verb.
#[derive(clap::Args, Debug)]
#[command(next_help_heading = "A rack behind a relay")]
pub struct RackArgs {
    /// How many of the nodes, the last ones, are in a rack: on a network of their own, whose router
    /// is their DHCP relay agent (option 82 with the rack's name) and their only way to the headnode.
    /// The headnode needs a route: ip route add 10.98.0.0/24 via 10.99.99.1
    #[arg(long, value_name = "N", default_value_t = 0)]
    rack_nodes: u8,
    /// The rack's name, its circuit id
    #[arg(long, value_name = "NAME", default_value_t = Rack::default().name)]
    rack_name: String,
    /// The router's address in the rack
    #[arg(long, value_name = "IP/BITS", default_value_t = Rack::default().gateway)]
    rack_gateway: ipnet::Ipv4Net,
    /// The router's address on the admin network
    #[arg(long, value_name = "IP/BITS", default_value_t = Rack::default().uplink)]
    rack_uplink: ipnet::Ipv4Net,
    /// The headnode's address there, which gets the rack's DHCP requests
    #[arg(long, value_name = "IP", default_value_t = Rack::default().server)]
    rack_server: std::net::Ipv4Addr,
}

impl RackArgs {
    /// How many of the nodes are in the rack.
    pub fn nodes(&self) -> u8 {
        self.rack_nodes
    }

    /// The rack.
    pub fn rack(self) -> Rack {
        Rack {
            name: self.rack_name,
            gateway: self.rack_gateway,
            uplink: self.rack_uplink,
            server: self.rack_server,
        }
    }
}
