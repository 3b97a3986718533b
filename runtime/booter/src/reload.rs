//! New settings for a booter that runs.

use std::sync::{Arc, Mutex, PoisonError};

use headnode_model::config::Problems;

use crate::admission::Admission;
use crate::alone::{self, Plan};
use crate::leases::Leases;
use crate::live::Live;
use crate::networks::Network;
use crate::settings::{BESIDE_CONFIG, File, Settings};
use crate::{admission, dhcp, http, networks, progress, tftp};

/// What the servers read anew for each request.
#[derive(Debug)]
pub(crate) struct Sections {
    pub dhcp: Live<dhcp::Settings>,
    pub tftp: Live<tftp::Settings>,
    pub http: Live<http::Limits>,
    pub admission: Live<admission::Settings>,
    pub progress: Live<progress::Settings>,
}

impl Sections {
    pub fn new(file: &File) -> Self {
        Self {
            dhcp: Live::new(file.dhcp.clone()),
            tftp: Live::new(file.tftp.clone()),
            http: Live::new(file.http.clone()),
            admission: Live::new(file.admission.clone()),
            progress: Live::new(file.progress.clone()),
        }
    }
}

/// Reads the settings beside the configuration again and hands them out.
pub(crate) struct Reload {
    settings: Arc<Settings>,
    sections: Sections,
    leases: Arc<Mutex<Leases>>,
    certificate: Option<http::Certificate>,
    admission: Arc<Admission>,
    /// What counts now.
    current: Mutex<(File, Vec<Network>)>,
}

impl Reload {
    pub fn new(
        settings: Arc<Settings>,
        sections: Sections,
        leases: Arc<Mutex<Leases>>,
        certificate: Option<http::Certificate>,
        admission: Arc<Admission>,
    ) -> Self {
        let current = Mutex::new((settings.more.clone(), settings.networks()));
        Self { settings, sections, leases, certificate, admission, current }
    }

    /// The file's sections, the networks and, without a headnode, what machines boot.
    fn read(&self) -> Result<(File, Vec<Network>, Option<Plan>), String> {
        if let Some(alone) = &self.settings.alone {
            let (file, networks, plan) = alone::again(alone, &self.settings)?;
            return Ok((file, networks, Some(plan)));
        }
        let path = self.settings.root.join(BESIDE_CONFIG);
        let file = File::read(&path).map_err(|error| error.to_string())?;
        let wanted = Settings { more: file.clone(), ..Settings::clone(&self.settings) };
        let networks = wanted.networks();
        let mut problems = file.problems();
        problems.extend(networks::problems(&networks));
        if problems.is_empty() {
            Ok((file, networks, None))
        } else {
            Err(format!("{}: {}", path.display(), Problems(problems)))
        }
    }

    /// Names the sections that changed. Blocks. Transfers that run go on.
    ///
    /// # Errors
    /// What is wrong with the file, or what takes a restart; nothing has changed then.
    pub fn reload(&self) -> Result<Vec<String>, String> {
        let mut current = self.current.lock().unwrap_or_else(PoisonError::into_inner);
        let (file, networks, plan) = self.read()?;
        let (before, networks_before) = &*current;
        let restart = |what: &str| Err(format!("{what} changes at a restart of the booter only"));
        if file.dhcp.mode != before.dhcp.mode {
            return restart("[dhcp] mode");
        }
        if file.http.tls != before.http.tls {
            return restart("[http.tls]");
        }
        if file.params != before.params {
            return restart("[params]");
        }
        if file.script != before.script {
            return restart("[script]");
        }
        if let Some(certificate) = &self.certificate {
            certificate.reload().map_err(|error| error.to_string())?;
        }
        let mut changed = Vec::new();
        let mut note = |name: &str, differs: bool| {
            if differs {
                changed.push(name.to_owned());
            }
        };
        note("dhcp", file.dhcp != before.dhcp);
        note("network", networks != *networks_before);
        note("tftp", file.tftp != before.tftp);
        note("http", file.http != before.http);
        note("admission", file.admission != before.admission);
        note("progress", file.progress != before.progress);
        if networks != *networks_before {
            let mut leases = self.leases.lock().unwrap_or_else(PoisonError::into_inner);
            leases.reconfigure(networks.clone());
        }
        if let (Some(alone), Some(plan)) = (&self.settings.alone, plan) {
            note("default, group, host", plan != *alone.plan.get());
            self.admission.set_known(plan.known());
            alone.plan.set(plan);
        }
        self.sections.dhcp.set(file.dhcp.clone());
        self.sections.tftp.set(file.tftp.clone());
        self.sections.http.set(file.http.clone());
        self.sections.admission.set(file.admission.clone());
        self.sections.progress.set(file.progress.clone());
        *current = (file, networks);
        tracing::info!(?changed, "settings read again");
        Ok(changed)
    }
}
