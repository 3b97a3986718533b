//! New settings for a booter that runs.

use std::sync::{Arc, Mutex, PoisonError};

use headnode_model::config::Problems;

use crate::leases::Leases;
use crate::live::Live;
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
    /// What counts now.
    current: Mutex<File>,
}

impl Reload {
    pub fn new(
        settings: Arc<Settings>,
        sections: Sections,
        leases: Arc<Mutex<Leases>>,
        certificate: Option<http::Certificate>,
    ) -> Self {
        let current = Mutex::new(settings.more.clone());
        Self { settings, sections, leases, certificate, current }
    }

    /// Names the sections that changed. Blocks. Transfers that run go on.
    ///
    /// # Errors
    /// What is wrong with the file, or what takes a restart; nothing has changed then.
    pub fn reload(&self) -> Result<Vec<String>, String> {
        let path = self.settings.root.join(BESIDE_CONFIG);
        let file = File::read(&path).map_err(|error| error.to_string())?;
        let mut current = self.current.lock().unwrap_or_else(PoisonError::into_inner);
        let wanted = Settings { more: file.clone(), ..Settings::clone(&self.settings) };
        let mut problems = file.problems();
        problems.extend(networks::problems(&wanted.networks()));
        if !problems.is_empty() {
            return Err(format!("{}: {}", path.display(), Problems(problems)));
        }
        let restart = |what: &str| Err(format!("{what} changes at a restart of the booter only"));
        if file.dhcp.mode != current.dhcp.mode {
            return restart("[dhcp] mode");
        }
        if file.http.tls != current.http.tls {
            return restart("[http.tls]");
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
        note("dhcp", file.dhcp != current.dhcp);
        note("network", file.networks != current.networks);
        note("tftp", file.tftp != current.tftp);
        note("http", file.http != current.http);
        note("admission", file.admission != current.admission);
        note("progress", file.progress != current.progress);
        if file.networks != current.networks {
            let mut leases = self.leases.lock().unwrap_or_else(PoisonError::into_inner);
            leases.reconfigure(wanted.networks());
        }
        self.sections.dhcp.set(file.dhcp.clone());
        self.sections.tftp.set(file.tftp.clone());
        self.sections.http.set(file.http.clone());
        self.sections.admission.set(file.admission.clone());
        self.sections.progress.set(file.progress.clone());
        *current = file;
        tracing::info!(file = %path.display(), ?changed, "settings read again");
        Ok(changed)
    }
}
